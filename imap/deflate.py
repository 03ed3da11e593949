"""The two streams of COMPRESS=DEFLATE (RFC 4978). Pure; inflating is bounded, for a few octets may stand for gigabytes."""

from __future__ import annotations

import zlib


class Deflated:
    """Raw DEFLATE both ways, flushed after each write."""

    def __init__(self, received: bytes) -> None:
        self._deflate = zlib.compressobj(level=6, wbits=-zlib.MAX_WBITS)
        self._inflate = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        self._received = received

    def add(self, data: bytes) -> None:
        """Compressed octets arrived."""
        self._received += data

    @property
    def waiting(self) -> bool:
        """Whether something is left to inflate."""
        return bool(self._received)

    def inflate(self, most: int) -> bytes:
        """At most `most` octets more of what the client meant. Raises zlib.error, also when the stream has ended."""
        if self._inflate.eof:
            raise zlib.error("text after the end of the stream")
        out = self._inflate.decompress(self._received, most)
        self._received = self._inflate.unconsumed_tail or self._inflate.unused_data
        return out

    def deflate(self, data: bytes) -> bytes:
        """What to send for `data`."""
        return self._deflate.compress(data) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
