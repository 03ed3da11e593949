"""The arguments of SEARCH, SORT and THREAD (RFC 9051 §6.4.4, RFC 4731, 5032, 5182, 5256, 5267, 5957, 7162, 8474, 8514):
a tree of keys, bounded in depth and count."""

from __future__ import annotations

from datetime import date

from imap.errors import BadCommand, Refused
from imap.grammar_fetch import HIGHEST_MODSEQ, canonical_flag
from imap.scanner import MOST_DEPTH, Scanner
from imap.sequences import parse_sequence_set
from imap.values import Criterion, Key, Search, Sort, Thread

MOST_KEYS = 500
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH_NUMBER = {name.upper(): number for number, name in enumerate(MONTHS, 1)}
_RETURNS = frozenset({"MIN", "MAX", "ALL", "COUNT", "SAVE"})
SORT_KEYS = frozenset({"ARRIVAL", "CC", "DATE", "FROM", "SIZE", "SUBJECT", "TO", "DISPLAYFROM", "DISPLAYTO"})
THREAD_ALGORITHMS = ("ORDEREDSUBJECT", "REFERENCES")
MOST_CRITERIA = 20

# Keys that test one flag: the flag and whether it must be set.
FLAG_KEYS = {
    "ANSWERED": ("\\Answered", True),
    "DELETED": ("\\Deleted", True),
    "DRAFT": ("\\Draft", True),
    "FLAGGED": ("\\Flagged", True),
    "SEEN": ("\\Seen", True),
    "UNANSWERED": ("\\Answered", False),
    "UNDELETED": ("\\Deleted", False),
    "UNDRAFT": ("\\Draft", False),
    "UNFLAGGED": ("\\Flagged", False),
    "UNSEEN": ("\\Seen", False),
}
_BARE_KEYS = frozenset({"ALL", "NEW", "OLD", "RECENT", "SAVEDATESUPPORTED", *FLAG_KEYS})
_TEXT_KEYS = frozenset({"BCC", "BODY", "CC", "FROM", "SUBJECT", "TEXT", "TO"})
_DATE_KEYS = frozenset(
    {"BEFORE", "ON", "SINCE", "SENTBEFORE", "SENTON", "SENTSINCE", "SAVEDBEFORE", "SAVEDON", "SAVEDSINCE"}
)
_NUMBER_KEYS = frozenset({"LARGER", "SMALLER", "OLDER", "YOUNGER"})
_ID_KEYS = frozenset({"EMAILID", "THREADID"})


def parse_date(raw: bytes) -> date:
    """`1-Feb-1994`. Raises BadCommand."""
    pieces = raw.split(b"-")
    try:
        day, month, year = pieces
        if not (day.isdigit() and year.isdigit() and len(day) <= 2 and len(year) == 4):
            raise ValueError("digits")
        return date(int(year), _MONTH_NUMBER[month.decode("ascii").upper()], int(day))
    except (ValueError, KeyError, UnicodeDecodeError) as error:
        raise BadCommand("malformed date") from error


class _Keys:
    """Parses keys and counts them."""

    def __init__(self, scanner: Scanner, charset: str) -> None:
        self.scanner = scanner
        self.charset = charset
        self.count = 0

    def text(self) -> str:
        self.scanner.space()
        raw = self.scanner.astring()
        try:
            return raw.decode(self.charset)
        except UnicodeDecodeError as error:
            raise BadCommand("search text is not in the charset announced") from error

    def all_of(self, depth: int, closing: bytes) -> Key:
        """Keys separated by spaces up to the closing text (or the end when it is empty), as one AND."""
        found = [self.one(depth)]
        while not (self.scanner.accept(closing) if closing else self.scanner.at_end()):
            self.scanner.space()
            found.append(self.one(depth))
        return found[0] if len(found) == 1 else Key("AND", operands=tuple(found))

    def one(self, depth: int) -> Key:
        self.count += 1
        if depth > MOST_DEPTH or self.count > MOST_KEYS:
            raise BadCommand("search too complex")
        scanner = self.scanner
        if scanner.accept(b"("):
            return self.all_of(depth + 1, b")")
        if scanner.data[scanner.position : scanner.position + 1] in b"0123456789*$" and not scanner.at_end():
            return Key("SEQUENCE", messages=parse_sequence_set(scanner.sequence_text()))
        return self.named(scanner.word(), depth)

    def named(self, name: str, depth: int) -> Key:
        scanner = self.scanner
        if name in _BARE_KEYS:
            return Key(name)
        if name in _TEXT_KEYS:
            return Key(name, text=self.text())
        if name in _DATE_KEYS:
            scanner.space()
            return Key(name, day=parse_date(scanner.astring()))
        if name in _NUMBER_KEYS:
            scanner.space()
            number = scanner.number(HIGHEST_MODSEQ if name in ("LARGER", "SMALLER") else 2**32 - 1)
            if name in ("OLDER", "YOUNGER") and not number:
                raise BadCommand("an interval is not zero")
            return Key(name, number=number)
        if name in _ID_KEYS:
            scanner.space()
            return Key(name, text=scanner.astring().decode("latin-1"))
        if name == "NOT":
            scanner.space()
            return Key("NOT", operands=(self.one(depth + 1),))
        if name == "OR":
            scanner.space()
            first = self.one(depth + 1)
            scanner.space()
            return Key("OR", operands=(first, self.one(depth + 1)))
        if name in ("KEYWORD", "UNKEYWORD"):
            scanner.space()
            return Key(name, text=canonical_flag(scanner.atom()))
        if name == "HEADER":
            field = self.text()
            return Key(name, field=field, text=self.text())
        if name == "UID":
            scanner.space()
            return Key(name, messages=parse_sequence_set(scanner.sequence_text()))
        if name == "MODSEQ":
            return self.modseq()
        raise BadCommand("unknown search key")

    def modseq(self) -> Key:
        scanner = self.scanner
        scanner.space()
        if scanner.looking_at(b'"'):
            # The per-flag form: this store keeps one modseq per message, which RFC 7162 §3.1.5 allows.
            scanner.string()
            scanner.space()
            if scanner.word() not in ("PRIV", "SHARED", "ALL"):
                raise BadCommand("malformed MODSEQ search")
            scanner.space()
        return Key("MODSEQ", number=scanner.number(HIGHEST_MODSEQ))


def _returns(scanner: Scanner) -> frozenset[str] | None:
    if not scanner.accept(b"RETURN ("):
        return None
    options: set[str] = set()
    while not scanner.accept(b")"):
        if options:
            scanner.space()
        name = scanner.word()
        if name not in _RETURNS or name in options:
            raise BadCommand("unknown SEARCH result option")
        options.add(name)
    scanner.space()
    return frozenset(options or {"ALL"})


_CHARSETS = (b"UTF-8", b"US-ASCII")


def unknown_charset() -> Refused:
    """The refusal of a charset other than US-ASCII and UTF-8 (RFC 9051 §6.4.4)."""
    return Refused("BADCHARSET (US-ASCII UTF-8)", "Unsupported charset")


def _charset(name: bytes) -> str:
    if name.upper() not in _CHARSETS:
        raise unknown_charset()
    return name.decode("ascii").lower()


def parse_search(scanner: Scanner) -> Search:
    """SEARCH after its space. A charset that is not known is the handler's to refuse: it has to forget `$` then."""
    returns = _returns(scanner)
    named = b""
    if scanner.accept(b"CHARSET "):
        named = scanner.astring()
        scanner.space()
    readable = not named or named.upper() in _CHARSETS
    charset = "latin-1" if not readable else _charset(named or b"UTF-8")
    return Search(_Keys(scanner, charset).all_of(0, b""), returns, named.decode("latin-1"), readable)


def _criteria(scanner: Scanner) -> tuple[Criterion, ...]:
    scanner.expect(b"(")
    found: list[Criterion] = []
    while True:
        reverse = scanner.accept(b"REVERSE ")
        name = scanner.word()
        if name not in SORT_KEYS:
            raise BadCommand("unknown sort key")
        found.append(Criterion(name, reverse))
        if len(found) > MOST_CRITERIA:
            raise BadCommand("too many sort keys")
        if scanner.accept(b")"):
            return tuple(found)
        scanner.space()


def parse_sort(scanner: Scanner) -> Sort:
    """SORT after its space (RFC 5256 §3, RFC 5267 §3)."""
    returns = _returns(scanner)
    criteria = _criteria(scanner)
    scanner.space()
    charset = _charset(scanner.astring())
    scanner.space()
    return Sort(criteria, _Keys(scanner, charset).all_of(0, b""), returns)


def parse_thread(scanner: Scanner) -> Thread:
    """THREAD after its space (RFC 5256 §3)."""
    algorithm = scanner.word()
    if algorithm not in THREAD_ALGORITHMS:
        raise BadCommand("unknown threading algorithm")
    scanner.space()
    charset = _charset(scanner.astring())
    scanner.space()
    return Thread(algorithm, _Keys(scanner, charset).all_of(0, b""))
