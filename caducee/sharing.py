"""How the processes that serve SMTP share what the settings give to all of them together, and what each is called.

Invariants: the shares of all processes make exactly the whole, hence no bound is exceeded; a process without a share of
something does not do it; no two living workers bear one name in leases, also when several machines share the database.
"""

from __future__ import annotations

import os
import socket

from caducee.settings import Settings

MOST = 4
"""Processes that the default takes at most; the setting may say more."""


def smtp_processes(settings: Settings) -> int:
    """How many processes serve SMTP: as many as the settings say, or one for each processor."""
    return settings.smtp.processes or min(MOST, len(os.sched_getaffinity(0)))


def share(whole: int, processes: int, number: int) -> int:
    """What process `number` (from 1) may have of `whole`."""
    return whole // processes + (number <= whole % processes)


def worker_name(settings: Settings, role: str) -> str:
    """The name in leases of this machine's only worker of a `role`: it ends the leases of its former self when it starts."""
    if not settings.database.url:  # a database of this machine's own
        return role
    return f"{settings.database.machine or socket.gethostname()}/{role}"
