"""Telling what changed, in this process and in the others.

Invariants:
* a change is published inside its transaction and told after its commit, never before;
* a process hears its own changes at once and once; those of others within POLL_SECONDS (SQLite) or as fast as NOTIFY
  carries them (PostgreSQL). Whatever may have been missed is made up for by RESYNC;
* the listening thread exists only while somebody subscribes.

On SQLite, `PRAGMA data_version` costs microseconds and moves only when another connection has committed; the rows of
`feed` then say what. On PostgreSQL the payload of NOTIFY says it, delivered at commit; no row is written.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import structlog
from sqlalchemy import Connection, delete, func, insert, select, text

from mailstore.database import Database
from mailstore.direct import Direct
from mailstore.model import ChangeKind, StoreChange
from mailstore.tables import feed

POLL_SECONDS = 0.25
RETRY_SECONDS = 1.0
KEPT = 10_000  # rows of the feed; a listener further behind is told to look at everything
CHANNEL = "caducee_changes"
_log = structlog.get_logger(__name__)
_PUBLISH = Direct(insert(feed).returning(feed.c.id), "kind", "target", "origin")
_NOTIFY = Direct(text("SELECT pg_notify(:channel, :payload)"))
Callback = Callable[[StoreChange], None]


class Feed:
    """The subscribers of one process and its listening thread."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._origin = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._subscribers: list[Callback] = []
        self._stop: threading.Event | None = None
        self._thread: threading.Thread | None = None

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """See `Core.subscribe_changes`. When this returns, the listening thread misses nothing committed later."""
        with self._lock:
            self._subscribers.append(callback)
            ready = self._start() if self._thread is None else None
        if ready is not None:
            ready.wait(timeout=10)

        def unsubscribe() -> None:
            with self._lock:
                with suppress(ValueError):
                    self._subscribers.remove(callback)
                idle = not self._subscribers
            if idle:
                self.close()

        return unsubscribe

    def publish(self, connection: Connection, changes: Iterable[StoreChange]) -> None:
        """Write the changes where other processes look, in the transaction that makes them."""
        rows = [{"kind": one.kind.value, "target": one.id, "origin": self._origin} for one in changes]
        if not rows:
            return
        if not self._db.is_sqlite:
            payloads = [
                {"channel": CHANNEL, "payload": f"{self._origin} {row['kind']} {row['target']}"} for row in rows
            ]
            _NOTIFY.run(connection, payloads)
            return
        last = max(row[0] for one in rows for row in _PUBLISH.all(connection, one))
        if last % 1000 < len(rows):
            connection.execute(delete(feed).where(feed.c.id < last - KEPT))

    def tell(self, changes: Iterable[StoreChange]) -> None:
        """Call the subscribers of this process."""
        with self._lock:
            subscribers = tuple(self._subscribers)
        for change in changes:
            for callback in subscribers:
                try:
                    callback(change)
                except Exception as error:
                    _log.error("change subscriber failed", state=change.kind.value, error=type(error).__name__)

    def close(self) -> None:
        """End the listening thread."""
        with self._lock:
            stop, thread = self._stop, self._thread
            self._stop = self._thread = None
        if stop is not None and thread is not None:
            stop.set()
            if thread is not threading.current_thread():
                thread.join(timeout=5)

    def _start(self) -> threading.Event:
        ready, self._stop = threading.Event(), threading.Event()
        listen = self._poll if self._db.is_sqlite else self._listen
        self._thread = threading.Thread(
            target=self._keep_on, args=(listen, self._stop, ready), name="mailstore-feed", daemon=True
        )
        self._thread.start()
        return ready

    def _keep_on(
        self, listen: Callable[[threading.Event, threading.Event], None], stop: threading.Event, ready: threading.Event
    ) -> None:
        """Listen until stopped, beginning again after each interruption."""
        while not stop.is_set():
            try:
                listen(stop, ready)
            except Exception as error:
                _log.warning("change feed interrupted", error=type(error).__name__)
                stop.wait(RETRY_SECONDS)
        ready.set()

    def _say_ready(self, ready: threading.Event) -> None:
        """From now on nothing is missed; after an interruption, something may have been before."""
        again = ready.is_set()
        ready.set()
        if again:
            self.tell([StoreChange(ChangeKind.RESYNC, 0)])

    def _poll(self, stop: threading.Event, ready: threading.Event) -> None:
        """SQLite. The connection stays out of transactions, or `data_version` would not move."""
        with self._db.raw() as driver:
            version = _data_version(driver)
            last = self._last_row()
            self._say_ready(ready)
            while not stop.wait(POLL_SECONDS):
                if (now := _data_version(driver)) != version:
                    version, last = now, self._read_rows(last)

    def _last_row(self) -> int:
        with self._db.read() as connection:
            return connection.execute(select(func.max(feed.c.id))).scalar() or 0

    def _read_rows(self, last: int) -> int:
        with self._db.read() as connection:
            first = connection.execute(select(func.min(feed.c.id))).scalar() or 0
            rows = connection.execute(select(feed).where(feed.c.id > last).order_by(feed.c.id)).all()
        if first > last + 1:
            self.tell([StoreChange(ChangeKind.RESYNC, 0)])
        others = (StoreChange(ChangeKind(row.kind), row.target) for row in rows if row.origin != self._origin)
        self.tell(dict.fromkeys(others))
        return rows[-1].id if rows else last

    def _listen(self, stop: threading.Event, ready: threading.Event) -> None:
        """PostgreSQL: a connection of its own that does nothing but LISTEN."""
        with self._db.raw() as driver:
            driver.autocommit = True
            driver.execute(f"LISTEN {CHANNEL}")
            self._say_ready(ready)
            while not stop.is_set():
                for notice in driver.notifies(timeout=POLL_SECONDS):
                    origin, kind, target = notice.payload.split(" ")
                    if origin != self._origin:
                        self.tell([StoreChange(ChangeKind(kind), int(target))])
                    if stop.is_set():
                        break


def _data_version(driver: Any) -> int:
    version: int = driver.execute("PRAGMA data_version").fetchone()[0]
    return version
