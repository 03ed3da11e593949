"""Encrypted files for message contents and documents.

Invariants:
* no clear byte reaches the disk: content is encrypted in memory, in 64 KiB chunks, under a data key of its own which the
  master key wraps;
* a blob's content is written once and never changed, only its wrapped key may be (`rewrap`): temporary name, fsync,
  rename, fsync of the folder. A name without `.tmp` is a whole blob. A small one that is staged is written without any sync:
  the transaction that refers to it makes it durable (`blobjournal`);
* each chunk authenticates the blob's id, its index and whether it is the last; the wrapped key authenticates the id and
  the total size. Truncation, lengthening, reordering, and exchange between blobs are all detected (BlobDamaged).

File: magic (8) | content size (8, big endian) | wrapped data key (60) | chunks, each ciphertext + tag (16).
A chunk's nonce is its index: each data key encrypts one blob only, so no nonce ever serves twice.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mailstore.crypto import KEY_SIZE, NONCE_SIZE, TAG_SIZE, KeyRing, Purpose, SealBroken, derive_key, sync_folder
from mailstore.model import BlobDamaged, NoSuchMessage, StoreUnavailable

CHUNK = 64 * 1024
SMALL = CHUNK
"""Octets of the largest content that is staged."""
_AT_ONCE = 4
"""Chunks that a reader of a whole content has in hand."""
MAGIC = b"CADBLOB1"
WRAPPED_SIZE = NONCE_SIZE + KEY_SIZE + TAG_SIZE
HEADER_SIZE = len(MAGIC) + 8 + WRAPPED_SIZE
_ID = re.compile(r"[0-9a-f]{32}\Z")
_TEMPORARY = re.compile(r"[0-9a-f]{32}\.tmp\Z")


class BlobStore:
    """A folder of encrypted blobs. Thread safe, and safe between processes."""

    def __init__(self, folder: Path, key: bytes | KeyRing) -> None:
        """Open (and create when missing) the folder with its 256 sub-folders. `key` is a ring, or a master key from which
        the one key of the folder is derived. Raises StoreUnavailable."""
        self._folder = folder
        self._staged: dict[str, bytes] = {}
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
        return self._write([(True, content) for content in contents])

    def stage(self, contents: Sequence[bytes]) -> list[str]:
        """As `write_all`, but for the small ones, which can be read from now on and are durable only with the transaction
        that takes what `staged` gives of them; until then, and until `unstage`, they are held in memory."""
        return self._write([(len(content) > SMALL, content) for content in contents])

    def _write(self, contents: Sequence[tuple[bool, bytes]]) -> list[str]:
        """Contents, and whether each is to be durable; their ids."""
        prefix = secrets.token_hex(1)
        blobs = [prefix + secrets.token_hex(15) for _ in contents]
        try:
            try:
                for blob, (durable, content) in zip(blobs, contents, strict=True):
                    if durable:
                        self._write_durable(blob, content)
                    else:
                        octets = self._staged[blob] = b"".join(self._octets(blob, content))
                        write_file(self._place(blob), octets)
                if any(durable for durable, _ in contents):
                    sync_folder(self._folder / prefix)
            except BaseException:
                for blob in blobs:
                    self._staged.pop(blob, None)
                    for leftover in (self._path(blob).with_suffix(".tmp"), self._path(blob)):
                        with suppress(OSError):
                            leftover.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise _unavailable("écrire", "write", error) from error
        return blobs

    def _write_durable(self, blob: str, content: bytes) -> None:
        final = self._path(blob)
        temporary = final.with_suffix(".tmp")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb", buffering=4 * CHUNK) as file:
            file.writelines(self._octets(blob, content))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(final)

    def staged(self, blob: str) -> bytes | None:
        """The octets that a transaction must keep for this blob to be durable; None when it is so by itself."""
        return self._staged.get(blob)

    def unstage(self, blobs: Iterable[str]) -> None:
        """Forget what was held of these: their transaction has ended."""
        for blob in blobs:
            self._staged.pop(blob, None)

    def restore(self, blob: str, octets: bytes) -> bool:
        """Have the file of a blob hold these octets, which were staged; whether it did not. Raises StoreUnavailable."""
        try:
            path = self._path(blob)
            try:
                if _same(path.read_bytes(), octets):
                    return False
            except FileNotFoundError:
                pass
            write_file(str(path), octets)
            return True
        except OSError as error:
            raise _unavailable("écrire", "write", error) from error

    def sync(self, blobs: Collection[str]) -> None:
        """Have the files of these blobs, where they are, survive a power cut. Raises StoreUnavailable."""
        try:
            for blob in blobs:
                with suppress(FileNotFoundError):  # deleted meanwhile
                    handle = os.open(self._path(blob), os.O_RDONLY | os.O_CLOEXEC)
                    try:
                        os.fsync(handle)
                    finally:
                        os.close(handle)
            for folder in sorted({self._path(blob).parent for blob in blobs}):
                sync_folder(folder)
        except OSError as error:
            raise _unavailable("écrire", "write", error) from error

    def _octets(self, blob: str, content: bytes) -> Iterator[bytes]:
        """What the file of a blob holds: its header, then its chunks."""
        data_key = AESGCM.generate_key(bit_length=8 * KEY_SIZE)
        cipher = AESGCM(data_key)
        size = len(content)
        total = _chunks(size)
        view = memoryview(content)
        yield MAGIC + size.to_bytes(8, "big") + self._ring.seal(data_key, key_aad(blob, size))
        for index in range(total):
            piece = view[index * CHUNK : (index + 1) * CHUNK]
            yield cipher.encrypt(chunk_nonce(index), piece, chunk_aad(blob, index, index == total - 1))

    def read(self, blob: str, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes `start` to `stop` of a blob, as a slice of non-negative bounds; only the chunks needed are decrypted.

        Raises NoSuchMessage when there is no such blob, BlobDamaged when a part needed does not authenticate,
        StoreUnavailable on an I/O error.
        """
        if start < 0 or (stop is not None and stop < 0):
            raise ValueError("negative bound")
        handle = self._open(blob)
        try:
            size, cipher = self._read_header(handle, blob)
            end = size if stop is None else min(stop, size)
            if start >= end:
                if size:
                    return b""
                first, last = 0, 0  # an empty blob still authenticates its only chunk
            else:
                first, last = start // CHUNK, (end - 1) // CHUNK
            total = _chunks(size)
            sealed = memoryview(os.pread(handle, (last - first + 1) * (CHUNK + TAG_SIZE), _offset(first)))
            pieces = []
            for index in range(first, last + 1):
                at = (index - first) * (CHUNK + TAG_SIZE)
                pieces.append(
                    cipher.decrypt(
                        chunk_nonce(index),
                        sealed[at : at + CHUNK + TAG_SIZE],
                        chunk_aad(blob, index, index == total - 1),
                    )
                )
            return b"".join(pieces)[start - first * CHUNK : max(end - first * CHUNK, 0)]
        except (InvalidTag, SealBroken):
            raise _damaged(blob) from None
        except OSError as error:
            raise _unavailable("lire", "read", error) from error
        finally:
            os.close(handle)

    def stream(self, blob: str, start: int = 0) -> Iterator[bytes]:
        """The content from `start` on, a few chunks at a time; the file is opened once. Raises as `read`."""
        handle = self._open(blob)
        try:
            size, cipher = self._read_header(handle, blob)
            total = _chunks(size)
            skip = start % CHUNK
            for first in range(start // CHUNK, total, _AT_ONCE):
                sealed = memoryview(os.pread(handle, _AT_ONCE * (CHUNK + TAG_SIZE), _offset(first)))
                pieces = []
                for index in range(first, min(first + _AT_ONCE, total)):
                    at = (index - first) * (CHUNK + TAG_SIZE)
                    aad = chunk_aad(blob, index, index == total - 1)
                    pieces.append(cipher.decrypt(chunk_nonce(index), sealed[at : at + CHUNK + TAG_SIZE], aad))
                data, skip = b"".join(pieces)[skip:], 0
                if data:
                    yield data
        except (InvalidTag, SealBroken):
            raise _damaged(blob) from None
        except OSError as error:
            raise _unavailable("lire", "read", error) from error
        finally:
            os.close(handle)

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

    def size(self, blob: str) -> int:
        """The content's size in bytes, authenticated. Raises as `read`."""
        handle = self._open(blob)
        try:
            return self._read_header(handle, blob)[0]
        except SealBroken:
            raise _damaged(blob) from None
        except OSError as error:
            raise _unavailable("lire", "read", error) from error
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

    def _place(self, blob: str) -> str:
        """The path of a blob made here, whose id needs no check."""
        return f"{self._folder}/{blob[:2]}/{blob}"

    def _open(self, blob: str) -> int:
        try:
            return os.open(self._path(blob), os.O_RDONLY)
        except FileNotFoundError:
            raise _gone() from None
        except OSError as error:
            raise _unavailable("lire", "read", error) from error

    def _read_header(self, handle: int, blob: str) -> tuple[int, AESGCM]:
        """The content size and the data key's cipher; raises SealBroken unless both and the file's length agree."""
        try:
            return self._checked_header(handle, blob)
        except SealBroken:
            return self._checked_header(handle, blob)  # the key was perhaps being wrapped anew

    def _checked_header(self, handle: int, blob: str) -> tuple[int, AESGCM]:
        header = os.pread(handle, HEADER_SIZE, 0)
        if len(header) != HEADER_SIZE or not header.startswith(MAGIC):
            raise SealBroken
        size = int.from_bytes(header[len(MAGIC) : len(MAGIC) + 8], "big")
        data_key = self._ring.unseal(header[len(MAGIC) + 8 :], key_aad(blob, size))
        if os.fstat(handle).st_size != HEADER_SIZE + size + TAG_SIZE * _chunks(size):
            raise SealBroken
        return size, AESGCM(data_key)


def _chunks(size: int) -> int:
    return max(1, -(-size // CHUNK))


def _offset(index: int) -> int:
    return HEADER_SIZE + index * (CHUNK + TAG_SIZE)


def chunk_nonce(index: int) -> bytes:
    """The nonce of a chunk: its index, for each data key encrypts one blob only."""
    return index.to_bytes(NONCE_SIZE, "big")


def key_aad(blob: str, size: int) -> bytes:
    """What a wrapped data key is bound to."""
    return MAGIC + blob.encode("ascii") + size.to_bytes(8, "big")


def chunk_aad(blob: str, index: int, last: bool) -> bytes:
    """What a chunk is bound to."""
    return MAGIC + blob.encode("ascii") + index.to_bytes(8, "big") + (b"\x01" if last else b"\x00")


def write_file(path: str, octets: bytes) -> None:
    """Put octets in a file, without sync. Raises OSError."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        while octets:
            octets = octets[os.write(handle, octets) :]
    finally:
        os.close(handle)


def _same(found: bytes, staged: bytes) -> bool:
    """Whether a file is what was staged; its key may have been wrapped anew since (`rewrap`, which syncs)."""
    start = len(MAGIC) + 8
    return found[:start] == staged[:start] and found[HEADER_SIZE:] == staged[HEADER_SIZE:]


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
