"""The words of the mail store: what goes into its verbs and what comes out. Values only, no behaviour.

Every `datetime` here is aware and in UTC. Every address is lower case, ASCII (`local@domain`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class MailboxKind(StrEnum):
    """The national mailbox types (TRE_R257-TypeBAL; mssante.md §4.1)."""

    PER = "PER"
    ORG = "ORG"
    APP = "APP"
    CAB = "CAB"


@dataclass(frozen=True, slots=True)
class Account:
    """A mailbox of this operator. `national_id` is `8`+RPPS for PER and CAB, the structure's identifier for ORG and APP."""

    id: int
    address: str
    kind: MailboxKind
    display_name: str
    national_id: str
    active: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder as LIST and STATUS need it. `special_use` is an RFC 6154 attribute such as `\\Sent`, or empty."""

    id: int
    account_id: int
    name: str
    special_use: str
    subscribed: bool
    uid_validity: int
    uid_next: int
    highest_modseq: int
    total: int
    unseen: int


@dataclass(slots=True)
class FolderView:
    """The messages of one folder as parallel arrays in UID order: sequence number = index + 1 (DESIGN: no object per message)."""

    folder: Folder
    uids: list[int]
    modseqs: list[int]
    flags: list[frozenset[str]]
    sizes: list[int]
    dates: list[datetime]
    blobs: list[str]


@dataclass(frozen=True, slots=True)
class MessageChange:
    """One message whose flags changed, or that arrived, after a given modseq."""

    uid: int
    modseq: int
    flags: frozenset[str]
    size: int
    date: datetime
    blob: str


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened in a folder since a modseq: new or changed messages in UID order, and the UIDs expunged."""

    highest_modseq: int
    uid_next: int
    changed: tuple[MessageChange, ...]
    expunged: tuple[int, ...]


class FlagOperation(StrEnum):
    """STORE's three forms (RFC 9051 §6.4.6)."""

    SET = "set"
    ADD = "add"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the audit trail. `detail` holds identifiers, codes, reasons and certificate names, never content,
    subject, INS or secret."""

    name: str
    detail: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TracedEvent:
    """An event as `trace` returns it."""

    at: datetime
    submission_id: str
    message_id: str
    event: Event


class Direction(StrEnum):
    """How a message came to us: handed in by one of our logins, or by another operator."""

    SUBMISSION = "submission"
    RECEPTION = "reception"


@dataclass(frozen=True, slots=True)
class LocalDelivery:
    """One copy for one mailbox of ours. `content` is the whole RFC 5322 message with CRLF line ends."""

    account_id: int
    recipient: str
    content: bytes
    folder: str = "INBOX"
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class OutgoingCopy:
    """One message to leave for recipients at other operators; the sender groups them by domain."""

    recipients: tuple[str, ...]
    content: bytes


class DepositState(StrEnum):
    """Where a deposit stands. READY and RETRY wait for `next_attempt_at`; the three others are final for the machine."""

    READY = "ready"
    RETRY = "retry"
    DEPOSITED = "deposited"
    NEEDS_ATTENTION = "needs_attention"
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True)
class NewDeposit:
    """A clinical document found in a message. `content` are the exact bytes of the CDA; `context` is what the bridge
    needs to deposit it (sender, structure), opaque to the store and sealed at rest."""

    unique_id: str
    sha1: str
    content: bytes
    context: bytes
    state: DepositState = DepositState.READY
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Everything one accepted message writes, in one transaction (DESIGN, journey step 4).

    `received` are the bytes as handed to us: with direction, principal, `mail_from` and recipients they make the
    fingerprint by which a repeated hand-over (lost 250) is recognised; they are hashed under a key, not stored.
    """

    direction: Direction
    principal: str
    mail_from: str
    recipients: tuple[str, ...]
    message_id: str
    received: bytes
    local: tuple[LocalDelivery, ...] = ()
    outgoing: tuple[OutgoingCopy, ...] = ()
    deposits: tuple[NewDeposit, ...] = ()
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer to an acceptance: its id, and whether the very same hand-over had been accepted before."""

    submission_id: str
    duplicate: bool


class DeliveryState(StrEnum):
    """Where an outgoing recipient stands."""

    QUEUED = "queued"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Leased:
    """One recipient whose delivery this worker holds until `lease_until`."""

    row_id: int
    submission_id: str
    message_id: str
    mail_from: str
    recipient: str
    domain: str
    blob: str
    attempts: int
    accepted_at: datetime
    lease_until: datetime


@dataclass(frozen=True, slots=True)
class Settlement:
    """How an attempt ended. QUEUED means deferred: `next_attempt_at` is then required."""

    state: DeliveryState
    reply: str
    next_attempt_at: datetime | None = None
    detail: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Deposit:
    """A deposit row, as `deposits list` and the worker see it. `content` and `context` are read separately."""

    id: int
    submission_id: str
    message_id: str
    unique_id: str
    sha1: str
    state: DepositState
    reason: str
    attempts: int
    created_at: datetime
    next_attempt_at: datetime | None
    submission_set_id: str


@dataclass(frozen=True, slots=True)
class DepositJob:
    """A leased deposit with what is needed to carry it out. `submission_set_id` is fixed by the first attempt, so that
    a retry is an exact one (dmp.md §3.2)."""

    deposit: Deposit
    content: bytes
    context: bytes
    lease_until: datetime


class StoreError(Exception):
    """Base of what the store refuses; the text is fit to show, in French then English."""


class NoSuchFolder(StoreError):
    """The folder does not exist in this mailbox."""


class FolderExists(StoreError):
    """A folder of that name already exists."""


class NoSuchMessage(StoreError):
    """The message was expunged or never existed."""


class BlobDamaged(StoreError):
    """A blob does not authenticate: the file was altered or the key is not the one that sealed it."""


class StoreUnavailable(StoreError):
    """Database locked, damaged or out of space: nothing was written, try again later."""


class ChangeKind(StrEnum):
    """What a committed change touched."""

    FOLDER = "folder"
    QUEUE = "queue"
    DEPOSIT = "deposit"


@dataclass(frozen=True, slots=True)
class StoreChange:
    """A committed change, as told in this process: the folder, outgoing row or deposit it touched."""

    kind: ChangeKind
    id: int


@dataclass(frozen=True, slots=True)
class QueueRow:
    """An outgoing recipient for display: nothing of the content."""

    row_id: int
    submission_id: str
    message_id: str
    mail_from: str
    recipient: str
    domain: str
    state: DeliveryState
    attempts: int
    accepted_at: datetime
    next_attempt_at: datetime | None
    lease_owner: str
    lease_until: datetime | None
    reply: str


@dataclass(frozen=True, slots=True)
class SendCode:
    """A send code as the proxy keeps it: a digest, never the code. `max_uses` None means unlimited."""

    account_id: int
    code_id: str
    digest: bytes
    created_at: datetime
    expires_at: datetime
    max_uses: int | None
    uses: int
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A server-side key of a mailbox, its private part unsealed: keep it in memory only as long as needed."""

    id: int
    address: str
    usage: str
    chain_pem: bytes
    private_key: bytes = field(repr=False)
    created_at: datetime
    retired_at: datetime | None
