"""The IMAP server: listeners, connection limits, orderly stop. Everything else is in `Session` and `imap.commands`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

from imap import format as fmt
from imap.channel import Channel
from imap.errors import ConnectionGone
from imap.limits import Limits
from imap.listener import Listener
from imap.rendering import ENVELOPES_KEPT, Envelopes
from imap.session import Session
from imap.warming import Warmer
from imap.watcher import Watcher
from mailstore import Account, Store

TokenVerifier = Callable[[str, str, datetime], Account | None]
"""(address the client gave or "", bearer token, now) -> the mailbox it may enter, or None."""
_K = TypeVar("_K")
STOP_TIME = 3.0
"""Seconds that sessions may take to end when the server stops."""
_TURNED_AWAY = 64
"""Connections too many that are told so at once; what comes beyond is cut without a handshake."""


def _now() -> datetime:
    return datetime.now(UTC)


class Registry:
    """Counts connections: in all, by network address, by account."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._total = 0
        self._by_address: Counter[str] = Counter()
        self._by_account: Counter[int] = Counter()
        self._accounts: dict[Session, int] = {}
        self._checked: dict[int, float] = {}

    def enter(self, address: str) -> bool:
        """Whether one more connection from this address may stay; counts it if so."""
        if self._total >= self._limits.connections:
            return False
        if self._by_address[address] >= self._limits.connections_per_address:
            return False
        self._total += 1
        self._by_address[address] += 1
        return True

    def enter_account(self, session: Session, account_id: int) -> bool:
        """Whether this session may log in to the account; counts it if so."""
        if self._by_account[account_id] >= self._limits.connections_per_account:
            return False
        self._by_account[account_id] += 1
        self._accounts[session] = account_id
        return True

    def checked(self, account_id: int, now: float) -> bool:
        """Whether another session has just seen that this mailbox is open; if not, the caller is to look."""
        if now < self._checked.get(account_id, 0.0):
            return True
        self._checked[account_id] = now + self._limits.account_check / 2
        return False

    def leave(self, address: str) -> None:
        """The end of a connection that `enter` let in."""
        self._total -= 1
        _count_down(self._by_address, address)

    def leave_account(self, session: Session) -> None:
        """The end of a session's commands: another may take its place in its account."""
        account_id = self._accounts.pop(session, None)
        if account_id is not None:
            _count_down(self._by_account, account_id)
            if account_id not in self._by_account:
                self._checked.pop(account_id, None)


def _count_down(counts: Counter[_K], key: _K) -> None:
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]


class ImapServer:
    """`start`, then serve until `stop`. Port 0 takes a free port: see `ports`.

    `tls_context` is a server-side context; one that asks for a client certificate makes EXTERNAL possible.
    `port_starttls` None means that only implicit TLS is served. `sleep` delays failed logins and may be replaced in tests.
    `tokens` verifies the bearer tokens of OAUTHBEARER and XOAUTH2, which are not offered without it; `tokens_away` is what it
    raises when it cannot tell now. `compress` offers
    COMPRESS=DEFLATE, which lets an onlooker guess at what is sent together: off unless the operator asks for it.
    """

    def __init__(
        self,
        store: Store,
        tls_context: ssl.SSLContext,
        *,
        host: str = "127.0.0.1",
        port_tls: int = 993,
        port_starttls: int | None = None,
        clock: Callable[[], datetime] = _now,
        limits: Limits | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        tokens: TokenVerifier | None = None,
        tokens_away: tuple[type[Exception], ...] = (),
        compress: bool = False,
    ) -> None:
        self.store = store
        self.tls_context = tls_context
        self.clock = clock
        self.limits = limits or Limits()
        self.sleep = sleep
        self.registry = Registry(self.limits)
        # What takes long in a worker thread waits here, so that the threads stay free for everybody else's commands.
        self.logins = asyncio.Semaphore(self.limits.logins_at_once)
        self.searches = asyncio.Semaphore(self.limits.searches_at_once)
        self.envelopes = Envelopes(ENVELOPES_KEPT)
        self.watcher = Watcher(store)
        self.warmer = Warmer(store, self.searches)
        self.tokens = tokens
        self.tokens_away = tokens_away
        self.compress = compress
        self.can_start_tls = port_starttls is not None
        self.ports: tuple[int, ...] = ()
        self._host = host
        self._port_tls = port_tls
        self._port_starttls = port_starttls
        self._listeners: list[Listener] = []
        self._turned_away = 0
        self._sessions: dict[asyncio.Task[None], Channel] = {}

    async def start(self) -> None:
        """Listens. `ports` then holds the implicit TLS port and, if asked for, the STARTTLS port. Raises OSError."""
        try:
            self._listeners.append(await Listener.open(self._host, self._port_tls, self._accept_tls))
            if self._port_starttls is not None:
                self._listeners.append(await Listener.open(self._host, self._port_starttls, self._accept))
        except OSError:
            self._close_listeners()
            raise
        self.ports = tuple(listener.port for listener in self._listeners)
        self.watcher.start()

    async def stop(self) -> None:
        """Takes no more connections, says BYE to the others, and waits until they have ended."""
        self._close_listeners()
        self.watcher.stop()
        for task, channel in list(self._sessions.items()):
            with contextlib.suppress(ConnectionGone):
                await channel.write(fmt.status("*", "BYE", "UNAVAILABLE", "Server shutting down"), 1.0)
            task.cancel()
        if self._sessions:
            await asyncio.wait(self._sessions, timeout=STOP_TIME)
        for channel in list(self._sessions.values()):
            channel.abort()
        await asyncio.gather(*self._sessions, return_exceptions=True)
        await self.warmer.stop()

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def _accept(self, accepted: socket.socket, peer: str) -> None:
        self._begin(Channel(accepted, peer), tls=False)

    def _accept_tls(self, accepted: socket.socket, peer: str) -> None:
        self._begin(Channel(accepted, peer), tls=True)

    def _begin(self, channel: Channel, *, tls: bool) -> None:
        # Counted before the handshake, which is what costs most and what anybody may ask for.
        if self.registry.enter(channel.peer):
            conversation = self._serve(channel, tls=tls)
        elif self._turned_away < _TURNED_AWAY:
            conversation = self._turn_away(channel, tls=tls)
        else:
            channel.abort()
            return
        task = asyncio.get_running_loop().create_task(conversation)
        self._sessions[task] = channel
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._sessions.pop(task, None)

    async def _serve(self, channel: Channel, *, tls: bool) -> None:
        try:
            if tls:
                await channel.start_tls(self.tls_context, self.limits.handshake_time)
            session = Session(self, channel)
            try:
                await session.run()
            finally:
                self.registry.leave_account(session)
        except ConnectionGone:
            return
        finally:
            try:
                await channel.close()
            finally:
                self.registry.leave(channel.peer)

    async def _turn_away(self, channel: Channel, *, tls: bool) -> None:
        """Says that there are too many connections, to a few at a time."""
        self._turned_away += 1
        try:
            if tls:
                await channel.start_tls(self.tls_context, self.limits.handshake_time)
            await channel.write(fmt.status("*", "BYE", "LIMIT", "Too many connections"), 1.0)
            await channel.close()
        except ConnectionGone:
            return
        finally:
            self._turned_away -= 1
            channel.abort()
