"""One ORG mailbox, several readers: rights, each reader's own \\Seen, copies between mailboxes."""

from __future__ import annotations

import pytest

from mailstore import Account, FlagOperation, MailboxKind, NewMessage, NoSuchFolder, Store, StoreError
from mailstore.sharing import ALL_RIGHTS
from tests.mailstore.helpers import NOW, make_account, message

SEEN = "\\Seen"


@pytest.fixture
def team(store: Store) -> tuple[Account, Account, Account]:
    """The service's mailbox, and two people."""
    service = store.add_account(
        "cardio@chu.example", MailboxKind.ORG, display_name="Cardiologie", national_id="1690000000", at=NOW
    )
    for number in range(3):
        store.append(service.id, "INBOX", message(number), (), NOW, NOW)
    return service, make_account(store, "anne@chu.example"), make_account(store, "bruno@chu.example")


def test_rights_are_given_folder_by_folder(store: Store, team: tuple[Account, Account, Account]) -> None:
    service, anne, bruno = team
    inbox = store.folder(service.id, "INBOX").id
    assert store.rights(inbox, service.id) == ALL_RIGHTS
    assert store.rights(inbox, anne.id) == ""
    store.set_acl(inbox, anne.address, "srl")
    assert store.rights(inbox, anne.id) == "lrs"
    assert store.acl(inbox) == {service.address: ALL_RIGHTS, anne.address: "lrs"}
    assert store.shared_with(anne.id) == [service]
    assert store.shared_with(bruno.id) == []
    assert store.rights(store.folder(service.id, "Archives").id, anne.id) == ""
    store.set_acl(inbox, anne.address, "")
    assert store.shared_with(anne.id) == []
    for address, rights in ((anne.address, "z"), ("nobody@x.fr", "l"), (service.address, "l")):
        with pytest.raises(StoreError):
            store.set_acl(inbox, address, rights)
    with pytest.raises(NoSuchFolder):
        store.rights(999, anne.id)


def test_new_folders_take_their_superiors_rights(store: Store, team: tuple[Account, Account, Account]) -> None:
    service, anne, bruno = team
    store.share(service.id, anne.address, "lrsi")
    store.set_acl(store.folder(service.id, "Archives").id, bruno.address, "lr")
    child = store.create_folder(service.id, "Archives/2026")
    assert {address: rights for address, rights in store.acl(child.id).items() if address != service.address} == {
        anne.address: "lrsi",
        bruno.address: "lr",
    }
    top = store.create_folder(service.id, "Nouveau")
    assert anne.address in store.acl(top.id)
    assert bruno.address not in store.acl(top.id)
    store.delete_folder(service.id, "Archives/2026")
    store.set_active(service.address, False)
    assert store.shared_with(anne.id) == []


def test_each_reader_has_their_own_seen(store: Store, team: tuple[Account, Account, Account]) -> None:
    service, anne, bruno = team
    inbox = store.folder(service.id, "INBOX").id
    before = store.view(inbox).folder.highest_modseq
    after, _ = store.store_flags(inbox, [1, 2], FlagOperation.ADD, [SEEN, "\\Flagged"], viewer=anne.id)
    assert all(one.flags == {SEEN, "\\Flagged"} for one in after)
    assert store.view(inbox, anne.id).flags == [{SEEN, "\\Flagged"}, {SEEN, "\\Flagged"}, set()]
    assert store.view(inbox, bruno.id).flags == [{"\\Flagged"}, {"\\Flagged"}, set()]
    assert store.view(inbox).flags == [{"\\Flagged"}, {"\\Flagged"}, set()]
    assert [store.folder(service.id, "INBOX", viewer).unseen for viewer in (anne.id, bruno.id, None)] == [1, 3, 3]
    assert [one.uid for one in store.changes(inbox, before, anne.id).changed if SEEN in one.flags] == [1, 2]
    assert not [one for one in store.changes(inbox, before, bruno.id).changed if SEEN in one.flags]
    store.store_flags(inbox, [1], FlagOperation.SET, [], viewer=anne.id)
    store.store_flags(inbox, [3], FlagOperation.ADD, [SEEN])
    assert [SEEN in flags for flags in store.view(inbox, anne.id).flags] == [False, True, False]
    assert [SEEN in flags for flags in store.view(inbox).flags] == [False, False, True]
    assert store.folders(service.id, anne.id)[4].unseen in (0, 2)
    store.expunge(inbox, [2])
    assert store.folder(service.id, "INBOX", anne.id).unseen == 2


def test_copies_keep_what_each_has_seen(store: Store, team: tuple[Account, Account, Account]) -> None:
    service, anne, bruno = team
    inbox, archives = (store.folder(service.id, name).id for name in ("INBOX", "Archives"))
    store.store_flags(inbox, [1], FlagOperation.ADD, [SEEN], viewer=anne.id)
    store.move(inbox, [1], archives, NOW, viewer=bruno.id)
    assert [SEEN in store.view(archives, viewer).flags[0] for viewer in (anne.id, bruno.id, None)] == [
        True,
        False,
        False,
    ]
    mine = store.folder(anne.id, "INBOX").id
    with pytest.raises(StoreError, match="two mailboxes"):
        store.copy(inbox, [2], mine, NOW)
    store.store_flags(inbox, [2], FlagOperation.ADD, [SEEN], viewer=anne.id)
    store.copy(inbox, [2, 3], mine, NOW, viewer=anne.id)
    assert [SEEN in flags for flags in store.view(mine).flags] == [True, False]
    assert store.read_blob(store.view(mine).blobs[0]) == message(1)
    store.append_messages(service.id, "INBOX", [NewMessage(message(8), frozenset({SEEN}), NOW)], NOW, viewer=anne.id)
    assert [SEEN in store.view(inbox, viewer).flags[-1] for viewer in (anne.id, bruno.id, None)] == [True, False, False]
