"""Alembic's entry for the record's schema: runs on the connection, and in the transaction, that `mailstore.migrating` gives."""

from __future__ import annotations

from alembic import context

from dossier.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, version_table="record_alembic_version"
)
with context.begin_transaction():
    context.run_migrations()
