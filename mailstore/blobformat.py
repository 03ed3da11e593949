"""How a blob is written, in its file or in the journal, and reading it.

magic (8) | content size (8, big endian) | wrapped data key (60) | chunks, each ciphertext + tag (16).

A chunk's nonce is its index: each data key encrypts one blob only, so no nonce ever serves twice. Each chunk authenticates the
blob's id, its index and whether it is the last; the wrapped key authenticates the id and the content size.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mailstore.crypto import KEY_SIZE, NONCE_SIZE, TAG_SIZE, KeyRing, SealBroken

CHUNK = 64 * 1024
_AT_ONCE = 4
"""Chunks that a reader of a whole content has in hand."""
MAGIC = b"CADBLOB1"
WRAPPED_SIZE = NONCE_SIZE + KEY_SIZE + TAG_SIZE
HEADER_SIZE = len(MAGIC) + 8 + WRAPPED_SIZE


def octets_of(blob: str, content: bytes, ring: KeyRing) -> Iterator[bytes]:
    """The octets of a blob: its header, then its chunks."""
    data_key = AESGCM.generate_key(bit_length=8 * KEY_SIZE)
    cipher = AESGCM(data_key)
    size = len(content)
    total = _chunks(size)
    view = memoryview(content)
    yield MAGIC + size.to_bytes(8, "big") + ring.seal(data_key, key_aad(blob, size))
    for index in range(total):
        piece = view[index * CHUNK : (index + 1) * CHUNK]
        yield cipher.encrypt(chunk_nonce(index), piece, chunk_aad(blob, index, index == total - 1))


def chunk_nonce(index: int) -> bytes:
    """The nonce of a chunk: its index, for each data key encrypts one blob only."""
    return index.to_bytes(NONCE_SIZE, "big")


def key_aad(blob: str, size: int) -> bytes:
    """What a wrapped data key is bound to."""
    return MAGIC + blob.encode("ascii") + size.to_bytes(8, "big")


def chunk_aad(blob: str, index: int, last: bool) -> bytes:
    """What a chunk is bound to."""
    return MAGIC + blob.encode("ascii") + index.to_bytes(8, "big") + (b"\x01" if last else b"\x00")


class Source(Protocol):
    """Where the octets of a blob are."""

    def octets(self, start: int, count: int) -> bytes:
        """At most `count` of them from `start`. Raises OSError."""
        ...

    def length(self) -> int:
        """How many there are. Raises OSError."""
        ...

    def close(self) -> None:
        """They are not read any more."""
        ...


class InFile:
    """In a file of their own, open for reading."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def octets(self, start: int, count: int) -> bytes:
        """See Source."""
        return os.pread(self._handle, count, start)

    def length(self) -> int:
        """See Source."""
        return os.fstat(self._handle).st_size

    def close(self) -> None:
        """See Source."""
        os.close(self._handle)


class InMemory:
    """In memory."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def octets(self, start: int, count: int) -> bytes:
        """See Source."""
        return self._octets[start : start + count]

    def length(self) -> int:
        """See Source."""
        return len(self._octets)

    def close(self) -> None:
        """Nothing to close."""


class Reader:
    """The content of a blob, decrypted as far as it is asked for. `size` is the content's, in octets, authenticated.

    Everything here raises SealBroken or InvalidTag when a part needed does not authenticate, OSError when it cannot be read."""

    def __init__(self, source: Source, blob: str, ring: KeyRing) -> None:
        self._source = source
        self._blob = blob
        self._ring = ring
        try:
            self.size, self._cipher = self._header()
        except SealBroken:
            self.size, self._cipher = self._header()  # the key was perhaps being wrapped anew
        self._total = _chunks(self.size)

    def slice(self, start: int, stop: int | None) -> bytes:
        """Octets `start` to `stop`, as a slice of non-negative bounds."""
        end = self.size if stop is None else min(stop, self.size)
        if start >= end:
            if self.size:
                return b""
            first, last = 0, 0  # an empty blob still authenticates its only chunk
        else:
            first, last = start // CHUNK, (end - 1) // CHUNK
        return self._decrypted(first, last + 1)[start - first * CHUNK : max(end - first * CHUNK, 0)]

    def pieces(self, start: int) -> Iterator[bytes]:
        """From `start` on, a few chunks at a time."""
        skip = start % CHUNK
        for first in range(start // CHUNK, self._total, _AT_ONCE):
            data, skip = self._decrypted(first, min(first + _AT_ONCE, self._total))[skip:], 0
            if data:
                yield data

    def _decrypted(self, first: int, end: int) -> bytes:
        """Chunks from `first` to before `end`."""
        place = HEADER_SIZE + first * (CHUNK + TAG_SIZE)
        sealed = memoryview(self._source.octets(place, (end - first) * (CHUNK + TAG_SIZE)))
        pieces = []
        for index in range(first, end):
            at = (index - first) * (CHUNK + TAG_SIZE)
            aad = chunk_aad(self._blob, index, index == self._total - 1)
            pieces.append(self._cipher.decrypt(chunk_nonce(index), sealed[at : at + CHUNK + TAG_SIZE], aad))
        return b"".join(pieces)

    def _header(self) -> tuple[int, AESGCM]:
        """The content size and the data key's cipher; both and the whole length must agree."""
        header = self._source.octets(0, HEADER_SIZE)
        if len(header) != HEADER_SIZE or not header.startswith(MAGIC):
            raise SealBroken
        size = int.from_bytes(header[len(MAGIC) : len(MAGIC) + 8], "big")
        data_key = self._ring.unseal(header[len(MAGIC) + 8 :], key_aad(self._blob, size))
        if self._source.length() != HEADER_SIZE + size + TAG_SIZE * _chunks(size):
            raise SealBroken
        return size, AESGCM(data_key)


def _chunks(size: int) -> int:
    return max(1, -(-size // CHUNK))
