"""What each process that serves SMTP does: listeners of 25, 587 and 465, and a worker of the queue.

The mail process is the first and does more (`mail_process`); the others, of which the settings say how many, do this alone. They
share sockets, store and bounds (`sharing`), and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
import uvloop

from caducee import smtp_parts
from caducee.bridge_parts import deposit_policy, make_desk, open_register
from caducee.child import say_ready
from caducee.folder import OperatorFolder
from caducee.planner import Planner
from caducee.settings import Settings
from caducee.sockets import inherited_sockets
from caducee.trust_parts import TrustParts, open_trust_parts, own_certificate
from caducee.trust_watch import refresh_trust
from caducee.wiring import bearer_login, make_protector, now, open_directory, open_store, open_tokens
from mailstore import Store
from smtp import Services, SmtpServers
from trustspace import TrustSpace

_PORT_PATIENCE = 50
_PORT_PAUSE = 0.1


@dataclass(frozen=True, slots=True)
class Listener:
    """A server with the name it has in the logs."""

    name: str
    start: Callable[[], Awaitable[None]]
    stop: Callable[[], Awaitable[None]]


class SmtpSide:
    """The part of SMTP and of the queue that process `number` (from 1) takes."""

    def __init__(self, folder: OperatorFolder, settings: Settings, number: int) -> None:
        """Opens the store and the trust space. Raises UsageError, StoreError, TrustSpaceError."""
        self._folder = folder
        self._settings = settings
        self._number = number
        self.store = open_store(folder, settings)
        self.store.release_leases(*smtp_parts.owners(settings, number))
        self.trust: TrustParts = open_trust_parts(folder, settings, first=number == 1)
        self.services = _services(folder, settings, self.store, self.trust.space, number)
        own = own_certificate(folder)
        self.servers = SmtpServers(self.services, smtp_parts.listens(settings, own, inherited_sockets()))

    @property
    def listener(self) -> Listener:
        """Its SMTP listeners."""
        return Listener("smtp", self.servers.start, self.servers.stop)

    async def send(self, stop: asyncio.Event) -> None:
        """Work on the queue until `stop`."""
        if self._number > smtp_parts.senders(self._settings):
            await stop.wait()
            return
        sender = smtp_parts.sender(self._settings, self.services, own_certificate(self._folder), self._number)
        working = asyncio.create_task(sender.run())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait([working, stopped], return_when=asyncio.FIRST_COMPLETED)
        sender.stop()
        await working
        stopped.cancel()

    async def follow_trust(self, stop: asyncio.Event) -> None:
        """Download what the trust space needs until `stop`."""
        await refresh_trust(self.trust.refresher, stop)


def run(folder: OperatorFolder, settings: Settings, number: int) -> None:
    """Serve until SIGTERM."""
    uvloop.run(_serve(folder, settings, number))


async def _serve(folder: OperatorFolder, settings: Settings, number: int) -> None:
    stop = stopping()
    side = SmtpSide(folder, settings, number)
    await work(side.store, [side.listener], [side.send, side.follow_trust], stop)


def stopping() -> asyncio.Event:
    """Set by SIGTERM and Ctrl-C."""
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    return stop


async def work(
    store: Store,
    listeners: list[Listener],
    workers: list[Callable[[asyncio.Event], Awaitable[None]]],
    stop: asyncio.Event,
) -> None:
    """Start the listeners and the workers, say so, and at `stop` end all of them in order; the store last.

    A worker that ends by itself is a defect: the process ends, and the supervisor begins it anew."""
    started: list[Listener] = []
    try:
        for listener in listeners:
            await _start(listener)
            started.append(listener)
        tasks = [asyncio.ensure_future(worker(stop)) for worker in workers]
        say_ready()
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        await asyncio.gather(*tasks)
    finally:
        for listener in reversed(started):
            await listener.stop()
        store.close()


async def _start(listener: Listener) -> None:
    """Start a listener. A port may be held for a moment by the process this one replaces: wait a little, then give up."""
    for left in reversed(range(_PORT_PATIENCE)):
        try:
            await listener.start()
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not left:
                raise
            await asyncio.sleep(_PORT_PAUSE)
        else:
            structlog.get_logger().info("listening", service=listener.name)
            return


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait for `stop`, but not longer."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


def _services(folder: OperatorFolder, settings: Settings, store: Store, trust: TrustSpace, number: int) -> Services:
    directory = open_directory(folder, settings)
    directory.watch()
    desk = make_desk(folder, settings, open_register(folder, settings))
    return Services(
        store=store,
        trust=trust,
        protector=make_protector(store, directory, trust, settings, open_tokens(folder, settings)),
        planner=Planner(settings, directory, deposit_policy(settings), desk),
        clock=now,
        hostname=settings.operator.hostname,
        local_domains=frozenset(settings.operator.domains),
        limits=smtp_parts.limits(settings, number),
        directory=directory,
        rules=smtp_parts.rules(settings),
        bearer=bearer_login(folder, settings, store),
        bearer_away=smtp_parts.BEARER_AWAY,
        dkim_signer=smtp_parts.dkim_signer(folder),
        dkim_checker=smtp_parts.dkim_checker(settings),
    )
