"""Small contents are durable by their transaction: the journal keeps them until they have files of their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailstore import Account, BlobDamaged, NewMessage, NoSuchMessage, OverQuota, Store, StoreUnavailable, blobjournal
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


def test_a_small_content_is_read_from_the_journal_until_it_has_a_file(
    store: Store, account: Account, place: Path
) -> None:
    contents = [message(number) for number in range(3)]
    blobs = _add(store, account, *contents)
    (large,) = _add(store, account, message(5, "x" * 200_000))
    assert _journaled(place) == set(blobs)
    assert [path.name for path in blob_files(place)] == [large]
    other = open_store(place)  # as another process would
    for one in (store, other):
        assert [one.read_blob(blob) for blob in blobs] == contents
        assert one.read_blob(blobs[0], 3, 9) == contents[0][3:9]
        assert one.blob_size(blobs[1]) == len(contents[1])
        assert b"".join(one.pieces(blobs[2], 5)) == contents[2][5:]
    other._journal.settle()
    assert _journaled(place) == set()
    assert {path.name for path in blob_files(place)} == {*blobs, large}
    assert [store.read_blob(blob) for blob in blobs] == contents
    other.close()


def test_a_reader_between_the_journal_and_the_file(store: Store, account: Account) -> None:
    """The file was not there at the first look, and the row no longer at the second."""
    (blob,) = _add(store, account, message())

    def settled_meanwhile(_blob: str) -> bytes | None:
        store._journal.settle()
        return None

    store._blobs.journaled = settled_meanwhile
    assert store.read_blob(blob) == message()
    with pytest.raises(NoSuchMessage):
        store.read_blob("0" * 32)


def test_what_is_altered_in_the_journal_is_noticed(store: Store, account: Account, place: Path) -> None:
    (blob,) = _add(store, account, message())
    sql(place, "UPDATE blob_journal SET octets = (SELECT sealed_name FROM folders LIMIT 1)")
    with pytest.raises(BlobDamaged):
        store.read_blob(blob)


@pytest.mark.parametrize("step", ["fsync", "link", "open"])
def test_settling_that_is_cut_at_any_step_is_done_again(
    store: Store, account: Account, place: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    contents = [message(number) for number in range(3)]
    blobs = _add(store, account, *contents)
    calls, real = [], getattr(os, step)

    def second_fails(*arguments: object, **named: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, step, second_fails)
        with pytest.raises(StoreUnavailable):
            store._journal.settle()
    assert _journaled(place) == set(blobs)
    assert [store.read_blob(blob) for blob in blobs] == contents
    store._journal.settle()
    assert _journaled(place) == set()
    assert {path.name for path in blob_files(place)} == set(blobs), "nothing half-written stays"
    assert [store.read_blob(blob) for blob in blobs] == contents


def test_a_key_wrapped_anew_is_not_undone(store: Store, account: Account, place: Path) -> None:
    """Two processes settle the same content; the slower one comes when its key has been replaced already."""
    (blob,) = _add(store, account, message())
    octets = store._journal.find(blob)
    assert octets is not None
    store._journal.settle()
    rewrapped = bytearray(_file(place, blob).read_bytes())
    rewrapped[16:20] = b"anew"
    _file(place, blob).write_bytes(rewrapped)
    store._blobs.place([(blob, octets)])
    assert _file(place, blob).read_bytes() == rewrapped


def test_an_append_makes_and_syncs_no_file(
    store: Store, account: Account, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, synced.append)
    _add(store, account, *(message(number) for number in range(3)))
    assert synced == []
    assert blob_files(place) == []
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
    assert store._blobs._staged == {}
    store._journal.settle()
    assert {path.name for path in blob_files(place)} == {first, third}


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
