"""Alembic's entry for the bridge's schema: on the connection and in the transaction that `mailstore.migrating` gives."""

from __future__ import annotations

from alembic import context

from dmp_bridge.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, version_table="bridge_alembic_version"
)
with context.begin_transaction():
    context.run_migrations()
