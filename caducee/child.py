"""What every process started by the supervisor does first and last: die with its parent, say when it serves."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
PARENT = "CADUCEE_PARENT"
"""Variable in which a parent gives its process id to those that must die with it."""


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent disappears, even by `kill -9` (Linux prctl(2)).

    It may have disappeared before this is asked, while Python was starting: `PARENT` says who it was. Without that
    variable this process was started by hand, and whoever did it may leave.
    """
    parent = os.environ.pop(PARENT, "")
    if not parent:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):
        os.kill(os.getpid(), signal.SIGTERM)


def say_ready() -> None:
    """Tell the supervisor that this process serves. Does nothing when it was started by hand."""
    descriptor = os.environ.pop("CADUCEE_READY_FD", "")
    if descriptor:
        os.write(int(descriptor), b"1")
        os.close(int(descriptor))
