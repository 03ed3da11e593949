"""The mail store: accounts, folders, messages, outgoing queue, deposits, audit trail.

Other rooms see these verbs and the values of `mailstore.model`, never tables. Each family of verbs is in its module; this
one opens and closes the whole.

Invariants: verbs are synchronous and thread safe; several processes may hold the same store; a verb that returns has
made its effect durable, a verb that raises has made none.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from mailstore.accounts import AccountVerbs
from mailstore.audit import AuditVerbs
from mailstore.blobs import BlobStore
from mailstore.crypto import Purpose, SealBroken, derive_key, seal, unseal
from mailstore.database import Database
from mailstore.deposits import DepositVerbs
from mailstore.journey import JourneyVerbs
from mailstore.leases import LeaseVerbs
from mailstore.messages import MessageVerbs
from mailstore.model import StoreError
from mailstore.queue import QueueVerbs
from mailstore.schema import upgrade
from mailstore.secrets import SecretVerbs
from mailstore.tables import meta

_CHECK = "master key check"


def _no_index(content: bytes) -> bytes:
    return b""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Store(AccountVerbs, MessageVerbs, JourneyVerbs, QueueVerbs, DepositVerbs, LeaseVerbs, AuditVerbs, SecretVerbs):
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
        fields_key = derive_key(master_key, Purpose.FIELDS)
        database = Database(url, create=create)
        try:
            upgrade(database, create=create)
            _check_key(database, fields_key)
            return cls(database, BlobStore(blobs, master_key), master_key, index, clock)
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        """Close the database connections; the store is not to be used after."""
        self._db.close()


def _check_key(database: Database, fields_key: bytes) -> None:
    """Refuse a master key other than the one the store was made with: it would seal what the other cannot read."""
    statement = select(meta.c.value).where(meta.c.name == _CHECK)
    aad = _CHECK.encode("ascii")
    with database.read() as connection:
        sealed = connection.execute(statement).scalar()
    if sealed is None:
        try:
            with database.write() as connection:
                connection.execute(insert(meta).values(name=_CHECK, value=seal(fields_key, b"", aad)))
            return
        except IntegrityError:  # another process was first: compare with its key
            with database.read() as connection:
                sealed = connection.execute(statement).scalar_one()
    try:
        unseal(fields_key, sealed, aad)
    except SealBroken:
        raise StoreError(
            "Cette clé maîtresse n'est pas celle de la base. / This master key is not the database's."
        ) from None
