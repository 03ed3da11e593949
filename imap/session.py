"""One client's conversation: reads a command, has it carried out, tells what changed in the folder, answers.

Invariants:
* every command gets exactly one tagged response, unless the connection ends with BYE;
* EXPUNGE is never sent while a FETCH, STORE or SEARCH by sequence number runs (RFC 3501 §7.4.1);
* an unexpected error shows a reference only; the log has that reference, the error's type and place, never content.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import structlog

from imap import format as fmt
from imap.channel import Channel
from imap.commands import VERBS
from imap.errors import BadCommand, ConnectionGone, EndSession, Refused
from imap.incidents import log_unexpected
from imap.parser import parse
from imap.reader import RefusedLiteral, read_command
from imap.selected import News, Selected
from imap.states import Moment, Reply, State, capability_text
from imap.values import Command
from mailstore.model import (
    Account,
    BlobDamaged,
    FolderExists,
    NoSuchFolder,
    NoSuchMessage,
    StoreError,
    StoreUnavailable,
)

if TYPE_CHECKING:
    from imap.server import ImapServer

BATCH = 64 * 1024
_P = ParamSpec("_P")
_T = TypeVar("_T")
_log = structlog.get_logger()

# What the store refuses -> response code (RFC 5530). The first class that fits counts.
_STORE_CODES: tuple[tuple[type[StoreError], str], ...] = (
    (NoSuchFolder, "NONEXISTENT"),
    (FolderExists, "ALREADYEXISTS"),
    (NoSuchMessage, "EXPUNGEISSUED"),
    (BlobDamaged, "CORRUPTION"),
    (StoreUnavailable, "UNAVAILABLE"),
    (StoreError, "CANNOT"),
)


class Session:
    """The state of one connection. Command families in `imap.commands` read and change it."""

    def __init__(self, server: ImapServer, channel: Channel) -> None:
        self.server = server
        self.store = server.store
        self.limits = server.limits
        self.channel = channel
        self.state = State.NOT_AUTHENTICATED
        self.selected: Selected | None = None
        self.condstore = False
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
    def folder(self) -> Selected:
        """The selected folder; only in the selected state."""
        if self.selected is None:
            raise BadCommand("select a folder first")
        return self.selected

    @property
    def moment(self) -> Moment:
        """What capabilities depend on."""
        return Moment(self.state, self.channel.tls, self.server.can_start_tls)

    def capabilities(self) -> str:
        """The words of CAPABILITY now."""
        return capability_text(self.moment, self.limits.message_size)

    def log_in(self, account: Account) -> None:
        """Enters the authenticated state. Raises Refused when the account has too many connections."""
        if not self.server.registry.enter_account(self, account.id):
            raise Refused("LIMIT", "Trop de connexions à cette boîte. / Too many connections for this mailbox.")
        self._account = account
        self.state = State.AUTHENTICATED
        self._next_check = asyncio.get_running_loop().time() + self.limits.account_check

    async def check_account(self) -> None:
        """Ends the session of a mailbox that was closed after the login; asks the store every few seconds at most."""
        now = asyncio.get_running_loop().time()
        if self._account is None or now < self._next_check:
            return
        self._next_check = now + self.limits.account_check
        current = await self.call(self.store.find_account, self._account.address)
        if current is None or not current.active:
            raise EndSession("Boîte fermée. / Mailbox closed.")

    def leave_folder(self) -> None:
        """Back to the authenticated state."""
        self.selected = None
        if self.state is State.SELECTED:
            self.state = State.AUTHENTICATED

    async def call(self, verb: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Runs a synchronous verb of the store off the event loop."""
        return await asyncio.to_thread(verb, *args, **kwargs)

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

    async def run(self) -> None:
        """The whole conversation; returns when the connection is to be closed."""
        try:
            await self.send(fmt.status("*", "OK", self.capabilities(), "Caducee IMAP ready"))
            while self.state is not State.LOGOUT:
                await self.flush()
                await self._one_command()
            await self.flush()
        except TimeoutError:
            await self._goodbye("Autologout; idle for too long", "")
        except EndSession as error:
            await self._goodbye(error.text, error.code)
        except ConnectionGone:
            pass
        except Exception as error:
            await self._goodbye(f"Internal error (réf. {log_unexpected(error)})", "SERVERBUG")

    async def _goodbye(self, text: str, code: str) -> None:
        with contextlib.suppress(ConnectionGone):
            await self.send(fmt.status("*", "BYE", code, text))
            await self.flush()

    async def _one_command(self) -> None:
        tag: str | None = None
        try:
            async with asyncio.timeout(self.read_timeout()):
                raw = await read_command(
                    self.channel,
                    self.limits,
                    authenticated=self.state is not State.NOT_AUTHENTICATED,
                    invite=self.invite,
                )
            command = parse(raw.line, raw.literals)
            tag = command.tag
            del raw
            reply = await self._carry_out(command)
            self._bad = 0
        except BadCommand as error:
            self._bad += 1
            await self.send(fmt.status(tag or error.tag or "*", "BAD", "", error.text))
            if self._bad >= self.limits.bad_commands:
                raise EndSession("Too many invalid commands") from None
        except RefusedLiteral as error:
            await self.send(fmt.status(error.tag or "*", "NO", error.code, error.text))
        except Refused as error:
            await self.send(fmt.status(tag or "*", "NO", error.code, error.text))
            if error.final:
                raise EndSession("Closing") from None
        else:
            if reply.silent:
                return
            await self.send(fmt.status(command.tag, "OK", reply.code, reply.text))

    async def _carry_out(self, command: Command) -> Reply:
        verb = VERBS[command.name]
        if self.state not in verb.states:
            raise BadCommand(f"not in the {self.state.value} state")
        try:
            await self.check_account()
            reply = await verb.handler(self, command)
            if self.selected is not None:
                await self.sync(expunge_allowed=verb.expunge_allowed or command.uid)
            return reply
        except StoreError as error:
            code = next(code for kind, code in _STORE_CODES if isinstance(error, kind))
            if code == "CORRUPTION":
                _log.error("a message is damaged in the store", account=self.account.address)
            raise Refused(code, str(error)) from None
        except (BadCommand, Refused, EndSession, ConnectionGone, TimeoutError):
            raise
        except Exception as error:
            raise Refused("SERVERBUG", f"Internal error (réf. {log_unexpected(error)})") from None

    async def sync(self, *, expunge_allowed: bool) -> None:
        """Tells the client what happened in its folder since the last time. A deleted folder ends the session."""
        selected = self.folder
        try:
            changes = await self.call(self.store.changes, selected.folder_id, selected.reached)
        except NoSuchFolder:
            raise EndSession("The selected folder was deleted") from None
        await self.tell(selected.apply(changes, expunge_allowed=expunge_allowed))

    async def tell(self, news: News) -> None:
        """EXPUNGE, EXISTS and FETCH responses."""
        selected = self.folder
        for number in news.expunged:
            await self.send(b"* %d EXPUNGE\r\n" % number)
        if news.grown:
            await self.send(b"* %d EXISTS\r\n* 0 RECENT\r\n" % selected.count)
        for index in news.changed:
            await self.tell_flags(index)

    async def tell_flags(self, index: int) -> None:
        """An untagged FETCH with a message's flags."""
        view = self.folder.view
        modseq = b" MODSEQ (%d)" % view.modseqs[index] if self.condstore else b""
        flags = fmt.flags(view.flags[index])
        await self.send(b"* %d FETCH (UID %d FLAGS %b%b)\r\n" % (index + 1, view.uids[index], flags, modseq))
