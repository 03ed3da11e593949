"""The arguments of commands on mailboxes: names, SELECT, CREATE, LIST, STATUS, ACL, quota (RFC 9051 §9 and extensions)."""

from __future__ import annotations

from imap import utf7
from imap.errors import BadCommand, Refused
from imap.grammar_fetch import HIGHEST_MODSEQ
from imap.scanner import Scanner
from imap.sequences import parse_sequence_set
from imap.values import (
    SPECIAL_USES,
    Access,
    Arguments,
    Create,
    ListFolders,
    Mailbox,
    QuotaRoot,
    Rename,
    Resync,
    Select,
    Status,
)
from mailstore.names import canonical_name

MOST_NAME = 255
MOST_PATTERNS = 20
STATUS_ITEMS = frozenset(
    {
        "MESSAGES",
        "RECENT",
        "UIDNEXT",
        "UIDVALIDITY",
        "UNSEEN",
        "HIGHESTMODSEQ",
        "SIZE",
        "DELETED",
        "DELETED-STORAGE",
        "APPENDLIMIT",
        "MAILBOXID",
    }
)
_SELECTIONS = frozenset({"SUBSCRIBED", "REMOTE", "RECURSIVEMATCH", "SPECIAL-USE"})
_LIST_RETURNS = frozenset({"SUBSCRIBED", "CHILDREN", "SPECIAL-USE"})


def decoded_name(scanner: Scanner, raw: bytes) -> str:
    """A mailbox name or pattern as text: modified UTF-7, or UTF-8 once that is enabled (RFC 6855 §3, RFC 9051 §5.1).

    Names that are no valid UTF-7 but valid UTF-8 are let through as UTF-8: clients that do not encode mean that."""
    if not scanner.utf8:
        try:
            return utf7.decode(raw)
        except ValueError:
            if raw.isascii():
                raise BadCommand("mailbox name is not in modified UTF-7") from None
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BadCommand("mailbox name is not in UTF-8") from None


def _checked(name: str) -> str:
    if not name or len(name) > MOST_NAME:
        raise BadCommand("mailbox name is empty or too long")
    return canonical_name(name)


def mailbox_name(scanner: Scanner) -> str:
    """A mailbox name in its canonical form: INBOX in any letter case becomes `INBOX` (RFC 3501 §5.1)."""
    return _checked(decoded_name(scanner, scanner.astring()))


def words(scanner: Scanner, allowed: frozenset[str]) -> tuple[str, ...]:
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


def parse_mailbox(scanner: Scanner) -> Arguments:
    """One mailbox name."""
    return Mailbox(mailbox_name(scanner))


def parse_create(scanner: Scanner) -> Arguments:
    """CREATE (RFC 9051 §6.3.4, RFC 6154 §3)."""
    # A trailing delimiter only announces that children will follow.
    name = _checked(decoded_name(scanner, scanner.astring()).removesuffix("/"))
    uses: list[str] = []
    if scanner.accept(b" (USE ("):
        while not scanner.accept(b")"):
            if uses:
                scanner.space()
            asked = scanner.flag_text().decode("ascii").lower()
            use = next((use for use in SPECIAL_USES if use.lower() == asked), "")
            if not use:
                raise Refused("USEATTR", "Unknown special use")
            uses.append(use)
        scanner.expect(b")")
    return Create(name, tuple(uses))


def _resync(scanner: Scanner) -> Resync:
    """`(uidvalidity modseq [known-uids] [(known-sequence-set known-uid-set)])` (RFC 7162 §3.2.5). The last pair only lets
    a server with an incomplete memory of expunges say less; this one remembers them all, and passes over it."""
    scanner.expect(b"(")
    validity = scanner.number()
    scanner.space()
    modseq = scanner.number(HIGHEST_MODSEQ)
    known = None
    if scanner.looking_at(b" ") and not scanner.looking_at(b" ("):
        scanner.space()
        known = parse_sequence_set(scanner.sequence_text())
    if scanner.accept(b" ("):
        parse_sequence_set(scanner.sequence_text())
        scanner.space()
        parse_sequence_set(scanner.sequence_text())
        scanner.expect(b")")
    scanner.expect(b")")
    if not validity or not modseq:
        raise BadCommand("UIDVALIDITY and modseq are not zero")
    return Resync(validity, modseq, known)


def parse_select(scanner: Scanner) -> Arguments:
    """SELECT and EXAMINE with the parameters of RFC 4466 that RFC 7162 defines."""
    written = decoded_name(scanner, scanner.astring())
    name = _checked(written)
    condstore, resync = False, None
    if scanner.accept(b" ("):
        while True:
            if scanner.accept(b"CONDSTORE"):
                condstore = True
            elif scanner.accept(b"QRESYNC "):
                resync = _resync(scanner)
            else:
                raise BadCommand("unknown SELECT parameter")
            if scanner.accept(b")"):
                break
            scanner.space()
    return Select(name, written, condstore, resync)


def parse_rename(scanner: Scanner) -> Arguments:
    """RENAME: old and new name."""
    old = mailbox_name(scanner)
    scanner.space()
    return Rename(old, _checked(decoded_name(scanner, scanner.astring()).removesuffix("/")))


def _pattern(scanner: Scanner) -> str:
    pattern = scanner.list_pattern()
    if len(pattern) > 4 * MOST_NAME:
        raise BadCommand("mailbox pattern too long")
    return decoded_name(scanner, pattern)


def _patterns(scanner: Scanner) -> tuple[str, ...]:
    patterns = [_pattern(scanner)]
    while scanner.accept(b" "):
        patterns.append(_pattern(scanner))
        if len(patterns) > MOST_PATTERNS:
            raise BadCommand("too many mailbox patterns")
    scanner.expect(b")")
    return tuple(patterns)


def _status_items(scanner: Scanner) -> tuple[str, ...]:
    items = words(scanner, STATUS_ITEMS)
    if not items:
        raise BadCommand("STATUS needs at least one item")
    return items


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
            status = _status_items(scanner)
        elif word in _LIST_RETURNS:
            options.add(word)
        else:
            raise BadCommand("unknown LIST return option")
    return frozenset(options), status


def parse_list(scanner: Scanner) -> Arguments:
    """LIST with the extensions of RFC 5258, RFC 5819 and RFC 6154."""
    selection: frozenset[str] = frozenset()
    extended = scanner.looking_at(b"(")
    if extended:
        selection = frozenset(words(scanner, _SELECTIONS))
        if "RECURSIVEMATCH" in selection and not selection & {"SUBSCRIBED", "SPECIAL-USE"}:
            raise BadCommand("RECURSIVEMATCH needs another selection option")
        scanner.space()
    reference = decoded_name(scanner, scanner.astring())
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


def parse_lsub(scanner: Scanner) -> Arguments:
    """LSUB (RFC 3501 §6.3.9)."""
    reference = decoded_name(scanner, scanner.astring())
    scanner.space()
    return ListFolders(reference, (_pattern(scanner),))


def parse_status(scanner: Scanner) -> Arguments:
    """STATUS (RFC 9051 §6.3.11)."""
    name = mailbox_name(scanner)
    scanner.space()
    return Status(name, _status_items(scanner))


def parse_quota(scanner: Scanner) -> Arguments:
    """GETQUOTA: a root's name."""
    return QuotaRoot(scanner.astring().decode("utf-8", "replace"))


def parse_set_quota(scanner: Scanner) -> Arguments:
    """SETQUOTA: read, so that a malformed one is BAD; what it asks for is not kept."""
    root = scanner.astring().decode("utf-8", "replace")
    scanner.expect(b" (")
    first = True
    while not scanner.accept(b")"):
        if not first:
            scanner.space()
        first = False
        scanner.word()
        scanner.space()
        scanner.number(HIGHEST_MODSEQ)
    return QuotaRoot(root)


def _identifier(scanner: Scanner) -> str:
    raw = scanner.astring()
    try:
        identifier = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BadCommand("identifier is not in UTF-8") from None
    if not identifier or len(identifier) > MOST_NAME:
        raise BadCommand("identifier is empty or too long")
    return identifier.lower()


def parse_name_and_identifier(scanner: Scanner) -> Arguments:
    """DELETEACL and LISTRIGHTS."""
    name = mailbox_name(scanner)
    scanner.space()
    return Access(name, _identifier(scanner))


def parse_set_acl(scanner: Scanner) -> Arguments:
    """SETACL (RFC 4314 §3.1)."""
    name = mailbox_name(scanner)
    scanner.space()
    identifier = _identifier(scanner)
    scanner.space()
    rights = scanner.astring().decode("latin-1")
    change = rights[:1] if rights[:1] in ("+", "-") else ""
    return Access(name, identifier, change, rights[len(change) :])
