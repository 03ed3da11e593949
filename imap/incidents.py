"""Unexpected errors: a reference for the client, and a log line without content."""

from __future__ import annotations

import secrets
import traceback

import structlog

_log = structlog.get_logger()


def log_unexpected(error: Exception) -> str:
    """Writes an unexpected error to the log without its text, which may hold content; returns the reference shown."""
    reference = secrets.token_hex(4).upper()
    frames = traceback.extract_tb(error.__traceback__)
    place = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-6:]))
    _log.error("unexpected error", reference=reference, error=f"{type(error).__name__} {place}")
    return reference
