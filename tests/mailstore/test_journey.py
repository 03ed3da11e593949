"""Accepting messages, the audit trail, and what a repeated hand-over does."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from mailstore import (
    Account,
    ChangeKind,
    DepositState,
    Direction,
    Event,
    LocalDelivery,
    OutgoingCopy,
    OverQuota,
    Store,
    StoreChange,
    StoreError,
)
from tests.mailstore.helpers import LATER, NOW, acceptance, document, kept_blobs, make_account, message


def test_one_acceptance_writes_everything(store: Store, account: Account) -> None:
    told: list[StoreChange] = []
    store.subscribe_changes(told.append)
    given = dataclasses.replace(
        acceptance(account, 1, copies=("bob@hopital.example", "carl@Clinique.example"), deposits=(document(),)),
        events=(Event("signature.valid", {"certificate": "CN=Alice"}),),
    )
    accepted = store.accept(given, NOW)
    assert not accepted.duplicate
    view = store.view(store.folder(account.id, "INBOX").id)
    assert store.read_blob(view.blobs[0]) == message(1)
    assert view.dates == [NOW]
    assert [(row.recipient, row.domain) for row in store.queue()] == [
        ("bob@hopital.example", "hopital.example"),
        ("carl@Clinique.example", "clinique.example"),
    ]
    assert [deposit.state for deposit in store.deposits()] == [DepositState.READY]
    traced = store.trace("<1@medecin.example>")
    assert [one.event.name for one in traced] == ["accepted", "signature.valid"]
    assert traced[0].event.detail["recipients"] == "alice@medecin.example, bob@hopital.example, carl@Clinique.example"
    assert traced[1].event.detail == {"certificate": "CN=Alice"}
    assert [change.kind for change in told] == [
        ChangeKind.FOLDER,
        ChangeKind.QUEUE,
        ChangeKind.QUEUE,
        ChangeKind.DEPOSIT,
    ]


def test_trace_by_message_id_or_submission_id(store: Store, account: Account) -> None:
    accepted = store.accept(acceptance(account, 1), NOW)
    store.record([Event("receipt", {"of": "1"})], submission_id=accepted.submission_id, at=LATER)
    store.record([Event("refused", {"code": "5.7.1"})], message_id="<2@medecin.example>", at=NOW)
    names = ["accepted", "receipt"]
    for wanted in ("<1@medecin.example>", "1@medecin.example", accepted.submission_id):
        assert [one.event.name for one in store.trace(wanted)] == names
    assert [one.event.name for one in store.trace("2@medecin.example")] == ["refused"]
    assert store.trace("") == store.trace("<>") == []


def test_hostile_header_text_is_stored_bounded(store: Store) -> None:
    store.record([Event("refused", {"text": "\x00\udcff" + "x" * 9999})], message_id="<\x00\udcff@x>", at=NOW)
    (traced,) = store.trace("<\x00\udcff@x>")
    assert traced.event.detail["text"].startswith("?x")
    assert len(traced.event.detail["text"]) == 2000


def test_a_repeated_hand_over_is_recognised(store: Store, account: Account, tmp_path: Path) -> None:
    given = acceptance(account, 1, copies=("bob@hopital.example",), deposits=(document(),))
    first = store.accept(given, NOW)
    files = kept_blobs(tmp_path)
    again = store.accept(dataclasses.replace(given, recipients=given.recipients[::-1]), LATER)
    assert (again.submission_id, again.duplicate) == (first.submission_id, True)
    assert kept_blobs(tmp_path) == files
    assert len(store.queue()) == len(store.deposits()) == store.folder(account.id, "INBOX").total == 1
    assert len(store.trace("1@medecin.example")) == 1


@pytest.mark.parametrize(
    "difference",
    [
        {"direction": Direction.RECEPTION},
        {"principal": "other"},
        {"mail_from": "x@y.fr"},
        {"recipients": ("alice@medecin.example", "z@z.fr")},
        {"received": b"other"},
        {"principal": "alice@medecin.examplealice", "mail_from": "@medecin.example"},
    ],
)
def test_any_difference_makes_another_hand_over(store: Store, account: Account, difference: dict[str, object]) -> None:
    given = acceptance(account, 1)
    store.accept(given, NOW)
    assert not store.accept(dataclasses.replace(given, **difference), NOW).duplicate  # type: ignore[arg-type]


def test_the_same_hand_over_at_the_same_time_is_accepted_once(store: Store, account: Account, tmp_path: Path) -> None:
    given = acceptance(account, 1, copies=("bob@hopital.example",))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: store.accept(given, NOW), range(16)))
    assert len({answer.submission_id for answer in answers}) == 1
    assert sum(not answer.duplicate for answer in answers) == 1
    assert store.folder(account.id, "INBOX").total == 1
    assert len(kept_blobs(tmp_path)) == 2


def test_equal_contents_share_a_blob_in_one_acceptance(store: Store, account: Account, tmp_path: Path) -> None:
    other = make_account(store, "bob@medecin.example")
    given = dataclasses.replace(
        acceptance(account, 1),
        local=(LocalDelivery(account.id, "a", message(1)), LocalDelivery(other.id, "b", bytes(message(1)))),
        outgoing=(OutgoingCopy(("c@x.fr",), bytes(message(1))),),
    )
    store.accept(given, NOW)
    assert len(kept_blobs(tmp_path)) == 1


def test_a_copy_for_a_missing_folder_goes_to_inbox(store: Store, account: Account) -> None:
    store.delete_folder(account.id, "Indésirables")
    local = (LocalDelivery(account.id, "a", message(1), folder="Indésirables", flags=frozenset({"$Junk"})),)
    store.accept(dataclasses.replace(acceptance(account, 1), local=local), NOW)
    assert store.view(store.folder(account.id, "INBOX").id).flags == [frozenset({"$Junk"})]


def test_a_refused_acceptance_leaves_nothing(store: Store, account: Account, tmp_path: Path) -> None:
    good = LocalDelivery(account.id, "a", message(1))
    for bad in (LocalDelivery(999, "b", b"other"), LocalDelivery(account.id, "c", b"x", flags=frozenset({"\\No"}))):
        given = dataclasses.replace(acceptance(account, 1, copies=("b@x.fr",)), local=(good, bad))
        with pytest.raises(StoreError):
            store.accept(given, NOW)
    assert kept_blobs(tmp_path) == set()
    assert store.queue() == [] == store.trace("1@medecin.example")
    assert store.folder(account.id, "INBOX").total == 0


def test_a_message_that_cannot_be_summarised_is_delivered(store: Store, account: Account) -> None:
    def fail(raw: bytes) -> bytes:
        raise RecursionError

    store._index = fail
    store.accept(acceptance(account, 1), NOW)
    store.append(account.id, "INBOX", message(2), (), NOW, NOW)
    inbox = store.folder(account.id, "INBOX")
    assert inbox.total == 2
    assert store.summaries(inbox.id, [1, 2]) == {1: b"", 2: b""}


def test_the_same_document_has_one_deposit(store: Store, account: Account, tmp_path: Path) -> None:
    store.accept(acceptance(account, 1, local=False, deposits=(document(), document())), NOW)
    store.accept(acceptance(account, 2, local=False, deposits=(document(),)), NOW)
    assert len(store.deposits()) == 1
    assert [one.event.name for one in store.trace("1@medecin.example")] == ["accepted", "deposit.already_known"]
    assert [one.event.name for one in store.trace("2@medecin.example")] == ["accepted", "deposit.already_known"]
    assert len(kept_blobs(tmp_path)) == 1


def test_another_document_under_the_same_id_needs_attention(store: Store, account: Account) -> None:
    store.accept(acceptance(account, 1, local=False, deposits=(document(),)), NOW)
    store.accept(acceptance(account, 2, local=False, deposits=(document(sha1="B" * 40, content=b"<o/>"),)), NOW)
    first, second = store.deposits()
    assert first.state is DepositState.READY
    assert second.state is DepositState.NEEDS_ATTENTION
    assert "another document" in second.reason
    assert [one.event.name for one in store.trace("2@medecin.example")] == ["accepted", "deposit.conflict"]
    assert store.due_deposits(NOW + timedelta(days=9), 10) == [first.id]


def test_documents_without_an_id_do_not_conflict(store: Store, account: Account) -> None:
    unreadable = [
        dataclasses.replace(document("", sha), state=DepositState.NEEDS_ATTENTION, reason="illisible")
        for sha in ("a" * 40, "b" * 40)
    ]
    store.accept(acceptance(account, 1, local=False, deposits=tuple(unreadable)), NOW)
    assert [deposit.reason for deposit in store.deposits()] == ["illisible", "illisible"]


def test_a_group_gives_each_message_its_own_answer(store: Store, account: Account) -> None:
    """One transaction for all; what cannot be accepted takes nothing from the others."""
    full, gone = make_account(store, "full@medecin.example"), dataclasses.replace(account, id=99_999)
    store.set_quota(full.id, 1, None)
    store.accept(acceptance(account, 7), NOW)
    group = [acceptance(account, 1), acceptance(full, 2), acceptance(gone, 3), acceptance(account, 7)]
    first, over, unknown, repeated = store.accept_all([*group], NOW)
    assert isinstance(over, OverQuota) and isinstance(unknown, StoreError)
    assert not isinstance(first, Exception) and not first.duplicate
    assert not isinstance(repeated, Exception) and repeated.duplicate
    both = store.accept_all([acceptance(account, 8), acceptance(account, 8), acceptance(account, 9)], NOW)
    assert [one.duplicate for one in both if not isinstance(one, Exception)] == [False, True, False]
    view = store.view(store.folder(account.id, "INBOX").id)
    assert [store.read_blob(blob) for blob in view.blobs] == [message(7), message(1), message(8), message(9)]
    assert list(view.uids) == [1, 2, 3, 4]
