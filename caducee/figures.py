"""The figures of the processes that share SMTP, where one of them can read them all: a folder of prometheus-client.

Invariants: counters of a process that ended still count; its gauges do not; nothing is left of a former run.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

METRICS = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus-client's variable; it must be set before its first import."""


def begin_figures(folder: Path) -> None:
    """An empty folder. Raises OSError."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for file in folder.glob("*.db"):
        file.unlink()


def forget_process(folder: Path, pid: int) -> None:
    """The process has ended: what it said of the present (`live` gauges) is over."""
    for file in folder.glob(f"gauge_live*_{pid}.db"):
        with suppress(OSError):
            file.unlink()
