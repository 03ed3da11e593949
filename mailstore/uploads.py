"""A message that a client sends: bounded, encrypted as it comes, gone without a trace unless a folder takes it."""

from __future__ import annotations

from types import TracebackType

from mailstore.model import MessageTooLarge, Stored
from mailstore.spool import ContentWriter


class Upload:
    """One content on its way in. Leaving its `with` block discards what no folder took. Not thread safe."""

    def __init__(self, writer: ContentWriter, limit: int) -> None:
        self._writer = writer
        self._limit = limit
        self._ended = False

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._writer.size

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Add bytes. Raises MessageTooLarge past the limit, StoreUnavailable; the upload is then to be discarded."""
        if self._writer.size + len(chunk) > self._limit:
            raise MessageTooLarge("Message trop long. / Message too large.")
        self._writer.write(chunk)

    def finish(self) -> Stored:
        """Make the content durable, for the verb that takes it. Raises StoreUnavailable: nothing is left behind."""
        stored = self._writer.commit()
        self._ended = True
        return stored

    def discard(self) -> None:
        """Leave nothing behind; no effect once finished or discarded."""
        if not self._ended:
            self._ended = True
            self._writer.abort()

    def __enter__(self) -> Upload:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()
