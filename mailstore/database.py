"""Connections, transactions and errors of the store's database.

Invariants:
* a write is all or nothing, and durable when the block that made it ends (see `mailstore.groups` for SQLite); a read
  sees one snapshot (REPEATABLE READ on PostgreSQL);
* on SQLite: WAL, synchronous=FULL (a committed transaction survives a power cut), foreign keys on;
* whatever the driver says of a locked, full, damaged or unreachable database becomes StoreUnavailable; texts never carry
  the parameters of a statement.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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

from mailstore.direct import as_sqlalchemy
from mailstore.groups import CommitUncertain, Groups, ProcessTurn
from mailstore.model import StoreError, StoreUnavailable

__all__ = ["BUSY_TIMEOUT_MS", "CommitUncertain", "Database"]

BUSY_TIMEOUT_MS = 10_000
_WRITE = "mailstore_write"
_WRITER_CACHE_KIB = 16 * 1024
"""Pages of indexes, which new rows touch at random, kept by the connection that writes."""
_NO_TABLE = "42P01"  # PostgreSQL; SQLite calls it an operational error
_SNAPSHOT = "REPEATABLE READ"
_PRAGMAS = (
    f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}",
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA temp_store=MEMORY",
    "PRAGMA wal_autocheckpoint=4000",  # 16 MiB: a page that many commits change is copied to the database once
)


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
        self._engine = _engine(parsed, pool_size=8, max_overflow=32)
        self._groups: Groups | None = None
        self._writer: Engine = self._engine
        self._reader: Engine = self._engine
        if self.is_sqlite:
            # One writer at a time, always the same connection: another one's commit would make it forget its pages.
            writer = _engine(parsed, pool_size=1, max_overflow=1, cache_kib=_WRITER_CACHE_KIB)
            self._writer = writer.execution_options(**{_WRITE: True})
            turn = ProcessTurn(Path(str(parsed.database)), BUSY_TIMEOUT_MS / 1000)
            self._groups = Groups(self._writer.connect, explained, turn)
        else:
            self._reader = self._engine.execution_options(isolation_level=_SNAPSHOT)
        self.guard: Callable[[Connection], None] | None = None
        """Asked at the beginning of each write; what it raises keeps the write from happening."""

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection in a read transaction, rolled back at the end. Raises StoreUnavailable."""
        with _translated(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A connection in a write transaction, committed when the block ends well.

        Raises StoreUnavailable; its subclass CommitUncertain when it was the commit that failed. IntegrityError goes
        through to the verb, which knows what it means.
        """
        if self._groups is not None:
            with _translated(), self._groups.write() as connection:
                self._ask_guard(connection)
                yield connection
            return
        with _translated(), self._writer.connect() as connection:
            transaction = connection.begin()
            try:
                self._ask_guard(connection)
                yield connection
            except BaseException:
                # The connection may be broken already: the first error is the one to tell.
                with suppress(DatabaseError):
                    transaction.rollback()
                raise
            try:
                transaction.commit()
            except DatabaseError as error:
                raise CommitUncertain(str(explained(error))) from error

    def _ask_guard(self, connection: Connection) -> None:
        if self.guard is not None:
            self.guard(connection)

    @contextmanager
    def raw(self) -> Iterator[Any]:
        """The driver's own connection, outside every transaction, closed at the end. For the change feed."""
        with _translated():
            pooled = self._engine.raw_connection()
        driver: Any = pooled.driver_connection
        pooled.detach()
        try:
            yield driver
        finally:
            driver.close()

    def close(self) -> None:
        """Close every connection."""
        if self._groups is not None:
            self._groups.close()
        self._engine.dispose()
        self._writer.dispose()

    @property
    def engines(self) -> tuple[Engine, Engine]:
        """What reads and what writes: for tests."""
        return self._reader, self._writer


def _engine(url: URL, *, pool_size: int, max_overflow: int, cache_kib: int = 2000) -> Engine:
    """Connections used last are used first: what they keep in memory is the freshest. `cache_kib`: at most so much, SQLite."""
    engine = create_engine(
        url, hide_parameters=True, pool_size=pool_size, max_overflow=max_overflow, pool_timeout=30, pool_use_lifo=True
    )
    if url.get_backend_name() == "sqlite":
        event.listen(engine, "connect", lambda connection, _record: _configure_sqlite(connection, cache_kib))
        event.listen(engine, "begin", _begin_sqlite)
    return engine


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


def _configure_sqlite(connection: Any, cache_kib: int) -> None:
    # The driver must not open transactions by itself: `_begin_sqlite` does, and knows which kind.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (*_PRAGMAS, f"PRAGMA cache_size=-{cache_kib}"):
        cursor.execute(pragma)
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    text = "BEGIN IMMEDIATE" if connection.get_execution_options().get(_WRITE, False) else "BEGIN"
    try:
        connection.connection.cursor().execute(text)
    except connection.dialect.loaded_dbapi.Error as error:
        raise as_sqlalchemy(connection, text, error) from error


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (IntegrityError, ProgrammingError) as error:
        if getattr(error.orig, "sqlstate", "") == _NO_TABLE:
            raise explained(error) from error
        raise
    except (DatabaseError, InterfaceError) as error:
        raise explained(error) from error
    except StatementError as error:
        if isinstance(error.orig, ValueError):  # a value the tables refuse, such as a naive datetime
            raise error.orig from None
        raise
    except PoolTimeout as error:
        raise StoreUnavailable("Base trop chargée. / Database too busy.") from error


def explained(error: DatabaseError | InterfaceError) -> StoreUnavailable:
    """What a driver's error means to people."""
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
