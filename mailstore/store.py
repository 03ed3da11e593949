"""The mail store: accounts, folders, messages, outgoing queue, deposits, audit trail.

Other rooms see these verbs and the values of `mailstore.model`, never tables. Each family of verbs is in its module; this
one opens and closes the whole.

Invariants: verbs are synchronous and thread safe; several processes may hold the same store; a verb that returns has
made its effect durable, a verb that raises has made none.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from mailstore.accounts import AccountVerbs
from mailstore.audit import AuditVerbs
from mailstore.blobs import BlobStore
from mailstore.database import Database
from mailstore.deposit_leases import DepositLeaseVerbs
from mailstore.deposits import DepositVerbs
from mailstore.erasure import ErasureVerbs
from mailstore.journey import JourneyVerbs
from mailstore.keyring import open_keyring
from mailstore.keys import KeyVerbs
from mailstore.leases import LeaseVerbs
from mailstore.logins import LoginVerbs
from mailstore.model import StoreError
from mailstore.originals import OriginalVerbs
from mailstore.policies import PolicyVerbs
from mailstore.queue import QueueVerbs
from mailstore.queue_actions import QueueActionVerbs
from mailstore.quotas import QuotaVerbs
from mailstore.readings import ReadingVerbs
from mailstore.receipts import ReceiptVerbs
from mailstore.retention import RetentionVerbs
from mailstore.rotation import RotationVerbs
from mailstore.schema import upgrade
from mailstore.secrets import SecretVerbs
from mailstore.senders import SenderVerbs
from mailstore.sharing import SharingVerbs
from mailstore.spool import SpoolVerbs


def _no_index(content: bytes) -> bytes:
    return b""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Store(
    ErasureVerbs,
    AccountVerbs,
    RetentionVerbs,
    LoginVerbs,
    RotationVerbs,
    ReadingVerbs,
    QuotaVerbs,
    SharingVerbs,
    JourneyVerbs,
    QueueVerbs,
    QueueActionVerbs,
    ReceiptVerbs,
    SenderVerbs,
    SpoolVerbs,
    DepositVerbs,
    DepositLeaseVerbs,
    OriginalVerbs,
    LeaseVerbs,
    AuditVerbs,
    SecretVerbs,
    KeyVerbs,
    PolicyVerbs,
):
    """All the verbs over one database and one folder of blobs. Made by `create` and `open`."""

    @classmethod
    def create(
        cls,
        url: str,
        blobs: Path,
        master_key: bytes,
        *,
        index: Callable[[bytes], bytes] = _no_index,
        clock: Callable[[], datetime] = _utc_now,
    ) -> Store:
        """Make the store when it is not there, and open it. `url` is SQLAlchemy's (`sqlite:///path`,
        `postgresql+psycopg://...`). Raises as `open`."""
        return cls._start(url, blobs, master_key, index, clock, create=True)

    @classmethod
    def open(
        cls,
        url: str,
        blobs: Path,
        master_key: bytes,
        *,
        index: Callable[[bytes], bytes] = _no_index,
        clock: Callable[[], datetime] = _utc_now,
    ) -> Store:
        """Open an existing store, migrating its schema when this program is newer.

        `index` makes, from a whole message, the opaque value `summaries` gives back; `clock` dates housekeeping only.
        Raises StoreError: missing, foreign or damaged database, later version, another master key; StoreUnavailable.
        """
        return cls._start(url, blobs, master_key, index, clock, create=False)

    @classmethod
    def _start(
        cls,
        url: str,
        blobs: Path,
        master_key: bytes,
        index: Callable[[bytes], bytes],
        clock: Callable[[], datetime],
        *,
        create: bool,
    ) -> Store:
        database = Database(url, create=create)
        try:
            upgrade(database, create=create)
            keys = open_keyring(database, master_key, clock())
            database.guard = keys.check_current
            return cls(database, BlobStore(blobs, keys.blobs), keys, index, clock)
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        """Close the database connections; the store is not to be used after."""
        self._feed.close()
        self._summariser.close()
        with suppress(StoreError):
            self.flush_readings()
        self._journal.close()
        self._db.close()
