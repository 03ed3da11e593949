"""Accounts, folders, messages, outgoing queue, deposits and audit trail; encryption at rest.

The values and the errors come at once; the store itself, with its database library, when somebody asks for it: a program that only
reads documents is half as large without.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mailstore.crypto import (
    Purpose,
    SealBroken,
    create_master_key,
    derive_key,
    read_master_key,
    seal,
    sync_folder,
    unseal,
)
from mailstore.model import (
    Acceptance,
    Accepted,
    Account,
    Attempt,
    BlobDamaged,
    ChangeKind,
    Changes,
    Content,
    DeliveryState,
    Deposit,
    DepositEnd,
    DepositJob,
    DepositLease,
    DepositState,
    Direction,
    Event,
    FlagOperation,
    Folder,
    FolderExists,
    FolderView,
    KeyRecord,
    Leased,
    LocalDelivery,
    MailboxKind,
    MessageChange,
    MessageTooLarge,
    NewDeposit,
    NewReceipt,
    NoSuchFolder,
    NoSuchMessage,
    OutgoingCopy,
    OverQuota,
    QueueRow,
    Receipt,
    ReceiptKind,
    ReceiptState,
    SendCode,
    Settlement,
    StoreChange,
    Stored,
    StoredKey,
    StoreError,
    StoreUnavailable,
    TracedEvent,
)

if TYPE_CHECKING:
    from mailstore.blobs import BlobStore
    from mailstore.doings import Doer
    from mailstore.mailbox import (
        AppPassword,
        Details,
        LoginState,
        NewMessage,
        Quota,
        SearchPart,
        SearchStopped,
        email_id,
    )
    from mailstore.rotation import replace_master_key
    from mailstore.senders import ScramVerifier, scram_verifier
    from mailstore.spool import ContentWriter
    from mailstore.store import Store
    from mailstore.uploads import Upload

_LATER = {
    "AppPassword": "mailstore.mailbox",
    "BlobStore": "mailstore.blobs",
    "ContentWriter": "mailstore.spool",
    "Details": "mailstore.mailbox",
    "Doer": "mailstore.doings",
    "LoginState": "mailstore.mailbox",
    "NewMessage": "mailstore.mailbox",
    "Quota": "mailstore.mailbox",
    "ScramVerifier": "mailstore.senders",
    "SearchPart": "mailstore.mailbox",
    "SearchStopped": "mailstore.mailbox",
    "Store": "mailstore.store",
    "Upload": "mailstore.uploads",
    "email_id": "mailstore.mailbox",
    "replace_master_key": "mailstore.rotation",
    "scram_verifier": "mailstore.senders",
}


def __getattr__(name: str) -> Any:
    """PEP 562."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LATER[name]), name)
    return value


__all__ = [
    "Acceptance",
    "Accepted",
    "Account",
    "AppPassword",
    "Attempt",
    "BlobDamaged",
    "BlobStore",
    "ChangeKind",
    "Changes",
    "Content",
    "ContentWriter",
    "DeliveryState",
    "Deposit",
    "DepositEnd",
    "DepositJob",
    "DepositLease",
    "DepositState",
    "Details",
    "Direction",
    "Doer",
    "Event",
    "FlagOperation",
    "Folder",
    "FolderExists",
    "FolderView",
    "KeyRecord",
    "Leased",
    "LocalDelivery",
    "LoginState",
    "MailboxKind",
    "MessageChange",
    "MessageTooLarge",
    "NewDeposit",
    "NewMessage",
    "NewReceipt",
    "NoSuchFolder",
    "NoSuchMessage",
    "OutgoingCopy",
    "OverQuota",
    "Purpose",
    "QueueRow",
    "Quota",
    "Receipt",
    "ReceiptKind",
    "ReceiptState",
    "ScramVerifier",
    "SealBroken",
    "SearchPart",
    "SearchStopped",
    "SendCode",
    "Settlement",
    "Store",
    "StoreChange",
    "StoreError",
    "StoreUnavailable",
    "Stored",
    "StoredKey",
    "TracedEvent",
    "Upload",
    "create_master_key",
    "derive_key",
    "email_id",
    "read_master_key",
    "replace_master_key",
    "scram_verifier",
    "seal",
    "sync_folder",
    "unseal",
]
