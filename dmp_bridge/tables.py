"""Tables of the bridge's own register, and its migrations. Deposits themselves are in the mail store.

Invariant: nothing here names a patient in clear. A patient is found by a keyed hash of the INS; addresses and messages are sealed.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Boolean, Column, Engine, Index, Integer, LargeBinary, MetaData, String, Table, UniqueConstraint
from sqlalchemy import event as sql_event

from mailstore.migrating import migrate

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

oppositions = Table(
    "bridge_opposition",
    metadata,
    Column("patient_key", LargeBinary(32), primary_key=True),
    Column("opposed", Boolean, nullable=False),
    Column("since", String(32), nullable=False),
    Column("source", String(64), nullable=False),
)

reminders = Table(
    "bridge_reminder",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("deposit_id", Integer, nullable=False),
    Column("days", Integer, nullable=False),
    Column("due_at", String(32), nullable=False),
    Column("done_at", String(32), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    UniqueConstraint("deposit_id", "days"),
    Index("ix_bridge_reminder_done_at_due_at", "done_at", "due_at"),
)

acknowledgements = Table(
    "bridge_acknowledgement",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(128), nullable=False, unique=True),
    Column("feed", String(64), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", String(32), nullable=False),
    Column("done_at", String(32), nullable=False),
    Column("reason", String(200), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Index("ix_bridge_acknowledgement_done_at_due_at", "done_at", "due_at"),
)

awaited = Table(
    "bridge_awaited",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("message_id", String(256), nullable=False, unique=True),
    Column("feed", String(64), nullable=False),
    Column("control_id", String(199), nullable=False),
    Column("asked_at", String(32), nullable=False),
    Column("due_at", String(32), nullable=False),
    Column("done_at", String(32), nullable=False),
    Index("ix_bridge_awaited_done_at_due_at", "done_at", "due_at"),
)

places = Table(
    "bridge_place",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Integer, nullable=False),
)


def durable_sqlite(engine: Engine) -> None:
    """Every SQLite connection is durable at commit and patient for a lock; other databases untouched."""
    if engine.dialect.name != "sqlite":
        return

    @sql_event.listens_for(engine, "connect")
    def _pragmas(connection: object, _record: object) -> None:
        cursor = connection.cursor()  # type: ignore[attr-defined]  # DB-API connection, untyped in SQLAlchemy's events
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()


def upgrade(engine: Engine) -> None:
    """Bring the schema to the newest revision (Alembic, `dmp_bridge/migrations`)."""
    migrate(engine, Path(__file__).parent / "migrations")
