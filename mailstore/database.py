"""Connections, transactions and errors of the store's database.

Invariants:
* a write is one transaction, opened with BEGIN IMMEDIATE on SQLite so that it never fails half-way on an upgrade of its
  lock; a read sees one snapshot;
* on SQLite: WAL, synchronous=FULL (a committed transaction survives a power cut), foreign keys on;
* whatever the driver says of a locked, full, damaged or unreachable database becomes StoreUnavailable; texts never carry
  the parameters of a statement.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    IntegrityError,
    InterfaceError,
    ProgrammingError,
    StatementError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from mailstore.model import StoreError, StoreUnavailable

BUSY_TIMEOUT_MS = 10_000
_WRITE = "mailstore_write"
_PRAGMAS = (
    f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}",
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA temp_store=MEMORY",
)


class CommitUncertain(StoreUnavailable):
    """The commit itself failed: the transaction may or may not hold, so nothing it refers to may be removed."""


class Database:
    """The engine and its two kinds of transactions. Thread safe."""

    def __init__(self, url: str, *, create: bool = False) -> None:
        """Prepare connections to `url`. A missing SQLite file is an error unless `create`. Raises StoreError."""
        try:
            parsed = make_url(url)
        except ArgumentError:
            raise StoreError("Adresse de base invalide. / Malformed database URL.") from None
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite:
            _prepare_file(parsed, create)
        # A pool wide enough for the default executor of asyncio on a large machine.
        self._engine = create_engine(parsed, hide_parameters=True, pool_size=8, max_overflow=32, pool_timeout=30)
        if self.is_sqlite:
            event.listen(self._engine, "connect", _configure_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)
        self._writer = self._engine.execution_options(**{_WRITE: True})
        # SQLite has one writer: waiting on a lock here is fair and costs no polling.
        self._write_lock: threading.Lock | nullcontext[None] = threading.Lock() if self.is_sqlite else nullcontext()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection in a read transaction, rolled back at the end. Raises StoreUnavailable."""
        with _translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A connection in a write transaction, committed when the block ends well.

        Raises StoreUnavailable; its subclass CommitUncertain when it was the commit that failed. IntegrityError goes
        through to the verb, which knows what it means.
        """
        with self._write_lock, _translated(), self._engine_writer() as connection:
            transaction = connection.begin()
            try:
                yield connection
            except BaseException:
                # The connection may be broken already: the first error is the one to tell.
                with suppress(DatabaseError):
                    transaction.rollback()
                raise
            try:
                transaction.commit()
            except DatabaseError as error:
                raise CommitUncertain(str(_unavailable(error))) from error

    def _engine_writer(self) -> Connection:
        return self._writer.connect()

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @property
    def engine(self) -> Engine:
        """For migrations only."""
        return self._engine


def _prepare_file(url: URL, create: bool) -> None:
    """The SQLite file, 0600 from its first byte; its journal files inherit the mode."""
    if not url.database or url.database == ":memory:":
        raise StoreError("La base doit être un fichier. / The database must be a file.")
    path = Path(url.database)
    if create:
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise StoreUnavailable(
                f"Impossible de créer la base {path} ({error.strerror}). / Cannot create database {path}."
            ) from error
    elif not path.is_file():
        raise StoreError(f"La base {path} n'existe pas. / Database {path} does not exist.")


def _configure_sqlite(connection: Any, _record: object) -> None:
    # The driver must not open transactions by itself: `_begin_sqlite` does, and knows which kind.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (IntegrityError, ProgrammingError):
        raise
    except (DatabaseError, InterfaceError) as error:
        raise _unavailable(error) from error
    except StatementError as error:
        if isinstance(error.orig, ValueError):  # a value the tables refuse, such as a naive datetime
            raise error.orig from None
        raise
    except PoolTimeout as error:
        raise StoreUnavailable("Base trop chargée. / Database too busy.") from error


def _unavailable(error: DatabaseError | InterfaceError) -> StoreUnavailable:
    said = str(error.orig).lower()
    for sign, text in (
        ("locked", "Base verrouillée, réessayez plus tard. / Database locked, try again later."),
        ("is full", "Plus de place pour la base. / No space left for the database."),
        ("malformed", "Base endommagée. / Database damaged."),
        ("not a database", "Ce fichier n'est pas une base SQLite. / This file is not an SQLite database."),
        ("i/o error", "Erreur de disque sous la base. / Disk error under the database."),
        ("readonly", "Base en lecture seule. / Database is read-only."),
        ("unable to open", "Base impossible à ouvrir. / Cannot open the database."),
    ):
        if sign in said:
            return StoreUnavailable(text)
    return StoreUnavailable("Base indisponible. / Database unavailable.")
