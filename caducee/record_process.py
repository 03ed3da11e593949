"""The process of the embedded record: ITI-41, ITI-18, ITI-57 and TD0.2 over mutual TLS, nothing else."""

from __future__ import annotations

import asyncio
import signal

import uvloop

from caducee.child import say_ready
from caducee.folder import OperatorFolder
from caducee.record import open_record
from caducee.settings import Settings
from caducee.trust_parts import open_trust, own_certificate
from caducee.wiring import now
from dossier import Authority, RecordServer, bind, make_record_app, remember
from trustspace import Purpose, Usage, server_tls


def run(folder: OperatorFolder, settings: Settings) -> None:
    """Serve until SIGTERM."""
    uvloop.run(_serve(folder, settings))


async def _serve(folder: OperatorFolder, settings: Settings) -> None:
    trust = open_trust(folder, settings)
    store = open_record(folder, automatic_creation=settings.record.automatic_creation)
    authority = Authority(
        check_signer=remember(trust.path_checker(Usage.SIGNATURE)),
        check_peer=remember(trust.path_checker(Usage.TLS_CLIENT)),
    )
    app = make_record_app(store, authority, clock=now)
    context = server_tls(trust, own_certificate(folder), Purpose.CLIENTS, client="required")
    server = RecordServer(app, context)
    listener = bind(settings.listen.host, settings.listen.record)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, server.stop)
    task = asyncio.create_task(server.serve(listener))
    while not server.started and not task.done():
        await asyncio.sleep(0.01)
    say_ready()
    await task
    store.close()
