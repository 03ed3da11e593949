"""Send codes: keyed digests only, uses counted, failures remembered.

Invariants: a use of a send code is counted by the update that allows it, so that parallel messages never exceed the
limit; what is stored of a code is an HMAC under a sub-key of the master key, so that the database alone tells nobody
whether a guess is right; wrong codes are counted by mailbox, never kept.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from mailstore.core import BATCH, Core, batches, clean
from mailstore.model import SendCode, StoreError
from mailstore.sql import AnyRow
from mailstore.tables import code_failures, send_codes

CODE_FAILURE_WINDOW = timedelta(minutes=10)


class SecretVerbs(Core):
    """Verbs on send codes. A `digest` is the proxy's own, of a code's letters; it is keyed here before it is kept."""

    def add_send_code(
        self,
        account_id: int,
        code_id: str,
        digest: bytes,
        expires_at: datetime,
        max_uses: int | None,
        at: datetime,
        *,
        label: str = "",
        scope: str = "",
    ) -> None:
        """Keep a new send code; `max_uses` None means unlimited, `scope` is the proxy's own text. Raises StoreError when
        the id is taken or the mailbox unknown."""
        row = {
            "account_id": account_id,
            "code_id": code_id,
            "digest": self._keyed(digest),
            "created_at": at,
            "expires_at": expires_at,
            "max_uses": max_uses,
            "uses": 0,
            "label": clean(label, 200),
            "scope": scope,
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

    def find_send_codes(self, digests: Mapping[str, bytes]) -> dict[str, SendCode]:
        """Of these codes (digest by code id), those that exist with that very digest, by code id, whatever their state.
        Compared in constant time."""
        found: dict[str, SendCode] = {}
        with self._db.read() as connection:
            for batch in batches(sorted(digests), BATCH):
                for row in connection.execute(select(send_codes).where(send_codes.c.code_id.in_(batch))):
                    if hmac.compare_digest(row.digest, self._keyed(digests[row.code_id])):
                        found[row.code_id] = _send_code(row)
        return found

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
            .values(uses=send_codes.c.uses + 1, last_used_at=at)
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

    def shorten_send_code(self, code_id: str, expires_at: datetime) -> None:
        """Bring a code's end forward; a code is never made to live longer."""
        later = (send_codes.c.code_id == code_id, send_codes.c.expires_at > expires_at)
        with self._db.write() as connection:
            connection.execute(update(send_codes).where(*later).values(expires_at=expires_at))

    def count_code_failures(self, account_id: int, at: datetime) -> int:
        """Wrong codes shown by a mailbox in the last ten minutes."""
        recent = (code_failures.c.account_id == account_id, code_failures.c.at > at - CODE_FAILURE_WINDOW)
        with self._db.read() as connection:
            found = connection.execute(select(func.count()).select_from(code_failures).where(*recent)).scalar_one()
        return int(found)

    def add_code_failure(self, account_id: int, at: datetime) -> int:
        """Count one more wrong code; returns how many there are now, this one included."""
        with self._db.write() as connection:
            connection.execute(delete(code_failures).where(code_failures.c.at <= at - CODE_FAILURE_WINDOW))
            connection.execute(insert(code_failures).values(account_id=account_id, at=at))
        return self.count_code_failures(account_id, at)

    def clear_code_failures(self, account_id: int) -> int:
        """Forget a mailbox's wrong codes, which opens a closed one; returns how many there were."""
        with self._db.write() as connection:
            return connection.execute(delete(code_failures).where(code_failures.c.account_id == account_id)).rowcount

    def _keyed(self, digest: bytes) -> bytes:
        return hmac.digest(self._fingerprint_key, b"send code\x00" + digest, hashlib.sha256)


def _send_code(row: AnyRow) -> SendCode:
    return SendCode(
        account_id=row.account_id,
        code_id=row.code_id,
        created_at=row.created_at,
        expires_at=row.expires_at,
        max_uses=row.max_uses,
        uses=row.uses,
        revoked_at=row.revoked_at,
        label=row.label or "",
        scope=row.scope or "",
        last_used_at=row.last_used_at,
    )
