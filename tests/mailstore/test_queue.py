"""The outgoing queue: leases and settlements."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from mailstore import Account, ChangeKind, DeliveryState, Settlement, Store, StoreChange, StoreError
from tests.mailstore.helpers import MINUTE, NOW, acceptance, kept_blobs, message


def enqueue(store: Store, account: Account, count: int) -> None:
    for number in range(count):
        store.accept(acceptance(account, number, copies=(f"r{number}@hopital.example",), local=False), NOW)


def test_a_lease_gives_all_a_sender_needs(store: Store, account: Account) -> None:
    enqueue(store, account, 1)
    (leased,) = store.lease_outgoing("w1", NOW, MINUTE, 10)
    assert (leased.recipient, leased.domain) == ("r0@hopital.example", "hopital.example")
    assert (leased.mail_from, leased.message_id) == (account.address, "0@medecin.example")
    assert (leased.attempts, leased.accepted_at, leased.lease_until) == (0, NOW, NOW + MINUTE)
    assert store.read_blob(leased.blob) == b"Received: here\r\n" + message(0)


def test_a_leased_row_is_nobody_elses_until_it_runs_out(store: Store, account: Account) -> None:
    enqueue(store, account, 3)
    assert len(store.lease_outgoing("w1", NOW, MINUTE, 2)) == 2
    assert len(store.lease_outgoing("w2", NOW, MINUTE, 10)) == 1
    assert store.lease_outgoing("w3", NOW + MINUTE / 2, MINUTE, 10) == []
    again = store.lease_outgoing("w3", NOW + MINUTE, MINUTE, 10)
    assert [leased.attempts for leased in again] == [1, 1, 1]


def test_senders_in_parallel_share_the_rows(store: Store, account: Account) -> None:
    enqueue(store, account, 30)
    with ThreadPoolExecutor(6) as pool:
        parts = list(pool.map(lambda n: store.lease_outgoing(f"w{n}", NOW, MINUTE, 7), range(6)))
    rows = [leased.row_id for part in parts for leased in part]
    assert len(rows) == len(set(rows)) == 30


def test_delivered(store: Store, account: Account, tmp_path: Path) -> None:
    enqueue(store, account, 1)
    told: list[StoreChange] = []
    store.subscribe_changes(told.append)
    (leased,) = store.lease_outgoing("w1", NOW, MINUTE, 1)
    store.settle_outgoing(
        leased.row_id, "w1", Settlement(DeliveryState.DELIVERED, "250 2.0.0 ok", detail={"peer": "mx"}), NOW
    )
    assert store.queue() == []
    assert [row.reply for row in store.queue(DeliveryState.DELIVERED)] == ["250 2.0.0 ok"]
    assert store.next_due(NOW) is None
    event = store.trace("0@medecin.example")[-1].event
    assert event.name == "outgoing.delivered"
    assert event.detail == {
        "peer": "mx",
        "recipient": "r0@hopital.example",
        "attempt": "1",
        "reply": "250 2.0.0 ok",
    }
    assert told == [StoreChange(ChangeKind.QUEUE, leased.row_id)]
    assert len(kept_blobs(tmp_path)) == 1, "a reader may still be at it"
    assert store.sweep(NOW) == 0
    assert store.sweep(NOW + MINUTE) == 1
    assert kept_blobs(tmp_path) == set()


def test_a_content_stays_while_one_recipient_waits(store: Store, account: Account) -> None:
    store.accept(acceptance(account, 1, copies=("a@x.fr", "b@y.fr"), local=False), NOW)
    first, second = store.lease_outgoing("w1", NOW, MINUTE, 2)
    store.settle_outgoing(first.row_id, "w1", Settlement(DeliveryState.FAILED, "550 no"), NOW)
    store.sweep(NOW + timedelta(days=36500))
    assert store.read_blob(second.blob)


def test_deferred_until_its_time(store: Store, account: Account) -> None:
    enqueue(store, account, 1)
    (leased,) = store.lease_outgoing("w1", NOW, MINUTE, 1)
    with pytest.raises(StoreError, match="time"):
        store.settle_outgoing(leased.row_id, "w1", Settlement(DeliveryState.QUEUED, "451"), NOW)
    due = NOW + 15 * MINUTE
    store.settle_outgoing(leased.row_id, "w1", Settlement(DeliveryState.QUEUED, "451 later", due), NOW)
    assert store.next_due(NOW) == due
    assert store.lease_outgoing("w1", due - MINUTE, MINUTE, 1) == []
    (again,) = store.lease_outgoing("w1", due, MINUTE, 1)
    assert again.attempts == 1
    assert store.queue()[0].reply == "451 later"


def test_a_lost_lease_settles_nothing(store: Store, account: Account) -> None:
    enqueue(store, account, 1)
    (leased,) = store.lease_outgoing("w1", NOW, MINUTE, 1)
    store.lease_outgoing("w2", NOW + MINUTE, MINUTE, 1)
    done = Settlement(DeliveryState.DELIVERED, "250")
    for owner in ("w1", "", "w3"):
        with pytest.raises(StoreError, match="lost"):
            store.settle_outgoing(leased.row_id, owner, done, NOW + MINUTE)
    store.settle_outgoing(leased.row_id, "w2", done, NOW + MINUTE)
    with pytest.raises(StoreError, match="lost"):
        store.settle_outgoing(leased.row_id, "w2", done, NOW + MINUTE)


def test_a_late_owner_whom_nobody_replaced_still_settles(store: Store, account: Account) -> None:
    """The peer has the message: to refuse the result would send it twice."""
    enqueue(store, account, 1)
    (leased,) = store.lease_outgoing("w1", NOW, MINUTE, 1)
    store.settle_outgoing(leased.row_id, "w1", Settlement(DeliveryState.DELIVERED, "250"), NOW + 5 * MINUTE)
    assert store.queue() == []


def test_next_due(store: Store, account: Account) -> None:
    assert store.next_due(NOW) is None
    enqueue(store, account, 1)
    assert store.next_due(NOW + MINUTE) == NOW
    store.lease_outgoing("w1", NOW, 3 * MINUTE, 1)
    assert store.next_due(NOW) == NOW + 3 * MINUTE
