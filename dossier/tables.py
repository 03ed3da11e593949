"""Tables of the embedded record, and its migrations.

Invariant: nothing here names a patient. A patient is found by a keyed hash (HMAC-SHA-256) of the identifier; titles, authors,
identifiers of persons and submitted metadata are in `sealed` columns (AES-GCM), small documents in `content`, sealed too.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import (
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
)

from mailstore.migrating import migrate

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

submissions = Table(
    "record_submission",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("unique_id", String(64), nullable=False, unique=True),
    Column("patient_key", LargeBinary(32), nullable=False),
    Column("stored_at", String(32), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
)

entries = Table(
    "record_entry",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("submission_id", Integer, ForeignKey("record_submission.id"), nullable=False),
    Column("entry_uuid", String(64), nullable=False, unique=True),
    Column("unique_id", String(64), nullable=False, unique=True),
    Column("patient_key", LargeBinary(32), nullable=False),
    Column("status", String(16), nullable=False),
    Column("is_signature", Boolean, nullable=False),
    Column("sha1", String(40), nullable=False),
    Column("size", Integer, nullable=False),
    Column("blob", String(128), nullable=False),
    Column("content", LargeBinary, nullable=True),
    Column("stored_at", String(32), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Index("ix_record_entry_patient_key", "patient_key"),
)

patients = Table(
    "record_patient",
    metadata,
    Column("patient_key", LargeBinary(32), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("changed_at", String(32), nullable=False),
)

accesses = Table(
    "record_access",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", String(32), nullable=False),
    Column("patient_key", LargeBinary(32), nullable=True),
    Column("action", String(32), nullable=False),
    Column("outcome", String(64), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Index("ix_record_access_patient_key", "patient_key"),
)


def upgrade(url: str) -> None:
    """Bring the schema of the database at `url` to the newest revision (Alembic, `dossier/migrations`)."""
    engine = create_engine(url)
    try:
        migrate(engine, Path(__file__).parent / "migrations")
    finally:
        engine.dispose()
