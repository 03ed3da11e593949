"""A message on its way to another operator, in memory or read piece by piece.

Invariants: what is in it (8-bit, bare line ends) is known before the first octet is sent; a large one is never held whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

from smtp.intake import Scan

_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to send: in memory (`small`), or read piece by piece from `source` as often as it is asked for.

    `eight_bit`, `international` (letters beyond ASCII in its header) and `faulty` (bare CR or LF, NUL) say what is in it.
    """

    size: int
    eight_bit: bool
    faulty: bool
    small: bytes | None = field(default=None, repr=False)
    source: Callable[[], Iterator[bytes]] | None = field(default=None, repr=False)
    international: bool = False

    @classmethod
    def of(cls, content: bytes) -> Outgoing:
        """A message in memory."""
        scan = Scan()
        scan.feed(content)
        scan.finish()
        return cls(len(content), scan.eight_bit, scan.bare or scan.null, content, None, not scan.header.isascii())

    @classmethod
    def from_pieces(cls, source: Callable[[], Iterator[bytes]]) -> Outgoing:
        """A message that stays where it is; blocking: it is read once here."""
        scan = Scan()
        for piece in source():
            scan.feed(piece)
        scan.finish()
        return cls(scan.size, scan.eight_bit, scan.bare or scan.null, None, source, not scan.header.isascii())

    async def pieces(self) -> AsyncIterator[bytes]:
        """Its octets, in order."""
        if self.small is not None:
            for at in range(0, len(self.small), _CHUNK):
                yield self.small[at : at + _CHUNK]
            return
        if self.source is not None:
            reading = self.source()
            while (piece := await asyncio.to_thread(next, reading, None)) is not None:
                yield piece
