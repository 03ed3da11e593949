"""One connection's state, and what goes out on it: batched responses, invitations, verbs off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from imap.capabilities import Moment, capability_text
from imap.channel import Channel
from imap.errors import BadCommand
from imap.selected import Selected
from imap.states import State
from mailstore import Doer
from mailstore.model import Account

if TYPE_CHECKING:
    from imap.server import ImapServer

BATCH = 64 * 1024
_P = ParamSpec("_P")
_T = TypeVar("_T")


class Conversation:
    """The state of one connection. `enabled` are the names of ENABLE, upper case."""

    __slots__ = (
        "_account",
        "_bad",
        "_login_deadline",
        "_next_check",
        "_out",
        "_waiting",
        "channel",
        "enabled",
        "limits",
        "login_failures",
        "selected",
        "server",
        "state",
        "store",
    )

    def __init__(self, server: ImapServer, channel: Channel) -> None:
        self.server = server
        self.store = server.store
        self.limits = server.limits
        self.channel = channel
        self.state = State.NOT_AUTHENTICATED
        self.selected: Selected | None = None
        self.enabled: frozenset[str] = frozenset()
        self.login_failures = 0
        self._account: Account | None = None
        self._bad = 0
        self._out: list[bytes] = []
        self._waiting = 0
        self._next_check = 0.0
        self._login_deadline = asyncio.get_running_loop().time() + self.limits.login_time

    @property
    def account(self) -> Account:
        """Whose mailbox this is; only after login."""
        if self._account is None:
            raise BadCommand("log in first")
        return self._account

    @property
    def doer(self) -> Doer:
        """Who does what is done now, for the audit trail; only after login."""
        return Doer(self.account.address, self.channel.peer, self.server.clock())

    @property
    def condstore(self) -> bool:
        """Whether modseqs are told (RFC 7162 §3.1)."""
        return "CONDSTORE" in self.enabled

    @property
    def qresync(self) -> bool:
        """Whether VANISHED is said instead of EXPUNGE (RFC 7162 §3.2)."""
        return "QRESYNC" in self.enabled

    @property
    def rev2(self) -> bool:
        """Whether the client enabled IMAP4rev2 (RFC 9051)."""
        return "IMAP4REV2" in self.enabled

    @property
    def utf8(self) -> bool:
        """Whether names go in UTF-8 (RFC 6855 §3, RFC 9051 §5.1)."""
        return "UTF8=ACCEPT" in self.enabled or self.rev2

    def enable(self, *names: str) -> None:
        """Turns extensions on, for the rest of the session."""
        self.enabled |= frozenset(names)

    @property
    def moment(self) -> Moment:
        """What capabilities depend on."""
        return Moment(
            self.state,
            self.channel.tls,
            self.server.can_start_tls,
            self.channel.tls and self.channel.certificate is not None,
            self.server.tokens is not None,
            self.server.compress and not self.channel.compressed,
        )

    def capabilities(self) -> str:
        """The words of CAPABILITY now."""
        return capability_text(self.moment, self.limits.message_size)

    async def call(self, verb: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Runs a synchronous verb of the store off the event loop."""
        # asyncio.to_thread would copy the context too, which no verb reads.
        return await asyncio.get_running_loop().run_in_executor(None, partial(verb, *args, **kwargs))

    async def send(self, data: bytes) -> None:
        """Queues response bytes; a batch of 64 KiB goes out at once, with one wait for the client."""
        self._out.append(data)
        self._waiting += len(data)
        if self._waiting >= BATCH:
            await self.flush()

    async def flush(self) -> None:
        """Sends what is queued."""
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            self._waiting = 0
            await self.channel.write(data, self.limits.write_time)

    def read_timeout(self) -> float:
        """How long the client may stay silent now, in seconds: before login, what is left of the time to log in."""
        if self.state is not State.NOT_AUTHENTICATED:
            return self.limits.idle_time
        return max(0.0, self._login_deadline - asyncio.get_running_loop().time())

    async def read_line(self, limit: int) -> bytes:
        """One more line of the current command. Raises LineTooLong, TimeoutError, ConnectionGone."""
        async with asyncio.timeout(self.read_timeout()):
            return await self.channel.read_line(limit)

    async def invite(self) -> None:
        """`+`: asks the client to go on."""
        await self.send(b"+ OK\r\n")
        await self.flush()
