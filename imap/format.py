"""From values to the bytes of responses (RFC 3501 §9). Pure.

Invariant: whatever goes in, what comes out has balanced quotes and literals: no value can end a line or forge a response.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime

from imap import utf7
from imap.grammar_search import MONTHS

CRLF = b"\r\n"
_QUOTABLE = re.compile(rb"[\x20-\x7e]*\Z")
_ATOM = re.compile(rb"[A-Za-z0-9_$.+/:,&'=~#@!^|;<>?-]+\Z")
MOST_QUOTED = 1000


def literal(value: bytes) -> bytes:
    """`{n}` CRLF bytes. NUL, which no literal may hold (RFC 3501 §9 CHAR8), becomes a question mark."""
    if b"\x00" in value:
        value = value.replace(b"\x00", b"?")
    return b"{%d}\r\n" % len(value) + value


def string(value: bytes) -> bytes:
    """A quoted string when that can carry the value, else a literal."""
    if len(value) <= MOST_QUOTED and _QUOTABLE.match(value):
        return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
    return literal(value)


def nstring(value: bytes | None) -> bytes:
    """A string, or NIL."""
    return b"NIL" if value is None else string(value)


def mailbox(name: str, *, utf8: bool = False) -> bytes:
    """A folder's name in modified UTF-7, or in UTF-8 once the client enabled it; quoted unless it is a plain atom."""
    wire = name.encode("utf-8", "replace") if utf8 else utf7.encode(name)
    if utf8 and not wire.isascii():
        # RFC 6855 §3, RFC 9051 §9: quoted strings hold UTF-8.
        return b'"' + wire.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
    return wire if _ATOM.match(wire) and wire.upper() != b"NIL" else string(wire)


def flags(values: Iterable[str]) -> bytes:
    """A parenthesised flag list, sorted so that the answer does not depend on hashing."""
    return b"(" + " ".join(sorted(values)).encode("ascii", "replace") + b")"


def internal_date(moment: datetime) -> bytes:
    """`"17-Jul-1996 02:44:25 +0000"`, in UTC, day padded with a space."""
    utc = moment.astimezone(UTC)
    month = MONTHS[utc.month - 1]
    return f'"{utc.day:2d}-{month}-{utc.year:04d} {utc.hour:02d}:{utc.minute:02d}:{utc.second:02d} +0000"'.encode(
        "ascii"
    )


def text(value: str) -> bytes:
    """Human-readable text at the end of a response: one line, UTF-8 for French alerts."""
    return " ".join(value.split()).encode("utf-8", "replace") or b"-"


def status(tag: str, kind: str, code: str, message: str) -> bytes:
    """A status response: `tag OK [CODE] text` with its line end. `tag` is `*` for an untagged one."""
    middle = f"[{code}] ".encode("ascii") if code else b""
    return tag.encode("ascii") + b" " + kind.encode("ascii") + b" " + middle + text(message) + CRLF
