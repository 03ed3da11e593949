"""Mailboxes as mbox files (RFC 4155, the mboxrd form). Reading and writing.

Invariants, here and in `maildir`:
* a message written and read back is the same bytes (with CRLF line ends), flags and date;
* one message is in memory at a time; a message beyond MESSAGE_LIMIT is reported, not read;
* files are written with mode 0600, folders 0700, and never over something that is there: they are clear text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO

from mailstore import StoreError
from mailstore.flags import normalise
from mime import header_end, iter_fields, to_crlf, without_fields

MESSAGE_LIMIT = 100 * 1024 * 1024
_STATUS = {"R": "\\Seen", "A": "\\Answered", "F": "\\Flagged", "T": "\\Draft", "D": "\\Deleted"}
_OWN_FIELDS = ("status", "x-status", "x-keywords", "x-uid", "content-length")
_FROM = re.compile(rb"From \S+ +(\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4})")
_QUOTED = re.compile(rb"^>(>*From )", re.MULTILINE)
_TO_QUOTE = re.compile(rb"^(>*From )", re.MULTILINE)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


class TooLarge(Exception):
    """A message longer than MESSAGE_LIMIT; the text says where it begins."""


@dataclass(frozen=True, slots=True)
class FiledMessage:
    """A message with CRLF line ends, its flags and internal date (None: nothing said), and its sub-folder, "" for the
    top."""

    content: bytes = field(repr=False)
    flags: frozenset[str]
    date: datetime | None
    folder: str = ""


def keywords(words: Iterable[str]) -> set[str]:
    """Those of `words` that IMAP takes for keywords (RFC 9051 §9): other programs write what they like."""
    found = set[str]()
    for word in words:
        with suppress(StoreError):
            found |= normalise([word])
    return found


def read_mbox(path: Path) -> Iterator[FiledMessage]:
    """The messages of an mbox file. A line beginning with `From ` after an empty line begins a message."""
    with path.open("rb") as file:
        lines: list[bytes] = []
        held, start, separator = 0, 0, b""
        empty = True
        for line in file:
            if line.startswith(b"From ") and empty:
                if separator:
                    yield _from_mbox(separator, lines)
                separator, lines, held, start = line, [], 0, file.tell()
            elif separator:
                lines.append(line)
                held += len(line)
                if held > MESSAGE_LIMIT:
                    raise TooLarge(f"{path}: {start}")
            empty = not line.strip(b"\r\n")
        if separator:
            yield _from_mbox(separator, lines)


def _from_mbox(separator: bytes, lines: list[bytes]) -> FiledMessage:
    if lines and not lines[-1].strip(b"\r\n"):
        lines = lines[:-1]  # the empty line before the next separator is mbox's
    raw = to_crlf(_QUOTED.sub(rb"\1", b"".join(lines)))
    stop = header_end(raw)[0]
    values = {one.name.lower(): one.text for one in iter_fields(raw, 0, stop)}
    letters = values.get("status", "") + values.get("x-status", "")
    flags = {_STATUS[letter] for letter in letters if letter in _STATUS} | keywords(
        values.get("x-keywords", "").split()
    )
    return FiledMessage(without_fields(raw, _OWN_FIELDS), frozenset(flags), _from_date(separator) or _own_date(values))


def write_mbox(file: BinaryIO, message: FiledMessage) -> None:
    """Append one message to an mbox file; the sub-folder is not kept."""
    date = (message.date or datetime.fromtimestamp(0, UTC)).astimezone(UTC)
    stamp = f"{_DAYS[date.weekday()]} {_MONTHS[date.month - 1]} {date.day:2d} {date:%H:%M:%S} {date.year:04d}"
    letters = {flag: letter for letter, flag in _STATUS.items()}
    known = "".join(sorted(letters[flag] for flag in message.flags if flag in letters))
    words = " ".join(sorted(flag for flag in message.flags if flag not in letters))
    own = f"Status: {'R' if 'R' in known else ''}O\r\nX-Status: {known.replace('R', '')}\r\n"
    own += f"X-Keywords: {words}\r\n" if words else ""
    raw = (own.encode("ascii") + message.content).replace(b"\r\n", b"\n")
    file.write(f"From MAILER-DAEMON {stamp}\n".encode("ascii") + _TO_QUOTE.sub(rb">\1", raw))
    file.write(b"\n" if raw.endswith(b"\n") else b"\n\n")


def _from_date(separator: bytes) -> datetime | None:
    found = _FROM.match(separator)
    if found is None:
        return None
    _, month, day, clock, year = found[1].decode("ascii").split()
    try:
        hour, minute, second = map(int, clock.split(":"))
        return datetime(int(year), _MONTHS.index(month) + 1, int(day), hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None


def _own_date(values: dict[str, str]) -> datetime | None:
    try:
        date = parsedate_to_datetime(values.get("date", ""))
    except (ValueError, TypeError, OverflowError):
        return None
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
