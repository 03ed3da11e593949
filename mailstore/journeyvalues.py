"""The values of a message's journey: its acceptance, the recipients it leaves for, receipts, deposits, the audit trail.

Every `datetime` here is aware and in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


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
class Stored:
    """A content that is in the blob store already, and that one acceptance may take. `digest` is its SHA-256."""

    blob: str
    size: int
    digest: bytes


Content = bytes | Stored
"""A message's octets, or where they already are."""


@dataclass(frozen=True, slots=True)
class LocalDelivery:
    """One copy for one mailbox of ours. `content` is the whole RFC 5322 message with CRLF line ends."""

    account_id: int
    recipient: str
    content: Content
    folder: str = "INBOX"
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class OutgoingCopy:
    """One message to leave for recipients at other operators; the sender groups them by domain.

    `options` are what each recipient's row keeps of the envelope's extensions (DSN, REQUIRETLS...), opaque to the store.
    """

    recipients: tuple[str, ...]
    content: Content
    options: Mapping[str, str] = field(default_factory=dict)


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
    needs to deposit it (sender, structure), opaque to the store and sealed at rest. `original` is the whole message to give
    back with the receipt, b"" for none: it is kept until that is told."""

    unique_id: str
    sha1: str
    content: bytes
    context: bytes
    state: DepositState = DepositState.READY
    reason: str = ""
    original: bytes = field(default=b"", repr=False)


class ReceiptKind(StrEnum):
    """What a sender may ask to be told of a recipient: delivered (DSN, RFC 3461) or read (MDN, RFC 8098)."""

    DELIVERY = "delivery"
    READING = "reading"


class ReceiptState(StrEnum):
    """Where a receipt stands. WAITING has a deadline; SILENT is a deadline that passed and was told."""

    WAITING = "waiting"
    POSITIVE = "positive"
    NEGATIVE = "negative"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class NewReceipt:
    """A receipt that a message asks for, from one recipient, before `deadline`."""

    recipient: str
    kind: ReceiptKind
    deadline: datetime


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt expected or had. `detail` is its status, never text of a message; `sender` is told when it is missing."""

    row_id: int
    submission_id: str
    message_id: str
    sender: str
    recipient: str
    kind: ReceiptKind
    state: ReceiptState
    deadline: datetime
    answered_at: datetime | None
    detail: str


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
    received: Content
    local: tuple[LocalDelivery, ...] = ()
    outgoing: tuple[OutgoingCopy, ...] = ()
    deposits: tuple[NewDeposit, ...] = ()
    events: tuple[Event, ...] = ()
    receipts: tuple[NewReceipt, ...] = ()


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer to an acceptance: its id, and whether the very same hand-over had been accepted before."""

    submission_id: str
    duplicate: bool


class DeliveryState(StrEnum):
    """Where an outgoing recipient stands. HELD waits for a person; DROPPED was given up by one."""

    QUEUED = "queued"
    HELD = "held"
    DELIVERED = "delivered"
    FAILED = "failed"
    DROPPED = "dropped"


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
    options: Mapping[str, str] = field(default_factory=dict)
    route: str = ""
    delay_told_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Settlement:
    """How an attempt ended. QUEUED means deferred: `next_attempt_at` is then required. `delay_told` says that the sender
    was told of the delay with this attempt."""

    state: DeliveryState
    reply: str
    next_attempt_at: datetime | None = None
    detail: Mapping[str, str] = field(default_factory=dict)
    delay_told: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at delivering one recipient's copy, as `queue why` tells it."""

    at: datetime
    number: int
    reply: str
    detail: Mapping[str, str]


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


@dataclass(frozen=True, slots=True)
class DepositLease:
    """A deposit that a worker holds until `until`, its document still closed (see `open_deposit`)."""

    deposit: Deposit
    until: datetime
    blob: str
    sealed_context: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class DepositEnd:
    """How an attempt ended. A state that waits needs `next_attempt_at`."""

    id: int
    state: DepositState
    reason: str = ""
    next_attempt_at: datetime | None = None


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
    options: Mapping[str, str] = field(default_factory=dict)
    route: str = ""
    delay_told_at: datetime | None = None
