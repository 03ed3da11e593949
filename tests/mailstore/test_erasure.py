"""Erasing a mailbox: what goes, what stays, and that it may be cut and begun again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from mailstore import (
    Account,
    ChangeKind,
    FlagOperation,
    MailboxKind,
    NoSuchFolder,
    Store,
    StoreChange,
    StoreError,
    StoreUnavailable,
    erasure,
)
from mailstore.mailbox import SearchPart
from mailstore.tables import metadata
from tests.mailstore.helpers import LATER, NOW, acceptance, blob_files, message, sql

ADDRESS = "alice@medecin.example"
_NAMING = ("account_id", "owner_id", "delegate_id")


def rows_naming(store: Store, account_id: int) -> dict[str, int]:
    """How many rows of each table name a mailbox by its number."""
    found: dict[str, int] = {}
    with store._db.read() as connection:
        for table in metadata.sorted_tables:
            for column in (table.c[name] for name in _NAMING if name in table.c):
                count = select(func.count()).select_from(table).where(column == account_id)
                found[str(column)] = connection.execute(count).scalar_one()
    return {name: count for name, count in found.items() if count}


@pytest.fixture
def colleague(store: Store, account: Account) -> Account:
    """Shares with `account`, both ways, and holds the same message."""
    other = store.add_account(
        "org@medecin.example", MailboxKind.ORG, display_name="Org", national_id="1690000000", at=NOW
    )
    store.share(other.id, ADDRESS, "lrs")
    store.share(account.id, other.address, "lrs")
    store.add_delegation(other.address, ADDRESS, NOW)
    store.append(other.id, "INBOX", message(1), (), NOW, NOW)
    return other


def used(store: Store, account: Account) -> None:
    """What a mailbox gathers in its life."""
    for number in range(5):
        store.append(account.id, "INBOX", message(number), (), NOW, NOW)
    folder = store.create_folder(account.id, "Patients/Dupont")
    store.append(account.id, folder.name, message(9), (), NOW, NOW)
    inbox = store.folder(account.id, "INBOX").id
    store.expunge(inbox, [2])
    store.search_text(inbox, SearchPart.TEXT, "compte")
    store.set_password(ADDRESS, "correct horse battery")
    store.add_app_password(ADDRESS, "phone", NOW)
    store.set_policy(ADDRESS, "signature", "always", NOW)
    store.put_key(ADDRESS, "signature", b"chain", b"key", NOW)
    store.accept(acceptance(account, 7, copies=("bob@elsewhere.example",)), NOW)


def test_an_erased_mailbox_leaves_its_trail_only(
    store: Store, account: Account, colleague: Account, place: Path
) -> None:
    used(store, account)
    shared = store.folder(colleague.id, "INBOX").id
    store.store_flags(shared, [1], FlagOperation.ADD, ["\\Seen"], viewer=account.id)
    trail = store.trace("<7@medecin.example>")
    told: list[tuple[int, int]] = []
    assert store.erase_account(ADDRESS, LATER, lambda done, total: told.append((done, total))) == 6
    assert told[-1] == (6, 6)
    assert store.find_account(ADDRESS) is None
    assert rows_naming(store, account.id) == {}
    assert store.policies([ADDRESS]) == {ADDRESS: {}}
    assert store.trace("<7@medecin.example>") == trail != [], "what it sent can still be explained"
    assert sql(place, "SELECT name FROM audit ORDER BY id")[-1] == ("account.erased",)
    (key,) = store.key_records(ADDRESS)
    assert key.retired_at == LATER and key.destroyed_at is None, "two custodians destroy keys, nobody else"
    assert store.acl(shared) == {colleague.address: "lrswipkxtea"}
    # The colleague's copy and the message that still waits to leave: nothing else stays on the disk.
    store.sweep(LATER + timedelta(days=1))
    assert len(blob_files(place)) == 2
    (blob,) = store.view(shared).blobs
    assert store.read_blob(blob) == message(1)
    with pytest.raises(StoreError):
        store.erase_account(ADDRESS, LATER)


def test_an_erasure_that_was_cut_is_begun_again(
    store: Store, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    used(store, account)
    monkeypatch.setattr(erasure, "AT_ONCE", 2)
    expunge, calls = store.expunge, []

    def cut(folder_id: int, uids: Sequence[int] | None) -> list[int]:
        calls.append(folder_id)
        if len(calls) == 2:
            raise StoreUnavailable("cut")
        return expunge(folder_id, uids)

    monkeypatch.setattr(store, "expunge", cut)
    with pytest.raises(StoreUnavailable):
        store.erase_account(ADDRESS, LATER)
    closed = store.find_account(ADDRESS)
    assert closed is not None and not closed.active, "nobody logs in to half a mailbox"
    monkeypatch.undo()
    assert store.erase_account(ADDRESS, LATER) == 4
    assert rows_naming(store, account.id) == {}


def test_an_erased_address_is_never_given_to_somebody_else(store: Store, account: Account) -> None:
    before = store.folder(account.id, "INBOX").uid_validity
    store.erase_account(ADDRESS, LATER)
    with pytest.raises(StoreError, match="not given again"):
        store.add_account(ADDRESS, MailboxKind.PER, display_name="X", national_id="810000000099", at=LATER)
    later = LATER + timedelta(days=1)
    back = store.add_account(ADDRESS, MailboxKind.PER, display_name="A", national_id=account.national_id, at=later)
    assert back.id != account.id
    assert store.folder(back.id, "INBOX").uid_validity > before, "what mail programs remember of it is void"


def test_a_session_in_an_erased_mailbox_is_told(store: Store, account: Account) -> None:
    folder = store.folder(account.id, "INBOX").id
    heard: list[StoreChange] = []
    store.subscribe_changes(heard.append)
    store.erase_account(ADDRESS, LATER)
    assert StoreChange(ChangeKind.FOLDER, folder) in heard
    with pytest.raises(NoSuchFolder):
        store.changes(folder, 0)
