"""Group commit on SQLite: writers that wait for one another share one transaction, hence one fsync.

SQLite has one writer at a time. A writer whose block has ended, and who sees others waiting, leaves the transaction open
to the next one instead of committing; the last of the group commits for all. Each block after the first runs under a
savepoint of its own.

Invariants:
* a block that fails undoes itself only; no writer returns before the commit that holds its block is durable;
* when the transaction is lost (disk full, commit refused), every writer of the group is told;
* a group has at most MEMBERS writers, so that the first never waits for ever;
* the connection is one and the same as long as nothing fails: fetching it from a pool costs as much as three statements;
* processes take turns by a lock on a file, which the kernel releases when one dies: SQLite's own waiting sleeps longer and
  longer, up to a tenth of a second, and whoever has just written goes first again.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError

from mailstore.model import StoreUnavailable

MEMBERS = 64
RESCUE_SECONDS = 1.0
_SHORTEST_LOOK = 0.0001
_LONGEST_LOOK = 0.0005
"""Seconds between two looks at the other processes' lock: a thirty-second part of what was waited already. Nothing is written
between the end of one transaction and the look that sees it; a long one is not looked at without end."""


class CommitUncertain(StoreUnavailable):
    """The commit itself failed: the transaction may or may not hold, so nothing it refers to may be removed."""


@dataclass(slots=True)
class _Group:
    """One transaction and who waits for its commit."""

    connection: Connection
    members: int = 0
    ended: bool = False
    error: StoreUnavailable | None = None
    done: threading.Event | None = None  # made when a second writer joins: most are alone

    def end(self, error: StoreUnavailable | None) -> None:
        self.error = error
        self.ended = True
        if self.done is not None:
            self.done.set()


class ProcessTurn:
    """The one writer's place among the processes that have a database open. Used by one thread at a time."""

    def __init__(self, database: Path, patience: float) -> None:
        """The lock is on a file beside `database`, made by the first writer; `patience` in seconds."""
        self._database = database
        self._patience = patience
        self._handle = -1

    def take(self) -> None:
        """Wait for the place. Raises StoreUnavailable after `patience`, or when there can be no such file."""
        if self._handle < 0:
            self._open()
        began = time.monotonic()
        while True:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                waited = time.monotonic() - began
                if waited > self._patience:
                    text = "Base verrouillée, réessayez plus tard. / Database locked, try again later."
                    raise StoreUnavailable(text) from None
                time.sleep(min(_LONGEST_LOOK, max(_SHORTEST_LOOK, waited / 32)))

    def give(self) -> None:
        """Leave the place to the next."""
        if self._handle >= 0:
            fcntl.flock(self._handle, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _open(self) -> None:
        path = Path(f"{self._database}-turn")
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if os.geteuid() == 0:  # as SQLite does for its own: a command of root's must not shut the service out
                owner = self._database.stat()
                os.fchown(self._handle, owner.st_uid, owner.st_gid)
        except OSError as error:
            raise StoreUnavailable(f"Impossible d'ouvrir {path} ({error.strerror}). / Cannot open {path}.") from error


class Groups:
    """The one writer's place of a database. `connect` gives a connection whose transactions begin as writes; `explain`
    words a driver's error; `among` is the place among processes."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        explain: Callable[[DatabaseError], StoreUnavailable],
        among: ProcessTurn,
    ) -> None:
        self._connect = connect
        self._among = among
        self._explain = explain
        self._turn = threading.Lock()
        self._counting = threading.Lock()
        self._waiting = 0
        self._open: _Group | None = None
        self._kept: Connection | None = None

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
        while not group.ended and group.done is not None and not group.done.wait(RESCUE_SECONDS):
            self._rescue(group)
        if group.error is not None:
            raise group.error

    def close(self) -> None:
        """Nobody writes any more."""
        with self._turn:
            self._drop()
        self._among.close()

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
        self._among.take()
        try:
            if self._kept is None:
                self._kept = self._connect()
            self._kept.begin()
        except BaseException:
            self._drop()
            self._among.give()
            raise
        return _Group(self._kept), False

    def _drop(self) -> None:
        """Close the connection: after a failure nobody knows its state."""
        if self._kept is not None:
            with suppress(DatabaseError):
                self._kept.close()
            self._kept = None

    def _undo(self, group: _Group, joined: bool) -> None:
        if joined and _alive(group.connection):
            try:
                group.connection.exec_driver_sql("ROLLBACK TO member")
                group.connection.exec_driver_sql("RELEASE member")
            except DatabaseError:
                self._end(group, _lost())
            else:
                self._leave(group)
            return
        whole = False
        with suppress(DatabaseError):
            group.connection.rollback()
            whole = True
        self._end(group, _lost(), keep=whole)

    def _leave(self, group: _Group) -> None:
        """Hand the transaction to a waiting writer, or commit it."""
        if self._waiting and group.members < MEMBERS:
            group.done = group.done or threading.Event()
            self._open = group
        else:
            self._commit(group)

    def _commit(self, group: _Group) -> None:
        try:
            group.connection.commit()
        except DatabaseError as error:
            self._end(group, CommitUncertain(str(self._explain(error))))
        except BaseException:
            self._end(group, CommitUncertain("Validation interrompue. / Commit interrupted."))
            raise
        else:
            self._end(group, None, keep=True)

    def _end(self, group: _Group, error: StoreUnavailable | None, *, keep: bool = False) -> None:
        """The transaction is over: another process may write, and the members are told."""
        try:
            if not keep:
                self._drop()
            group.end(error)
        finally:
            self._among.give()


def _alive(connection: Connection) -> bool:
    """Whether SQLite still holds the transaction: some errors (disk full, I/O) end it."""
    driver = connection.connection.driver_connection
    return bool(driver is not None and driver.in_transaction)


def _lost() -> StoreUnavailable:
    return StoreUnavailable("Écriture groupée perdue, réessayez. / Grouped write lost, try again.")
