"""Group commit on SQLite: writers that wait for one another share one transaction, hence one fsync.

SQLite has one writer at a time. A writer whose block has ended, and who sees others waiting, leaves the transaction open
to the next one instead of committing; the last of the group commits for all. Each block after the first runs under a
savepoint of its own.

Invariants:
* a block that fails undoes itself only; no writer returns before the commit that holds its block is durable;
* when the transaction is lost (disk full, commit refused), every writer of the group is told;
* a group has at most MEMBERS writers, so that the first never waits for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError

from mailstore.model import StoreUnavailable

MEMBERS = 64
RESCUE_SECONDS = 1.0


class CommitUncertain(StoreUnavailable):
    """The commit itself failed: the transaction may or may not hold, so nothing it refers to may be removed."""


@dataclass(slots=True)
class _Group:
    """One transaction and who waits for its commit."""

    connection: Connection
    members: int = 0
    error: StoreUnavailable | None = None
    done: threading.Event = field(default_factory=threading.Event)

    def end(self, error: StoreUnavailable | None) -> None:
        self.error = error
        with suppress(DatabaseError):
            self.connection.close()
        self.done.set()


class Groups:
    """The one writer's place of a database. `connect` gives a connection whose transactions begin as writes; `explain`
    words a driver's error."""

    def __init__(self, connect: Callable[[], Connection], explain: Callable[[DatabaseError], StoreUnavailable]) -> None:
        self._connect = connect
        self._explain = explain
        self._turn = threading.Lock()
        self._counting = threading.Lock()
        self._waiting = 0
        self._open: _Group | None = None

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A connection to write with; what was written is durable when this ends. Raises CommitUncertain,
        StoreUnavailable (the group was lost: nothing written), and what the block or the driver raises."""
        with self._my_turn():
            group, joined = self._enter()
            try:
                if joined:
                    group.connection.exec_driver_sql("SAVEPOINT member")
                yield group.connection
                if joined:
                    group.connection.exec_driver_sql("RELEASE member")
            except BaseException:
                self._undo(group, joined)
                raise
            group.members += 1
            self._leave(group)
        while not group.done.wait(RESCUE_SECONDS):
            self._rescue(group)
        if group.error is not None:
            raise group.error

    @contextmanager
    def _my_turn(self) -> Iterator[None]:
        with self._counting:
            self._waiting += 1
        try:
            self._turn.acquire()
        finally:
            with self._counting:
                self._waiting -= 1
        try:
            yield
        finally:
            self._turn.release()

    def _rescue(self, group: _Group) -> None:
        """Commit a group left to a writer that was interrupted while it waited for its turn."""
        if self._turn.acquire(blocking=False):
            try:
                if self._open is group:
                    self._open = None
                    self._commit(group)
            finally:
                self._turn.release()

    def _enter(self) -> tuple[_Group, bool]:
        group, self._open = self._open, None
        if group is not None:
            return group, True
        connection = self._connect()
        try:
            connection.begin()
        except BaseException:
            connection.close()
            raise
        return _Group(connection), False

    def _undo(self, group: _Group, joined: bool) -> None:
        if joined and _alive(group.connection):
            try:
                group.connection.exec_driver_sql("ROLLBACK TO member")
                group.connection.exec_driver_sql("RELEASE member")
            except DatabaseError:
                group.end(_lost())
            else:
                self._leave(group)
            return
        with suppress(DatabaseError):
            group.connection.rollback()
        group.end(_lost())

    def _leave(self, group: _Group) -> None:
        """Hand the transaction to a waiting writer, or commit it."""
        if self._waiting and group.members < MEMBERS:
            self._open = group
        else:
            self._commit(group)

    def _commit(self, group: _Group) -> None:
        try:
            group.connection.commit()
        except DatabaseError as error:
            group.end(CommitUncertain(str(self._explain(error))))
        except BaseException:
            group.end(CommitUncertain("Validation interrompue. / Commit interrupted."))
            raise
        else:
            group.end(None)


def _alive(connection: Connection) -> bool:
    """Whether SQLite still holds the transaction: some errors (disk full, I/O) end it."""
    driver = connection.connection.driver_connection
    return bool(driver is not None and driver.in_transaction)


def _lost() -> StoreUnavailable:
    return StoreUnavailable("Écriture groupée perdue, réessayez. / Grouped write lost, try again.")
