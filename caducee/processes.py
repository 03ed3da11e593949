"""Which processes an operator runs, for the supervisor: the directory (first: it is stopped last), the record, mail, what
shares SMTP with it, deposits."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from caducee.figures import METRICS, forget_process
from caducee.folder import OperatorFolder
from caducee.private_directory import private_directory
from caducee.processors import processor_of
from caducee.settings import Settings
from caducee.sharing import smtp_processes
from caducee.sockets import SOCKETS, Sockets, as_variable
from caducee.supervisor import ChildSpec, wait_for_port
from directory import loopback_address


def child_specs(folder: OperatorFolder, settings: Settings, sockets: Sockets) -> Sequence[ChildSpec]:
    """The processes that the settings ask for; those of SMTP inherit `sockets`."""
    specs: list[ChildSpec] = []
    if settings.services.directory:
        slapd = private_directory(folder, settings)

        async def answers() -> None:
            await wait_for_port(loopback_address(settings.listen.host), settings.listen.ldap)

        specs.append(ChildSpec("directory", slapd.command(), answers))
    return [*specs, *_our_own(folder, settings, sockets)]


def _our_own(folder: OperatorFolder, settings: Settings, sockets: Sockets) -> list[ChildSpec]:
    """The processes of this program, each kept to a processor unless the settings say otherwise."""
    specs: list[ChildSpec] = []
    if settings.services.record:
        specs.append(ChildSpec("record", _argv("record", folder.root)))
    if settings.services.deposits and settings.dmp.url:
        specs.append(ChildSpec("deposits", _argv("deposits", folder.root)))
    if settings.services.mail:
        specs += _mail(folder, settings, sockets)
    if not settings.services.own_processor:
        return specs
    return [replace(spec, environment={**spec.environment, **processor_of(index)}) for index, spec in enumerate(specs)]


def _mail(folder: OperatorFolder, settings: Settings, sockets: Sockets) -> list[ChildSpec]:
    """The mail process, and those that only share SMTP with it."""
    environment = {SOCKETS: as_variable(sockets), METRICS: os.fspath(folder.metrics.resolve())}
    descriptors = [one.fileno() for group in sockets.values() for one in group]
    named = [("mail", _argv("mail", folder.root))]
    named += [
        (f"mail-{number}", [*_argv("smtp", folder.root), str(number)])
        for number in range(2, smtp_processes(settings) + 1)
    ]
    return [
        ChildSpec(
            name,
            argv,
            descriptors=descriptors,
            environment=environment,
            ended=lambda pid: forget_process(folder.metrics, pid),
        )
        for name, argv in named
    ]


def _argv(role: str, folder: Path) -> list[str]:
    return [sys.executable, "-m", "caducee.process", role, os.fspath(folder.resolve())]
