"""Contents that arrive in pieces: encrypted and written as they come, so that a large message is never held in memory.

Invariants: what is on disk is the blob format of `blobs.py`, octet for octet; memory is one chunk, whatever the size; the
content is durable when `commit` returns and gone when `abort` does; a content that no acceptance takes is discarded by its
maker, or by the sweep after a crash.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mailstore.blobformat import CHUNK, HEADER_SIZE, MAGIC, chunk_aad, chunk_nonce, key_aad
from mailstore.core import Core
from mailstore.crypto import KEY_SIZE, sync_folder
from mailstore.model import Stored, StoreError, StoreUnavailable

FLUSH = 4 * CHUNK


class ContentWriter:
    """One blob being written. Synchronous and not thread safe: one caller at a time, as from one connection."""

    def __init__(self, final: Path, wrap: Callable[[bytes, bytes], bytes]) -> None:
        """`final` is the blob's path (its name is its id), `wrap` seals the data key. Raises StoreUnavailable."""
        self._final = final
        self._temporary = final.with_suffix(".tmp")
        self._wrap = wrap
        self._data_key = AESGCM.generate_key(bit_length=8 * KEY_SIZE)
        self._cipher = AESGCM(self._data_key)
        self._pending = bytearray()
        self._index = 0
        self._hash = hashlib.sha256()
        self.size = 0
        try:
            handle = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            self._file = os.fdopen(handle, "wb", buffering=FLUSH)
            self._file.write(bytes(HEADER_SIZE))  # the size it authenticates is known at the end only
        except OSError as error:
            raise _unavailable(error) from error

    @property
    def blob(self) -> str:
        """The id of the blob to be."""
        return self._final.name

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Add octets. Raises StoreUnavailable; the writer is then to be aborted."""
        self._hash.update(data)
        self.size += len(data)
        with memoryview(data) as view:
            begun = min(CHUNK - len(self._pending), len(view)) if self._pending else 0
            self._pending += view[:begun]
            if begun == len(view):
                return
            if self._pending:
                self._put(self._pending, last=False)
                self._pending = bytearray()
            # Every whole chunk but the last octets: only `commit` knows which chunk is the last.
            kept = begun + (len(view) - begun - 1) // CHUNK * CHUNK
            for at in range(begun, kept, CHUNK):
                with view[at : at + CHUNK] as piece:
                    self._put(piece, last=False)
            self._pending += view[kept:]

    def _put(self, piece: memoryview | bytearray, *, last: bool) -> None:
        aad = chunk_aad(self.blob, self._index, last)
        sealed = self._cipher.encrypt(chunk_nonce(self._index), piece, aad)
        self._index += 1
        try:
            self._file.write(sealed)
        except OSError as error:
            raise _unavailable(error) from error

    def commit(self, *, durable: bool = True) -> Stored:
        """Make the content readable, and (unless `durable` is False) proof against a crash. Raises StoreUnavailable:
        nothing is left behind."""
        try:
            self._put(self._pending, last=True)
            self._pending = bytearray()
            self._file.flush()
            sealed_key = self._wrap(self._data_key, key_aad(self.blob, self.size))
            os.pwrite(self._file.fileno(), MAGIC + self.size.to_bytes(8, "big") + sealed_key, 0)
            if durable:
                os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.rename(self._final)
            if durable:
                sync_folder(self._final.parent)
        except OSError as error:
            self.abort()
            raise _unavailable(error) from error
        except BaseException:
            self.abort()
            raise
        return Stored(self.blob, self.size, self._hash.digest())

    def abort(self) -> None:
        """Leave nothing behind; no effect after `commit` but to remove what it made."""
        with suppress(OSError):
            self._file.close()
        for leftover in (self._temporary, self._final):
            with suppress(OSError):
                leftover.unlink(missing_ok=True)


def _unavailable(error: OSError) -> StoreUnavailable:
    return StoreUnavailable(
        f"Impossible d'écrire le contenu ({error.strerror}). / Cannot write content ({error.strerror})."
    )


class SpoolVerbs(Core):
    """Verbs on contents that no acceptance has taken yet."""

    def spool(self) -> ContentWriter:
        """Begin a content. Raises StoreUnavailable."""
        return ContentWriter(*self._blobs.fresh())

    def discard(self, stored: Stored) -> None:
        """Remove a content that no acceptance took. Never raises: the sweep gets what could not be removed now."""
        with suppress(StoreError):
            self._blobs.delete(stored.blob)

    def pieces(self, blob: str, start: int = 0) -> Iterator[bytes]:
        """The octets of a content from `start`, a piece at a time. Raises as `read_blob`."""
        return self._blobs.stream(blob, start)

    def content_size(self, blob: str) -> int:
        """The size of a content in octets, authenticated. Raises as `read_blob`."""
        return self._blobs.size(blob)
