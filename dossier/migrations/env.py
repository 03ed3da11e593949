"""Alembic's entry for the record's schema: uses the engine handed in by `dossier.tables.upgrade`, writes no log."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Engine

from dossier.tables import metadata


def run() -> None:
    """Run the migrations inside one transaction, under a version table of the record's own."""
    engine = context.config.attributes["engine"]
    if not isinstance(engine, Engine):
        raise TypeError("the record's migrations need an engine")
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=metadata, version_table="record_alembic_version")
        with context.begin_transaction():
            context.run_migrations()


run()
