"""Folders."""

from __future__ import annotations

import pytest

from mailstore import Account, ChangeKind, FolderExists, NoSuchFolder, Store, StoreChange, StoreError
from tests.mailstore.helpers import NOW, make_account, message


def names(store: Store, account: Account) -> list[str]:
    return [folder.name for folder in store.folders(account.id)]


def test_a_folder_is_created_found_renamed_deleted(store: Store, account: Account) -> None:
    store.create_folder(account.id, "Patients", "")
    assert store.folder(account.id, "Patients").total == 0
    with pytest.raises(FolderExists):
        store.create_folder(account.id, "Patients")
    store.rename_folder(account.id, "Patients", "Patients 2026")
    with pytest.raises(NoSuchFolder):
        store.folder(account.id, "Patients")
    store.delete_folder(account.id, "Patients 2026")
    assert len(names(store, account)) == 6


def test_folders_below_inbox_have_one_parent_in_any_case(store: Store, account: Account) -> None:
    assert store.create_folder(account.id, "inbox/Patients").name == "INBOX/Patients"
    with pytest.raises(FolderExists):
        store.create_folder(account.id, "Inbox/Patients")
    store.rename_folder(account.id, "inbox/Patients", "iNBOX/Suivi")
    assert "INBOX/Suivi" in names(store, account)
    assert store.create_folder(account.id, "\u0131nbox").name == "\u0131nbox"  # a dotless i is another letter


def test_inbox_in_any_case_is_one_folder_that_stays(store: Store, account: Account) -> None:
    assert store.folder(account.id, "inbox").name == "INBOX"
    for verb in (store.create_folder, store.delete_folder):
        with pytest.raises(StoreError):
            verb(account.id, "iNbOx")
    with pytest.raises(StoreError):
        store.rename_folder(account.id, "inbox", "Vieux")


def test_renaming_takes_the_inferiors_along(store: Store, account: Account) -> None:
    for name in ("A", "A/B", "A/B/C", "AB"):
        store.create_folder(account.id, name)
    before = store.folder(account.id, "A/B/C")
    store.rename_folder(account.id, "A", "Z")
    assert [name for name in names(store, account) if name[0] in "AZ"] == ["AB", "Archives", "Z", "Z/B", "Z/B/C"]
    after = store.folder(account.id, "Z/B/C")
    assert (after.id, after.uid_validity) == (before.id, before.uid_validity)


def test_a_renaming_that_collides_changes_nothing(store: Store, account: Account) -> None:
    for name in ("A", "A/B", "Z/B"):
        store.create_folder(account.id, name)
    before = names(store, account)
    with pytest.raises(FolderExists):
        store.rename_folder(account.id, "A", "Z")
    with pytest.raises(StoreError):
        store.rename_folder(account.id, "A", "A/B/D")
    with pytest.raises(NoSuchFolder):
        store.rename_folder(account.id, "none", "other")
    assert names(store, account) == before


@pytest.mark.parametrize("name", ["", "a//b", "/a", "a/", "a\r\nb", "a\x00", "é" * 300])
def test_bad_names_are_refused(store: Store, account: Account, name: str) -> None:
    with pytest.raises(StoreError):
        store.create_folder(account.id, name)


def test_a_name_made_again_has_a_greater_uid_validity(store: Store, account: Account) -> None:
    seen = [store.folder(account.id, "INBOX").uid_validity]
    for _ in range(3):
        folder = store.create_folder(account.id, "Temporaire")
        seen.append(folder.uid_validity)
        store.delete_folder(account.id, "Temporaire")
    assert seen == sorted(set(seen))
    assert seen[-1] < 2**32


def test_folders_belong_to_their_mailbox(store: Store, account: Account) -> None:
    other = make_account(store, "bob@medecin.example")
    store.create_folder(account.id, "Privé")
    with pytest.raises(NoSuchFolder):
        store.folder(other.id, "Privé")
    store.create_folder(other.id, "Privé")


def test_subscription(store: Store, account: Account) -> None:
    assert store.folder(account.id, "INBOX").subscribed
    assert not store.create_folder(account.id, "X").subscribed
    store.subscribe(account.id, "X", True)
    assert store.folder(account.id, "X").subscribed
    store.subscribe(account.id, "X", False)
    assert not store.folder(account.id, "X").subscribed
    # RFC 9051 §6.3.7: a name may be subscribed before its folder exists, and stays so when it goes.
    store.subscribe(account.id, "Y", True)
    store.subscribe(account.id, "Y", True)
    assert store.create_folder(account.id, "Y").subscribed
    store.delete_folder(account.id, "Y")
    assert "Y" in store.subscriptions(account.id)
    assert "X" not in store.subscriptions(account.id)
    with pytest.raises(StoreError):
        store.subscribe(account.id, "a//b", True)


def test_a_deleted_folder_takes_its_messages(store: Store, account: Account) -> None:
    folder = store.create_folder(account.id, "X")
    store.append(account.id, "X", message(), (), NOW, NOW)
    told: list[StoreChange] = []
    end = store.subscribe_changes(told.append)
    store.delete_folder(account.id, "X")
    end()
    store.create_folder(account.id, "X")
    assert told == [StoreChange(ChangeKind.FOLDER, folder.id)]
    with pytest.raises(NoSuchFolder):
        store.view(folder.id)
    assert store.folder(account.id, "X").id > folder.id
    assert store.folder(account.id, "X").total == 0
