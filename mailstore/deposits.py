"""Deposits: clinical documents on their way to the patient's record.

Invariants:
* one document (uniqueId and SHA-1) has one deposit, whatever the number of messages that carried it;
* a deposit is held by one worker at a time, as an outgoing row is;
* the submission set id of the first attempt serves all of them: a retry is an exact one (dmp.md §3.2);
* the document and its context are kept until it is deposited.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, case, or_, select, update

from mailstore.audit import insert_events
from mailstore.core import AnyRow, Core, clean
from mailstore.crypto import unseal
from mailstore.journey import context_aad
from mailstore.model import ChangeKind, Deposit, DepositJob, DepositState, Event, StoreError
from mailstore.tables import deposits

_WAITING = (DepositState.READY.value, DepositState.RETRY.value)
DISPLAY_LIMIT = 10_000


class DepositVerbs(Core):
    """Verbs on deposits."""

    def due_deposits(self, now: datetime, limit: int) -> list[int]:
        """The ids of up to `limit` deposits that may be leased now, the longest due first."""
        statement = select(deposits.c.id).where(_due(now)).order_by(deposits.c.next_attempt_at, deposits.c.id)
        with self._db.read() as connection:
            return list(connection.execute(statement.limit(limit)).scalars())

    def lease_deposit(
        self, deposit_id: int, owner: str, now: datetime, lease: timedelta, *, submission_set_id: str
    ) -> DepositJob | None:
        """Take a deposit until `now + lease`; None when it is not due, or held elsewhere. The first
        `submission_set_id` ever given for it is kept. `attempts` in the answer counts the attempts begun before this
        one. Raises BlobDamaged or SealBroken when the document or its context was altered (the lease is then held)."""
        statement = (
            update(deposits)
            .where(deposits.c.id == deposit_id, _due(now))
            .values(
                lease_owner=owner,
                lease_until=now + lease,
                attempts=deposits.c.attempts + 1,
                submission_set_id=case(
                    (deposits.c.submission_set_id == "", clean(submission_set_id, 256)),
                    else_=deposits.c.submission_set_id,
                ),
            )
            .returning(deposits)
        )
        with self._db.write() as connection:
            row = connection.execute(statement).first()
        if row is None:
            return None
        context = unseal(self._fields_key, row.sealed_context, context_aad(row.unique_id, row.sha1))
        return DepositJob(_deposit(row, row.attempts - 1), self._blobs.read(row.blob), context, row.lease_until)

    def settle_deposit(
        self,
        deposit_id: int,
        owner: str,
        state: DepositState,
        reason: str,
        at: datetime,
        next_attempt_at: datetime | None = None,
    ) -> None:
        """Record how an attempt ended. Raises StoreError when `owner` does not hold the deposit (any more), or when a
        state that waits has no `next_attempt_at`."""
        waits = state.value in _WAITING
        if waits and next_attempt_at is None:
            raise StoreError("Un report demande une date. / A deferral needs a time.")
        values: dict[str, Any] = {
            "state": state.value,
            "reason": clean(reason, 2000),
            "lease_owner": "",
            "lease_until": None,
            "next_attempt_at": next_attempt_at if waits else None,
        }
        if state is DepositState.DEPOSITED:
            values |= {"blob": None, "sealed_context": b""}
        with self._db.write() as connection:
            held = select(deposits).where(deposits.c.id == deposit_id, deposits.c.lease_owner == owner)
            row = connection.execute(held.with_for_update()).first() if owner else None
            if row is None:
                raise StoreError("Ce bail est perdu. / This lease is lost.")
            connection.execute(update(deposits).where(deposits.c.id == deposit_id).values(values))
            detail = {
                "deposit": str(deposit_id),
                "unique_id": row.unique_id,
                "attempt": str(row.attempts),
                "reason": reason,
            }
            event = Event(f"deposit.{state.value}", detail)
            insert_events(connection, [event], row.submission_id, row.message_id, at)
            if state is DepositState.DEPOSITED:
                self._discard_unreferenced(connection, [row.blob])
        self._tell(ChangeKind.DEPOSIT, [deposit_id])

    def deposits(self, state: DepositState | None = None) -> list[Deposit]:
        """Deposits for display, the oldest first: all, or those of a state. `attempts` counts the attempts begun."""
        statement = select(deposits).order_by(deposits.c.id).limit(DISPLAY_LIMIT)
        if state is not None:
            statement = statement.where(deposits.c.state == state.value)
        with self._db.read() as connection:
            return [_deposit(row, row.attempts) for row in connection.execute(statement)]


def _due(now: datetime) -> ColumnElement[bool]:
    return and_(
        deposits.c.state.in_(_WAITING),
        deposits.c.next_attempt_at <= now,
        or_(deposits.c.lease_until.is_(None), deposits.c.lease_until <= now),
    )


def _deposit(row: AnyRow, attempts: int) -> Deposit:
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
