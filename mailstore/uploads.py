"""A message that a client sends: bounded, kept in memory while it is small, encrypted on the disk as it comes beyond, gone
without a trace unless a folder takes it.

A small content stays clear in memory until its folder takes it: it is then made durable with the others of its command, by
one sync (`blobjournal`). What all uploads of a process hold so is bounded; past that they go to the disk as large ones do.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from mailstore.blobs import SMALL
from mailstore.caches import Room
from mailstore.model import Content, MessageTooLarge
from mailstore.spool import ContentWriter


class Upload:
    """One content on its way in. Leaving its `with` block discards what no folder took. Not thread safe."""

    def __init__(self, begin: Callable[[], ContentWriter], limit: int, room: Room) -> None:
        """`begin` opens a file for what does not stay in memory."""
        self._begin = begin
        self._limit = limit
        self._room = room
        self._held = bytearray()
        self._writer: ContentWriter | None = None
        self._ended = False
        self.size = 0
        """Octets written so far."""

    def stays_in_memory(self, more: int) -> bool:
        """Whether `more` octets can be added without waiting for the disk."""
        return self._writer is None and self.size + more <= SMALL

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Add octets. Raises MessageTooLarge past the limit, StoreUnavailable; the upload is then to be discarded."""
        if self.size + len(chunk) > self._limit:
            raise MessageTooLarge("Message trop long. / Message too large.")
        self.size += len(chunk)
        if self._writer is None and self.size <= SMALL and self._room.take(len(chunk)):
            self._held += chunk
            return
        if self._writer is None:
            self._writer = self._begin()
            self._writer.write(self._held)
            self._forget()
        self._writer.write(chunk)

    def finish(self) -> Content:
        """The content for the verb that takes it: its octets, or what was made durable of them. Raises StoreUnavailable:
        nothing is left behind."""
        content: Content = bytes(self._held) if self._writer is None else self._writer.commit()
        self._forget()
        self._ended = True
        return content

    def discard(self) -> None:
        """Leave nothing behind; no effect once finished or discarded."""
        if not self._ended:
            self._ended = True
            self._forget()
            if self._writer is not None:
                self._writer.abort()

    @property
    def on_disk(self) -> bool:
        """Whether `discard` has something to remove from the disk."""
        return self._writer is not None and not self._ended

    def _forget(self) -> None:
        self._room.give(len(self._held))
        self._held = bytearray()

    def __enter__(self) -> Upload:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()
