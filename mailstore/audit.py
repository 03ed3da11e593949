"""The audit trail: what was decided about each message, by which rule, and when.

Invariants: an event about a transaction is written in that transaction; details hold identifiers, codes and reasons,
never content; values are bounded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, insert, or_, select

from mailstore.core import Core, clean, clean_message_id
from mailstore.direct import Direct
from mailstore.model import Event, TracedEvent
from mailstore.tables import audit, submissions

VALUE_LIMIT = 2000  # characters of one detail
DETAILS_LIMIT = 50  # details of one event
TRACE_LIMIT = 10_000  # events of one answer


class AuditVerbs(Core):
    """Verbs on the audit trail."""

    def record(self, events: Sequence[Event], *, submission_id: str = "", message_id: str = "", at: datetime) -> None:
        """Write events that belong to no acceptance, such as refusals. Raises StoreUnavailable."""
        if events:
            with self._db.write() as connection:
                insert_events(connection, events, submission_id, message_id, at)

    def trace(self, message_id: str) -> list[TracedEvent]:
        """Everything recorded about a message, oldest first: by Message-ID, with or without <>, or submission id."""
        wanted = clean_message_id(message_id)
        if not wanted:
            return []
        related = select(submissions.c.id).where(submissions.c.message_id == wanted)
        condition = or_(
            audit.c.message_id == wanted, audit.c.submission_id == wanted, audit.c.submission_id.in_(related)
        )
        statement = select(audit).where(condition).order_by(audit.c.at, audit.c.id).limit(TRACE_LIMIT)
        return self._events(statement)

    def refusals(self, limit: int) -> list[TracedEvent]:
        """The last events that refused something (their names end in `.refused`), newest first, at most TRACE_LIMIT."""
        ending = audit.c.name.like("%.refused")
        return self._events(select(audit).where(ending).order_by(audit.c.id.desc()).limit(min(limit, TRACE_LIMIT)))

    def _events(self, statement: Select[*tuple[Any, ...]]) -> list[TracedEvent]:
        with self._db.read() as connection:
            rows = connection.execute(statement).all()
        return [
            TracedEvent(row.at, row.submission_id, row.message_id, Event(row.name, json.loads(row.detail)))
            for row in rows
        ]


_INSERT = Direct(insert(audit).inline(), "at", "submission_id", "message_id", "name", "detail")


def insert_events(
    connection: Connection, events: Sequence[Event], submission_id: str, message_id: str, at: datetime
) -> None:
    """Write events in the transaction they tell of."""
    insert_all_events(connection, [(submission_id, message_id, events)], at)


def insert_all_events(connection: Connection, told: Sequence[tuple[str, str, Sequence[Event]]], at: datetime) -> None:
    """As `insert_events` for several messages: (submission id, Message-ID, events)."""
    rows = []
    for submission_id, message_id, events in told:
        common = {"at": at, "submission_id": clean(submission_id, 64), "message_id": clean_message_id(message_id)}
        rows += [{**common, "name": clean(event.name, 64), "detail": _detail(event)} for event in events]
    _INSERT.run(connection, rows)


def _detail(event: Event) -> str:
    kept = list(event.detail.items())[:DETAILS_LIMIT]
    return json.dumps({clean(key, 64): clean(str(value), VALUE_LIMIT) for key, value in kept}, ensure_ascii=False)
