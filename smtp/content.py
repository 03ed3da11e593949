"""A message that was handed to us: in memory when small, in the encrypted blob store when not.

Invariants: above IN_MEMORY octets a message is never held whole, except under the `Budget` that bounds all such messages
together; a spooled message that ends in no acceptance is discarded; the body of a rebuilt message is the received one, octet
for octet.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import mime
from mailstore import Content, ContentWriter, Store, Stored
from smtp.intake import Scan

IN_MEMORY = 256 * 1024
_WRITE = 1024 * 1024
_LOOK = 4096
_ENVELOPED = (b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03", b"\x06\x0b\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x01\x17")
"""id-envelopedData and id-ct-authEnvelopedData (RFC 5652 §6, RFC 5083), in DER."""


@dataclass(frozen=True, slots=True)
class Received:
    """A whole message. `header` is its header lines with their ends, without the blank line."""

    header: bytes = field(repr=False)
    size: int
    eight_bit: bool
    content: Content = field(repr=False)

    @property
    def stored(self) -> Stored | None:
        """Where it is, when it is not in memory."""
        return self.content if isinstance(self.content, Stored) else None

    def whole(self, store: Store) -> bytes:
        """All of it; blocking."""
        return self.content if isinstance(self.content, bytes) else store.read_blob(self.content.blob)

    def discard(self, store: Store) -> None:
        """Nothing took it."""
        if isinstance(self.content, Stored):
            store.discard(self.content)

    def start(self, store: Store, octets: int = _LOOK) -> bytes:
        """The first octets of the body; blocking."""
        at = len(self.header) + 2
        if isinstance(self.content, bytes):
            return self.content[at : at + octets]
        return store.read_blob(self.content.blob, at, at + octets)

    def rebuilt(self, store: Store, header: bytes) -> Content:
        """The same body under another header, durable in the blob store when it was there; blocking."""
        if isinstance(self.content, bytes):
            return header + self.content[len(self.header) :]
        writer = store.spool()
        try:
            writer.write(header)
            for piece in store.pieces(self.content.blob, len(self.header)):
                writer.write(piece)
        except BaseException:
            writer.abort()
            raise
        return writer.commit()


def is_enveloped(received: Received, store: Store) -> bool:
    """True when the message is an S/MIME envelope: its type says so and its first octets are one's. Blocking, bounded."""
    part = mime.parse(received.header + b"\r\n", max_parts=1)
    if part.media_type not in ("application/pkcs7-mime", "application/x-pkcs7-mime") or part.encoding != "base64":
        return False
    start = received.start(store).replace(b"\r\n", b"")
    try:
        der = base64.b64decode(start[: len(start) // 4 * 4], validate=True)
    except binascii.Error:
        return False
    return der[:1] == b"\x30" and any(identifier in der[:32] for identifier in _ENVELOPED)


def is_clear(received: Received) -> bool:
    """True when the type of the message is none of S/MIME's: there is nothing to open or verify in it."""
    part = mime.parse(received.header + b"\r\n", max_parts=1)
    smime = "pkcs7" in part.media_type or (part.filename or "").lower().endswith((".p7m", ".p7s"))
    return not smime and part.media_type != "multipart/signed"


class Intake:
    """Where the octets of one message go as they come."""

    def __init__(self, store: Store, limit: int) -> None:
        self.scan = Scan()
        self._store = store
        self._limit = limit
        self._memory: list[bytes] = []  # as they came: joining them would double what is held
        self._held = 0
        self._writer: ContentWriter | None = None
        self.too_big = False

    async def feed(self, data: bytes) -> None:
        """Take the next octets; once too big, or faulty, they are only counted. Raises StoreUnavailable."""
        self.scan.feed(data)
        if self.scan.size > self._limit or self.too_big:
            if not self.too_big:
                self.too_big = True
                self.abort()
            return
        self._memory.append(data)
        self._held += len(data)
        if self._held > (IN_MEMORY if self._writer is None else _WRITE):
            await self._flush()

    async def _flush(self) -> None:
        pieces, self._memory, self._held = self._memory, [], 0
        self._writer = await asyncio.to_thread(_written, self._store, self._writer, pieces)

    async def finish(self) -> Received:
        """The whole message, once `scan` found it fit."""
        self.scan.finish()
        if self._writer is None:
            content: Content = b"".join(self._memory)
        else:
            await self._flush()
            writer, self._writer = self._writer, None
            # A spooled message is copied before it is accepted: only the copy has to survive a crash.
            content = await asyncio.to_thread(writer.commit, durable=False)
        self._memory, self._held = [], 0
        return Received(self.scan.header, self.scan.size, self.scan.eight_bit, content)

    def abort(self) -> None:
        """Leave nothing behind."""
        self._memory, self._held = [], 0
        if self._writer is not None:
            self._writer.abort()
            self._writer = None


def _written(store: Store, writer: ContentWriter | None, pieces: Sequence[bytes]) -> ContentWriter:
    """The writer (a new one for the first pieces) with these pieces added; blocking."""
    writer = writer or store.spool()
    try:
        for piece in pieces:
            writer.write(piece)
    except BaseException:
        writer.abort()
        raise
    return writer


class Budget:
    """How many octets of large messages may be in memory at once, in the whole process; larger ones go alone."""

    def __init__(self, octets: int) -> None:
        self._octets = octets
        self._free = octets
        self._changed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def of(self, size: int) -> AsyncIterator[None]:
        """Wait for room for `size` octets."""
        share = min(size, self._octets) if size > IN_MEMORY else 0
        if share:
            async with self._changed:
                await self._changed.wait_for(lambda: self._free >= share)
                self._free -= share
        try:
            yield
        finally:
            if share:
                async with self._changed:
                    self._free += share
                    self._changed.notify_all()
