"""What the parser makes of a command: plain values, one dataclass per shape of arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum

from imap.sequences import SequenceSet
from mailstore.model import FlagOperation


@dataclass(frozen=True, slots=True)
class NoArguments:
    """NOOP, IDLE, EXPUNGE and the like."""


@dataclass(frozen=True, slots=True)
class Login:
    """LOGIN. The password is not shown by repr, so that it cannot reach a log."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Authenticate:
    """AUTHENTICATE, with the initial response of RFC 4959 still in base64, or None."""

    mechanism: str
    initial: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Enable:
    """ENABLE (RFC 5161): names in upper case."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A command on one folder. `special_use` is only given by CREATE (RFC 6154 §3), `condstore` by SELECT (RFC 7162)."""

    name: str
    special_use: str = ""
    condstore: bool = False


@dataclass(frozen=True, slots=True)
class Rename:
    """RENAME."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class ListFolders:
    """LIST and LSUB. `extended` is true when an option or several patterns were given (RFC 5258)."""

    reference: str
    patterns: tuple[str, ...]
    selection: frozenset[str] = frozenset()
    returns: frozenset[str] = frozenset()
    status_items: tuple[str, ...] = ()
    extended: bool = False


@dataclass(frozen=True, slots=True)
class Status:
    """STATUS: items in upper case, in the order asked."""

    name: str
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Append:
    """APPEND of one message."""

    name: str
    flags: frozenset[str]
    date: datetime | None
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Copy:
    """COPY and MOVE."""

    messages: SequenceSet
    name: str


@dataclass(frozen=True, slots=True)
class Messages:
    """UID EXPUNGE."""

    messages: SequenceSet


@dataclass(frozen=True, slots=True)
class StoreFlags:
    """STORE, with the UNCHANGEDSINCE of RFC 7162."""

    messages: SequenceSet
    operation: FlagOperation
    silent: bool
    flags: frozenset[str]
    unchanged_since: int | None


class Attribute(StrEnum):
    """FETCH items that are not content; the value is the name on the wire."""

    FLAGS = "FLAGS"
    INTERNALDATE = "INTERNALDATE"
    SIZE = "RFC822.SIZE"
    ENVELOPE = "ENVELOPE"
    BODY = "BODY"
    BODYSTRUCTURE = "BODYSTRUCTURE"
    UID = "UID"
    MODSEQ = "MODSEQ"


class Specifier(StrEnum):
    """What of a part a section asks for (RFC 3501 §6.4.5)."""

    WHOLE = ""
    HEADER = "HEADER"
    FIELDS = "HEADER.FIELDS"
    FIELDS_NOT = "HEADER.FIELDS.NOT"
    TEXT = "TEXT"
    MIME = "MIME"


@dataclass(frozen=True, slots=True)
class Content:
    """A FETCH item that sends bytes. `label` is the item's name in the response, complete."""

    path: tuple[int, ...]
    specifier: Specifier
    fields: tuple[bytes, ...]
    peek: bool
    partial: tuple[int, int] | None
    label: bytes


@dataclass(frozen=True, slots=True)
class Fetch:
    """FETCH, with the CHANGEDSINCE of RFC 7162."""

    messages: SequenceSet
    attributes: tuple[Attribute, ...]
    contents: tuple[Content, ...]
    changed_since: int | None


@dataclass(frozen=True, slots=True)
class Key:
    """One search key. `operands` are the sub-keys of AND, OR and NOT; which other field is used depends on `name`."""

    name: str
    operands: tuple[Key, ...] = ()
    text: str = ""
    field: str = ""
    number: int = 0
    day: date | None = None
    messages: SequenceSet | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """SEARCH. `returns` is None for the plain form, else the result options of RFC 4731."""

    key: Key
    returns: frozenset[str] | None


Arguments = (
    NoArguments
    | Login
    | Authenticate
    | Enable
    | Mailbox
    | Rename
    | ListFolders
    | Status
    | Append
    | Copy
    | Messages
    | StoreFlags
    | Fetch
    | Search
)


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `name` is upper case; `uid` says whether it was prefixed by UID."""

    tag: str
    name: str
    uid: bool
    arguments: Arguments


SYSTEM_FLAGS: Mapping[str, str] = {
    name.lower(): name for name in ("\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft")
}

# Keywords in common use get one spelling, because clients differ in letter case (IANA "IMAP and JMAP Keywords").
KNOWN_KEYWORDS: Mapping[str, str] = {
    name.lower(): name
    for name in (
        "$Forwarded",
        "$MDNSent",
        "$Junk",
        "$NotJunk",
        "$Phishing",
        "$SubmitPending",
        "$Submitted",
        "$label1",
        "$label2",
        "$label3",
        "$label4",
        "$label5",
    )
}

SPECIAL_USES = ("\\All", "\\Archive", "\\Drafts", "\\Flagged", "\\Junk", "\\Sent", "\\Trash")
