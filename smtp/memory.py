"""How the C library hands out memory in a process with many TLS sessions (ADR 0058).

Each session of uvloop asks for one buffer of 256 KiB, of which it touches the beginning. glibc serves such a request from
the kernel, untouched pages costing nothing, until it has seen one freed; from then on it takes them from its heap, whose
pages were used before and stay resident. Saying the threshold once keeps it where it is: 53 KiB a session instead of 77.
"""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3
_THRESHOLD = 128 * 1024
"""glibc's own first value."""


def keep_large_apart() -> bool:
    """Large buffers always come from the kernel and go back to it. False where the C library has no such setting."""
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _THRESHOLD))
    except (OSError, AttributeError):
        return False
