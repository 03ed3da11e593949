"""The outgoing queue: one row per recipient at another operator, leased to one sender at a time.

Invariants:
* a row is held by one owner until its lease ends: leasing is a conditional update, so that no two senders get it;
* a lease that ran out (its sender died) can be taken again; settling by an owner who lost the row is refused;
* every attempt leaves a line of history and an audit event in the transaction that settles it; a final one lets go of the
  content.

What a person does with rows is in `mailstore.queue_actions`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, bindparam, func, insert, null, or_, select, update

from mailstore.audit import insert_all_events
from mailstore.core import Core, clean
from mailstore.direct import Direct, DirectAmong
from mailstore.model import (
    Attempt,
    ChangeKind,
    DeliveryState,
    Event,
    Leased,
    QueueRow,
    Settlement,
    StoreError,
)
from mailstore.sql import AnyRow
from mailstore.tables import attempts, outgoing

_EVENTS = {
    DeliveryState.DELIVERED: "outgoing.delivered",
    DeliveryState.FAILED: "outgoing.failed",
    DeliveryState.QUEUED: "outgoing.deferred",
}
DISPLAY_LIMIT = 10_000

# Worded once: each message that leaves costs these.
_HELD = DirectAmong(
    lambda among: (
        select(
            outgoing.c.id,
            outgoing.c.submission_id,
            outgoing.c.message_id,
            outgoing.c.recipient,
            outgoing.c.attempts,
            outgoing.c.blob,
        )
        .where(
            outgoing.c.id.in_(among),
            outgoing.c.lease_owner == bindparam("owner"),
            outgoing.c.state == DeliveryState.QUEUED.value,
        )
        .with_for_update()
    )
)
_SETTLED = {
    "state": bindparam("new_state"),
    "reply": bindparam("new_reply"),
    "lease_owner": "",
    "lease_until": null(),
}
_END = Direct(
    update(outgoing)
    .where(outgoing.c.id == bindparam("row"))
    .values(**_SETTLED, next_attempt_at=null(), blob=null(), settled_at=bindparam("at"))
)
_DEFER = Direct(
    update(outgoing).where(outgoing.c.id == bindparam("row")).values(**_SETTLED, next_attempt_at=bindparam("next"))
)
_TELL_DELAY = Direct(update(outgoing).where(outgoing.c.id == bindparam("row")).values(delay_told_at=bindparam("at")))
_INSERT_ATTEMPT = Direct(insert(attempts).inline(), "outgoing_id", "at", "number", "reply", "detail")


class _Held(NamedTuple):
    """A leased row, as far as its settlement goes."""

    id: int
    submission_id: str
    message_id: str
    recipient: str
    attempts: int
    blob: str


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
        if self.settle_all(owner, [(row_id, settlement)], at):
            raise StoreError("Ce bail est perdu. / This lease is lost.")

    def settle_all(self, owner: str, results: Sequence[tuple[int, Settlement]], at: datetime) -> list[int]:
        """Record how several attempts ended, in one transaction. Returns the rows that `owner` does not hold (any
        more): they were left alone. Raises StoreError when a deferral has no `next_attempt_at`."""
        for _, settlement in results:
            if settlement.state is DeliveryState.QUEUED and settlement.next_attempt_at is None:
                raise StoreError("Un report demande une date. / A deferral needs a time.")
        wanted = dict(results)
        with self._changing() as changing:
            connection = changing.connection
            rows = [_Held(*row) for row in _HELD.all(connection, {"owner": owner or None}, sorted(wanted))]
            self._write_results(connection, [(row, wanted[row.id]) for row in rows], at)
            gone = [row.blob for row in rows if wanted[row.id].state is not DeliveryState.QUEUED]
            if gone:
                self._discard_unreferenced(connection, gone)
            held = {row.id for row in rows}
            changing.touch(ChangeKind.QUEUE, sorted(held))
        return [row_id for row_id in wanted if row_id not in held]

    def _write_results(self, connection: Connection, results: Sequence[tuple[_Held, Settlement]], at: datetime) -> None:
        """What becomes of the rows, their history and their audit events: a statement for all rows alike."""
        final, deferred, history, told = [], [], [], []
        for row, settlement in results:
            reply = clean(settlement.reply, 2000)
            values = {"row": row.id, "new_state": settlement.state.value, "new_reply": reply, "at": at}
            if settlement.state is DeliveryState.QUEUED:
                deferred.append({**values, "next": settlement.next_attempt_at})
            else:
                final.append(values)
            evidence = {clean(key, 64): clean(str(value), 500) for key, value in settlement.detail.items()}
            detail = json.dumps(evidence, ensure_ascii=False)
            history.append({"outgoing_id": row.id, "at": at, "number": row.attempts, "reply": reply, "detail": detail})
            known = {**evidence, "recipient": row.recipient, "attempt": str(row.attempts), "reply": settlement.reply}
            told.append((row.submission_id, row.message_id, [Event(_EVENTS[settlement.state], known)]))
        _END.run(connection, final)
        _DEFER.run(connection, deferred)
        _TELL_DELAY.run(connection, [{"row": row.id, "at": at} for row, one in results if one.delay_told])
        _INSERT_ATTEMPT.run(connection, history)
        insert_all_events(connection, told, at)

    def give_back(self, owner: str, row_ids: Collection[int]) -> None:
        """End the leases on rows that were taken and not tried: as if they had never been leased."""
        with self._db.write() as connection:
            connection.execute(
                update(outgoing)
                .where(outgoing.c.id.in_(list(row_ids)), outgoing.c.lease_owner == owner)
                .values(lease_owner="", lease_until=None, attempts=outgoing.c.attempts - 1)
            )

    def attempts(self, row_id: int) -> list[Attempt]:
        """The attempts made at a recipient, oldest first."""
        statement = (
            select(attempts).where(attempts.c.outgoing_id == row_id).order_by(attempts.c.id).limit(DISPLAY_LIMIT)
        )
        with self._db.read() as connection:
            return [
                Attempt(row.at, row.number, row.reply, json.loads(row.detail)) for row in connection.execute(statement)
            ]

    def queue_rows(self, reference: str) -> list[QueueRow]:
        """The recipients of one row id, submission id or Message-ID, whatever their state."""
        wanted = reference.strip().removeprefix("<").removesuffix(">")
        condition = or_(outgoing.c.submission_id == wanted, outgoing.c.message_id == wanted)
        if wanted.isascii() and wanted.isdigit() and len(wanted) < 16:
            condition = or_(condition, outgoing.c.id == int(wanted))
        statement = select(outgoing).where(condition).order_by(outgoing.c.id).limit(DISPLAY_LIMIT)
        with self._db.read() as connection:
            return [_queue_row(row) for row in connection.execute(statement)]

    def wake_domains(self, domains: Collection[str], at: datetime) -> int:
        """A peer showed that it is there: what waits for its domains is tried again at once. Returns how many rows."""
        condition = (
            outgoing.c.domain.in_(list(domains)),
            outgoing.c.state == DeliveryState.QUEUED.value,
            outgoing.c.next_attempt_at > at,
        )
        with self._db.read() as connection:
            if not domains or connection.execute(select(outgoing.c.id).where(*condition).limit(1)).first() is None:
                return 0
        with self._changing() as changing:
            statement = update(outgoing).where(*condition).values(next_attempt_at=at, attempts=1)
            ids = changing.connection.execute(statement.returning(outgoing.c.id)).scalars().all()
            changing.touch(ChangeKind.QUEUE, ids)
        return len(ids)

    def queue_sizes(self) -> dict[str, int]:
        """How many rows wait (queued, held) for each state."""
        waiting = (DeliveryState.QUEUED.value, DeliveryState.HELD.value)
        statement = (
            select(outgoing.c.state, func.count()).where(outgoing.c.state.in_(waiting)).group_by(outgoing.c.state)
        )
        with self._db.read() as connection:
            found = {str(state): int(count) for state, count in connection.execute(statement)}
        return {state: found.get(state, 0) for state in waiting}

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
        options=json.loads(row.options),
        route=row.route,
        delay_told_at=row.delay_told_at,
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
        options=json.loads(row.options),
        route=row.route,
        delay_told_at=row.delay_told_at,
    )
