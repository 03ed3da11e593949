"""The IMAP server: listeners, connection limits, orderly stop. Everything else is in `Session` and `imap.commands`."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from imap import format as fmt
from imap.channel import Channel
from imap.errors import ConnectionGone
from imap.limits import Limits
from imap.session import Session
from imap.watcher import Watcher
from mailstore import Account, Store

TokenVerifier = Callable[[str, str, datetime], Account | None]
"""(address the client gave or "", bearer token, now) -> the mailbox it may enter, or None."""


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

    def leave(self, session: Session, address: str) -> None:
        """The end of a connection that `enter` let in."""
        self._total -= 1
        self._by_address -= Counter({address: 1})
        account_id = self._accounts.pop(session, None)
        if account_id is not None:
            self._by_account -= Counter({account_id: 1})
            if account_id not in self._by_account:
                self._checked.pop(account_id, None)


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
        self.watcher = Watcher(store)
        self.tokens = tokens
        self.tokens_away = tokens_away
        self.compress = compress
        self.can_start_tls = port_starttls is not None
        self.ports: tuple[int, ...] = ()
        self._host = host
        self._port_tls = port_tls
        self._port_starttls = port_starttls
        self._servers: list[asyncio.Server] = []
        self._sessions: dict[asyncio.Task[None], Channel] = {}

    async def start(self) -> None:
        """Listens. `ports` then holds the implicit TLS port and, if asked for, the STARTTLS port. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._servers.append(
            await loop.create_server(
                lambda: Channel(self._connected, tls=True),
                self._host,
                self._port_tls,
                ssl=self.tls_context,
                ssl_handshake_timeout=self.limits.handshake_time,
            )
        )
        if self._port_starttls is not None:
            self._servers.append(
                await loop.create_server(lambda: Channel(self._connected, tls=False), self._host, self._port_starttls)
            )
        self.ports = tuple(server.sockets[0].getsockname()[1] for server in self._servers)
        self.watcher.start()

    async def stop(self) -> None:
        """Takes no more connections, says BYE to the others, and waits until they have ended."""
        for server in self._servers:
            server.close()
        self.watcher.stop()
        for task, channel in list(self._sessions.items()):
            with contextlib.suppress(ConnectionGone):
                await channel.write(fmt.status("*", "BYE", "UNAVAILABLE", "Server shutting down"), 1.0)
            task.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)
        self._servers.clear()

    def _connected(self, channel: Channel) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(channel))
        self._sessions[task] = channel
        task.add_done_callback(lambda done: self._sessions.pop(done, None))

    async def _serve(self, channel: Channel) -> None:
        address = channel.peer
        if not self.registry.enter(address):
            with contextlib.suppress(ConnectionGone):
                await channel.write(fmt.status("*", "BYE", "LIMIT", "Too many connections"), 1.0)
            channel.close()
            return
        session = Session(self, channel)
        try:
            await session.run()
        finally:
            self.registry.leave(session, address)
            channel.close()
