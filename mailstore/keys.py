"""Server-side keys and the people who may destroy them.

Invariants: a private key, or the reference of one in a token, is sealed, bound to its mailbox, usage and chain, and
leaves the store only through `keys` and `private_key`; a key is destroyed by two different custodians, and what is left
of it is its history; a destroyed key is never given again.
"""

from __future__ import annotations

import hashlib
from datetime import datetime

from sqlalchemy import Connection, bindparam, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from mailstore.accounts import hash_secret, verify_secret
from mailstore.core import Core, clean
from mailstore.model import KeyRecord, StoredKey, StoreError
from mailstore.sql import AnyRow
from mailstore.tables import custodians, stored_keys

_UNKNOWN = "Clé inconnue ou détruite. / Unknown or destroyed key."

_NEWEST_FIRST = select(stored_keys).order_by(stored_keys.c.id.desc())
_OF_HOLDER = _NEWEST_FIRST.where(stored_keys.c.address == bindparam("holder"))
"""Asked for each message: built once."""


class KeyVerbs(Core):
    """Verbs on server-side keys. The holder of a key is a mailbox, or a whole domain (`chu.fr`)."""

    def put_key(
        self, address: str, usage: str, chain_pem: bytes, private_key: bytes, at: datetime, *, place: str = ""
    ) -> int:
        """Keep a server-side key, sealed; returns its id. Earlier keys stay: old messages may need them.

        `chain_pem` is empty while the certificate is waited for. `place` is "" for a software key (PKCS #8 DER),
        otherwise what kind of reference `private_key` is."""
        address = address.lower()
        row = {
            "address": address,
            "usage": usage,
            "chain_pem": chain_pem,
            "sealed_key": self._fields.seal(private_key, key_aad(address, usage, chain_pem)),
            "created_at": at,
            "place": place,
        }
        with self._db.write() as connection:
            statement = insert(stored_keys).values(row).returning(stored_keys.c.id)
            key_id: int = connection.execute(statement).scalar_one()
        return key_id

    def complete_key(self, key_id: int, chain_pem: bytes) -> None:
        """Give its certificate chain to a key that waited for it. Raises StoreError when it does not wait."""
        with self._db.write() as connection:
            row = _live(connection, key_id)
            if row.chain_pem:
                raise StoreError("Cette clé a déjà son certificat. / This key has its certificate already.")
            private = self._fields.unseal(row.sealed_key, key_aad(row.address, row.usage, row.chain_pem))
            sealed = self._fields.seal(private, key_aad(row.address, row.usage, chain_pem))
            mine = (stored_keys.c.id == key_id, func.length(stored_keys.c.chain_pem) == 0)
            connection.execute(update(stored_keys).where(*mine).values(chain_pem=chain_pem, sealed_key=sealed))

    def retire_key(self, key_id: int, at: datetime) -> None:
        """Mark a key as no longer to be used for new signatures; the first date stays."""
        condition = (stored_keys.c.id == key_id, stored_keys.c.retired_at.is_(None))
        with self._db.write() as connection:
            connection.execute(update(stored_keys).where(*condition).values(retired_at=at))

    def keys(self, address: str) -> list[StoredKey]:
        """The keys of a mailbox, newest first, unsealed, without those waiting for a certificate or destroyed. Raises
        SealBroken when one was altered or moved."""
        return [
            StoredKey(
                id=row.id,
                address=row.address,
                usage=row.usage,
                chain_pem=row.chain_pem,
                private_key=self._fields.unseal(row.sealed_key, key_aad(row.address, row.usage, row.chain_pem)),
                created_at=row.created_at,
                retired_at=row.retired_at,
            )
            for row in self._rows(address)
            if row.chain_pem and row.destroyed_at is None
        ]

    def key_records(self, address: str | None = None) -> list[KeyRecord]:
        """Everything known of the keys of a holder, or of all, newest first, but the private part."""
        return [_record(row) for row in self._rows(address)]

    def private_key(self, key_id: int) -> bytes:
        """The private part of a key. Raises StoreError when it is unknown or destroyed, SealBroken when altered."""
        with self._db.read() as connection:
            row = _live(connection, key_id)
        return self._fields.unseal(row.sealed_key, key_aad(row.address, row.usage, row.chain_pem))

    def ask_destruction(self, key_id: int, by: str, at: datetime) -> None:
        """First half of a destruction. Raises StoreError when the key is unknown or still in force."""
        with self._db.write() as connection:
            row = _live(connection, key_id)
            if row.retired_at is None and row.chain_pem:
                raise StoreError("Clé en service : la retirer d'abord. / Key in force: retire it first.")
            values = {"destruction_asked_by": clean(by, 64), "destruction_asked_at": at}
            connection.execute(update(stored_keys).where(stored_keys.c.id == key_id).values(values))

    def destroy_key(self, key_id: int, by: str, at: datetime) -> None:
        """Second half, by somebody else: the sealed key is overwritten. Raises StoreError when nobody, or the same
        person, asked for it."""
        with self._db.write() as connection:
            if self._db.is_sqlite:
                connection.exec_driver_sql("PRAGMA secure_delete = ON")
            row = _live(connection, key_id)
            if row.destruction_asked_by is None:
                raise StoreError("Destruction non demandée. / Nobody asked for this destruction.")
            if row.destruction_asked_by.casefold() == by.casefold():
                raise StoreError("Il faut une seconde personne. / A second person is needed.")
            mine = (stored_keys.c.id == key_id, stored_keys.c.destroyed_at.is_(None))
            values = {"sealed_key": b"", "destroyed_by": clean(by, 64), "destroyed_at": at}
            connection.execute(update(stored_keys).where(*mine).values(values))

    def add_custodian(self, name: str, passphrase: str, at: datetime) -> None:
        """Name a person who may ask for destructions. Raises StoreError when the name is taken or something empty."""
        name = clean(name.strip(), 64)
        if not name:
            raise StoreError("Nom vide. / Empty name.")
        row = {"name": name, "passphrase_hash": hash_secret(passphrase), "created_at": at}
        with self._db.read() as connection:
            known = {one.casefold() for one in connection.execute(select(custodians.c.name)).scalars()}
        if name.casefold() in known:
            raise StoreError(f"{name} est déjà dépositaire. / is a custodian already.")
        try:
            with self._db.write() as connection:
                connection.execute(insert(custodians).values(row))
        except IntegrityError:
            raise StoreError(f"{name} est déjà dépositaire. / is a custodian already.") from None

    def custodians(self) -> list[str]:
        """The names of the custodians."""
        with self._db.read() as connection:
            return list(connection.execute(select(custodians.c.name).order_by(custodians.c.name)).scalars())

    def is_custodian(self, name: str, passphrase: str) -> bool:
        """Whether this is a custodian with their passphrase (Argon2id; an unknown name takes the same time)."""
        statement = select(custodians.c.passphrase_hash).where(custodians.c.name == name)
        with self._db.read() as connection:
            hashed = connection.execute(statement).scalar()
        return verify_secret(hashed, passphrase)

    def _rows(self, address: str | None) -> list[AnyRow]:
        with self._db.read() as connection:
            if address is None:
                return list(connection.execute(_NEWEST_FIRST).all())
            return list(connection.execute(_OF_HOLDER, {"holder": address.lower()}).all())


def _live(connection: Connection, key_id: int) -> AnyRow:
    row = connection.execute(select(stored_keys).where(stored_keys.c.id == key_id)).first()
    if row is None or row.destroyed_at is not None:
        raise StoreError(_UNKNOWN)
    return row


def _record(row: AnyRow) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        holder=row.address,
        usage=row.usage,
        chain_pem=row.chain_pem,
        place=row.place or "",
        created_at=row.created_at,
        retired_at=row.retired_at,
        destruction_asked_by=row.destruction_asked_by or "",
        destroyed_by=row.destroyed_by or "",
        destroyed_at=row.destroyed_at,
    )


def key_aad(address: str, usage: str, chain_pem: bytes) -> bytes:
    """What a sealed private key is bound to."""
    place = "\x00".join(("key", address, usage, hashlib.sha256(chain_pem).hexdigest()))
    return place.encode("utf-8")
