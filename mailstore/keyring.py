"""The store's own keys, kept in the database under the master key.

Invariants:
* the master key only opens the ring; what it protects is sealed under the ring's keys, so that a master key is replaced
  by sealing the ring again, in one transaction (ADR 0018);
* each purpose has generations: the newest seals, the older ones only open what was sealed before. Fingerprints have one
  generation for ever: what they digested (passed hand-overs) is not kept, so no other key could recognise it;
* generation 0 is derived from the first master key, as stores were made before there was a ring.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from mailstore.crypto import KEY_SIZE, KeyRing, Purpose, SealBroken, derive_key, seal, unseal
from mailstore.database import Database
from mailstore.direct import execute
from mailstore.model import StoreError, StoreUnavailable
from mailstore.tables import keyring, meta

PURPOSES = (Purpose.FIELDS, Purpose.FINGERPRINTS, Purpose.BLOB_KEYS)
ROTATED = (Purpose.FIELDS, Purpose.BLOB_KEYS)
_NEWEST = "SELECT max(generation) FROM keyring"
_CHECK = "master key check"  # what stores had before the ring: an empty value sealed under the derived key


@dataclass(frozen=True, slots=True)
class Keys:
    """The ring, opened."""

    fields: KeyRing
    blobs: KeyRing
    fingerprints: bytes = field(repr=False)
    generation: int

    def check_current(self, connection: Connection) -> None:
        """To be called in each write: refuse to seal under keys that were replaced since this process opened the store.
        Raises StoreUnavailable."""
        if execute(connection, _NEWEST).fetchone()[0] != self.generation:
            raise StoreUnavailable(
                "Les clés de la messagerie ont changé : redémarrer ce service. / The store's keys were rotated: restart "
                "this service."
            )


def open_keyring(database: Database, master_key: bytes, at: datetime) -> Keys:
    """The keys of the store; a store without a ring gets one. Raises StoreError when the master key is another one's:
    it would seal what the other cannot read."""
    kek = derive_key(master_key, Purpose.KEY_RING)
    with database.read() as connection:
        found = read_ring(connection, kek)
    if not found:
        try:
            with database.write() as connection:
                _check_legacy(connection, master_key)
                first = {(purpose, 0): derive_key(master_key, purpose) for purpose in PURPOSES}
                insert_keys(connection, kek, first, at)
        except IntegrityError:
            pass  # another process was first: its ring counts
        with database.read() as connection:
            found = read_ring(connection, kek)
    return Keys(
        fields=_newest_first(found, Purpose.FIELDS),
        blobs=_newest_first(found, Purpose.BLOB_KEYS),
        fingerprints=found[Purpose.FINGERPRINTS, 0],
        generation=max(generation for _, generation in found),
    )


def read_ring(connection: Connection, kek: bytes) -> dict[tuple[Purpose, int], bytes]:
    """Every key of the ring; empty when there is none. Raises StoreError when `kek` does not open it."""
    found: dict[tuple[Purpose, int], bytes] = {}
    for row in connection.execute(select(keyring)):
        place = Purpose(row.purpose), row.generation
        try:
            found[place] = unseal(kek, row.sealed_key, _aad(*place))
        except SealBroken:
            raise wrong_master_key() from None
    return found


def insert_keys(connection: Connection, kek: bytes, keys: dict[tuple[Purpose, int], bytes], at: datetime) -> None:
    """Write keys, sealed under `kek`."""
    rows = [
        {
            "purpose": purpose.value,
            "generation": generation,
            "sealed_key": seal(kek, key, _aad(purpose, generation)),
            "created_at": at,
        }
        for (purpose, generation), key in keys.items()
    ]
    connection.execute(insert(keyring), rows)


def new_key() -> bytes:
    """A random key for a new generation."""
    return os.urandom(KEY_SIZE)


def wrong_master_key() -> StoreError:
    """The error of a master key that opens nothing here."""
    return StoreError("Cette clé maîtresse n'est pas celle de la base. / This master key is not the database's.")


def _check_legacy(connection: Connection, master_key: bytes) -> None:
    sealed = connection.execute(select(meta.c.value).where(meta.c.name == _CHECK)).scalar()
    if sealed is None:
        return
    try:
        unseal(derive_key(master_key, Purpose.FIELDS), sealed, _CHECK.encode("ascii"))
    except SealBroken:
        raise wrong_master_key() from None


def _newest_first(found: dict[tuple[Purpose, int], bytes], purpose: Purpose) -> KeyRing:
    generations = sorted((place for place in found if place[0] is purpose), key=lambda place: -place[1])
    return KeyRing([found[place] for place in generations])


def _aad(purpose: Purpose, generation: int) -> bytes:
    return b"keyring\x00" + purpose.value.encode("ascii") + b"\x00%d" % generation
