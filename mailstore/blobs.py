"""Encrypted files for message contents and documents.

Invariants:
* no clear byte reaches the disk: content is encrypted in memory, in 64 KiB chunks, under a data key of its own which the
  master key wraps;
* a blob's content is written once and never changed, only its wrapped key may be (`rewrap`): temporary name, fsync,
  final name, fsync of the folder. A name without `.tmp` is a whole blob. A small one that is staged has no file at first:
  the transaction that refers to it keeps its octets, and readers are given those (`blobjournal`);
* truncation, lengthening, reordering, and exchange between blobs are all detected (`blobformat`, BlobDamaged).
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag

from mailstore.blobformat import CHUNK, HEADER_SIZE, MAGIC, InFile, InMemory, Reader, Source, key_aad, octets_of
from mailstore.crypto import KeyRing, Purpose, SealBroken, derive_key, sync_folder
from mailstore.model import BlobDamaged, NoSuchMessage, StoreUnavailable

SMALL = CHUNK
"""Octets of the largest content that is staged."""
_ID = re.compile(r"[0-9a-f]{32}\Z")
_TEMPORARY = re.compile(r"[0-9a-f]{32}\.tmp\Z")


class BlobStore:
    """A folder of encrypted blobs. Thread safe, and safe between processes."""

    def __init__(self, folder: Path, key: bytes | KeyRing) -> None:
        """Open (and create when missing) the folder with its 256 sub-folders. `key` is a ring, or a master key from which
        the one key of the folder is derived. Raises StoreUnavailable."""
        self._folder = folder
        self._staged: dict[str, bytes] = {}
        self.journaled: Callable[[str], bytes | None] = lambda _blob: None
        """Asked for the octets of a blob that has no file."""
        self._ring = key if isinstance(key, KeyRing) else KeyRing([derive_key(key, Purpose.BLOB_KEYS)])
        try:
            # All sub-folders at once: their own durability is then settled before any blob is written.
            if not (folder / "ff").is_dir():
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                for number in range(256):
                    (folder / f"{number:02x}").mkdir(mode=0o700, exist_ok=True)
                sync_folder(folder)
                sync_folder(folder.parent)
        except OSError as error:
            raise _unavailable("ouvrir", "open", error) from error

    def write(self, content: bytes) -> str:
        """Encrypt and store `content`; when this returns, it survives a crash. Returns the blob's id (32 hex digits).

        Raises StoreUnavailable (disk full, I/O error): then no file is left behind.
        """
        return self.write_all([content])[0]

    def write_all(self, contents: Sequence[bytes]) -> list[str]:
        """As `write` for several contents, with one sync of their common sub-folder besides their own. Raises
        StoreUnavailable: then none is left behind."""
        blobs = _fresh_ids(len(contents))
        self._write_durable(dict(zip(blobs, contents, strict=True)))
        return blobs

    def stage(self, contents: Sequence[bytes]) -> list[str]:
        """As `write_all`, but the small ones are only encrypted, and held in memory until `unstage`: they are durable with
        the transaction that takes what `staged` gives of them, and get a file later (`place`)."""
        blobs = _fresh_ids(len(contents))
        found = list(zip(blobs, contents, strict=True))
        large = {blob: content for blob, content in found if len(content) > SMALL}
        if large:
            self._write_durable(large)
        for blob, content in found:
            if len(content) <= SMALL:
                self._staged[blob] = b"".join(octets_of(blob, content, self._ring))
        return blobs

    def _write_durable(self, contents: dict[str, bytes]) -> None:
        """Blobs of one sub-folder, by their ids."""
        try:
            try:
                for blob, content in contents.items():
                    final = self._path(blob)
                    temporary = final.with_suffix(".tmp")
                    with _created(temporary) as file:
                        file.writelines(octets_of(blob, content, self._ring))
                        file.flush()
                        os.fsync(file.fileno())
                    temporary.rename(final)
                for folder in {self._path(blob).parent for blob in contents}:
                    sync_folder(folder)
            except BaseException:
                for blob in contents:
                    for leftover in (self._path(blob).with_suffix(".tmp"), self._path(blob)):
                        with suppress(OSError):
                            leftover.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise _unavailable("écrire", "write", error) from error

    def staged(self, blob: str) -> bytes | None:
        """The octets that a transaction must keep for this blob to be durable; None when it is so by itself."""
        return self._staged.get(blob)

    def unstage(self, blobs: Iterable[str]) -> None:
        """Forget what was held of these: their transaction has ended."""
        for blob in blobs:
            self._staged.pop(blob, None)

    def place(self, octets: Sequence[tuple[str, bytes]]) -> None:
        """Give blobs that were staged their files, which survive a power cut when this returns. One that has its file keeps
        it: its key may have been wrapped anew since. Raises StoreUnavailable."""
        # Under names of their own: another process may be giving the same blobs their files. All are written before the
        # first sync: the disk then takes them together.
        temporaries = [self._path(blob).with_name(f"{secrets.token_hex(16)}.tmp") for blob, _ in octets]
        try:
            try:
                for temporary, (_, content) in zip(temporaries, octets, strict=True):
                    with _created(temporary) as file:
                        file.write(content)
                for temporary, (blob, _) in zip(temporaries, octets, strict=True):
                    _sync_file(temporary)
                    with suppress(FileExistsError):
                        os.link(temporary, self._path(blob))
            finally:
                for temporary in temporaries:
                    with suppress(OSError):
                        temporary.unlink(missing_ok=True)
            for folder in sorted({temporary.parent for temporary in temporaries}):
                sync_folder(folder)
        except OSError as error:
            raise _unavailable("écrire", "write", error) from error

    def read(self, blob: str, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes `start` to `stop` of a blob, as a slice of non-negative bounds; only the chunks needed are decrypted.

        Raises NoSuchMessage when there is no such blob, BlobDamaged when a part needed does not authenticate,
        StoreUnavailable on an I/O error.
        """
        if start < 0 or (stop is not None and stop < 0):
            raise ValueError("negative bound")
        with self._reading(blob) as reader:
            return reader.slice(start, stop)

    def stream(self, blob: str, start: int = 0) -> Iterator[bytes]:
        """The content from `start` on, a few chunks at a time; the file is opened once. Raises as `read`."""
        with self._reading(blob) as reader:
            yield from reader.pieces(start)

    def size(self, blob: str) -> int:
        """The content's size in bytes, authenticated. Raises as `read`."""
        with self._reading(blob) as reader:
            return reader.size

    @contextmanager
    def _reading(self, blob: str) -> Iterator[Reader]:
        source = self._open(blob)
        try:
            yield Reader(source, blob, self._ring)
        except (InvalidTag, SealBroken):
            raise _damaged(blob) from None
        except OSError as error:
            raise _unavailable("lire", "read", error) from error
        finally:
            source.close()

    def fresh(self) -> tuple[Path, Callable[[bytes, bytes], bytes]]:
        """The path of a blob to be, under a new id, and what wraps a data key (key, aad): for `spool.ContentWriter`."""
        return self._path(secrets.token_hex(16)), self._ring.seal

    def rewrap(self, blob: str) -> bool:
        """Bring a blob's data key under the newest key of the ring; its content is not touched. Returns whether it was
        not there yet. The 60 bytes lie in the first sector of the file, which a disk writes whole or not at all. Raises
        as `read`."""
        try:
            handle = os.open(self._path(blob), os.O_RDWR)
        except FileNotFoundError:
            raise _gone() from None
        except OSError as error:
            raise _unavailable("ouvrir", "open", error) from error
        try:
            header = os.pread(handle, HEADER_SIZE, 0)
            size = int.from_bytes(header[len(MAGIC) : len(MAGIC) + 8], "big")
            data_key, newest = self._ring.open(header[len(MAGIC) + 8 :], key_aad(blob, size))
            if newest:
                return False
            os.pwrite(handle, self._ring.seal(data_key, key_aad(blob, size)), len(MAGIC) + 8)
            os.fsync(handle)
            return True
        except SealBroken:
            raise _damaged(blob) from None
        except OSError as error:
            raise _unavailable("écrire", "write", error) from error
        finally:
            os.close(handle)

    def delete(self, blob: str) -> None:
        """Remove a blob; no error when it is gone already. Raises StoreUnavailable on an I/O error."""
        self._staged.pop(blob, None)
        try:
            self._path(blob).unlink(missing_ok=True)
        except OSError as error:
            raise _unavailable("supprimer", "delete", error) from error

    def sweep(self, referenced: Collection[str], older_than: datetime) -> int:
        """Remove blobs not in `referenced`, and unfinished files, last written before `older_than` (aware).

        `referenced` must have been read after `older_than`: a blob written since then is never touched, so that an
        acceptance in progress loses nothing. Returns the number of files removed. Raises StoreUnavailable.
        """
        limit = older_than.timestamp()
        removed = 0
        try:
            for folder in sorted(path for path in self._folder.iterdir() if len(path.name) == 2 and path.is_dir()):
                for path in list(folder.iterdir()):
                    orphan = _TEMPORARY.match(path.name) or (_ID.match(path.name) and path.name not in referenced)
                    if orphan and _written(path) < limit:
                        path.unlink(missing_ok=True)
                        removed += 1
        except OSError as error:
            raise _unavailable("balayer", "sweep", error) from error
        return removed

    def _path(self, blob: str) -> Path:
        if not _ID.match(blob):
            raise NoSuchMessage("Identifiant de contenu invalide. / Malformed blob id.")
        return self._folder / blob[:2] / blob

    def _open(self, blob: str) -> Source:
        """Where a blob is read: in memory before its transaction has ended, in the journal before it has its file."""
        octets = self._staged.get(blob)
        if octets is None:
            file = self._file(blob)
            if file is not None:
                return file
            octets = self.journaled(blob)
        if octets is not None:
            return InMemory(octets)
        file = self._file(blob)  # it got its file between the two looks
        if file is None:
            raise _gone()
        return file

    def _file(self, blob: str) -> InFile | None:
        try:
            return InFile(os.open(self._path(blob), os.O_RDONLY))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unavailable("lire", "read", error) from error


def _fresh_ids(count: int) -> list[str]:
    """Ids of new blobs, all in one sub-folder."""
    prefix = secrets.token_hex(1)
    return [prefix + secrets.token_hex(15) for _ in range(count)]


def _created(path: Path) -> BinaryIO:
    """A new file to write. Raises OSError."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", buffering=4 * CHUNK)


def _sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _written(path: Path) -> float:
    """When the file was last written, or never-old when it has just gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _gone() -> NoSuchMessage:
    return NoSuchMessage("Ce contenu n'existe plus. / This content no longer exists.")


def _damaged(blob: str) -> BlobDamaged:
    return BlobDamaged(
        f"Contenu {blob} altéré ou clé étrangère. / Content {blob} altered, or sealed under another key."
    )


def _unavailable(verb_fr: str, verb_en: str, error: OSError) -> StoreUnavailable:
    return StoreUnavailable(
        f"Impossible de {verb_fr} le contenu ({error.strerror}). / Cannot {verb_en} content ({error.strerror})."
    )
