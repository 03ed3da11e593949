"""Receipts: what a sender asked to be told of each recipient, and what came.

Invariants: a receipt is expected from the transaction that accepts its message; it is answered once, by the first answer
that names its message and its recipient (a negative one may still replace a positive one: a document that was read and
could not be filed); nothing of a message's content is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, insert, or_, select, update

from mailstore.audit import insert_events
from mailstore.core import Core, clean, clean_message_id
from mailstore.model import Acceptance, Event, NewReceipt, Receipt, ReceiptKind, ReceiptState
from mailstore.sql import AnyRow
from mailstore.tables import receipts, submissions

MAX_RECEIPTS = 1000


class ReceiptVerbs(Core):
    """Verbs on receipts."""

    def expect_receipts(self, submission_id: str, wanted: Sequence[NewReceipt], at: datetime) -> None:
        """Expect more receipts of a message accepted before; those already expected stay as they are."""
        with self._db.write() as connection:
            row = connection.execute(select(submissions).where(submissions.c.id == submission_id)).first()
            if row is None:
                return
            known = set(
                connection.execute(
                    select(receipts.c.recipient, receipts.c.kind).where(receipts.c.submission_id == submission_id)
                ).tuples()
            )
            fresh = [one for one in wanted if (one.recipient, one.kind.value) not in known]
            _insert(connection, submission_id, row.message_id, row.mail_from, fresh)

    def answer_receipt(
        self, reference: str, recipient: str, kind: ReceiptKind, state: ReceiptState, detail: str, at: datetime
    ) -> bool:
        """Note that `recipient` answered about the message `reference` (a submission id or a Message-ID). True when
        that receipt was expected; an answer nobody waits for is not kept."""
        wanted = clean_message_id(reference)
        rank = [ReceiptState.WAITING.value, ReceiptState.SILENT.value]
        if state is ReceiptState.NEGATIVE:
            rank.append(ReceiptState.POSITIVE.value)
        condition = (
            or_(receipts.c.submission_id == wanted, receipts.c.message_id == wanted),
            receipts.c.recipient == clean(recipient, 998),
            receipts.c.kind == kind.value,
            receipts.c.state.in_(rank),
        )
        values = {"state": state.value, "answered_at": at, "detail": clean(detail, 500)}
        with self._db.write() as connection:
            statement = update(receipts).where(*condition).values(values).returning(receipts)
            rows = connection.execute(statement).all() if wanted else []
            for row in rows:
                event = Event(
                    f"receipt.{kind.value}", {"recipient": row.recipient, "state": state.value, "status": detail}
                )
                insert_events(connection, [event], row.submission_id, row.message_id, at)
        return bool(rows)

    def receipts(self, reference: str) -> list[Receipt]:
        """The receipts of a message, by submission id or Message-ID, in the order they were asked for."""
        wanted = clean_message_id(reference)
        condition = or_(receipts.c.submission_id == wanted, receipts.c.message_id == wanted)
        statement = select(receipts).where(condition).order_by(receipts.c.id).limit(MAX_RECEIPTS)
        with self._db.read() as connection:
            return [_receipt(row) for row in connection.execute(statement)]

    def overdue_receipts(self, now: datetime, limit: int = 100) -> list[Receipt]:
        """Receipts whose deadline passed in silence and whose sender was not told yet, the oldest first."""
        condition = (receipts.c.state == ReceiptState.WAITING.value, receipts.c.deadline <= now)
        statement = select(receipts).where(*condition).order_by(receipts.c.deadline, receipts.c.id).limit(limit)
        with self._db.read() as connection:
            return [_receipt(row) for row in connection.execute(statement)]

    def silent_receipts(self, rows: Sequence[int], at: datetime) -> None:
        """Note that the sender was told of the silence about these receipts."""
        condition = (receipts.c.id.in_(rows), receipts.c.state == ReceiptState.WAITING.value)
        with self._db.write() as connection:
            connection.execute(
                update(receipts).where(*condition).values(state=ReceiptState.SILENT.value, answered_at=at)
            )


def insert_receipts(connection: Connection, submission_id: str, acceptance: Acceptance, at: datetime) -> None:
    """Expect what a message asks for, in the transaction that accepts it."""
    message_id = clean_message_id(acceptance.message_id)
    _insert(connection, submission_id, message_id, acceptance.mail_from, acceptance.receipts)


def _insert(
    connection: Connection, submission_id: str, message_id: str, sender: str, wanted: Sequence[NewReceipt]
) -> None:
    common = {"submission_id": submission_id, "message_id": message_id, "sender": clean(sender, 998), "detail": ""}
    rows = [
        {
            **common,
            "recipient": clean(one.recipient, 998),
            "kind": one.kind.value,
            "state": ReceiptState.WAITING.value,
            "deadline": one.deadline,
        }
        for one in dict.fromkeys(wanted)
    ]
    if rows:
        connection.execute(insert(receipts), rows)


def _receipt(row: AnyRow) -> Receipt:
    return Receipt(
        row_id=row.id,
        submission_id=row.submission_id,
        message_id=row.message_id,
        sender=row.sender,
        recipient=row.recipient,
        kind=ReceiptKind(row.kind),
        state=ReceiptState(row.state),
        deadline=row.deadline,
        answered_at=row.answered_at,
        detail=row.detail,
    )
