"""Small contents are durable by their transaction: what a power cut takes of their files, the journal gives back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailstore import Account, NewMessage, OverQuota, Store, blobjournal
from tests.mailstore.helpers import NOW, blob_files, message, open_store, sql


def _add(store: Store, account: Account, *contents: bytes) -> list[str]:
    """Messages in INBOX; their blobs."""
    new = [NewMessage(content, frozenset(), NOW) for content in contents]
    _, uids = store.append_messages(account.id, "INBOX", new, NOW)
    return store.view(store.folder(account.id, "INBOX").id).blobs[-len(uids) :]


def _file(place: Path, blob: str) -> Path:
    return place / "blobs" / blob[:2] / blob


def _journaled(place: Path) -> set[str]:
    return {row[0] for row in sql(place, "SELECT blob FROM blob_journal")}


def test_what_a_power_cut_took_is_restored(store: Store, account: Account, place: Path) -> None:
    contents = [message(number) for number in range(4)]
    lost, emptied, torn, kept = _add(store, account, *contents)
    (large,) = _add(store, account, message(5, "x" * 200_000))
    assert _journaled(place) == {lost, emptied, torn, kept}
    _file(place, lost).unlink()
    _file(place, emptied).write_bytes(b"")
    _file(place, torn).write_bytes(_file(place, torn).read_bytes()[:-20] + bytes(20))
    before = _file(place, kept).stat().st_mtime_ns
    again = open_store(place)  # the first process is dead, and its database what was committed
    assert [again.read_blob(blob) for blob in (lost, emptied, torn, kept)] == contents
    assert again.blob_size(large) > 200_000
    assert _file(place, kept).stat().st_mtime_ns == before, "what is whole is left alone"
    again.close()
    assert _journaled(place) == set()


def test_a_key_wrapped_anew_is_not_undone(store: Store, account: Account, place: Path) -> None:
    (blob,) = _add(store, account, message())
    rewrapped = bytearray(_file(place, blob).read_bytes())
    rewrapped[16:20] = b"anew"
    _file(place, blob).write_bytes(rewrapped)
    open_store(place).close()
    assert _file(place, blob).read_bytes() == rewrapped


def test_an_append_syncs_no_file(store: Store, account: Account, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, synced.append)
    _add(store, account, *(message(number) for number in range(3)))
    assert synced == []
    assert len(_journaled(place)) == 3
    _add(store, account, message(4, "x" * 100_000))
    assert len(synced) == 2  # its file and its folder's
    monkeypatch.undo()
    store.close()
    assert _journaled(place) == set()


def test_what_fails_leaves_neither_row_nor_file(store: Store, account: Account, place: Path) -> None:
    store.set_quota(account.id, 10, None)
    with pytest.raises(OverQuota):
        _add(store, account, message(1), message(2))
    assert _journaled(place) == set()
    assert blob_files(place) == []
    assert store._blobs._staged == {}


def test_a_content_that_the_mailbox_holds_is_not_journaled_again(store: Store, account: Account, place: Path) -> None:
    first, second, third = _add(store, account, message(1), message(1), message(2))
    assert first == second
    assert _add(store, account, message(2)) == [third]
    assert _journaled(place) == {first, third}
    assert {path.name for path in blob_files(place)} == {first, third}
    assert store._blobs._staged == {}


def test_a_journal_that_has_grown_is_settled(
    store: Store, account: Account, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobjournal, "LIMIT", 1000)
    blobs = [_add(store, account, message(number, "x" * 400))[0] for number in range(12)]
    store.close()
    assert _journaled(place) == set()
    assert [store.read_blob(blob) for blob in blobs] == [message(number, "x" * 400) for number in range(12)]


def test_a_file_that_cannot_be_synced_keeps_its_row(
    store: Store, account: Account, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (blob,) = _add(store, account, message())

    def refused(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refused)
    store._journal.close()
    assert _journaled(place) == {blob}
    monkeypatch.undo()
    store._journal.settle()
    assert _journaled(place) == set()
