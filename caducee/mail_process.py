"""The mail process: the first share of SMTP and of the queue, IMAP, auto-configuration, and the dispatcher that feeds deposits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial

import structlog
import uvloop

from caducee.autoconfig import web_app
from caducee.bridge_parts import feeds_in, open_register
from caducee.folder import OperatorFolder
from caducee.hand_in import SubmissionSide
from caducee.monitor import monitor_app
from caducee.planner import Planner
from caducee.private_directory import private_directory
from caducee.published import serve_list
from caducee.publishing import keep_published
from caducee.settings import Settings
from caducee.smtp_process import Listener, SmtpSide, pause, stopping, work
from caducee.trust_parts import own_certificate
from caducee.trust_watch import renew_directory_trust, trust_figures, watch_trust
from caducee.web import WebServer
from caducee.wiring import now, open_directory
from dmp_bridge import DepositDispatcher, make_app
from dmp_bridge.gateway import Gateway
from dmp_bridge.mllp import MllpServer
from imap import ImapServer
from imap import Limits as ImapLimits
from mailstore import ChangeKind, Store, StoreChange, StoreError
from smtp import Services
from trustspace import Purpose, server_tls

_SWEEP_GRACE = timedelta(hours=1)
_SWEEP_SECONDS = 3600.0

Worker = Callable[[asyncio.Event], Awaitable[None]]
"""What works until the event is set."""


def run(folder: OperatorFolder, settings: Settings) -> None:
    """Serve until SIGTERM."""
    uvloop.run(_serve(folder, settings))


async def _serve(folder: OperatorFolder, settings: Settings) -> None:
    stop = stopping()
    side = SmtpSide(folder, settings, 1)
    await work(side.store, _listeners(folder, settings, side), _workers(folder, settings, side), stop)


def _workers(folder: OperatorFolder, settings: Settings, side: SmtpSide) -> list[Worker]:
    workers: list[Worker] = [
        side.send,
        side.follow_trust,
        partial(_sweep, side.store, settings.logs.trail_days or None),
    ]
    if settings.dmp.url:
        workers.append(partial(_dispatch, folder, side.store))
    if settings.directory.follow_mailboxes and (settings.directory.bind_dn or not settings.directory.url):
        writer = open_directory(folder, settings, write=True)
        workers.append(lambda stop: keep_published(side.store, writer, folder, settings, stop))
    if settings.directory.client_certificates and not settings.directory.url:
        slapd = private_directory(folder, settings)
        workers.append(lambda stop: renew_directory_trust(slapd, stop))
    workers.append(lambda stop: watch_trust(folder, side.trust.space, stop))
    return workers


def _listeners(folder: OperatorFolder, settings: Settings, side: SmtpSide) -> list[Listener]:
    listen, own, services = settings.listen, own_certificate(folder), side.services
    plain = server_tls(services.trust, own, Purpose.CLIENTS)
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
    listeners = [side.listener]
    if listen.imaps:
        listeners.append(Listener("imap", imap.start, imap.stop))
    if listen.hl7:
        hl7 = _hl7(folder, settings, services)
        listeners.append(Listener("hl7", hl7.start, hl7.stop))
    if listen.monitor:
        watched = monitor_app(
            services.store,
            services.trust,
            lambda: bool(side.servers.ports),
            lambda: trust_figures(folder, services.trust, now()),
        )
        monitor = WebServer(watched, None, host="127.0.0.1", port=listen.monitor)
        listeners.append(Listener("monitor", monitor.start, monitor.stop))
    if listen.web:
        app = web_app(settings)
        if settings.trust.serve_list:
            serve_list(app, folder)
        web = WebServer(app, plain, host=listen.host, port=listen.web)
        listeners.append(Listener("web", web.start, web.stop))
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


async def _sweep(store: Store, trail_days: int | None, stop: asyncio.Event) -> None:
    """At the start and every hour: retention, audit trail, search index, files of contents nobody refers to any more."""
    while not stop.is_set():
        try:
            await asyncio.to_thread(store.housekeep, now(), _SWEEP_GRACE, trail_days=trail_days)
        except StoreError as error:
            structlog.get_logger().warning("sweep put off", error=type(error).__name__)
        await pause(stop, _SWEEP_SECONDS)


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
