"""Deposits: leases, the submission set id that stays, and what is kept how long."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from mailstore import Account, ChangeKind, DepositState, Store, StoreChange, StoreError
from tests.mailstore.helpers import MINUTE, NOW, acceptance, blob_files, document


@pytest.fixture
def deposit(store: Store, account: Account) -> int:
    """A deposit that is ready."""
    store.accept(acceptance(account, 1, local=False, deposits=(document(),)), NOW)
    return store.deposits()[0].id


def test_a_lease_gives_the_document_and_its_context(store: Store, deposit: int) -> None:
    assert store.due_deposits(NOW, 10) == [deposit]
    job = store.lease_deposit(deposit, "w1", NOW, MINUTE, submission_set_id="1.1")
    assert job is not None
    assert (job.content, job.context) == (b"<ClinicalDocument/>", b'{"sender": "alice"}')
    assert (job.deposit.submission_set_id, job.deposit.attempts, job.lease_until) == ("1.1", 0, NOW + MINUTE)
    assert store.due_deposits(NOW, 10) == []
    assert store.lease_deposit(deposit, "w2", NOW, MINUTE, submission_set_id="1.2") is None
    assert store.lease_deposit(999, "w2", NOW, MINUTE, submission_set_id="1.2") is None


def test_a_retry_keeps_the_first_submission_set(store: Store, deposit: int) -> None:
    store.lease_deposit(deposit, "w1", NOW, MINUTE, submission_set_id="1.1")
    again = store.lease_deposit(deposit, "w2", NOW + MINUTE, MINUTE, submission_set_id="1.2")
    assert again is not None
    assert (again.deposit.submission_set_id, again.deposit.attempts) == ("1.1", 1)


def test_settlements(store: Store, deposit: int, tmp_path: Path) -> None:
    told: list[StoreChange] = []
    store.subscribe_changes(told.append)
    store.lease_deposit(deposit, "w1", NOW, MINUTE, submission_set_id="1.1")
    with pytest.raises(StoreError, match="time"):
        store.settle_deposit(deposit, "w1", DepositState.RETRY, "503", NOW)
    due = NOW + 10 * MINUTE
    store.settle_deposit(deposit, "w1", DepositState.RETRY, "503", NOW, due)
    assert store.due_deposits(due - MINUTE, 10) == []
    assert store.deposits(DepositState.RETRY)[0].next_attempt_at == due
    assert store.lease_deposit(deposit, "w2", due, MINUTE, submission_set_id="x") is not None
    for owner in ("w1", ""):
        with pytest.raises(StoreError, match="lost"):
            store.settle_deposit(deposit, owner, DepositState.DEPOSITED, "", due)
    store.settle_deposit(deposit, "w2", DepositState.DEPOSITED, "", due)
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
    store.lease_deposit(deposit, "w1", NOW, MINUTE, submission_set_id="1.1")
    store.settle_deposit(deposit, "w1", DepositState.NEEDS_ATTENTION, "INS inconnu", NOW)
    assert store.due_deposits(NOW + timedelta(days=1), 10) == []
    store.sweep(NOW + timedelta(days=36500))
    assert len(blob_files(tmp_path)) == 1
