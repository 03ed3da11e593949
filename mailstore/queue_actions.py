"""What a person does with the outgoing queue: hold, release, try at once, give up, send elsewhere.

Invariant: a row that a sender holds at that moment is left alone; what is done leaves an audit event with the person's name.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import or_, select, update

from mailstore.audit import insert_events
from mailstore.core import Core, clean
from mailstore.model import ChangeKind, DeliveryState, Event
from mailstore.tables import outgoing


class QueueActionVerbs(Core):
    """A person's verbs on outgoing rows."""

    def hold(self, row_ids: Collection[int], who: str, at: datetime) -> int:
        """Keep rows from leaving until `release`; returns how many were not in a sender's hands."""
        return self._act("outgoing.held", row_ids, DeliveryState.QUEUED, {"state": DeliveryState.HELD.value}, who, at)

    def release(self, row_ids: Collection[int], who: str, at: datetime) -> int:
        """Let held rows leave, at once; returns how many there were."""
        values = {"state": DeliveryState.QUEUED.value, "next_attempt_at": at}
        return self._act("outgoing.released", row_ids, DeliveryState.HELD, values, who, at)

    def retry_now(self, row_ids: Collection[int], who: str, at: datetime) -> int:
        """Try rows again at once, their pause begun anew; returns how many were not in a sender's hands."""
        values = {"next_attempt_at": at, "attempts": 0}
        return self._act("outgoing.retry_asked", row_ids, DeliveryState.QUEUED, values, who, at)

    def reroute(self, row_ids: Collection[int], route: str, who: str, at: datetime) -> int:
        """Send rows by another place (`host:port`; "" for the usual one), at once; returns how many were free."""
        values = {"route": clean(route, 300), "next_attempt_at": at}
        return self._act("outgoing.rerouted", row_ids, DeliveryState.QUEUED, values, who, at, {"route": route})

    def drop(self, row_ids: Collection[int], who: str, at: datetime) -> int:
        """Give rows up for good without telling their sender; returns how many were not in a sender's hands."""
        values = {"state": DeliveryState.DROPPED.value, "next_attempt_at": None, "blob": None, "settled_at": at}
        states = (DeliveryState.QUEUED, DeliveryState.HELD)
        return sum(self._act("outgoing.dropped", row_ids, state, values, who, at) for state in states)

    def _act(
        self,
        name: str,
        row_ids: Collection[int],
        state: DeliveryState,
        values: dict[str, Any],
        who: str,
        at: datetime,
        detail: dict[str, str] | None = None,
    ) -> int:
        """What a person does to rows of a state that no sender holds, with its audit events."""
        free = or_(outgoing.c.lease_until.is_(None), outgoing.c.lease_until <= at)
        condition = (outgoing.c.id.in_(list(row_ids)), outgoing.c.state == state.value, free)
        with self._changing() as changing:
            connection = changing.connection
            rows = connection.execute(select(outgoing).where(*condition).with_for_update()).all()
            ids = [row.id for row in rows]
            if ids:
                connection.execute(update(outgoing).where(outgoing.c.id.in_(ids)).values(values))
            for row in rows:
                event = Event(name, {"recipient": row.recipient, "by": who, **(detail or {})})
                insert_events(connection, [event], row.submission_id, row.message_id, at)
            if ids and "blob" in values:
                self._discard_unreferenced(connection, [row.blob for row in rows])
            changing.touch(ChangeKind.QUEUE, ids)
        return len(ids)
