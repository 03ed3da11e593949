"""Bringing a database to the schema of this program.

Invariants: migrations run in one transaction, so that a database is at one revision or another, never between; a database
of another program, or of a later version of this one, is refused and left as it is.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from mailstore.database import Database
from mailstore.model import StoreError, StoreUnavailable

_LOCK = 0x6361647563656500  # any constant: PostgreSQL's advisory lock of the migrations ("caducee")


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's settings, without a file: the scripts are those installed beside this module."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(database: Database, *, create: bool) -> None:
    """Migrate to the newest revision; an empty database only when `create`. Raises StoreError."""
    scripts = ScriptDirectory.from_config(alembic_config())
    head = scripts.get_current_head()
    try:
        with database.read() as connection:
            if _revision(connection) == head:
                return
        with database.write() as connection:
            if not database.is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            revision = _revision(connection)
            if revision is None and not (create and not inspect(connection).get_table_names()):
                raise StoreError("Cette base n'est pas celle d'une messagerie. / This database is not a mail store.")
            if revision is not None and revision not in {script.revision for script in scripts.walk_revisions()}:
                raise StoreError(
                    "Cette base vient d'une version plus récente. / This database comes from a later version."
                )
            command.upgrade(alembic_config(connection), "head")
    except StoreUnavailable as error:
        if "SQLite" in str(error):
            raise StoreError(str(error)) from error
        raise


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
