"""The process of the embedded record: ITI-41 over mutual TLS, nothing else."""

from __future__ import annotations

import asyncio
import signal

from caducee.child import say_ready
from caducee.folder import SERVER, OperatorFolder
from caducee.record import open_record
from caducee.settings import Settings
from caducee.wiring import now, open_trust
from dossier import Authority, RecordServer, bind, make_record_app
from trustspace import Usage, server_context


def run(folder: OperatorFolder, settings: Settings) -> None:
    """Serve until SIGTERM."""
    asyncio.run(_serve(folder, settings))


async def _serve(folder: OperatorFolder, settings: Settings) -> None:
    trust = open_trust(folder, settings)
    store = open_record(folder)
    authority = Authority(
        check_signer=trust.path_checker(Usage.SIGNATURE), check_peer=trust.path_checker(Usage.TLS_CLIENT)
    )
    app = make_record_app(store, authority, clock=now)
    context = server_context(
        folder.keys / f"{SERVER}.pem", folder.keys / f"{SERVER}.key", client="required", client_anchors=trust.anchors
    )
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
