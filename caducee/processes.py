"""Which processes an operator runs, for the supervisor: the directory (first: it is stopped last), the record, mail, deposits."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from caducee.folder import OperatorFolder
from caducee.private_directory import private_directory
from caducee.settings import Settings
from caducee.supervisor import ChildSpec, wait_for_port
from directory import loopback_address

ROLES = ("record", "mail", "deposits")


def child_specs(folder: OperatorFolder, settings: Settings) -> Sequence[ChildSpec]:
    """The processes that the settings ask for."""
    specs: list[ChildSpec] = []
    if settings.services.directory:
        slapd = private_directory(folder, settings)

        async def answers() -> None:
            await wait_for_port(loopback_address(settings.listen.host), settings.listen.ldap)

        specs.append(ChildSpec("directory", slapd.command(), answers))
    wanted = {
        "record": settings.services.record,
        "mail": settings.services.mail,
        "deposits": settings.services.deposits and bool(settings.dmp.url),
    }
    specs += [ChildSpec(role, _argv(role, folder.root)) for role in ROLES if wanted[role]]
    return specs


def _argv(role: str, folder: Path) -> list[str]:
    return [sys.executable, "-m", "caducee.process", role, os.fspath(folder.resolve())]
