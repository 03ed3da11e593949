"""The proxy's tables: send codes (digests only) and server-side keys (sealed).

Invariants: a use of a send code is counted by the update that allows it, so that parallel messages never exceed the
limit; a private key is sealed, bound to its mailbox, usage and chain, and leaves the store only through `keys`.
"""

from __future__ import annotations

import hashlib
from datetime import datetime

from sqlalchemy import insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from mailstore.core import AnyRow, Core
from mailstore.crypto import seal, unseal
from mailstore.model import SendCode, StoredKey, StoreError
from mailstore.tables import send_codes, stored_keys


class SecretVerbs(Core):
    """Verbs on send codes and server-side keys."""

    def add_send_code(
        self,
        account_id: int,
        code_id: str,
        digest: bytes,
        expires_at: datetime,
        max_uses: int | None,
        at: datetime,
    ) -> None:
        """Keep a new send code; `max_uses` None means unlimited. Raises StoreError when the id is taken or the mailbox
        unknown."""
        row = {
            "account_id": account_id,
            "code_id": code_id,
            "digest": digest,
            "created_at": at,
            "expires_at": expires_at,
            "max_uses": max_uses,
            "uses": 0,
        }
        try:
            with self._db.write() as connection:
                connection.execute(insert(send_codes).values(row))
        except IntegrityError:
            raise StoreError("Code d'envoi ou boîte invalide. / Send code taken, or unknown mailbox.") from None

    def send_codes(self, account_id: int | None = None) -> list[SendCode]:
        """The send codes of a mailbox, or of all, newest first; those expired, used up or revoked too."""
        statement = select(send_codes).order_by(send_codes.c.created_at.desc(), send_codes.c.code_id)
        if account_id is not None:
            statement = statement.where(send_codes.c.account_id == account_id)
        with self._db.read() as connection:
            return [_send_code(row) for row in connection.execute(statement)]

    def use_send_code(self, code_id: str, at: datetime) -> bool:
        """Count one use, and say whether it was allowed: not revoked, not expired, not used up."""
        statement = (
            update(send_codes)
            .where(
                send_codes.c.code_id == code_id,
                send_codes.c.revoked_at.is_(None),
                send_codes.c.expires_at > at,
                or_(send_codes.c.max_uses.is_(None), send_codes.c.uses < send_codes.c.max_uses),
            )
            .values(uses=send_codes.c.uses + 1)
        )
        with self._db.write() as connection:
            return connection.execute(statement).rowcount == 1

    def revoke_send_code(self, code_id: str, at: datetime) -> None:
        """Revoke a code; the first date stays. Raises StoreError when it is unknown."""
        with self._db.write() as connection:
            if connection.execute(select(send_codes.c.code_id).where(send_codes.c.code_id == code_id)).first() is None:
                raise StoreError("Code d'envoi inconnu. / Unknown send code.")
            first = (send_codes.c.code_id == code_id, send_codes.c.revoked_at.is_(None))
            connection.execute(update(send_codes).where(*first).values(revoked_at=at))

    def put_key(self, address: str, usage: str, chain_pem: bytes, private_key: bytes, at: datetime) -> int:
        """Keep a server-side key, sealed; returns its id. Earlier keys stay: old messages may need them."""
        address = address.lower()
        row = {
            "address": address,
            "usage": usage,
            "chain_pem": chain_pem,
            "sealed_key": seal(self._fields_key, private_key, _aad(address, usage, chain_pem)),
            "created_at": at,
        }
        with self._db.write() as connection:
            statement = insert(stored_keys).values(row).returning(stored_keys.c.id)
            key_id: int = connection.execute(statement).scalar_one()
        return key_id

    def retire_key(self, key_id: int, at: datetime) -> None:
        """Mark a key as no longer to be used for new signatures; the first date stays."""
        condition = (stored_keys.c.id == key_id, stored_keys.c.retired_at.is_(None))
        with self._db.write() as connection:
            connection.execute(update(stored_keys).where(*condition).values(retired_at=at))

    def keys(self, address: str) -> list[StoredKey]:
        """The keys of a mailbox, newest first, unsealed. Raises SealBroken when one was altered or moved."""
        statement = (
            select(stored_keys).where(stored_keys.c.address == address.lower()).order_by(stored_keys.c.id.desc())
        )
        with self._db.read() as connection:
            rows = connection.execute(statement).all()
        return [
            StoredKey(
                id=row.id,
                address=row.address,
                usage=row.usage,
                chain_pem=row.chain_pem,
                private_key=unseal(self._fields_key, row.sealed_key, _aad(row.address, row.usage, row.chain_pem)),
                created_at=row.created_at,
                retired_at=row.retired_at,
            )
            for row in rows
        ]


def _aad(address: str, usage: str, chain_pem: bytes) -> bytes:
    place = "\x00".join(("key", address, usage, hashlib.sha256(chain_pem).hexdigest()))
    return place.encode("utf-8")


def _send_code(row: AnyRow) -> SendCode:
    return SendCode(
        account_id=row.account_id,
        code_id=row.code_id,
        digest=row.digest,
        created_at=row.created_at,
        expires_at=row.expires_at,
        max_uses=row.max_uses,
        uses=row.uses,
        revoked_at=row.revoked_at,
    )
