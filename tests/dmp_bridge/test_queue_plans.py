"""A queue of any length: every statement of its verbs walks an index, none sorts, none reads the table from end to end.

The times at a million rows are those of `bench/dmp_bridge.py queue`; here it is the plans, which do not depend on the machine.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from dmp_bridge import Depositor, Outcome
from ihe.samples import synthetic_patient
from mailstore.model import DepositJob, DepositState
from mailstore.store import Store
from tests.dmp_bridge.bridge import accept, message, now, open_mailstore, xml
from tests.dossier.house import make_cda


class Taken:
    """An outlet that takes everything."""

    def carry_out(self, job: DepositJob, at: object) -> Outcome:
        """Deposited."""
        return Outcome(DepositState.DEPOSITED, "Success", "déposé / deposited")


def drain(store: Store) -> None:
    """What the dispatcher and a worker do."""
    for number in store.due_deposits(now(), 64):
        Depositor(store, Taken()).run(number)


VERBS: dict[str, Callable[[Store], object]] = {
    "due": lambda store: store.due_deposits(now(), 64),
    "drain": drain,
    "page": lambda store: store.deposits(DepositState.NEEDS_ATTENTION, limit=100),
    "page of those that wait": lambda store: store.deposits(DepositState.READY, limit=100),
    "page of all": lambda store: store.deposits(None, limit=100),
    "next page": lambda store: store.deposits(DepositState.NEEDS_ATTENTION, after=store.deposit(1), limit=100),
    "next page of those that wait": lambda store: store.deposits(DepositState.READY, after=store.deposit(1), limit=100),
    "held, to be told": lambda store: store.deposits_from(0, DepositState.NEEDS_ATTENTION, 200),
    "one": lambda store: store.deposit(1),
    "retry": lambda store: store.direct_deposit(1, DepositState.READY, "", now() + timedelta(hours=1), who="x"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_each_statement_walks_an_index(tmp_path: Path, verb: str) -> None:
    store = open_mailstore(tmp_path)
    accept(store, message(xml(make_cda(synthetic_patient(1)))))
    said: list[tuple[str, Any]] = []

    def heard(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        said.append((statement, parameters))

    for engine in store._db.engines:
        event.listen(engine, "before_cursor_execute", heard)
    VERBS[verb](store)
    for engine in store._db.engines:
        event.remove(engine, "before_cursor_execute", heard)
    with sqlite3.connect(tmp_path / "mail.sqlite") as other:
        for statement, parameters in said:
            if (
                statement.lstrip().split()[0].upper() not in {"SELECT", "UPDATE", "DELETE"}
                or "deposits" not in statement
            ):
                continue
            plan = [str(row[3]) for row in other.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
            # By its primary key, the table itself is in the order of a page of everything.
            walked = verb == "page of all" and plan == ["SCAN deposits"]
            assert walked or not any("SCAN" in line or "TEMP B-TREE" in line for line in plan), (statement, plan)
    other.close()
    assert any("deposits" in statement for statement, _ in said)
    store.close()
