"""The bridge's register: who opposes deposits, which reminders and acknowledgements are due (dmp.md §7.4, §7.5, §8.4).

Invariants
* A patient is a keyed hash of INS and OID: a stolen register names nobody. Addresses and messages are sealed.
* What is added under a name that exists already is not added again: a step repeated after a crash changes nothing.
* The newest statement about a patient's opposition counts; one that is older than what is known is left aside.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import create_engine, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError, OperationalError

from dmp_bridge.oppositions import Told
from dmp_bridge.tables import acknowledgements, awaited, durable_sqlite, oppositions, places, reminders, upgrade
from mailstore.crypto import seal, unseal

REMINDER_DAYS = (14, 30)
"""R1111-53: two weeks without announcement, then one month (dmp.md §7.5)."""


class RegisterUnavailable(Exception):
    """The register's database does not answer: nothing was written, try again."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What is known of a patient's will: opposed to deposits or not, since when, told by whom."""

    opposed: bool
    since: datetime
    source: str


@dataclass(frozen=True, slots=True)
class Reminder:
    """A document that was deposited invisible to the patient, and whose announcement somebody must not forget."""

    id: int
    deposit_id: int
    days: int
    unique_id: str
    notify: str
    message_id: str
    deposited_at: datetime


@dataclass(frozen=True, slots=True)
class DueAcknowledgement:
    """An HL7 v2 message that waits to leave for a feed."""

    id: int
    name: str
    feed: str
    attempts: int
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Awaited:
    """A message whose mail receipts a feed waits for."""

    id: int
    message_id: str
    feed: str
    control_id: str
    asked_at: datetime


def _subkey(master_key: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=b"caducee bridge " + purpose).derive(master_key)


def _text(at: datetime) -> str:
    """UTC, of constant width, so that text order is time order."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f+00:00")


class Register:
    """The register over one database. Verbs are synchronous and thread safe; RegisterUnavailable from any of them."""

    def __init__(self, url: str, master_key: bytes) -> None:
        """Open the register at SQLAlchemy `url`, created or brought to date."""
        self._engine = create_engine(url, pool_pre_ping=True)
        durable_sqlite(self._engine)
        try:
            upgrade(self._engine)
        except OperationalError as error:
            raise RegisterUnavailable("registre du pont indisponible / bridge register unavailable") from error
        self._hash_key = _subkey(master_key, b"patient")
        self._seal_key = _subkey(master_key, b"fields")

    def close(self) -> None:
        """Release the database."""
        self._engine.dispose()

    def _patient(self, ins: str, oid: str) -> bytes:
        return hmac.new(self._hash_key, f"{oid}\0{ins}".encode(), hashlib.sha256).digest()

    def state(self, ins: str, oid: str) -> Statement | None:
        """What is known of a patient's will; None when nothing was ever told."""
        query = select(oppositions).where(oppositions.c.patient_key == self._patient(ins, oid))
        try:
            with self._engine.connect() as connection:
                row = connection.execute(query).first()
        except OperationalError as error:
            raise RegisterUnavailable("registre indisponible / register unavailable") from error
        return None if row is None else Statement(row.opposed, datetime.fromisoformat(row.since), row.source)

    def tell(self, told: Told, source: str) -> bool:
        """Record a patient's will; False when a newer statement is known already."""
        key, since = self._patient(told.ins, told.oid), _text(told.at)
        values = {"opposed": told.opposed, "since": since, "source": source[:64]}
        try:
            with self._engine.begin() as connection:
                changed = connection.execute(
                    update(oppositions)
                    .where(oppositions.c.patient_key == key, oppositions.c.since <= since)
                    .values(values)
                )
                if changed.rowcount:
                    return True
                known = select(oppositions.c.since).where(oppositions.c.patient_key == key)
                if connection.execute(known).first() is not None:
                    return False
                connection.execute(insert(oppositions).values(patient_key=key, **values))
                return True
        except (OperationalError, IntegrityError) as error:
            raise RegisterUnavailable("registre indisponible / register unavailable") from error

    def counts(self) -> tuple[int, int]:
        """How many patients oppose deposits, and how many were heard of."""
        with self._engine.connect() as connection:
            known = connection.execute(select(func.count()).select_from(oppositions)).scalar_one()
            opposed = select(func.count()).select_from(oppositions).where(oppositions.c.opposed)
            return connection.execute(opposed).scalar_one(), known

    def remind(self, deposit_id: int, *, unique_id: str, notify: str, message_id: str, at: datetime) -> None:
        """Plan the reminders of a document deposited at `at` that the patient does not see."""
        body = {"unique_id": unique_id, "notify": notify, "message_id": message_id, "deposited_at": _text(at)}
        for days in REMINDER_DAYS:
            name = f"reminder {deposit_id} {days}"
            row = {
                "deposit_id": deposit_id,
                "days": days,
                "due_at": _text(at + timedelta(days=days)),
                "done_at": "",
                "sealed": self._seal(body, name),
            }
            self._add(reminders, row)

    def due_reminders(self, now: datetime, limit: int = 100) -> list[Reminder]:
        """The reminders that are due, the longest due first."""
        query = select(reminders).where(reminders.c.done_at == "", reminders.c.due_at <= _text(now))
        return [self._reminder(row) for row in self._rows(query.order_by(reminders.c.due_at).limit(limit))]

    def waiting_reminders(self, limit: int = 1000) -> list[tuple[Reminder, datetime]]:
        """The reminders to come, with their times."""
        query = select(reminders).where(reminders.c.done_at == "").order_by(reminders.c.due_at).limit(limit)
        return [(self._reminder(row), datetime.fromisoformat(row.due_at)) for row in self._rows(query)]

    def _reminder(self, row: Any) -> Reminder:
        body = self._unseal(row.sealed, f"reminder {row.deposit_id} {row.days}")
        body["deposited_at"] = datetime.fromisoformat(body["deposited_at"])
        return Reminder(id=row.id, deposit_id=row.deposit_id, days=row.days, **body)

    def reminded(self, reminder_id: int, at: datetime) -> None:
        """This reminder was sent."""
        self._write(update(reminders).where(reminders.c.id == reminder_id).values(done_at=_text(at)))

    def announced(self, unique_id: str, at: datetime) -> int:
        """The document was announced to the patient: its reminders are done with. Returns how many."""
        found = [one.id for one, _ in self.waiting_reminders(100_000) if one.unique_id == unique_id]
        for reminder_id in found:
            self.reminded(reminder_id, at)
        return len(found)

    def acknowledge(self, name: str, feed: str, content: bytes, at: datetime) -> None:
        """Plan a message for a feed; `name` makes it unique."""
        sealed = seal(self._seal_key, content, f"acknowledgement {name}".encode())
        row = {"name": name, "feed": feed, "attempts": 0, "due_at": _text(at), "done_at": "", "reason": ""}
        self._add(acknowledgements, row | {"sealed": sealed})

    def due_acknowledgements(self, now: datetime, limit: int = 100) -> list[DueAcknowledgement]:
        """The messages that may leave now, in their order."""
        query = select(acknowledgements).where(
            acknowledgements.c.done_at == "", acknowledgements.c.due_at <= _text(now)
        )
        return [
            DueAcknowledgement(
                row.id,
                row.name,
                row.feed,
                row.attempts,
                unseal(self._seal_key, row.sealed, f"acknowledgement {row.name}".encode()),
            )
            for row in self._rows(query.order_by(acknowledgements.c.id).limit(limit))
        ]

    def acknowledged(self, row_id: int, at: datetime, reason: str = "") -> None:
        """The message was taken, or will never be (`reason`)."""
        values = {"done_at": _text(at), "reason": reason[:200], "sealed": b""}
        self._write(update(acknowledgements).where(acknowledgements.c.id == row_id).values(values))

    def acknowledge_later(self, row_id: int, due_at: datetime, reason: str) -> None:
        """The message could not be handed over: try again at `due_at`."""
        attempts = acknowledgements.c.attempts + 1
        values = {"due_at": _text(due_at), "reason": reason[:200], "attempts": attempts}
        self._write(update(acknowledgements).where(acknowledgements.c.id == row_id).values(values))

    def await_receipts(self, message_id: str, feed: str, control_id: str, at: datetime) -> None:
        """A feed waits for the mail receipts of this message, made of its hand-over `control_id`."""
        row = {"message_id": message_id[:256], "feed": feed, "control_id": control_id[:199], "done_at": ""}
        self._add(awaited, row | {"asked_at": _text(at), "due_at": _text(at)})

    def due_awaited(self, now: datetime, limit: int = 200) -> list[Awaited]:
        """The messages whose receipts are to be looked at, the longest due first."""
        query = select(awaited).where(awaited.c.done_at == "", awaited.c.due_at <= _text(now))
        rows = self._rows(query.order_by(awaited.c.due_at).limit(limit))
        return [
            Awaited(row.id, row.message_id, row.feed, row.control_id, datetime.fromisoformat(row.asked_at))
            for row in rows
        ]

    def look_again(self, row_id: int, due_at: datetime) -> None:
        """Receipts are still missing: look again at `due_at`."""
        self._write(update(awaited).where(awaited.c.id == row_id).values(due_at=_text(due_at)))

    def all_told(self, row_id: int, at: datetime) -> None:
        """Nothing more is to come of this message."""
        self._write(update(awaited).where(awaited.c.id == row_id).values(done_at=_text(at)))

    def place(self, name: str) -> int:
        """How far a list was read (0 at first)."""
        for row in self._rows(select(places).where(places.c.name == name)):
            return int(row.value)
        return 0

    def move(self, name: str, value: int) -> None:
        """Remember how far a list was read."""
        try:
            with self._engine.begin() as connection:
                connection.execute(delete(places).where(places.c.name == name))
                connection.execute(insert(places).values(name=name, value=value))
        except OperationalError as error:
            raise RegisterUnavailable("registre indisponible / register unavailable") from error

    def _add(self, table: Any, row: dict[str, Any]) -> None:
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(table).values(row))
        except IntegrityError:
            return
        except OperationalError as error:
            raise RegisterUnavailable("registre indisponible / register unavailable") from error

    def _write(self, statement: Any) -> None:
        try:
            with self._engine.begin() as connection:
                connection.execute(statement)
        except OperationalError as error:
            raise RegisterUnavailable("registre indisponible / register unavailable") from error

    def _rows(self, query: Any) -> list[Any]:
        try:
            with self._engine.connect() as connection:
                return list(connection.execute(query).all())
        except OperationalError as error:
            raise RegisterUnavailable("registre indisponible / register unavailable") from error

    def _seal(self, body: dict[str, Any], name: str) -> bytes:
        return seal(self._seal_key, json.dumps(body, ensure_ascii=False).encode(), name.encode())

    def _unseal(self, sealed: bytes, name: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(unseal(self._seal_key, sealed, name.encode()))
        return value
