"""Deposits in the hands of a worker: leased, opened, settled, given back; several in one transaction.

Invariants:
* a deposit is held by one worker at a time, as an outgoing row is;
* the submission set id of the first attempt serves all of them: a retry is an exact one (dmp.md §3.2);
* the document and its context are kept until it is deposited, the message to give back until the attempts end (told first).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, case, or_, select, update

from mailstore.audit import insert_all_events
from mailstore.core import Core, clean
from mailstore.depositing import context_aad
from mailstore.deposits import WAITING, deposit_of
from mailstore.model import ChangeKind, DepositEnd, DepositJob, DepositLease, DepositState, Event, StoreError
from mailstore.originals import take_originals
from mailstore.sql import AnyRow
from mailstore.tables import Moment, deposits

_NOW = bindparam("now", type_=Moment)


def _free() -> ColumnElement[bool]:
    """Due, and held by nobody."""
    return and_(
        deposits.c.next_attempt_at <= _NOW, or_(deposits.c.lease_until.is_(None), deposits.c.lease_until <= _NOW)
    )


# Made once: building a statement costs several times its execution.
_DUE = (
    select(deposits.c.next_attempt_at, deposits.c.id)
    .where(deposits.c.state == bindparam("waits"), _free())
    .order_by(deposits.c.next_attempt_at, deposits.c.id)
    .limit(bindparam("most"))
)
_LEASE = (
    update(deposits)
    .where(deposits.c.id == bindparam("number"), deposits.c.state.in_(WAITING), _free())
    .values(
        lease_owner=bindparam("owner"),
        lease_until=bindparam("until", type_=Moment),
        attempts=deposits.c.attempts + 1,
        submission_set_id=case(
            (deposits.c.submission_set_id == "", bindparam("set_id")), else_=deposits.c.submission_set_id
        ),
    )
    .returning(*deposits.c)
)
_HELD = (
    select(deposits)
    .where(deposits.c.id.in_(bindparam("numbers", expanding=True)), deposits.c.lease_owner == bindparam("owner"))
    .order_by(deposits.c.id)
    .with_for_update()
)
_SETTLE = (
    update(deposits)
    .where(deposits.c.id == bindparam("number"))
    .values(
        state=bindparam("state"),
        reason=bindparam("reason"),
        lease_owner="",
        lease_until=None,
        next_attempt_at=bindparam("next_attempt_at", type_=Moment),
        blob=bindparam("kept_blob"),
        sealed_context=bindparam("kept_context"),
    )
)
_GIVE_BACK = (
    update(deposits)
    .where(deposits.c.id.in_(bindparam("numbers", expanding=True)), deposits.c.lease_owner == bindparam("owner"))
    .values(lease_owner="", lease_until=None, attempts=deposits.c.attempts - 1)
)


class DepositLeaseVerbs(Core):
    """The verbs of a worker."""

    def due_deposits(self, now: datetime, limit: int) -> list[int]:
        """The ids of up to `limit` deposits that may be leased now, the longest due first.

        One query a state: each then walks the index in its order, and a long queue costs no sorting."""
        found: list[tuple[datetime, int]] = []
        with self._db.read() as connection:
            for state in WAITING:
                rows = connection.execute(_DUE, {"waits": state, "now": now, "most": limit})
                found += [(row.next_attempt_at, row.id) for row in rows]
        return [number for _, number in sorted(found)[:limit]]

    def lease_deposits(
        self, wanted: Mapping[int, str], owner: str, now: datetime, lease: timedelta
    ) -> list[DepositLease]:
        """Take deposits until `now + lease`, in one transaction; those not due, or held elsewhere, are left out. `wanted`:
        deposit id → submission set id, of which the first ever given for a deposit is kept. `attempts` in the answer counts
        the attempts begun before this one."""
        common = {"owner": owner, "until": now + lease, "now": now}
        rows: list[AnyRow] = []
        with self._db.write() as connection:
            for number in sorted(wanted):
                values = common | {"number": number, "set_id": clean(wanted[number], 256)}
                rows += connection.execute(_LEASE, values).all()
        return [
            DepositLease(deposit_of(row, row.attempts - 1), row.lease_until, row.blob or "", row.sealed_context)
            for row in rows
        ]

    def open_deposit(self, lease: DepositLease) -> DepositJob:
        """What a leased deposit holds. Raises BlobDamaged, NoSuchMessage or SealBroken when the document or its context was
        altered or is gone."""
        deposit = lease.deposit
        context = self._fields.unseal(lease.sealed_context, context_aad(deposit.unique_id, deposit.sha1))
        return DepositJob(deposit, self._blobs.read(lease.blob), context, lease.until)

    def settle_deposits(self, owner: str, ends: Sequence[DepositEnd], at: datetime) -> list[int]:
        """Record how attempts ended, all in one transaction. Returns the ids that `owner` does not hold (any more), of which
        nothing is recorded. Raises StoreError when a state that waits has no `next_attempt_at`."""
        if any(one.state.value in WAITING and one.next_attempt_at is None for one in ends):
            raise StoreError("Un report demande une date. / A deferral needs a time.")
        by_id = {one.id: one for one in ends}
        with self._changing() as changing:
            connection = changing.connection
            asked = {"numbers": sorted(by_id), "owner": owner}
            held = connection.execute(_HELD, asked).all() if owner and by_id else []
            if not held:
                return sorted(by_id)
            connection.execute(_SETTLE, [_settled(row, by_id[row.id]) for row in held])
            told = [(row.submission_id, row.message_id, [_event(row, by_id[row.id])]) for row in held]
            insert_all_events(connection, told, at)
            gone = [row.blob for row in held if row.blob and by_id[row.id].state is DepositState.DEPOSITED]
            gone += take_originals(connection, [row.id for row in held if by_id[row.id].state.value not in WAITING])
            if gone:
                self._discard_unreferenced(connection, gone)
            changing.touch(ChangeKind.DEPOSIT, [row.id for row in held])
        return sorted(by_id.keys() - {row.id for row in held})

    def give_back_deposits(self, owner: str, numbers: Sequence[int]) -> None:
        """End leases whose attempt was not begun: nothing is counted, the deposits are due at once."""
        with self._db.write() as connection:
            connection.execute(_GIVE_BACK, {"numbers": sorted(numbers), "owner": owner})


def _settled(row: AnyRow, end: DepositEnd) -> dict[str, Any]:
    done = end.state is DepositState.DEPOSITED
    return {
        "number": row.id,
        "state": end.state.value,
        "reason": clean(end.reason, 2000),
        "next_attempt_at": end.next_attempt_at if end.state.value in WAITING else None,
        "kept_blob": None if done else row.blob,
        "kept_context": b"" if done else row.sealed_context,
    }


def _event(row: AnyRow, end: DepositEnd) -> Event:
    detail = {
        "deposit": str(row.id),
        "unique_id": row.unique_id,
        "attempt": str(row.attempts),
        "reason": end.reason,
    }
    return Event(f"deposit.{end.state.value}", detail)
