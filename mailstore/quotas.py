"""How much a mailbox may hold (RFC 9208): STORAGE in bytes of messages, MESSAGE in messages.

Invariant: usage is the sum of the folders' counts, which change with the messages, so it is never out of step; it is
looked at inside the transaction that adds. Copies count each time, although their content is stored once.
"""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, func, select, update

from mailstore.core import Core
from mailstore.direct import Direct
from mailstore.mailbox import Quota
from mailstore.model import OverQuota, StoreError
from mailstore.tables import accounts, folders

_LIMITS = Direct(select(accounts.c.quota_bytes, accounts.c.quota_messages).where(accounts.c.id == bindparam("account")))
_USAGE = (
    select(
        accounts.c.quota_bytes,
        accounts.c.quota_messages,
        func.coalesce(func.sum(folders.c.size), 0).label("size"),
        func.coalesce(func.sum(folders.c.total), 0).label("total"),
    )
    .outerjoin(folders, folders.c.account_id == accounts.c.id)
    .where(accounts.c.id == bindparam("account"))
    .group_by(accounts.c.id, accounts.c.quota_bytes, accounts.c.quota_messages)
)


class QuotaVerbs(Core):
    """Verbs on quotas."""

    def quota(self, account_id: int) -> Quota:
        """Usage and limits of a mailbox (None: no limit). Raises StoreError when it is unknown."""
        with self._db.read() as connection:
            return _read(connection, account_id)

    def set_quota(self, account_id: int, bytes_limit: int | None, messages_limit: int | None) -> None:
        """Replace both limits; a mailbox already beyond them keeps its mail. Raises StoreError."""
        if any(limit is not None and not 0 <= limit < 2**63 for limit in (bytes_limit, messages_limit)):
            raise StoreError("Quota invalide. / Malformed quota.")
        values = {"quota_bytes": bytes_limit, "quota_messages": messages_limit}
        with self._db.write() as connection:
            if connection.execute(update(accounts).where(accounts.c.id == account_id).values(values)).rowcount != 1:
                raise StoreError("Boîte inconnue. / Unknown mailbox.")


def check_quota(connection: Connection, account_id: int) -> None:
    """To be called in the transaction, after what adds to a mailbox. Raises OverQuota."""
    if _LIMITS.first(connection, {"account": account_id}) == (None, None):
        return
    quota = _read(connection, account_id)
    if quota.exceeded:
        raise OverQuota("La boîte est pleine. / The mailbox is full.")


def _read(connection: Connection, account_id: int) -> Quota:
    row = connection.execute(_USAGE, {"account": account_id}).first()
    if row is None:
        raise StoreError("Boîte inconnue. / Unknown mailbox.")
    return Quota(int(row.size), row.quota_bytes, int(row.total), row.quota_messages)
