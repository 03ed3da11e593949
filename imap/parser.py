"""From the bytes of a command to values (RFC 3501 §9 and the extensions named in `GRAMMAR`). Pure: no I/O, no state.

Invariants: any input either gives a Command or raises BadCommand or Refused; time is linear in the input; nesting and
counts are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone

from imap import utf7
from imap.errors import BadCommand
from imap.grammar_fetch import parse_fetch, parse_flag_list, parse_store
from imap.grammar_search import MONTHS, parse_search
from imap.scanner import Scanner
from imap.sequences import parse_sequence_set
from imap.values import (
    SPECIAL_USES,
    Append,
    Arguments,
    Authenticate,
    Command,
    Copy,
    Enable,
    ListFolders,
    Login,
    Mailbox,
    Messages,
    NoArguments,
    Rename,
    Status,
)
from mailstore.names import canonical_name

MOST_NAME = 255
_STATUS_ITEMS = frozenset({"MESSAGES", "RECENT", "UIDNEXT", "UIDVALIDITY", "UNSEEN", "HIGHESTMODSEQ"})
_SELECTIONS = frozenset({"SUBSCRIBED", "REMOTE", "RECURSIVEMATCH", "SPECIAL-USE"})
_LIST_RETURNS = frozenset({"SUBSCRIBED", "CHILDREN", "SPECIAL-USE"})
_DATE_TIME = re.compile(
    r"([ 0-9][0-9])-([A-Za-z]{3})-([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) ([+-])([0-9]{2})([0-9]{2})\Z"
)


def _decoded(raw: bytes) -> str:
    try:
        return utf7.decode(raw)
    except ValueError as error:
        raise BadCommand("mailbox name is not in modified UTF-7") from error


def mailbox_name(scanner: Scanner) -> str:
    """A mailbox name, decoded, in its canonical form: INBOX in any letter case becomes `INBOX` (RFC 3501 §5.1)."""
    name = _decoded(scanner.astring())
    if not name or len(name) > MOST_NAME:
        raise BadCommand("mailbox name is empty or too long")
    return canonical_name(name)


def _words(scanner: Scanner, allowed: frozenset[str]) -> tuple[str, ...]:
    """A parenthesised list of keywords, without doubles; the opening parenthesis comes next."""
    scanner.expect(b"(")
    found: list[str] = []
    while not scanner.accept(b")"):
        if found:
            scanner.space()
        word = scanner.word()
        if word not in allowed:
            raise BadCommand("unknown item")
        if word not in found:
            found.append(word)
    return tuple(found)


def _login(scanner: Scanner) -> Arguments:
    user = scanner.astring()
    scanner.space()
    password = scanner.astring()
    try:
        return Login(user.decode("utf-8"), password.decode("utf-8"))
    except UnicodeDecodeError:
        # "from None": the exception's context would hold the password.
        raise BadCommand("user name and password are UTF-8") from None


def _authenticate(scanner: Scanner) -> Arguments:
    mechanism = scanner.word()
    initial = None
    if scanner.accept(b" "):
        initial = scanner.data[scanner.position :]
        scanner.position = len(scanner.data)
    return Authenticate(mechanism, initial)


def _enable(scanner: Scanner) -> Arguments:
    names = [scanner.word()]
    while scanner.accept(b" "):
        names.append(scanner.word())
    return Enable(tuple(names))


def _id(scanner: Scanner) -> Arguments:
    """RFC 2971: read and thrown away, at most 30 pairs."""
    if not scanner.accept(b"NIL"):
        scanner.expect(b"(")
        count = 0
        while not scanner.accept(b")"):
            if count:
                scanner.space()
            scanner.string()
            scanner.space()
            scanner.nstring()
            count += 1
            if count > 30:
                raise BadCommand("too many ID fields")
    return NoArguments()


def _mailbox(scanner: Scanner) -> Arguments:
    return Mailbox(mailbox_name(scanner))


def _create(scanner: Scanner) -> Arguments:
    name = _decoded(scanner.astring())
    # RFC 3501 §6.3.3: a trailing delimiter only announces that children will follow.
    name = name.removesuffix("/")
    if not name or len(name) > MOST_NAME:
        raise BadCommand("mailbox name is empty or too long")
    special_use = ""
    if scanner.accept(b" (USE ("):
        asked = scanner.flag_text().decode("ascii").lower()
        special_use = next((use for use in SPECIAL_USES if use.lower() == asked), "")
        if not special_use:
            raise BadCommand("unknown special use")
        scanner.expect(b"))")
    return Mailbox(canonical_name(name), special_use=special_use)


def _select(scanner: Scanner) -> Arguments:
    name = mailbox_name(scanner)
    return Mailbox(name, condstore=scanner.accept(b" (CONDSTORE)"))


def _rename(scanner: Scanner) -> Arguments:
    old = mailbox_name(scanner)
    scanner.space()
    return Rename(old, mailbox_name(scanner))


def _pattern(scanner: Scanner) -> str:
    pattern = scanner.list_pattern()
    if len(pattern) > 4 * MOST_NAME:
        raise BadCommand("mailbox pattern too long")
    return _decoded(pattern)


def _patterns(scanner: Scanner) -> tuple[str, ...]:
    patterns = [_pattern(scanner)]
    while scanner.accept(b" "):
        patterns.append(_pattern(scanner))
        if len(patterns) > 20:
            raise BadCommand("too many mailbox patterns")
    scanner.expect(b")")
    return tuple(patterns)


def _list_returns(scanner: Scanner) -> tuple[frozenset[str], tuple[str, ...]]:
    options: set[str] = set()
    status: tuple[str, ...] = ()
    first = True
    while not scanner.accept(b")"):
        if not first:
            scanner.space()
        first = False
        word = scanner.word()
        if word == "STATUS":
            scanner.space()
            status = _words(scanner, _STATUS_ITEMS)
        elif word in _LIST_RETURNS:
            options.add(word)
        else:
            raise BadCommand("unknown LIST return option")
    return frozenset(options), status


def _list(scanner: Scanner) -> Arguments:
    """LIST with the extensions of RFC 5258, RFC 5819 and RFC 6154."""
    selection: frozenset[str] = frozenset()
    extended = scanner.looking_at(b"(")
    if extended:
        selection = frozenset(_words(scanner, _SELECTIONS))
        if "RECURSIVEMATCH" in selection and not selection & {"SUBSCRIBED", "SPECIAL-USE"}:
            raise BadCommand("RECURSIVEMATCH needs another selection option")
        scanner.space()
    reference = _decoded(scanner.astring())
    scanner.space()
    if scanner.accept(b"("):
        extended = True
        patterns = _patterns(scanner)
    else:
        patterns = (_pattern(scanner),)
    returns: frozenset[str] = frozenset()
    status: tuple[str, ...] = ()
    if scanner.accept(b" RETURN ("):
        extended = True
        returns, status = _list_returns(scanner)
    return ListFolders(reference, patterns, selection, returns, status, extended)


def _lsub(scanner: Scanner) -> Arguments:
    reference = _decoded(scanner.astring())
    scanner.space()
    return ListFolders(reference, (_pattern(scanner),))


def _status(scanner: Scanner) -> Arguments:
    name = mailbox_name(scanner)
    scanner.space()
    items = _words(scanner, _STATUS_ITEMS)
    if not items:
        raise BadCommand("STATUS needs at least one item")
    return Status(name, items)


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


def _append(scanner: Scanner) -> Arguments:
    name = mailbox_name(scanner)
    scanner.space()
    flags: frozenset[str] = frozenset()
    date = None
    if scanner.looking_at(b"("):
        flags = parse_flag_list(scanner)
        scanner.space()
    if scanner.looking_at(b'"'):
        date = parse_date_time(scanner.string().decode("latin-1"))
        scanner.space()
    return Append(name, flags, date, scanner.literal())


def _copy(scanner: Scanner) -> Arguments:
    messages = parse_sequence_set(scanner.sequence_text())
    scanner.space()
    return Copy(messages, mailbox_name(scanner))


def _uid_expunge(scanner: Scanner) -> Arguments:
    return Messages(parse_sequence_set(scanner.sequence_text()))


# Command name, with its UID form as a name of its own -> grammar of the arguments, None when there are none.
GRAMMAR: dict[str, Callable[[Scanner], Arguments] | None] = {
    "CAPABILITY": None,
    "NOOP": None,
    "LOGOUT": None,
    "STARTTLS": None,
    "CHECK": None,
    "CLOSE": None,
    "UNSELECT": None,
    "EXPUNGE": None,
    "IDLE": None,
    "NAMESPACE": None,
    "ID": _id,
    "ENABLE": _enable,
    "LOGIN": _login,
    "AUTHENTICATE": _authenticate,
    "SELECT": _select,
    "EXAMINE": _select,
    "CREATE": _create,
    "DELETE": _mailbox,
    "RENAME": _rename,
    "SUBSCRIBE": _mailbox,
    "UNSUBSCRIBE": _mailbox,
    "LIST": _list,
    "LSUB": _lsub,
    "STATUS": _status,
    "APPEND": _append,
    "SEARCH": parse_search,
    "FETCH": parse_fetch,
    "STORE": parse_store,
    "COPY": _copy,
    "MOVE": _copy,
    "UID SEARCH": parse_search,
    "UID FETCH": parse_fetch,
    "UID STORE": parse_store,
    "UID COPY": _copy,
    "UID MOVE": _copy,
    "UID EXPUNGE": _uid_expunge,
}


def parse(line: bytes, literals: Sequence[bytes] = ()) -> Command:
    """Reads one command: its text without the final CRLF, and the literals whose `{n}` CRLF it contains, in order.

    Raises BadCommand (with the tag when one could be read) and Refused (BADCHARSET).
    """
    scanner = Scanner(line, literals)
    tag = scanner.tag()
    try:
        scanner.space()
        name = scanner.word()
        uid = name == "UID"
        if uid:
            scanner.space()
            name = scanner.word()
        full_name = f"UID {name}" if uid else name
        if full_name not in GRAMMAR:
            raise BadCommand("unknown command")
        grammar = GRAMMAR[full_name]
        arguments: Arguments = NoArguments()
        if grammar is not None:
            scanner.space()
            arguments = grammar(scanner)
        scanner.end()
    except BadCommand as error:
        error.tag = tag
        raise
    return Command(tag, name, uid, arguments)


def command_tag(line: bytes) -> str | None:
    """The tag of a line that could not be read further, or None."""
    try:
        return Scanner(line).tag()
    except BadCommand:
        return None
