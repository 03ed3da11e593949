"""A journal that makes many small blobs durable with one sync (ADR 0056).

A blob of its own file costs a sync of the file and one of its folder; a group of small ones costs one append to a journal and
one sync. The blob files are written all the same, at once and without sync, so that readers know of no journal; when the
journal has grown, a thread syncs the files it names and removes it.

Invariants:
* what a journal holds is the blob files' own octets: encrypted, each under its own data key;
* a blob is durable when `append` returns: by its journal until its file is synced, by its file then;
* a journal is removed only once every file it names is synced, or gone because it was deleted;
* the journal of a process that died is replayed by the next one that opens the folder, never that of a living process: each
  holds a lock on its own. A record cut by the crash was never answered for, and is passed over.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from mailstore.crypto import sync_folder

LIMIT = 8 * 1024 * 1024
"""Octets after which a journal is closed and its files are synced."""
_AHEAD = 1024 * 1024
"""Octets of zeros written ahead: syncing what overwrites them costs a third of syncing a file that grows."""
_MAGIC = b"CADJRNL1"
_HEAD = len(_MAGIC) + 32 + 4 + 16
_BLOB = re.compile(rb"[0-9a-f]{32}\Z")

Same = Callable[[bytes, bytes], bool]
"""(octets of a file, octets of its journal record): whether the file is whole."""


class BlobJournal:
    """The journal that this process writes. Thread safe; raises OSError."""

    def __init__(self, folder: Path, path_of: Callable[[str], Path]) -> None:
        """`folder` holds the journals, `path_of` says where a blob's file is."""
        self._folder = folder
        self._path_of = path_of
        self._lock = threading.Lock()
        self._handle = -1
        self._path = folder
        self._size = 0
        self._ready = 0  # octets that the file has, zeros among them
        self._named: list[Path] = []
        self._settling: threading.Thread | None = None

    def append(self, blobs: Sequence[tuple[str, bytes]]) -> None:
        """Make these blobs durable, then write their files."""
        records = b"".join(_record(blob, octets) for blob, octets in blobs)
        with self._lock:
            if self._handle < 0:
                self._begin()
            at = self._size
            try:
                _write_whole(self._handle, records, at)
                if at + len(records) > self._ready:
                    self._ready = at + len(records) + _AHEAD
                    with suppress(OSError):  # a disk almost full may refuse what is not needed
                        _write_whole(self._handle, bytes(_AHEAD), at + len(records))
                os.fdatasync(self._handle)
            except BaseException:
                # What follows a torn record would never be replayed: end this journal at the last good one.
                with suppress(OSError):
                    os.ftruncate(self._handle, at)
                self._leave()
                raise
            self._size += len(records)
            paths = [self._path_of(blob) for blob, _ in blobs]
            self._named += paths
            for path, (_, octets) in zip(paths, blobs, strict=True):
                write_file(path, octets, durable=False)
            if self._size > LIMIT:
                self._leave()

    def settle(self) -> None:
        """Sync what the journal names and remove it; returns when that is done."""
        with self._lock:
            self._leave()
            settling = self._settling
        if settling is not None:
            settling.join()

    def _begin(self) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._path = self._folder / f"{secrets.token_hex(16)}.log"
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        sync_folder(self._folder)
        sync_folder(self._folder.parent)
        self._size, self._ready, self._named = 0, 0, []

    def _leave(self) -> None:
        """Have a thread settle this journal; the next blob begins another. Called with the lock held."""
        if self._handle < 0:
            return
        before, handle, path, named = self._settling, self._handle, self._path, self._named
        self._handle, self._size, self._named = -1, 0, []

        def work() -> None:
            if before is not None:
                before.join()
            # What cannot be synced now stays in its journal, for the next process that opens the folder.
            with suppress(OSError):
                _sync(named)
                path.unlink()
            os.close(handle)

        self._settling = threading.Thread(target=work, name="blob-journal", daemon=True)
        self._settling.start()


def replay(folder: Path, path_of: Callable[[str], Path], same: Same) -> int:
    """Restore the blobs of dead processes' journals, durably; returns how many files were missing or damaged. Raises OSError."""
    restored = 0
    for path in sorted(folder.glob("*.log")):
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # of a living process
            restored += _replay_one(path.read_bytes(), path_of, same)
            path.unlink(missing_ok=True)
        finally:
            os.close(handle)
    return restored


def _replay_one(journal: bytes, path_of: Callable[[str], Path], same: Same) -> int:
    restored, kept = 0, []
    for blob, octets in _records(journal):
        path = path_of(blob)
        try:
            whole = same(path.read_bytes(), octets)
        except FileNotFoundError:
            whole = False
        if whole:
            kept.append(path)
        else:
            write_file(path, octets, durable=True)
            restored += 1
    _sync(kept)
    return restored


def write_file(path: Path, octets: bytes, *, durable: bool) -> None:
    """Put a whole file in place under its name; with `durable`, proof against a power cut. Raises OSError."""
    temporary = path.with_suffix(".tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        _write_whole(handle, octets, 0)
        if durable:
            os.fsync(handle)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    finally:
        os.close(handle)
    temporary.rename(path)
    if durable:
        sync_folder(path.parent)


def _sync(paths: Sequence[Path]) -> None:
    for path in paths:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # deleted meanwhile
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    for folder in sorted({path.parent for path in paths}):
        sync_folder(folder)


def _record(blob: str, octets: bytes) -> bytes:
    body = blob.encode("ascii") + len(octets).to_bytes(4, "big")
    return _MAGIC + body + hashlib.sha256(body + octets).digest()[:16] + octets


def _records(journal: bytes) -> Iterator[tuple[str, bytes]]:
    """The whole records, up to the first that is not."""
    at, name_at = 0, len(_MAGIC)
    while journal[at : at + name_at] == _MAGIC:
        body = journal[at + name_at : at + name_at + 36]
        octets = journal[at + _HEAD : at + _HEAD + int.from_bytes(body[32:], "big")]
        digest = journal[at + name_at + 36 : at + _HEAD]
        if not _BLOB.match(body[:32]) or hashlib.sha256(body + octets).digest()[:16] != digest:
            return
        yield body[:32].decode("ascii"), octets
        at += _HEAD + len(octets)


def _write_whole(handle: int, octets: bytes, at: int) -> None:
    view = memoryview(octets)
    while view:
        written = os.pwrite(handle, view, at)
        view, at = view[written:], at + written
