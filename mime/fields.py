"""Header fields with their exact places in the message, and byte-exact removal.

Invariants: `raw[field.start:field.end]` is the field with its line end; fields and junk lines tile the header without a
gap; nothing raises on any bytes; time is linear. A line that is not a field does not end the header here (it becomes a
field without a name): were it to end it, a forged field after such a line would escape removal.
Lines end with CRLF or bare LF (offsets stay right in both); a lone CR is not a line end.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from mime.words import unfold

MAX_HEADER = 256 * 1024
"""Octets of header whose fields are kept; what is beyond is still header, but its fields are not looked at."""
MAX_FIELDS = 10_000

_FOLD_STARTS = frozenset(b" \t")
_FIELD_NAME = re.compile(rb"([!-9;-~]{1,998})[ \t]*:")


class Field(NamedTuple):
    """One header field: `name` as written ("" for a line that is no field), `value` the raw octets after the colon
    without the last line end (folds kept), `start` and `end` its place in the message, line end included."""

    name: str
    value: bytes
    start: int
    end: int

    @property
    def text(self) -> str:
        """The value unfolded and stripped, encoded words not decoded."""
        return unfold(self.value)


def header_end(raw: bytes, start: int = 0, stop: int | None = None) -> tuple[int, int]:
    """(end of the last header line, start of the body) for the entity at `raw[start:stop]`."""
    stop = len(raw) if stop is None else stop
    for blank in (b"\r\n", b"\n"):
        if raw.startswith(blank, start, stop):
            return start, start + len(blank)
    found = raw.find(b"\n\r\n", start, stop)
    bare = raw.find(b"\n\n", start, stop if found < 0 else found + 1)
    if bare >= 0:
        return bare + 1, bare + 2
    return (found + 1, found + 3) if found >= 0 else (stop, stop)


def iter_fields(raw: bytes, start: int, stop: int) -> Iterator[Field]:
    """The fields of the header `raw[start:stop]`, in order, one at a time (constant memory)."""
    position = start
    while position < stop:
        end = _field_end(raw, position, stop)
        match = _FIELD_NAME.match(raw, position, end)
        name = match[1].decode("ascii") if match else ""
        value = raw[match.end() if match else position : end]
        yield Field(name, value.removesuffix(b"\n").removesuffix(b"\r"), position, end)
        position = end


@lru_cache(maxsize=64)
def _start_of(name: str) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    start = rb"(?i:" + re.escape(name.encode("ascii")) + rb")[ \t]*+:"
    return re.compile(start), re.compile(rb"\n" + start)


def values_of(header: bytes, name: str) -> list[str]:
    """The text of every field called `name` (any case) in a header: what `iter_fields` would find, in one scan."""
    found: list[str] = []
    stop = len(header)
    first, following = _start_of(name)
    match = first.match(header) or following.search(header)
    while match is not None:
        end = _field_end(header, match.end(), stop)
        found.append(unfold(header[match.end() : end]))
        match = following.search(header, end - 1, stop)
    return found


_CONTENT_FIELD = re.compile(rb"((?i:content-[!-9;-~]{0,990}+|mime-version))[ \t]*+:")
_NEXT_CONTENT_FIELD = re.compile(rb"\n" + _CONTENT_FIELD.pattern)


def content_fields(raw: bytes, start: int, stop: int) -> list[tuple[bytes, int, int, int]]:
    """(name in lower case, place, place of the value, end) of the Content-* and MIME-Version fields of the header
    `raw[start:stop]`: what `iter_fields` would find, in one scan."""
    found: list[tuple[bytes, int, int, int]] = []
    match = _CONTENT_FIELD.match(raw, start, stop) or _NEXT_CONTENT_FIELD.search(raw, start, stop)
    while match is not None:
        end = _field_end(raw, match.end(), stop)
        found.append((match[1].lower(), match.start(1), match.end(), end))
        match = _NEXT_CONTENT_FIELD.search(raw, end - 1, stop)
    return found


def _field_end(raw: bytes, position: int, stop: int) -> int:
    """The end of the field in whose first line `position` is, its folds included."""
    end = raw.find(b"\n", position, stop) + 1 or stop
    while end < stop and raw[end] in _FOLD_STARTS:
        end = raw.find(b"\n", end, stop) + 1 or stop
    return end


def split(raw: bytes) -> tuple[list[Field], int]:
    """The header fields of a message or entity and the offset of its body (RFC 5322 §2.1).

    Fields beyond the first `MAX_HEADER` octets or `MAX_FIELDS` are left out; the body offset is right anyway."""
    last, body = header_end(raw)
    return list(islice(iter_fields(raw, 0, min(last, MAX_HEADER)), MAX_FIELDS)), body


def without_fields(raw: bytes, names: Collection[str]) -> bytes:
    """`raw` without the header fields called `names` (any case): exactly their octets go, every other octet stays.

    The whole header is read, however long, so that no forged field survives behind padding."""
    wanted = [re.escape(name.encode("ascii")) for name in sorted(names) if name]
    if not wanted:
        return raw
    # A name at the start of a line: never inside a fold, which starts with a blank.
    pattern = re.compile(rb"^(?:" + b"|".join(wanted) + rb")[ \t]*+:", re.IGNORECASE | re.MULTILINE)
    last, _ = header_end(raw)
    kept: list[bytes] = []
    copied = 0
    for match in pattern.finditer(raw, 0, last):
        kept.append(raw[copied : match.start()])
        copied = _field_end(raw, match.start(), last)
    if not copied:
        return raw
    kept.append(raw[copied:])
    return b"".join(kept)


def to_crlf(raw: bytes) -> bytes:
    """`raw` with every line end (CRLF, bare LF, lone CR) written as CRLF."""
    if raw.count(b"\r\n") == raw.count(b"\n") == raw.count(b"\r"):
        return raw
    return raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")


def canonical_header(header: bytes) -> bytes:
    """Header octets with CRLF line ends. A lone CR becomes a space: made a line end, it would begin a forged field."""
    if header.count(b"\r\n") == header.count(b"\n") == header.count(b"\r"):
        return header
    return header.replace(b"\r\n", b"\n").replace(b"\r", b" ").replace(b"\n", b"\r\n")
