"""Statements run by the driver: they answer as SQLAlchemy's own runs do, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import bindparam, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from mailstore import Account, Store
from mailstore.direct import Direct, DirectAmong
from mailstore.sql import insert_missing
from mailstore.tables import attempts, discarded, threads
from tests.mailstore.helpers import NOW, make_account

_COUNT = Direct(select(func.count()).select_from(discarded))


def test_rows_written_directly_are_those_written_otherwise(store: Store) -> None:
    """Moments in any zone, octets, numbers; one row or many; with and without rows that are there already."""
    add = Direct(insert(discarded).inline(), "blob", "at")
    add_missing = Direct(lambda connection: insert_missing(connection, discarded), "blob", "at")
    shown = NOW.astimezone(timezone(timedelta(hours=5)))
    with store._db.write() as connection:
        connection.execute(insert(discarded), [{"blob": "0", "at": NOW}])
        add.run(connection, [{"blob": "1", "at": shown}])
        add.run(connection, [{"blob": "2", "at": shown}, {"blob": "3", "at": NOW}])
        add.run(connection, [])
        add_missing.run(connection, [{"blob": "3", "at": NOW}, {"blob": "4", "at": NOW}])
        assert _COUNT.first(connection, {}) == (5,)
    with store._db.read() as connection:
        assert {row.at for row in connection.execute(select(discarded))} == {NOW}


def test_values_among_many(store: Store, account: Account) -> None:
    known = DirectAmong(
        lambda sought: select(threads.c.digest, threads.c.thread_id).where(
            threads.c.account_id == bindparam("account"), threads.c.digest.in_(sought)
        ),
        most=4,
    )
    rows = [{"account_id": account.id, "digest": bytes([n] * 16), "thread_id": n} for n in range(11)]
    with store._db.write() as connection:
        connection.execute(insert(threads), rows)
        for count in (0, 1, 2, 3, 4, 5, 9, 11):
            sought = [bytes([n] * 16) for n in range(count)]
            found = known.all(connection, {"account": account.id}, [*sought, b"?" * 16])
            assert sorted(found) == [(bytes([n] * 16), n) for n in range(count)]


def test_errors_are_those_of_sqlalchemy(store: Store, account: Account) -> None:
    add = Direct(insert(discarded).inline(), "blob", "at")
    orphan = Direct(insert(attempts).inline(), "outgoing_id", "at", "number", "reply", "detail")
    with pytest.raises(IntegrityError) as caught, store._db.write() as connection:
        add.run(connection, [{"blob": "secret", "at": NOW}] * 2)
    assert "secret" not in str(caught.value.statement) + str(caught.value.params)
    with pytest.raises(IntegrityError), store._db.write() as connection:
        orphan.run(connection, [{"outgoing_id": 7, "at": NOW, "number": 1, "reply": "", "detail": ""}])
    with pytest.raises(ValueError, match="naive"), store._db.write() as connection:
        add.run(connection, [{"blob": "x", "at": datetime(2026, 1, 1)}])
    with pytest.raises(KeyError), store._db.write() as connection:
        add.run(connection, [{"blob": "x"}])
    with store._db.read() as connection:
        assert _COUNT.first(connection, {}) == (0,)


def test_constants_and_returned_rows(store: Store, place: Path) -> None:
    make_account(store, "bruno@medecin.example")
    later = datetime(2027, 1, 1, tzinfo=UTC)
    move = Direct(
        update(discarded).where(discarded.c.blob == bindparam("named")).values(at=later).returning(discarded.c.blob)
    )
    with store._db.write() as connection:
        connection.execute(insert(discarded), [{"blob": "a", "at": NOW}])
        assert move.all(connection, {"named": "a"}) == [("a",)]
        assert move.first(connection, {"named": "b"}) is None
    with store._db.read() as connection:
        assert connection.execute(select(discarded.c.at)).scalar_one() == later
