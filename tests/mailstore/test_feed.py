"""Changes are heard in every process, within a second."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mailstore import Account, ChangeKind, FlagOperation, Store, StoreChange, StoreUnavailable
from mailstore.database import Database
from tests.mailstore.helpers import NOW, acceptance, message, open_store, url


def test_another_process_is_heard_within_a_second(store: Store, account: Account, place: Path) -> None:
    """Two stores on one database are two processes to each other: they share nothing but the database."""
    told: queue.Queue[StoreChange] = queue.Queue()
    own: queue.Queue[StoreChange] = queue.Queue()
    folder = store.folder(account.id, "INBOX").id
    other = open_store(place)
    end, end_own = store.subscribe_changes(told.put), other.subscribe_changes(own.put)
    for change in (
        lambda: other.append(account.id, "INBOX", message(1), (), NOW, NOW),
        lambda: other.store_flags(folder, [1], FlagOperation.ADD, ["\\Seen"]),
        lambda: other.expunge(folder, [1]),
    ):
        began = time.monotonic()
        change()
        assert told.get(timeout=5) == StoreChange(ChangeKind.FOLDER, folder)
        assert time.monotonic() - began < 1.0
        assert own.get(timeout=5) == StoreChange(ChangeKind.FOLDER, folder)
    other.accept(acceptance(account, 5, local=False, copies=("b@x.fr",)), NOW)
    assert told.get(timeout=5).kind is ChangeKind.QUEUE
    assert own.get(timeout=5).kind is ChangeKind.QUEUE
    store.append(account.id, "INBOX", message(2), (), NOW, NOW)
    assert told.get(timeout=5) == own.get(timeout=5)
    time.sleep(0.6)
    assert told.empty() and own.empty(), "one's own changes are told once"
    end()
    end_own()
    other.append(account.id, "INBOX", message(3), (), NOW, NOW)
    other.close()
    assert told.empty()


def test_an_interrupted_feed_says_so(store: Store, account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was changed while nobody listened is made up for: RESYNC, once the feed listens again."""
    monkeypatch.setattr("mailstore.feed.RETRY_SECONDS", 0.01)
    told: queue.Queue[StoreChange] = queue.Queue()
    original, broken = Database.raw, threading.Event()

    @contextmanager
    def raw(self: Database) -> Iterator[Any]:
        with original(self) as driver:
            yield _Breaking(driver, broken)

    monkeypatch.setattr(Database, "raw", raw)
    end = store.subscribe_changes(told.put)
    broken.set()
    assert told.get(timeout=5) == StoreChange(ChangeKind.RESYNC, 0)
    end()


class _Breaking:
    """A driver's connection that fails once, as soon as `broken` is set."""

    def __init__(self, driver: Any, broken: threading.Event) -> None:
        self._driver = driver
        self._broken = broken

    def __getattr__(self, name: str) -> Any:
        if self._broken.is_set() and name in ("execute", "notifies"):
            self._broken.clear()
            raise StoreUnavailable("away")
        return getattr(self._driver, name)


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_writers_that_wait_share_a_commit(store: Store, account: Account, place: Path) -> None:
    """And one that fails among them undoes itself only."""
    commits: list[int] = []
    database = Database(url(place))
    from sqlalchemy import event

    event.listen(database.engines[1], "commit", lambda connection: commits.append(1))
    begun, go = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def write(number: int, *, fail: bool = False, first: bool = False) -> None:
        try:
            with database.write() as connection:
                if first:
                    begun.set()
                    go.wait(10)
                connection.exec_driver_sql(f"INSERT INTO feed (kind, target, origin) VALUES ('t', {number}, '')")  # noqa: S608
                if fail:
                    raise ZeroDivisionError
        except ZeroDivisionError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(0,), kwargs={"first": True})]
    threads[0].start()
    begun.wait(10)
    threads += [threading.Thread(target=write, args=(n,), kwargs={"fail": n == 3}) for n in range(1, 7)]
    for thread in threads[1:]:
        thread.start()
    while database._groups is not None and database._groups._waiting < 6:
        time.sleep(0.01)
    go.set()
    for thread in threads:
        thread.join(10)
    with database.read() as connection:
        kept = connection.exec_driver_sql("SELECT target FROM feed WHERE kind = 't'").scalars().all()
    database.close()
    assert sorted(kept) == [0, 1, 2, 4, 5, 6]
    assert len(errors) == 1
    assert len(commits) == 1
