"""The arguments of APPEND and REPLACE (RFC 9051 §6.3.12, RFC 3502, RFC 3516, RFC 6855, RFC 8508), complete or up to the
literal that is about to arrive."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone

from imap.errors import BadCommand, Refused
from imap.grammar_fetch import parse_flag_list
from imap.grammar_mailbox import mailbox_name
from imap.grammar_search import MONTHS
from imap.scanner import Scanner
from imap.sequences import parse_sequence_set
from imap.values import Append, Arguments, Incoming, Received, Replace

MOST_MESSAGES = 100
_DATE_TIME = re.compile(
    r"([ 0-9][0-9])-([A-Za-z]{3})-([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) ([+-])([0-9]{2})([0-9]{2})\Z"
)


def parse_date_time(text: str) -> datetime:
    """`17-Jul-1996 02:44:25 -0700` as UTC. Raises BadCommand."""
    match = _DATE_TIME.match(text)
    if match is None:
        raise BadCommand("malformed date-time")
    day, month, year, hour, minute, second, sign, zone_hours, zone_minutes = match.groups()
    offset = timedelta(hours=int(zone_hours), minutes=int(zone_minutes))
    try:
        zone = timezone(-offset if sign == "-" else offset)
        number = MONTHS.index(month.capitalize()) + 1
        moment = datetime(int(year), number, int(day), int(hour), int(minute), min(int(second), 59), tzinfo=zone)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise BadCommand("malformed date-time") from error


def _options(scanner: Scanner) -> tuple[frozenset[str], datetime | None]:
    """Flags and date, each followed by a space when there."""
    flags: frozenset[str] = frozenset()
    date = None
    if scanner.looking_at(b"("):
        flags = parse_flag_list(scanner)
        scanner.space()
    if scanner.looking_at(b'"'):
        date = parse_date_time(scanner.string().decode("latin-1"))
        scanner.space()
    return flags, date


def _content(scanner: Scanner) -> bytes | Received:
    """The message: a literal, a literal8, or `UTF8 (` literal8 `)` (RFC 6855 §4)."""
    if not scanner.accept(b"UTF8 ("):
        return scanner.message()
    if not scanner.utf8:
        raise Refused("CANNOT", "UTF8=ACCEPT is not enabled")
    content = scanner.message()
    scanner.expect(b")")
    return content


def _incoming(scanner: Scanner) -> Incoming:
    flags, date = _options(scanner)
    return Incoming(flags, date, _content(scanner))


def parse_append(scanner: Scanner) -> Arguments:
    """APPEND after its space."""
    name = mailbox_name(scanner)
    scanner.space()
    messages = [_incoming(scanner)]
    while scanner.accept(b" "):
        messages.append(_incoming(scanner))
        if len(messages) > MOST_MESSAGES:
            raise Refused("LIMIT", "Too many messages in one APPEND")
    return Append(name, tuple(messages))


def parse_replace(scanner: Scanner) -> Arguments:
    """REPLACE after its space."""
    old = parse_sequence_set(scanner.sequence_text())
    scanner.space()
    name = mailbox_name(scanner)
    scanner.space()
    return Replace(old, name, _incoming(scanner))


def append_target(text: bytes, literals: Sequence[bytes | Received], *, utf8: bool) -> str | None:
    """The mailbox that a first message literal is about to be sent to, when the command so far (`text` without the
    literal's own `{n}`) is an APPEND or REPLACE that has come to its message; else None. A malformed one is None: its
    literal is an ordinary one, small, and the whole command will be refused."""
    scanner = Scanner(text, literals, utf8=utf8)
    try:
        scanner.tag()
        scanner.space()
        replacing = scanner.accept(b"UID REPLACE ") or scanner.accept(b"REPLACE ")
        if replacing:
            scanner.sequence_text()
            scanner.space()
        else:
            scanner.expect(b"APPEND ")
        if scanner.at_end():
            return None
        name = mailbox_name(scanner)
        scanner.space()
        return name if _at_message(scanner) else None
    except (BadCommand, Refused):
        return None


def another_message(text: bytes, *, utf8: bool) -> bool:
    """Whether what came since the literal of a message (`text`, as in `append_target`) has come to the next one."""
    scanner = Scanner(text, (), utf8=utf8)
    try:
        scanner.accept(b")")
        scanner.space()
        return _at_message(scanner)
    except (BadCommand, Refused):
        return False


def _at_message(scanner: Scanner) -> bool:
    _options(scanner)
    return scanner.at_end() or (scanner.accept(b"UTF8 (") and scanner.at_end())
