"""Deposits: clinical documents on their way to the patient's record.

Invariants:
* one document (uniqueId and SHA-1) has one deposit, whatever the number of messages that carried it;
* the document and its context are kept until it is deposited.

What a worker does with them is in `mailstore.deposit_leases`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import func, literal, select, tuple_, update

from mailstore.audit import insert_events
from mailstore.core import Core, clean
from mailstore.depositing import context_aad
from mailstore.model import ChangeKind, Deposit, DepositState, Event, StoreError
from mailstore.originals import take_originals
from mailstore.sql import AnyRow
from mailstore.tables import Moment, deposits

WAITING = (DepositState.READY.value, DepositState.RETRY.value)
DISPLAY_LIMIT = 10_000


class DepositVerbs(Core):
    """Verbs on deposits."""

    def deposits(
        self, state: DepositState | None = None, *, after: Deposit | None = None, limit: int = DISPLAY_LIMIT
    ) -> list[Deposit]:
        """A page of deposits for display: all, the oldest first, or those of a state (the waiting ones in the order
        they are due).
        `after` is the last of the page before. `attempts` counts the attempts begun."""
        statement = select(deposits).limit(min(limit, DISPLAY_LIMIT))
        waits = state is not None and state.value in WAITING
        if state is not None:
            statement = statement.where(deposits.c.state == state.value)
        if waits:
            statement = statement.order_by(deposits.c.next_attempt_at, deposits.c.id)
        else:
            statement = statement.order_by(deposits.c.id)
            if state is not None:
                # A settled row waits for nothing: saying so lets the index give its rows by id.
                statement = statement.where(deposits.c.next_attempt_at.is_(None))
        if after is not None and waits:
            place = tuple_(deposits.c.next_attempt_at, deposits.c.id)
            statement = statement.where(place > tuple_(literal(after.next_attempt_at, Moment()), literal(after.id)))
        elif after is not None:
            statement = statement.where(deposits.c.id > after.id)
        with self._db.read() as connection:
            return [deposit_of(row, row.attempts) for row in connection.execute(statement)]

    def deposits_from(self, last_id: int, state: DepositState, limit: int) -> list[Deposit]:
        """Deposits of a settled state whose number is above `last_id`, in order."""
        statement = select(deposits).where(
            deposits.c.state == state.value, deposits.c.next_attempt_at.is_(None), deposits.c.id > last_id
        )
        with self._db.read() as connection:
            found = connection.execute(statement.order_by(deposits.c.id).limit(limit))
            return [deposit_of(row, row.attempts) for row in found]

    def count_deposits(self) -> dict[DepositState, int]:
        """How many deposits stand in each state."""
        statement = select(deposits.c.state, func.count()).group_by(deposits.c.state)
        with self._db.read() as connection:
            found = {str(state): int(number) for state, number in connection.execute(statement)}
        return {state: found.get(state.value, 0) for state in DepositState}

    def deposit(self, deposit_id: int) -> Deposit | None:
        """One deposit for display, or None."""
        with self._db.read() as connection:
            row = connection.execute(select(deposits).where(deposits.c.id == deposit_id)).first()
        return None if row is None else deposit_of(row, row.attempts)

    def deposit_context(self, deposit_id: int) -> bytes:
        """What the bridge wrote about a deposit; b"" when it is gone with a success. Raises SealBroken."""
        with self._db.read() as connection:
            row = connection.execute(select(deposits).where(deposits.c.id == deposit_id)).first()
        if row is None or not row.sealed_context:
            return b""
        return self._fields.unseal(row.sealed_context, context_aad(row.unique_id, row.sha1))

    def deposit_content(self, deposit_id: int) -> bytes:
        """The document of a deposit that is not done yet, b"" when it is. Raises BlobDamaged."""
        with self._db.read() as connection:
            blob = connection.execute(select(deposits.c.blob).where(deposits.c.id == deposit_id)).scalar()
        return b"" if blob is None else self._blobs.read(blob)

    def direct_deposit(self, deposit_id: int, state: DepositState, reason: str, at: datetime, *, who: str) -> Deposit:
        """A person's decision about a deposit that is not done and that no worker holds: try again (READY) or give up
        (ABANDONED; the document stays). Audited under `who`. Raises StoreError."""
        if state not in (DepositState.READY, DepositState.ABANDONED):
            raise StoreError("Décision impossible. / Not a decision.")
        ready = state is DepositState.READY
        values: dict[str, Any] = {"state": state.value, "reason": clean(reason, 2000)}
        values["next_attempt_at"] = at if ready else None
        with self._changing() as changing:
            connection = changing.connection
            row = connection.execute(select(deposits).where(deposits.c.id == deposit_id).with_for_update()).first()
            if row is None:
                raise StoreError(f"Dépôt {deposit_id} inconnu. / Unknown deposit.")
            if row.state == DepositState.DEPOSITED.value:
                raise StoreError(f"Le dépôt {deposit_id} est déjà fait. / This deposit is done.")
            if row.lease_until is not None and row.lease_until > at:
                raise StoreError(f"Le dépôt {deposit_id} est en cours, réessayez. / In progress, try again.")
            connection.execute(update(deposits).where(deposits.c.id == deposit_id).values(values))
            if not ready:
                self._discard_unreferenced(connection, take_originals(connection, [deposit_id]))
            detail = {"deposit": str(deposit_id), "unique_id": row.unique_id, "who": who, "reason": reason}
            name = "deposit.retried" if ready else "deposit.abandoned"
            insert_events(connection, [Event(name, detail)], row.submission_id, row.message_id, at)
            changing.touch(ChangeKind.DEPOSIT, [deposit_id])
        found = self.deposit(deposit_id)
        if found is None:
            raise StoreError(f"Dépôt {deposit_id} inconnu. / Unknown deposit.")
        return found


def deposit_of(row: AnyRow, attempts: int) -> Deposit:
    """A row as a value; `attempts` is what the reader counts."""
    return Deposit(
        id=row.id,
        submission_id=row.submission_id,
        message_id=row.message_id,
        unique_id=row.unique_id,
        sha1=row.sha1,
        state=DepositState(row.state),
        reason=row.reason,
        attempts=attempts,
        created_at=row.created_at,
        next_attempt_at=row.next_attempt_at,
        submission_set_id=row.submission_set_id,
    )
