"""Small blobs are durable by one sync: what a power cut takes of their files, the journal gives back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailstore import BlobStore, NoSuchMessage, blobjournal

KEY = bytes(range(32))


def _journals(folder: Path) -> list[Path]:
    return list((folder / "journal").glob("*.log"))


def _die(store: BlobStore) -> None:
    """As the kernel does for a killed process: its lock goes, its journal stays."""
    os.close(store._journal._handle)
    store._journal._handle = -1


def test_what_a_power_cut_took_is_restored(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, KEY)
    lost, emptied, kept = store.write_all([b"lost", b"emptied", b"kept"])
    large = store.write(b"x" * 200_000)
    (tmp_path / lost[:2] / lost).unlink()
    (tmp_path / emptied[:2] / emptied).write_bytes(b"")
    before = (tmp_path / kept[:2] / kept).stat().st_mtime_ns
    _die(store)
    again = BlobStore(tmp_path, KEY)
    assert [again.read(blob) for blob in (lost, emptied, kept)] == [b"lost", b"emptied", b"kept"]
    assert len(again.read(large)) == 200_000
    assert (tmp_path / kept[:2] / kept).stat().st_mtime_ns == before, "what is whole is left alone"
    assert _journals(tmp_path) == []


def test_a_key_wrapped_anew_is_not_undone(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, KEY)
    blob = store.write(b"content")
    path = tmp_path / blob[:2] / blob
    rewrapped = bytearray(path.read_bytes())
    rewrapped[16:20] = b"anew"
    path.write_bytes(rewrapped)
    _die(store)
    BlobStore(tmp_path, KEY)
    assert path.read_bytes() == rewrapped


def test_a_torn_record_was_never_answered_for(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, KEY)
    whole, torn = store.write(b"whole"), store.write(b"torn")
    for blob in (whole, torn):
        (tmp_path / blob[:2] / blob).unlink()
    (journal,) = _journals(tmp_path)
    _die(store)
    octets = journal.read_bytes().rstrip(b"\0")
    journal.write_bytes(octets[:-20] + bytes(20))
    again = BlobStore(tmp_path, KEY)
    assert again.read(whole) == b"whole"
    with pytest.raises(NoSuchMessage):
        again.read(torn)


def test_a_living_process_keeps_its_journal(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, KEY)
    first = store.write(b"one")
    BlobStore(tmp_path, KEY)
    assert len(_journals(tmp_path)) == 1
    second = store.write(b"two")
    store.close()
    assert _journals(tmp_path) == []
    assert [store.read(blob) for blob in (first, second)] == [b"one", b"two"]


def test_a_journal_that_has_grown_is_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobjournal, "LIMIT", 1000)
    store = BlobStore(tmp_path, KEY)
    blobs = [store.write(b"x" * 400) for _ in range(20)]
    store.delete(blobs[0])
    store.close()
    assert _journals(tmp_path) == []
    assert all(store.read(blob) == b"x" * 400 for blob in blobs[1:])


def test_a_sync_that_fails_answers_nothing_and_spoils_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mailstore import StoreUnavailable

    store = BlobStore(tmp_path, KEY)
    before = store.write(b"before")

    def refused(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", refused)
    with pytest.raises(StoreUnavailable):
        store.write(b"refused")
    monkeypatch.undo()
    after = store.write(b"after")
    assert len([path for path in tmp_path.glob("??/*") if path.is_file()]) == 2
    for blob in (before, after):
        (tmp_path / blob[:2] / blob).unlink(missing_ok=True)
    store._journal.settle()
