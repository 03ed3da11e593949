"""The outgoing queue: one row per recipient at another operator, leased to one sender at a time.

Invariants:
* a row is held by one owner until its lease ends: leasing is a conditional update, so that no two senders get it;
* a lease that ran out (its sender died) can be taken again; settling by an owner who lost the row is refused;
* a settled row leads to an audit event in the same transaction; a final one lets go of its content.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select, update

from mailstore.audit import insert_events
from mailstore.core import AnyRow, Core, clean
from mailstore.model import ChangeKind, DeliveryState, Event, Leased, QueueRow, Settlement, StoreError
from mailstore.tables import outgoing

_EVENTS = {
    DeliveryState.DELIVERED: "outgoing.delivered",
    DeliveryState.FAILED: "outgoing.failed",
    DeliveryState.QUEUED: "outgoing.deferred",
}
DISPLAY_LIMIT = 10_000


class QueueVerbs(Core):
    """Verbs on the outgoing queue."""

    def lease_outgoing(self, owner: str, now: datetime, lease: timedelta, limit: int) -> list[Leased]:
        """Take up to `limit` due rows until `now + lease`, the longest due first. `attempts` in the answer counts the
        attempts begun before this one: 0 the first time."""
        until = now + lease
        due = select(outgoing.c.id).where(_due(now)).order_by(outgoing.c.next_attempt_at, outgoing.c.id).limit(limit)
        with self._db.read() as connection:
            if connection.execute(due.limit(1)).first() is None:
                return []  # most polls find nothing: they need not wait for the writers
        with self._db.write() as connection:
            ids = connection.execute(due.with_for_update(skip_locked=True)).scalars().all()
            if not ids:
                return []
            statement = (
                update(outgoing)
                .where(outgoing.c.id.in_(ids), _due(now))
                .values(lease_owner=owner, lease_until=until, attempts=outgoing.c.attempts + 1)
                .returning(outgoing)
            )
            rows = connection.execute(statement).all()
        order = {number: place for place, number in enumerate(ids)}
        return [_leased(row) for row in sorted(rows, key=lambda row: order[row.id])]

    def settle_outgoing(self, row_id: int, owner: str, settlement: Settlement, at: datetime) -> None:
        """Record how an attempt ended. Raises StoreError when `owner` does not hold the row (any more), or when a
        deferral has no `next_attempt_at`."""
        deferred = settlement.state is DeliveryState.QUEUED
        if deferred and settlement.next_attempt_at is None:
            raise StoreError("Un report demande une date. / A deferral needs a time.")
        values: dict[str, Any] = {
            "state": settlement.state.value,
            "reply": clean(settlement.reply, 2000),
            "lease_owner": "",
            "lease_until": None,
            "next_attempt_at": settlement.next_attempt_at if deferred else None,
        }
        if not deferred:
            values |= {"blob": None, "settled_at": at}
        with self._db.write() as connection:
            held = select(outgoing).where(outgoing.c.id == row_id, outgoing.c.lease_owner == owner).with_for_update()
            row = connection.execute(held).first() if owner else None
            if row is None or row.state != DeliveryState.QUEUED.value:
                raise StoreError("Ce bail est perdu. / This lease is lost.")
            connection.execute(update(outgoing).where(outgoing.c.id == row_id).values(values))
            detail = {
                **settlement.detail,
                "recipient": row.recipient,
                "attempt": str(row.attempts),
                "reply": settlement.reply,
            }
            event = Event(_EVENTS[settlement.state], detail)
            insert_events(connection, [event], row.submission_id, row.message_id, at)
            if not deferred:
                self._discard_unreferenced(connection, [row.blob])
        self._tell(ChangeKind.QUEUE, [row_id])

    def queue(self, state: DeliveryState | None = DeliveryState.QUEUED) -> list[QueueRow]:
        """Outgoing recipients for display, the oldest first: those waiting, or those of a state, or all (None)."""
        statement = select(outgoing).order_by(outgoing.c.id).limit(DISPLAY_LIMIT)
        if state is not None:
            statement = statement.where(outgoing.c.state == state.value)
        with self._db.read() as connection:
            return [_queue_row(row) for row in connection.execute(statement)]

    def next_due(self, now: datetime) -> datetime | None:
        """When the next row may be leased: a moment not after `now` when one may be right away, None when none waits."""
        waiting = outgoing.c.state == DeliveryState.QUEUED.value
        free = or_(outgoing.c.lease_until.is_(None), outgoing.c.lease_until <= now)
        with self._db.read() as connection:
            first_free = connection.execute(select(func.min(outgoing.c.next_attempt_at)).where(waiting, free)).scalar()
            lease_end = connection.execute(
                select(func.min(outgoing.c.lease_until)).where(waiting, outgoing.c.lease_until > now)
            ).scalar()
        return min((moment for moment in (first_free, lease_end) if moment is not None), default=None)


def _due(now: datetime) -> ColumnElement[bool]:
    return and_(
        outgoing.c.state == DeliveryState.QUEUED.value,
        outgoing.c.next_attempt_at <= now,
        or_(outgoing.c.lease_until.is_(None), outgoing.c.lease_until <= now),
    )


def _leased(row: AnyRow) -> Leased:
    return Leased(
        row_id=row.id,
        submission_id=row.submission_id,
        message_id=row.message_id,
        mail_from=row.mail_from,
        recipient=row.recipient,
        domain=row.domain,
        blob=row.blob,
        attempts=row.attempts - 1,
        accepted_at=row.accepted_at,
        lease_until=row.lease_until,
    )


def _queue_row(row: AnyRow) -> QueueRow:
    return QueueRow(
        row_id=row.id,
        submission_id=row.submission_id,
        message_id=row.message_id,
        mail_from=row.mail_from,
        recipient=row.recipient,
        domain=row.domain,
        state=DeliveryState(row.state),
        attempts=row.attempts,
        accepted_at=row.accepted_at,
        next_attempt_at=row.next_attempt_at,
        lease_owner=row.lease_owner,
        lease_until=row.lease_until,
        reply=row.reply,
    )
