"""Structured logs that cannot leak: only keys known to be harmless pass, everything else is replaced.

A deny-list forgets; so this is an allow-list. Values are bounded, and anything that looks like an INS is masked even in
an allowed key. Exceptions are logged by class and place (file:line), never by message: messages quote data.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

ALLOWED_KEYS = frozenset(
    {
        "event", "level", "timestamp", "logger",
        "service", "state", "port", "host", "path", "pid", "code", "reason", "rule", "reference", "error",
        "submission_id", "message_id", "deposit_id", "unique_id", "peer", "dn", "domain", "account", "folder_id",
        "attempt", "attempts", "count", "size", "seconds", "reply", "command", "row_id", "url", "version", "digest", "broker",
    }
)  # fmt: skip
"""Keys whose values may be written. Add one only after asking what it will hold on the worst day."""

REDACTED = "[masqué]"
_MAX_VALUE = 500
_INS = re.compile(r"(?<!\d)[1-478]\d{2}(?:0[1-9]|[1-9]\d)(?:\d{2}|2[ABab])\d{6}(?:\d{2})?(?!\d)")
_PATIENT = re.compile(r"[^\s<>@,;]+@patient\.", re.IGNORECASE)


def redact(_logger: object, _method: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """structlog processor: keep allowed keys, mask the others and what looks like a patient's identifier."""
    failure = entry.pop("exc_info", None)
    for key, value in list(entry.items()):
        entry[key] = _clean(value) if key in ALLOWED_KEYS else REDACTED
    if failure:
        if isinstance(failure, tuple):
            failure = failure[1]
        entry["error"] = _where(failure if isinstance(failure, BaseException) else sys.exc_info()[1])
    return entry


def _clean(value: object) -> object:
    if value is None or (isinstance(value, bool | int | float) and not _INS.search(str(value))):
        return value
    text = _PATIENT.sub(f"{REDACTED}@patient.", _INS.sub(REDACTED, str(value)))
    return text if len(text) <= _MAX_VALUE else text[:_MAX_VALUE] + "…"


def _where(error: BaseException | None) -> str:
    if error is None:
        return "?"
    frames = traceback.extract_tb(error.__traceback__)
    # The last two steps of the path; "<frozen codecs>" and the like have one.
    place = f" {'/'.join(frames[-1].filename.split('/')[-2:])}:{frames[-1].lineno}" if frames else ""
    return type(error).__name__ + place


def configure_logs(level: str = "info", style: Literal["json", "console"] = "json") -> None:
    """Set up structlog and silence every library's own logger below WARNING, where protocol lines would appear.

    An exception that nobody caught, in any thread, is logged as the others are: Python would print its message.
    """
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if style == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            redact,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Bridge()]
    root.setLevel(logging.WARNING)
    sys.excepthook = lambda _type, error, _trace: _uncaught(error)
    threading.excepthook = lambda failure: _uncaught(failure.exc_value)


def _uncaught(error: BaseException | None) -> None:
    structlog.get_logger().error("uncaught", exc_info=error)


class _Bridge(logging.Handler):
    """Library warnings, by logger name and place only: their texts may hold what they were given."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        structlog.get_logger().warning(
            "library",
            logger=record.name,
            reference=f"{record.module}:{record.lineno}",
            error=_where(error) if error else "",
        )
