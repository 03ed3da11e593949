"""Replacing the master key, then everything it protected (ADR 0018).

Two steps, each safe from `kill -9` at any instant:
1. `replace_master_key`: one transaction seals the ring under the new master key and adds a new generation of keys. From
   then on only the new master key opens the store, and every process that opened it before refuses to write until it is
   started again;
2. `rewrap`: sealed values and the data keys of blobs go from older generations to the newest, a batch at a time; contents
   are not rewritten. It may be stopped and begun again. When nothing is left under an older key, `retire_old_keys`
   destroys those keys: whoever stole the old master key and old ring opens nothing written since.

Invariant: a key is destroyed only when a whole pass has found nothing sealed under it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Column, Table, delete, func, select, tuple_, update

from mailstore.core import BATCH, Core, summary_aad
from mailstore.crypto import Purpose, derive_key
from mailstore.database import Database
from mailstore.depositing import context_aad
from mailstore.keyring import ROTATED, insert_keys, new_key, read_ring
from mailstore.keys import key_aad
from mailstore.logins import totp_aad
from mailstore.model import BlobDamaged, NoSuchMessage, StoreError
from mailstore.names import name_aad
from mailstore.search import signature_aad, text_aad
from mailstore.senders import scram_aad
from mailstore.sql import AnyRow
from mailstore.tables import (
    accounts,
    contents,
    deposits,
    folders,
    keyring,
    scram_verifiers,
    search_index,
    stored_keys,
    subscriptions,
)

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class _Sealed:
    """A sealed column, and what its values are bound to."""

    column: Column[bytes]
    aad: Callable[[AnyRow], bytes]

    @property
    def table(self) -> Table:
        return self.column.table


SEALED = (
    _Sealed(folders.c.sealed_name, lambda row: name_aad(row.account_id)),
    _Sealed(subscriptions.c.sealed_name, lambda row: name_aad(row.account_id)),
    _Sealed(contents.c.sealed_summary, lambda row: summary_aad(row.blob)),
    _Sealed(search_index.c.sealed_signature, lambda row: signature_aad(row.blob)),
    _Sealed(search_index.c.sealed_text, lambda row: text_aad(row.blob)),
    _Sealed(accounts.c.sealed_totp, lambda row: totp_aad(row.id)),
    _Sealed(scram_verifiers.c.sealed_keys, lambda row: scram_aad(row.account_id)),
    _Sealed(deposits.c.sealed_context, lambda row: context_aad(row.unique_id, row.sha1)),
    _Sealed(stored_keys.c.sealed_key, lambda row: key_aad(row.address, row.usage, row.chain_pem)),
)
"""Every column sealed under Purpose.FIELDS; a test looks for columns missing here."""


def replace_master_key(url: str, old: bytes, new: bytes, at: datetime) -> bool:
    """Seal the ring of the store at `url` under the master key `new`, and begin a new generation. Returns False when it
    was done already. Raises StoreError when neither key opens the store, StoreUnavailable."""
    old_kek, new_kek = (derive_key(key, Purpose.KEY_RING) for key in (old, new))
    database = Database(url)
    try:
        with database.write() as connection:
            try:
                ring = read_ring(connection, old_kek)
            except StoreError:
                read_ring(connection, new_kek)
                return False
            if not ring:
                raise StoreError("Ouvrir d'abord la messagerie avec sa clé. / Open the store with its key first.")
            newest = max(generation for _, generation in ring)
            ring |= {(purpose, newest + 1): new_key() for purpose in ROTATED}
            connection.execute(delete(keyring))
            insert_keys(connection, new_kek, ring, at)
        return True
    finally:
        database.close()


class RotationVerbs(Core):
    """Verbs that bring a store to its newest keys."""

    def keys_to_retire(self) -> int:
        """How many generations are older than the newest."""
        with self._db.read() as connection:
            statement = select(func.count(func.distinct(keyring.c.generation)))
            rotated = [purpose.value for purpose in ROTATED]
            return (connection.execute(statement.where(keyring.c.purpose.in_(rotated))).scalar() or 1) - 1

    def rewrap(self, progress: Progress = lambda done, total: None) -> int:
        """Bring every sealed value and data key to the newest generation; returns how many were not there yet.
        `progress` is told how many of how many were looked at. Damaged contents stay as they are. Raises SealBroken
        when a sealed value of the database is damaged, StoreUnavailable."""
        self._journal.settle()  # what it holds of contents is wrapped under the keys of its time
        tables = {sealed.table for sealed in SEALED}
        with self._db.read() as connection:
            sizes = {
                table: connection.execute(select(func.count()).select_from(table)).scalar() or 0 for table in tables
            }
        total = sum(sizes[sealed.table] for sealed in SEALED) + sizes[contents]
        done = changed = 0
        for sealed in SEALED:
            for looked_at, moved in self._reseal(sealed):
                done, changed = done + looked_at, changed + moved
                progress(done, total)
        for looked_at, moved in self._rewrap_blobs():
            done, changed = done + looked_at, changed + moved
            progress(done, total)
        return changed

    def retire_old_keys(self) -> bool:
        """Destroy the older generations, if a pass finds nothing that needs them; whether they were destroyed."""
        if self.rewrap() or self._damaged_blobs:
            return False
        with self._db.write() as connection:
            rotated = keyring.c.purpose.in_([purpose.value for purpose in ROTATED])
            newest = select(func.max(keyring.c.generation)).where(rotated).scalar_subquery()
            connection.execute(delete(keyring).where(rotated, keyring.c.generation < newest))
        return True

    def _reseal(self, sealed: _Sealed) -> Iterator[tuple[int, int]]:
        """One column, in batches by primary key: how many rows were looked at, and how many were moved."""
        table, name = sealed.table, sealed.column.name
        key = list(table.primary_key.columns)
        last: tuple[object, ...] | None = None
        while True:
            statement = select(table).order_by(*key).limit(BATCH)
            if last is not None:
                statement = statement.where(tuple_(*key) > tuple_(*last))
            with self._db.read() as connection:
                rows = connection.execute(statement).all()
            if not rows:
                return
            old = [row for row in rows if getattr(row, name) and not self._is_newest(sealed, row)]
            moved = 0
            if old:
                with self._db.write() as connection:
                    for row in old:
                        place = [column == getattr(row, column.name) for column in key]
                        # A row rewritten since it was read has a new seal already.
                        same = (*place, sealed.column == getattr(row, name))
                        aad = sealed.aad(row)
                        value = self._fields.seal(self._fields.unseal(getattr(row, name), aad), aad)
                        moved += connection.execute(update(table).where(*same).values({name: value})).rowcount
            yield len(rows), moved
            last = tuple(getattr(rows[-1], column.name) for column in key)

    def _is_newest(self, sealed: _Sealed, row: AnyRow) -> bool:
        return self._fields.open(getattr(row, sealed.column.name), sealed.aad(row))[1]

    def _rewrap_blobs(self) -> Iterator[tuple[int, int]]:
        self._damaged_blobs = 0
        last = ""
        while True:
            statement = select(contents.c.blob).where(contents.c.blob > last).order_by(contents.c.blob).limit(BATCH)
            with self._db.read() as connection:
                blobs = list(connection.execute(statement).scalars())
            if not blobs:
                return
            moved = 0
            for blob in blobs:
                try:
                    moved += self._blobs.rewrap(blob)
                except NoSuchMessage:
                    continue
                except BlobDamaged:
                    self._damaged_blobs += 1
            yield len(blobs), moved
            last = blobs[-1]
