"""The mail process: submission, reception, sender, IMAP, auto-configuration, and the dispatcher that feeds deposits."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import structlog
import uvloop

from caducee.autoconfig import web_app
from caducee.child import say_ready
from caducee.folder import SERVER, OperatorFolder
from caducee.planner import SubmissionPlanner
from caducee.settings import Settings
from caducee.web import WebServer
from caducee.wiring import make_protector, now, open_directory, open_store, open_trust, trust_state
from dmp_bridge import DepositDispatcher, make_app
from imap import ImapServer
from mailstore import ChangeKind, Store, StoreChange, StoreError
from smtp import Carrier, DomainRouter, Kind, Limits, Listen, Sender, SenderSettings, Services, SmtpServers
from trustspace import Freshness, TrustSpace, client_context, server_context

SENDER = "mail"
"""Owner of the sender's leases. One mail process serves a folder, so leases found at its start are a dead one's."""
_SWEEP_GRACE = timedelta(hours=1)
_SWEEP_SECONDS = 3600.0
_WATCH_SECONDS = 60.0
_REMIND_SECONDS = 3600.0
_PORT_PATIENCE = 50
_PORT_PAUSE = 0.1


@dataclass(frozen=True, slots=True)
class _Listener:
    """A server with the name it has in the logs."""

    name: str
    start: Callable[[], Awaitable[None]]
    stop: Callable[[], Awaitable[None]]


def run(folder: OperatorFolder, settings: Settings) -> None:
    """Serve until SIGTERM."""
    uvloop.run(_serve(folder, settings))


async def _serve(folder: OperatorFolder, settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    store = open_store(folder, settings)
    store.release_leases(SENDER)
    trust = open_trust(folder, settings)
    services = _services(folder, settings, store, trust)
    listeners = _listeners(folder, settings, services)
    started: list[_Listener] = []
    try:
        for listener in listeners:
            await _start(listener)
            started.append(listener)
        sender = _sender(folder, settings, services)
        workers = [asyncio.create_task(sender.run())]
        if settings.dmp.url:
            workers.append(asyncio.create_task(_dispatch(folder, store, stop)))
        workers.append(asyncio.create_task(_sweep(store, stop)))
        workers.append(asyncio.create_task(_watch_trust(trust, stop)))
        say_ready()
        stopped = asyncio.create_task(stop.wait())
        # A worker that ends by itself is a defect: end the process, and let the supervisor begin it anew.
        await asyncio.wait([stopped, *workers], return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        sender.stop()
        await asyncio.gather(*workers)
    finally:
        for listener in reversed(started):
            await listener.stop()
        store.close()


def _services(folder: OperatorFolder, settings: Settings, store: Store, trust: TrustSpace) -> Services:
    directory = open_directory(folder, settings)
    return Services(
        store=store,
        trust=trust,
        protector=make_protector(store, directory, trust, settings),
        planner=SubmissionPlanner(settings, directory),
        clock=now,
        hostname=settings.operator.hostname,
        local_domains=frozenset(settings.operator.domains),
        limits=Limits(size=settings.limits.message_mib * 1024 * 1024, recipients=settings.limits.recipients),
        directory=directory,
    )


def _listeners(folder: OperatorFolder, settings: Settings, services: Services) -> list[_Listener]:
    listen, chain, key = settings.listen, folder.keys / f"{SERVER}.pem", folder.keys / f"{SERVER}.key"
    mutual = server_context(chain, key, client="optional", client_anchors=services.trust.anchors)
    plain = server_context(chain, key)
    smtp = SmtpServers(
        services,
        [
            Listen(kind, listen.host, port, mutual)
            for kind, port in (
                (Kind.RECEPTION, listen.reception),
                (Kind.SUBMISSION, listen.submission),
                (Kind.SUBMISSION_TLS, listen.submissions),
            )
            if port
        ],
    )
    imap = ImapServer(
        services.store,
        plain,
        host=listen.host,
        port_tls=listen.imaps,
        port_starttls=listen.imap or None,
        clock=now,
    )
    listeners = [_Listener("smtp", smtp.start, smtp.stop)]
    if listen.imaps:
        listeners.append(_Listener("imap", imap.start, imap.stop))
    if listen.web:
        web = WebServer(web_app(settings), plain, host=listen.host, port=listen.web)
        listeners.append(_Listener("web", web.start, web.stop))
    return listeners


async def _start(listener: _Listener) -> None:
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


def _sender(folder: OperatorFolder, settings: Settings, services: Services) -> Sender:
    tls = client_context(
        folder.keys / f"{SERVER}.pem", folder.keys / f"{SERVER}.key", services.trust.anchors, check_hostname=False
    )
    return Sender(
        services,
        Carrier(services, DomainRouter(settings.routes), tls),
        owner=SENDER,
        settings=SenderSettings(
            first_retry=timedelta(seconds=settings.limits.retry_seconds),
            give_up=timedelta(hours=settings.limits.queue_hours),
        ),
    )


async def _watch_trust(trust: TrustSpace, stop: asyncio.Event) -> None:
    """Say in the logs when the white list ages, or a newer one was refused; again at each hour that it lasts."""
    said, said_at = "", 0.0
    while not stop.is_set():
        state, alarm = await asyncio.to_thread(trust_state, trust, now())
        trouble = alarm or ("" if state is Freshness.FRESH else state.value)
        if trouble != said or (trouble and time.monotonic() - said_at > _REMIND_SECONDS):
            log = structlog.get_logger()
            (log.error if trouble else log.info)("white list", state=state.value, reason=alarm)
            said, said_at = trouble, time.monotonic()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _WATCH_SECONDS)


async def _sweep(store: Store, stop: asyncio.Event) -> None:
    """Remove, at the start and every hour, the files of contents nobody refers to any more."""
    while not stop.is_set():
        try:
            await asyncio.to_thread(store.sweep, now() - _SWEEP_GRACE)
        except StoreError as error:
            structlog.get_logger().warning("sweep put off", error=type(error).__name__)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _SWEEP_SECONDS)


async def _dispatch(folder: OperatorFolder, store: Store, stop: asyncio.Event) -> None:
    dispatcher = DepositDispatcher(make_app(folder.broker), store)

    def changed(change: StoreChange) -> None:
        if change.kind is ChangeKind.DEPOSIT:
            dispatcher.wake()

    unsubscribe = store.subscribe_changes(changed)
    try:
        await dispatcher.run(stop)
    finally:
        unsubscribe()
