"""What the parser makes of a command: plain values, one dataclass per shape of arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import Protocol

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
    """A command on one folder."""

    name: str


@dataclass(frozen=True, slots=True)
class Create:
    """CREATE, with the special uses of RFC 6154 §3."""

    name: str
    special_uses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resync:
    """The QRESYNC parameter of SELECT (RFC 7162 §3.2.5). `known` are the UIDs the client has, None for all below UIDNEXT."""

    uid_validity: int
    modseq: int
    known: SequenceSet | None


@dataclass(frozen=True, slots=True)
class Select:
    """SELECT and EXAMINE. `written` is the name as the client wrote it."""

    name: str
    written: str
    condstore: bool = False
    resync: Resync | None = None


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


class Received(Protocol):
    """A message literal that was received straight into the store, never whole in memory."""

    @property
    def size(self) -> int:
        """Octets received."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """One message of APPEND or REPLACE."""

    flags: frozenset[str]
    date: datetime | None
    content: bytes | Received = field(repr=False)


@dataclass(frozen=True, slots=True)
class Append:
    """APPEND of one message, or several (RFC 3502)."""

    name: str
    messages: tuple[Incoming, ...]


@dataclass(frozen=True, slots=True)
class Replace:
    """REPLACE (RFC 8508): the one message named goes, the new one comes."""

    old: SequenceSet
    name: str
    message: Incoming


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
    PREVIEW = "PREVIEW"
    SAVEDATE = "SAVEDATE"
    EMAILID = "EMAILID"
    THREADID = "THREADID"


class Specifier(StrEnum):
    """What of a part a section asks for (RFC 3501 §6.4.5)."""

    WHOLE = ""
    HEADER = "HEADER"
    FIELDS = "HEADER.FIELDS"
    FIELDS_NOT = "HEADER.FIELDS.NOT"
    TEXT = "TEXT"
    MIME = "MIME"


class Form(StrEnum):
    """How the bytes of a section are sent: as they are, decoded, or only their decoded size (RFC 3516)."""

    BODY = "BODY"
    BINARY = "BINARY"
    SIZE = "BINARY.SIZE"


@dataclass(frozen=True, slots=True)
class Content:
    """A FETCH item that sends bytes. `label` is the item's name in the response, complete."""

    path: tuple[int, ...]
    specifier: Specifier
    fields: tuple[bytes, ...]
    peek: bool
    partial: tuple[int, int] | None
    label: bytes
    form: Form = Form.BODY


@dataclass(frozen=True, slots=True)
class Fetch:
    """FETCH, with the CHANGEDSINCE and VANISHED of RFC 7162."""

    messages: SequenceSet
    attributes: tuple[Attribute, ...]
    contents: tuple[Content, ...]
    changed_since: int | None
    vanished: bool = False


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
    """SEARCH. `returns` is None for the plain form, else the result options of RFC 4731 and RFC 5182. `charset` is as the
    client named it, "" when it did not; `readable` is whether the server knows it."""

    key: Key
    returns: frozenset[str] | None
    charset: str = ""
    readable: bool = True


@dataclass(frozen=True, slots=True)
class Criterion:
    """One sort key (RFC 5256 §3, RFC 5957): its name and whether its order is reversed."""

    name: str
    reverse: bool


@dataclass(frozen=True, slots=True)
class Sort:
    """SORT, with the result options of RFC 5267."""

    criteria: tuple[Criterion, ...]
    key: Key
    returns: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Thread:
    """THREAD."""

    algorithm: str
    key: Key


@dataclass(frozen=True, slots=True)
class Compress:
    """COMPRESS (RFC 4978)."""

    mechanism: str


@dataclass(frozen=True, slots=True)
class QuotaRoot:
    """GETQUOTA and SETQUOTA: the root's name; what SETQUOTA asks for is not kept, because clients may not set it."""

    root: str


@dataclass(frozen=True, slots=True)
class Access:
    """SETACL, DELETEACL and LISTRIGHTS (RFC 4314). `change` is "+", "-" or "" (replace) with `rights` as written."""

    name: str
    identifier: str
    change: str = ""
    rights: str = ""


Arguments = (
    NoArguments
    | Login
    | Authenticate
    | Enable
    | Mailbox
    | Create
    | Select
    | Rename
    | ListFolders
    | Status
    | Append
    | Replace
    | Copy
    | Messages
    | StoreFlags
    | Fetch
    | Search
    | Sort
    | Thread
    | Compress
    | QuotaRoot
    | Access
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
