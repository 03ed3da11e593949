"""Messages in folders."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mailstore import (
    Account,
    ChangeKind,
    FlagOperation,
    NoSuchFolder,
    NoSuchMessage,
    Store,
    StoreChange,
    StoreError,
)
from tests.mailstore.helpers import LATER, NOW, make_account, message


def fill(store: Store, account: Account, count: int) -> int:
    """`count` messages in INBOX; returns the folder's id."""
    for number in range(count):
        store.append(account.id, "INBOX", message(number), (), NOW + timedelta(minutes=number), NOW)
    return store.folder(account.id, "INBOX").id


def test_append_and_view(store: Store, account: Account) -> None:
    folder = store.folder(account.id, "INBOX")
    assert store.append(account.id, "inbox", message(1), ("\\seen", "$forwarded"), NOW, LATER) == (
        folder.uid_validity,
        1,
    )
    view = store.view(folder.id)
    assert view.uids == [1]
    assert view.flags == [frozenset({"\\Seen", "$Forwarded"})]
    assert view.sizes == [len(message(1))]
    assert view.dates == [NOW]
    assert view.modseqs == [view.folder.highest_modseq] == [folder.highest_modseq + 1]
    assert (view.folder.uid_next, view.folder.total, view.folder.unseen) == (2, 1, 0)
    assert store.read_blob(view.blobs[0]) == message(1)
    assert store.read_blob(view.blobs[0], 9, 20) == message(1)[9:20]
    assert store.blob_size(view.blobs[0]) == len(message(1))
    assert store.summaries(folder.id, [1, 2]) == {1: b"Subject: compte rendu 1"}
    assert store.highest_modseqs([folder.id, 999]) == {folder.id: view.folder.highest_modseq}


def test_append_where_there_is_no_folder(store: Store, account: Account) -> None:
    with pytest.raises(NoSuchFolder):
        store.append(account.id, "none", message(), (), NOW, NOW)
    with pytest.raises(NoSuchFolder):
        store.view(999)
    with pytest.raises(NoSuchFolder):
        store.changes(999, 0)
    with pytest.raises(NoSuchFolder):
        store.store_flags(999, [1], FlagOperation.ADD, ["\\Seen"])
    with pytest.raises(NoSuchFolder):
        store.expunge(999, None)
    with pytest.raises(ValueError, match="naive"):
        store.append(account.id, "INBOX", message(), (), NOW.replace(tzinfo=None), NOW)


@pytest.mark.parametrize("flag", ["\\Unknown", "with space", "", "a(b", "é", "x" * 65, 'q"', "a\r\nb"])
def test_bad_flags_are_refused(store: Store, account: Account, flag: str) -> None:
    with pytest.raises(StoreError):
        store.append(account.id, "INBOX", message(), (flag,), NOW, NOW)
    assert store.folder(account.id, "INBOX").total == 0


def test_flags_are_set_added_removed(store: Store, account: Account) -> None:
    folder = fill(store, account, 1)

    def stored(operation: FlagOperation, *flags: str) -> frozenset[str]:
        changes, refused = store.store_flags(folder, [1], operation, flags)
        assert refused == []
        assert changes[0].flags == store.view(folder).flags[0]
        return changes[0].flags

    assert stored(FlagOperation.ADD, "\\SEEN", "Urgent") == {"\\Seen", "Urgent"}
    assert stored(FlagOperation.ADD, "urgent", "\\Recent") == {"\\Seen", "Urgent"}
    assert stored(FlagOperation.REMOVE, "URGENT") == {"\\Seen"}
    assert stored(FlagOperation.SET, "\\Flagged", "\\Draft") == {"\\Flagged", "\\Draft"}
    assert store.folder_by_id(folder).unseen == 1
    assert stored(FlagOperation.SET) == frozenset()
    with pytest.raises(StoreError):
        stored(FlagOperation.ADD, *(f"k{number}" for number in range(65)))


def test_a_store_that_changes_nothing_takes_no_modseq(store: Store, account: Account) -> None:
    folder = fill(store, account, 2)
    before = store.view(folder)
    changes, _ = store.store_flags(folder, [1, 2, 99], FlagOperation.REMOVE, ["\\Seen"])
    assert [change.uid for change in changes] == [1, 2]
    assert [change.modseq for change in changes] == before.modseqs
    assert store.view(folder) == before


def test_unchanged_since(store: Store, account: Account) -> None:
    """RFC 7162 §3.1.3: what changed since is left alone and named."""
    folder = fill(store, account, 3)
    known = store.folder_by_id(folder).highest_modseq
    store.store_flags(folder, [2], FlagOperation.ADD, ["\\Seen"])
    changes, refused = store.store_flags(folder, [1, 2, 3], FlagOperation.ADD, ["\\Flagged"], unchanged_since=known)
    assert refused == [2]
    assert [change.uid for change in changes] == [1, 3]
    assert [sorted(flags) for flags in store.view(folder).flags] == [["\\Flagged"], ["\\Seen"], ["\\Flagged"]]


def test_expunge_takes_the_deleted_only_and_logs_them(store: Store, account: Account) -> None:
    folder = fill(store, account, 4)
    since = store.folder_by_id(folder).highest_modseq
    store.store_flags(folder, [2, 4], FlagOperation.ADD, ["\\Deleted"])
    store.store_flags(folder, [3], FlagOperation.ADD, ["Deleted"])
    assert store.expunge(folder, None) == [2, 4]
    assert store.expunge(folder, None) == []
    assert store.view(folder).uids == [1, 3]
    assert store.changes(folder, since).expunged == (2, 4)
    assert store.expunge(folder, [3, 77]) == [3]
    assert store.append(account.id, "INBOX", message(), (), NOW, NOW)[1] == 5


def test_changes_say_what_is_new_only(store: Store, account: Account) -> None:
    folder = fill(store, account, 3)
    since = store.folder_by_id(folder).highest_modseq
    assert store.changes(folder, since).changed == ()
    store.store_flags(folder, [2], FlagOperation.ADD, ["\\Seen"])
    store.append(account.id, "INBOX", message(9), (), NOW, NOW)
    changes = store.changes(folder, since)
    assert [change.uid for change in changes.changed] == [2, 4]
    assert changes.uid_next == 5
    assert changes.highest_modseq == since + 2
    assert len(store.changes(folder, 0).changed) == 4


def test_copy_keeps_flags_and_dates_and_shares_the_content(store: Store, account: Account) -> None:
    folder = fill(store, account, 3)
    target = store.folder(account.id, "Archives")
    store.store_flags(folder, [1], FlagOperation.ADD, ["\\Seen"])
    validity, pairs = store.copy(folder, [3, 1, 1, 42], target.id, LATER)
    assert validity == target.uid_validity
    assert pairs == [(1, 1), (3, 2)]
    here, there = store.view(folder), store.view(target.id)
    assert (there.flags, there.dates) == ([here.flags[0], here.flags[2]], [here.dates[0], here.dates[2]])
    assert there.blobs == [here.blobs[0], here.blobs[2]]
    assert store.copy(folder, [42], target.id, LATER) == (validity, [])
    store.expunge(folder, [1, 2, 3])
    assert store.sweep(NOW + timedelta(days=1)) == 1
    assert store.read_blob(there.blobs[0]) == message(0)
    assert store.summaries(target.id, [1]) == {1: b"Subject: compte rendu 0"}
    with pytest.raises(NoSuchMessage):
        store.read_blob(here.blobs[1])


def test_move(store: Store, account: Account) -> None:
    folder = fill(store, account, 3)
    target = store.folder(account.id, "Corbeille").id
    since = store.folder_by_id(folder).highest_modseq
    assert store.move(folder, [1, 3], target, LATER)[1] == [(1, 1), (3, 2)]
    assert store.view(folder).uids == [2]
    assert store.changes(folder, since).expunged == (1, 3)
    assert store.move(folder, [2], folder, LATER)[1] == [(2, 4)]
    assert store.view(folder).uids == [4]
    with pytest.raises(NoSuchFolder):
        store.move(folder, [4], 999, LATER)
    assert store.view(folder).uids == [4]


def test_nothing_passes_between_mailboxes(store: Store, account: Account) -> None:
    folder = fill(store, account, 1)
    other = store.folder(make_account(store, "bob@medecin.example").id, "INBOX").id
    for verb in (store.copy, store.move):
        with pytest.raises(StoreError, match="two mailboxes"):
            verb(folder, [1], other, NOW)
    assert store.view(other).uids == []


def test_thousands_of_uids_at_once(store: Store, account: Account) -> None:
    folder = fill(store, account, 3)
    many = range(1, 5000)
    assert len(store.store_flags(folder, many, FlagOperation.ADD, ["\\Seen"])[0]) == 3
    assert len(store.summaries(folder, many)) == 3
    assert store.expunge(folder, many) == [1, 2, 3]


def test_subscribers_hear_after_the_commit(store: Store, account: Account) -> None:
    folder = fill(store, account, 1)
    other = store.folder(account.id, "Archives").id
    told: list[StoreChange] = []

    def listen(change: StoreChange) -> None:
        told.append(change)
        store.view(change.id)
        raise RuntimeError("a subscriber's own failure")

    end = store.subscribe_changes(listen)
    store.store_flags(folder, [1], FlagOperation.ADD, ["\\Seen"])
    store.store_flags(folder, [1], FlagOperation.ADD, ["\\Seen"])
    store.move(folder, [1], other, NOW)
    store.expunge(folder, None)
    assert told == [StoreChange(ChangeKind.FOLDER, number) for number in (folder, folder, other)]
    end()
    end()
    store.append(account.id, "INBOX", message(), (), NOW, NOW)
    assert len(told) == 3
