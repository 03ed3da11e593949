"""From the bytes of a command to values (RFC 9051 §9, RFC 3501 §9 and the extensions of `GRAMMAR`). Pure: no I/O, no state.

Invariants: any input either gives a Command or raises BadCommand or Refused; time is linear in the input; nesting and
counts are bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from imap.errors import BadCommand, Refused
from imap.grammar_append import parse_append, parse_replace
from imap.grammar_fetch import parse_fetch, parse_store
from imap.grammar_mailbox import (
    mailbox_name,
    parse_create,
    parse_list,
    parse_lsub,
    parse_mailbox,
    parse_name_and_identifier,
    parse_quota,
    parse_rename,
    parse_select,
    parse_set_acl,
    parse_set_quota,
    parse_status,
)
from imap.grammar_search import parse_search, parse_sort, parse_thread
from imap.scanner import Scanner
from imap.sequences import parse_sequence_set
from imap.values import (
    Arguments,
    Authenticate,
    Command,
    Compress,
    Copy,
    Enable,
    Login,
    Messages,
    NoArguments,
    Received,
)


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


def _copy(scanner: Scanner) -> Arguments:
    messages = parse_sequence_set(scanner.sequence_text())
    scanner.space()
    return Copy(messages, mailbox_name(scanner))


def _uid_expunge(scanner: Scanner) -> Arguments:
    return Messages(parse_sequence_set(scanner.sequence_text()))


def _compress(scanner: Scanner) -> Arguments:
    return Compress(scanner.word())


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
    "COMPRESS": _compress,
    "LOGIN": _login,
    "AUTHENTICATE": _authenticate,
    "SELECT": parse_select,
    "EXAMINE": parse_select,
    "CREATE": parse_create,
    "DELETE": parse_mailbox,
    "RENAME": parse_rename,
    "SUBSCRIBE": parse_mailbox,
    "UNSUBSCRIBE": parse_mailbox,
    "LIST": parse_list,
    "LSUB": parse_lsub,
    "STATUS": parse_status,
    "APPEND": parse_append,
    "REPLACE": parse_replace,
    "SEARCH": parse_search,
    "SORT": parse_sort,
    "THREAD": parse_thread,
    "FETCH": parse_fetch,
    "STORE": parse_store,
    "COPY": _copy,
    "MOVE": _copy,
    "GETQUOTA": parse_quota,
    "GETQUOTAROOT": parse_mailbox,
    "SETQUOTA": parse_set_quota,
    "GETACL": parse_mailbox,
    "MYRIGHTS": parse_mailbox,
    "SETACL": parse_set_acl,
    "DELETEACL": parse_name_and_identifier,
    "LISTRIGHTS": parse_name_and_identifier,
    "UID SEARCH": parse_search,
    "UID SORT": parse_sort,
    "UID THREAD": parse_thread,
    "UID FETCH": parse_fetch,
    "UID STORE": parse_store,
    "UID COPY": _copy,
    "UID MOVE": _copy,
    "UID REPLACE": parse_replace,
    "UID EXPUNGE": _uid_expunge,
}


def parse(line: bytes, literals: Sequence[bytes | Received] = (), *, utf8: bool = False) -> Command:
    """Reads one command: its text without the final CRLF, and the literals whose `{n}` CRLF it contains, in order.

    Raises BadCommand (with the tag when it could be read) and Refused (an argument that is well formed but not taken).
    """
    scanner = Scanner(line, literals, utf8=utf8)
    tag = scanner.tag()
    try:
        scanner.space()
        name = scanner.word()
        uid = name == "UID"
        if uid:
            scanner.space()
            name = scanner.word()
        key = f"UID {name}" if uid else name
        if key not in GRAMMAR:
            raise BadCommand("unknown command")
        grammar = GRAMMAR[key]
        arguments: Arguments = NoArguments()
        if grammar is not None:
            scanner.space()
            arguments = grammar(scanner)
        scanner.end()
    except (BadCommand, Refused) as error:
        error.tag = tag
        raise
    return Command(tag, name, uid, arguments)


def command_tag(line: bytes) -> str | None:
    """The tag of a line that could not be read further, or None."""
    try:
        return Scanner(line).tag()
    except BadCommand:
        return None
