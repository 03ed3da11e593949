"""Erasing a mailbox: its mail and everything that served it go, the trail of what it sent and received stays.

Invariants:
* the mailbox is closed first; erasing may be cut at any instant and begun again, and never touches another mailbox;
* a content that the outgoing queue, a deposit or another mailbox still refers to stays for them;
* what must be answerable afterwards stays: audit trail, submissions, receipts, and the mailbox's server-side keys, retired,
  which only their two custodians destroy (ADR 0033);
* the address is never given to somebody else: mail meant for the one must not reach the other.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, delete, select, update

from mailstore.accounts import AccountVerbs
from mailstore.audit import insert_events
from mailstore.core import batches
from mailstore.folders import lock_folders
from mailstore.model import ChangeKind, Event, NoSuchFolder, StoreError
from mailstore.originals import take_originals_of
from mailstore.sql import AnyRow, insert_missing
from mailstore.tables import (
    accounts,
    acl,
    app_passwords,
    code_failures,
    delegations,
    erased_accounts,
    expunged,
    folders,
    holdings,
    messages,
    policies,
    scram_verifiers,
    seen_by,
    send_codes,
    stored_keys,
    subscriptions,
    threads,
)
from mailstore.transfers import TransferVerbs

AT_ONCE = 1000  # messages of one transaction: others write in between
Progress = Callable[[int, int], None]

_OWN = (
    acl.c.account_id,
    seen_by.c.account_id,
    subscriptions.c.account_id,
    holdings.c.account_id,
    threads.c.account_id,
    app_passwords.c.account_id,
    scram_verifiers.c.account_id,
    send_codes.c.account_id,
    code_failures.c.account_id,
    delegations.c.owner_id,
    delegations.c.delegate_id,
)
"""Columns that name the mailbox in rows that go with it."""


class ErasureVerbs(AccountVerbs, TransferVerbs):
    """The verb that erases."""

    def erase_account(self, address: str, at: datetime, progress: Progress | None = None) -> int:
        """Erase a mailbox; returns how many messages went with it. `progress` is told (done, in all) as it goes. Raises
        StoreError (unknown mailbox), StoreUnavailable: it is then closed, and may be erased again."""
        account = self.find_account(address)
        if account is None:
            raise StoreError("Boîte inconnue. / Unknown mailbox.")
        address = account.address
        self.set_active(address, False)
        boxes = self.folders(account.id)
        total, gone = sum(box.total for box in boxes), 0
        for box in boxes:
            gone += self._empty(box.id, total, gone, progress)
        with self._changing() as transaction:
            connection = transaction.connection
            row = connection.execute(select(accounts).where(accounts.c.id == account.id).with_for_update()).first()
            if row is None:
                return gone  # somebody else has just ended it
            ids = list(connection.execute(select(folders.c.id).where(folders.c.account_id == account.id)).scalars())
            gone += self._erase_folders(connection, ids)
            self._discard_unreferenced(connection, take_originals_of(connection, address))
            _erase_rows(connection, row, at)
            detail = {"mailbox": address, "kind": account.kind.value, "messages": str(gone)}
            insert_events(connection, [Event("account.erased", detail)], "", "", at)
            transaction.touch(ChangeKind.FOLDER, ids)
        return gone

    def _empty(self, folder_id: int, total: int, before: int, progress: Progress | None) -> int:
        gone = 0
        try:
            for uids in batches(self.view(folder_id).uids, AT_ONCE):
                gone += len(self.expunge(folder_id, uids))
                if progress is not None:
                    progress(before + gone, total)
        except NoSuchFolder:
            pass
        return gone

    def _erase_folders(self, connection: Connection, ids: list[int]) -> int:
        """The folders, and what has come into them meanwhile."""
        if not ids:
            return 0
        lock_folders(connection, sorted(ids))
        here = messages.c.folder_id.in_(ids)
        blobs = list(connection.execute(select(messages.c.blob).where(here)).scalars())
        for table in (messages, expunged, seen_by, acl):
            connection.execute(delete(table).where(table.c.folder_id.in_(ids)))
        connection.execute(delete(folders).where(folders.c.id.in_(ids)))
        self._discard_unreferenced(connection, blobs)
        return len(blobs)


def _erase_rows(connection: Connection, row: AnyRow, at: datetime) -> None:
    for column in _OWN:
        mine: ColumnElement[bool] = column == row.id
        connection.execute(delete(column.table).where(mine))
    connection.execute(delete(policies).where(policies.c.subject == row.address))
    in_force = (stored_keys.c.address == row.address, stored_keys.c.retired_at.is_(None))
    connection.execute(update(stored_keys).where(*in_force).values(retired_at=at))
    connection.execute(delete(accounts).where(accounts.c.id == row.id))
    kept = {"address": row.address, "national_id": row.national_id, "erased_at": at}
    connection.execute(insert_missing(connection, erased_accounts).values(kept))
