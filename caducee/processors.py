"""A processor for each process (ADR 0067).

The threads of a Python process hand one lock to one another. On two processors each hand-over wakes the other one up, which costs
more than what was to be done; on one it is a switch.
"""

from __future__ import annotations

import os
from contextlib import suppress

PROCESSOR = "CADUCEE_PROCESSOR"
"""Variable that names the processor of a child."""


def processor_of(index: int) -> dict[str, str]:
    """What tells process `index` (from 0) of its processor: round about, among those that we may use; nothing to tell when
    there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    return {PROCESSOR: str(usable[index % len(usable)])} if len(usable) > 1 else {}


def keep_to_processor() -> None:
    """Stay on the processor that the variable names, threads to come included; anywhere without it, or when the system says
    no. Its own children are not told."""
    with suppress(ValueError, OSError):
        os.sched_setaffinity(0, {int(os.environ.pop(PROCESSOR, ""))})
