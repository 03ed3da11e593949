"""The words of the mail store: what goes into its verbs and what comes out. Values only, no behaviour.

Every `datetime` here is aware and in UTC. Every address is lower case, ASCII (`local@domain`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from mailstore.errors import BlobDamaged as BlobDamaged
from mailstore.errors import FolderExists as FolderExists
from mailstore.errors import MessageTooLarge as MessageTooLarge
from mailstore.errors import NoSuchFolder as NoSuchFolder
from mailstore.errors import NoSuchMessage as NoSuchMessage
from mailstore.errors import OverQuota as OverQuota
from mailstore.errors import SeveralMailboxes as SeveralMailboxes
from mailstore.errors import StoreError as StoreError
from mailstore.errors import StoreUnavailable as StoreUnavailable
from mailstore.journeyvalues import Acceptance as Acceptance
from mailstore.journeyvalues import Accepted as Accepted
from mailstore.journeyvalues import Attempt as Attempt
from mailstore.journeyvalues import Content as Content
from mailstore.journeyvalues import DeliveryState as DeliveryState
from mailstore.journeyvalues import Deposit as Deposit
from mailstore.journeyvalues import DepositEnd as DepositEnd
from mailstore.journeyvalues import DepositJob as DepositJob
from mailstore.journeyvalues import DepositLease as DepositLease
from mailstore.journeyvalues import DepositState as DepositState
from mailstore.journeyvalues import Direction as Direction
from mailstore.journeyvalues import Event as Event
from mailstore.journeyvalues import Leased as Leased
from mailstore.journeyvalues import LocalDelivery as LocalDelivery
from mailstore.journeyvalues import NewDeposit as NewDeposit
from mailstore.journeyvalues import NewReceipt as NewReceipt
from mailstore.journeyvalues import OutgoingCopy as OutgoingCopy
from mailstore.journeyvalues import QueueRow as QueueRow
from mailstore.journeyvalues import Receipt as Receipt
from mailstore.journeyvalues import ReceiptKind as ReceiptKind
from mailstore.journeyvalues import ReceiptState as ReceiptState
from mailstore.journeyvalues import Settlement as Settlement
from mailstore.journeyvalues import Stored as Stored
from mailstore.journeyvalues import TracedEvent as TracedEvent
from mailstore.keyvalues import KeyRecord as KeyRecord
from mailstore.keyvalues import SendCode as SendCode
from mailstore.keyvalues import StoredKey as StoredKey


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
    """A folder as LIST and STATUS need it. `special_use` is an RFC 6154 attribute such as `\\Sent`, or empty. `unseen`
    counts for whoever asked; `deleted` counts the messages that carry `\\Deleted`; sizes are in bytes; messages older
    than `retention_days` are removed by the housekeeping (None: kept)."""

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
    deleted: int = 0
    size: int = 0
    deleted_size: int = 0
    retention_days: int | None = None

    @property
    def object_id(self) -> str:
        """MAILBOXID (RFC 8474 §4): never given twice, and the same after RENAME."""
        return f"F{self.id}"


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


class ChangeKind(StrEnum):
    """What a committed change touched. RESYNC (with id 0) says that some may have gone unheard: look at everything."""

    FOLDER = "folder"
    QUEUE = "queue"
    DEPOSIT = "deposit"
    RESYNC = "resync"


@dataclass(frozen=True, slots=True)
class StoreChange:
    """A committed change of any process on this store: the folder, outgoing row or deposit it touched."""

    kind: ChangeKind
    id: int
