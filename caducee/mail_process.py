"""The mail process: submission, reception, sender, IMAP, auto-configuration, and the dispatcher that feeds deposits."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import structlog
import uvloop

from caducee import smtp_parts
from caducee.autoconfig import web_app
from caducee.bridge_parts import deposit_policy, feeds_in, make_desk, open_register
from caducee.child import say_ready
from caducee.folder import OperatorFolder
from caducee.hand_in import SubmissionSide
from caducee.monitor import monitor_app
from caducee.planner import Planner
from caducee.private_directory import private_directory
from caducee.published import serve_list
from caducee.publishing import keep_published
from caducee.settings import Settings
from caducee.trust_parts import open_trust_parts, own_certificate
from caducee.trust_watch import refresh_trust, renew_directory_trust, trust_figures, watch_trust
from caducee.web import WebServer
from caducee.wiring import bearer_login, make_protector, now, open_directory, open_store, open_tokens
from dmp_bridge import DepositDispatcher, make_app
from dmp_bridge.gateway import Gateway
from dmp_bridge.mllp import MllpServer
from imap import ImapServer
from imap import Limits as ImapLimits
from mailstore import ChangeKind, Store, StoreChange, StoreError
from smtp import Services, SmtpServers
from smtp.memory import keep_large_apart
from trustspace import Purpose, TrustSpace, server_tls

SENDER = "mail"
"""Owner of the sender's leases. One mail process serves a folder, so leases found at its start are a dead one's."""
_SWEEP_GRACE = timedelta(hours=1)
_SWEEP_SECONDS = 3600.0
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
    keep_large_apart()
    uvloop.run(_serve(folder, settings))


async def _serve(folder: OperatorFolder, settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    store = open_store(folder, settings)
    store.release_leases(SENDER)
    parts = open_trust_parts(folder, settings)
    trust = parts.space
    services = _services(folder, settings, store, trust)
    listeners = _listeners(folder, settings, services)
    started: list[_Listener] = []
    try:
        for listener in listeners:
            await _start(listener)
            started.append(listener)
        sender = smtp_parts.sender(settings, services, own_certificate(folder), SENDER)
        workers = [asyncio.create_task(sender.run())]
        if settings.dmp.url:
            workers.append(asyncio.create_task(_dispatch(folder, store, stop)))
        workers.append(asyncio.create_task(_sweep(store, stop)))
        if settings.directory.follow_mailboxes and (settings.directory.bind_dn or not settings.directory.url):
            writer = open_directory(folder, settings, write=True)
            workers.append(asyncio.create_task(keep_published(store, writer, folder, settings, stop)))
        if settings.directory.client_certificates and not settings.directory.url:
            slapd = private_directory(folder, settings)
            workers.append(asyncio.create_task(renew_directory_trust(slapd, stop)))
        workers.append(asyncio.create_task(watch_trust(folder, trust, stop)))
        workers.append(asyncio.create_task(refresh_trust(parts.refresher, stop)))
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
        limits=smtp_parts.limits(settings),
        directory=directory,
        rules=smtp_parts.rules(settings),
        bearer=bearer_login(folder, settings, store),
        bearer_away=smtp_parts.BEARER_AWAY,
        dkim_signer=smtp_parts.dkim_signer(folder),
        dkim_checker=smtp_parts.dkim_checker(settings),
    )


def _listeners(folder: OperatorFolder, settings: Settings, services: Services) -> list[_Listener]:
    listen, own = settings.listen, own_certificate(folder)
    plain = server_tls(services.trust, own, Purpose.CLIENTS)
    smtp = SmtpServers(services, smtp_parts.listens(settings, own))
    asking = server_tls(services.trust, own, Purpose.CLIENTS, client="optional")
    imap = ImapServer(
        services.store,
        asking if settings.imap.client_certificates else plain,
        host=listen.host,
        port_tls=listen.imaps,
        port_starttls=listen.imap or None,
        clock=now,
        limits=ImapLimits(message_size=settings.limits.message_mib * 1024 * 1024),
        tokens=services.bearer,
        tokens_away=services.bearer_away,
        compress=settings.imap.compress,
    )
    listeners = [_Listener("smtp", smtp.start, smtp.stop)]
    if listen.imaps:
        listeners.append(_Listener("imap", imap.start, imap.stop))
    if listen.hl7:
        hl7 = _hl7(folder, settings, services)
        listeners.append(_Listener("hl7", hl7.start, hl7.stop))
    if listen.monitor:
        watched = monitor_app(
            services.store,
            services.trust,
            lambda: bool(smtp.ports),
            lambda: trust_figures(folder, services.trust, now()),
        )
        monitor = WebServer(watched, None, host="127.0.0.1", port=listen.monitor)
        listeners.append(_Listener("monitor", monitor.start, monitor.stop))
    if listen.web:
        app = web_app(settings)
        if settings.trust.serve_list:
            serve_list(app, folder)
        web = WebServer(app, plain, host=listen.host, port=listen.web)
        listeners.append(_Listener("web", web.start, web.stop))
    return listeners


def _hl7(folder: OperatorFolder, settings: Settings, services: Services) -> MllpServer:
    """The listener of hospitals' software."""
    planner = services.planner
    if not isinstance(planner, Planner):
        raise TypeError("the bridge's own planner is expected")
    gateway = Gateway(
        SubmissionSide(services, planner),
        feeds_in(settings),
        desk=planner.desk,
        source_id=settings.dmp.source_id,
        hostname=settings.operator.hostname,
        clock=now,
        register=open_register(folder, settings),
    )
    own = own_certificate(folder)
    tls = server_tls(services.trust, own, Purpose.CLIENTS, client="required") if settings.hl7.tls else None
    return MllpServer(gateway, host=settings.listen.host, port=settings.listen.hl7, tls=tls)


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


async def _sweep(store: Store, stop: asyncio.Event) -> None:
    """At the start and every hour: retention, search index, files of contents nobody refers to any more."""
    while not stop.is_set():
        try:
            await asyncio.to_thread(store.housekeep, now(), _SWEEP_GRACE)
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
