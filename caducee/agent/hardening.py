"""Keeping a PIN in memory out of files: no core dump, no other process of the same person reading ours."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

_PR_SET_DUMPABLE = 4


def harden() -> None:
    """What the system offers: Linux, no dump and no ptrace; macOS, no dump; Windows writes none by default."""
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
