"""A process to be killed: submission or reception, and sender, of one operator. Started by a fork server, so that twenty
restarts cost twenty forks and not twenty imports."""

from __future__ import annotations

from pathlib import Path

import uvloop

from smtp import DecidingContext, Kind, Listen, SmtpServers
from tests.smtp.world import reopen


def serve(folder: str, name: str, port: int, peer_port: int) -> None:
    """Serve until killed."""
    uvloop.run(_main(Path(folder), name, port, peer_port))


async def _main(folder: Path, name: str, port: int, peer_port: int) -> None:
    operator = reopen(folder, name)
    operator.store.release_leases("victim")
    tls = DecidingContext.build(operator.certificate.chain, operator.certificate.key)
    kind = Kind.SUBMISSION_TLS if name == "a" else Kind.RECEPTION
    servers = SmtpServers(operator.services, [Listen(kind, "127.0.0.1", port, tls)])
    await servers.start()
    await operator.sender({"b.mssante.fr": f"127.0.0.1:{peer_port}"}, owner="victim").run()
