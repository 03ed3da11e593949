"""Bringing the schema of a database beside the mail store's to its newest revision (Alembic).

Invariant: of processes that open the same database at once, one migrates and the others wait and find it done.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, text

_LOCK = 0x4361647563
"""Key of the PostgreSQL advisory lock."""


def migrate(engine: Engine, scripts: Path) -> None:
    """Run the revisions of the folder `scripts`, whose env.py takes `connection` from Alembic's attributes.

    Raises sqlalchemy.exc.OperationalError when the database does not answer.
    """
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    with engine.connect() as connection, connection.begin():
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
