"""Deposits: leases, the submission set id that stays, and what is kept how long."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from mailstore import Account, ChangeKind, DepositEnd, DepositJob, DepositState, Store, StoreChange, StoreError
from tests.mailstore.helpers import MINUTE, NOW, acceptance, blob_files, document


@pytest.fixture
def deposit(store: Store, account: Account) -> int:
    """A deposit that is ready."""
    store.accept(acceptance(account, 1, local=False, deposits=(document(),)), NOW)
    return store.deposits()[0].id


def lease(store: Store, number: int, owner: str, at: datetime, set_id: str) -> DepositJob | None:
    """A deposit taken for a minute and opened; None when it cannot be taken."""
    taken = store.lease_deposits({number: set_id}, owner, at, MINUTE)
    return store.open_deposit(taken[0]) if taken else None


def settle(
    store: Store, number: int, owner: str, state: DepositState, reason: str, at: datetime, due: datetime | None = None
) -> bool:
    """Whether the end of an attempt was recorded."""
    return not store.settle_deposits(owner, [DepositEnd(number, state, reason, due)], at)


def test_a_lease_gives_the_document_and_its_context(store: Store, deposit: int) -> None:
    assert store.due_deposits(NOW, 10) == [deposit]
    job = lease(store, deposit, "w1", NOW, "1.1")
    assert job is not None
    assert (job.content, job.context) == (b"<ClinicalDocument/>", b'{"sender": "alice"}')
    assert (job.deposit.submission_set_id, job.deposit.attempts, job.lease_until) == ("1.1", 0, NOW + MINUTE)
    assert store.due_deposits(NOW, 10) == []
    assert lease(store, deposit, "w2", NOW, "1.2") is None
    assert lease(store, 999, "w2", NOW, "1.2") is None


def test_a_retry_keeps_the_first_submission_set(store: Store, deposit: int) -> None:
    lease(store, deposit, "w1", NOW, "1.1")
    again = lease(store, deposit, "w2", NOW + MINUTE, "1.2")
    assert again is not None
    assert (again.deposit.submission_set_id, again.deposit.attempts) == ("1.1", 1)


def test_settlements(store: Store, deposit: int, tmp_path: Path) -> None:
    told: list[StoreChange] = []
    store.subscribe_changes(told.append)
    lease(store, deposit, "w1", NOW, "1.1")
    with pytest.raises(StoreError, match="time"):
        settle(store, deposit, "w1", DepositState.RETRY, "503", NOW)
    due = NOW + 10 * MINUTE
    settle(store, deposit, "w1", DepositState.RETRY, "503", NOW, due)
    assert store.due_deposits(due - MINUTE, 10) == []
    assert store.deposits(DepositState.RETRY)[0].next_attempt_at == due
    assert lease(store, deposit, "w2", due, "x") is not None
    for owner in ("w1", ""):
        assert not settle(store, deposit, owner, DepositState.DEPOSITED, "", due)
    assert settle(store, deposit, "w2", DepositState.DEPOSITED, "", due)
    assert store.deposits(DepositState.DEPOSITED)[0].attempts == 2
    assert [one.event.name for one in store.trace("1@medecin.example")] == [
        "accepted",
        "deposit.retry",
        "deposit.deposited",
    ]
    assert told == [StoreChange(ChangeKind.DEPOSIT, deposit)] * 2
    store.sweep(NOW + timedelta(days=36500))
    assert blob_files(tmp_path) == []


def test_a_document_that_needs_attention_is_kept(store: Store, deposit: int, tmp_path: Path) -> None:
    lease(store, deposit, "w1", NOW, "1.1")
    settle(store, deposit, "w1", DepositState.NEEDS_ATTENTION, "INS inconnu", NOW)
    assert store.due_deposits(NOW + timedelta(days=1), 10) == []
    store.sweep(NOW + timedelta(days=36500))
    assert len(blob_files(tmp_path)) == 1


def test_several_are_leased_and_settled_at_once(store: Store, account: Account, tmp_path: Path) -> None:
    documents = [
        dataclasses.replace(document(), unique_id=f"1.2.{number}", sha1=f"{number:040}", content=b"<x>%d</x>" % number)
        for number in range(4)
    ]
    store.accept(acceptance(account, 1, local=False, deposits=tuple(documents)), NOW)
    first, second, third, fourth = store.due_deposits(NOW, 10)
    assert lease(store, fourth, "other", NOW, "9") is not None
    taken = store.lease_deposits(
        {number: f"1.{number}" for number in (first, second, third, fourth, 99)}, "w", NOW, MINUTE
    )
    assert [one.deposit.id for one in taken] == [first, second, third]
    assert [one.deposit.submission_set_id for one in taken] == [f"1.{one.deposit.id}" for one in taken]
    ends = [
        DepositEnd(first, DepositState.DEPOSITED, "ok"),
        DepositEnd(second, DepositState.RETRY, "503", NOW + MINUTE),
        DepositEnd(fourth, DepositState.DEPOSITED, "not mine"),
    ]
    assert store.settle_deposits("w", ends, NOW) == [fourth]
    store.give_back_deposits("w", [third, fourth])
    found = {one.id: (one.state, one.attempts) for one in store.deposits()}
    assert found == {
        first: (DepositState.DEPOSITED, 1),
        second: (DepositState.RETRY, 1),
        third: (DepositState.READY, 0),
        fourth: (DepositState.READY, 1),
    }
    assert store.due_deposits(NOW, 10) == [third]
    assert store.deposit_content(first) == b"" and store.deposit_content(second) == b"<x>1</x>"
    store.sweep(NOW + timedelta(days=36500))
    assert len(blob_files(tmp_path)) == 3
