"""Several deposits in the hands of one worker: leased at once, settled within a second, given back untried when time is short."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from dmp_bridge import Depositor, Outcome
from ihe.samples import synthetic_patient
from mailstore import DepositJob, DepositState, Store, StoreUnavailable
from tests.dmp_bridge.bridge import accept, message, now, open_mailstore, xml
from tests.dossier.house import make_cda

DONE = Outcome(DepositState.DEPOSITED, "Success", "déposé / deposited")


class Clock:
    """Time that an attempt makes pass."""

    def __init__(self, pace: timedelta) -> None:
        self.now = now()
        self.pace = pace

    def __call__(self) -> datetime:
        """The time."""
        return self.now


class Way:
    """An outlet that takes everything, each in the clock's pace; it notes what the rows are meanwhile."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.seen: list[list[DepositState]] = []

    def carry_out(self, job: DepositJob, at: datetime) -> Outcome:
        """A success."""
        self.seen.append([one.state for one in self.store.deposits()])
        self.clock.now += self.clock.pace
        return DONE


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A mail store with five deposits."""
    opened = open_mailstore(tmp_path)
    for number in range(5):
        accept(opened, message(xml(make_cda(synthetic_patient(number)))))
    yield opened
    opened.close()


def rows(store: Store) -> list[tuple[DepositState, int]]:
    """State and attempts of each row."""
    return [(one.state, one.attempts) for one in store.deposits()]


TRIED, LEFT = (DepositState.DEPOSITED, 1), (DepositState.READY, 0)


@pytest.mark.parametrize(("pace", "settled_when_seen"), [(0.1, [0, 0, 0, 0, 0]), (0.7, [0, 0, 2, 2, 4])])
def test_an_outcome_waits_a_second_at_most(store: Store, pace: float, settled_when_seen: list[int]) -> None:
    clock = Clock(timedelta(seconds=pace))
    way = Way(store, clock)
    outcomes = Depositor(store, way, clock=clock).run_all(store.due_deposits(clock.now, 10))
    assert list(outcomes.values()) == [DONE] * 5 and rows(store) == [TRIED] * 5
    assert [states.count(DepositState.DEPOSITED) for states in way.seen] == settled_when_seen


def test_a_row_is_given_back_untried_when_its_lease_is_half_over(store: Store) -> None:
    clock = Clock(timedelta(seconds=8))
    worker = Depositor(store, Way(store, clock), clock=clock, lease=timedelta(seconds=30))
    due = store.due_deposits(clock.now, 10)
    assert len(worker.run_all(due)) == 2
    assert rows(store) == [TRIED, TRIED, LEFT, LEFT, LEFT]
    assert store.due_deposits(clock.now, 10) == due[2:]


def test_a_worker_told_to_stop_gives_the_rest_back(store: Store) -> None:
    clock = Clock(timedelta(seconds=0.1))
    way = Way(store, clock)
    due = store.due_deposits(clock.now, 10)
    assert len(Depositor(store, way, clock=clock).run_all(due, stop=lambda: len(way.seen) == 3)) == 3
    assert rows(store) == [TRIED, TRIED, TRIED, LEFT, LEFT]
    assert store.due_deposits(clock.now, 10) == due[3:]


def test_one_that_cannot_be_told_takes_nothing_from_the_others(store: Store) -> None:
    clock = Clock(timedelta(seconds=0.1))
    due = store.due_deposits(clock.now, 10)

    def tell(job: DepositJob, outcome: Outcome, at: datetime) -> None:
        if job.deposit.id == due[1]:
            raise StoreUnavailable("away")

    worker = Depositor(store, Way(store, clock), clock=clock, tell=tell, lease=timedelta(seconds=30))
    assert set(worker.run_all(due)) == set(due) - {due[1]}
    assert rows(store) == [TRIED, (DepositState.READY, 1), TRIED, TRIED, TRIED]
    # Its lease runs out, and it is tried again.
    assert store.due_deposits(clock.now, 10) == []
    assert store.due_deposits(clock.now + timedelta(seconds=31), 10) == [due[1]]
