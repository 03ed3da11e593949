"""The receiving side of a server connection: bytes that came in, read as lines or as a DATA block.

Invariants: what is buffered is bounded (the transport is paused above `HIGH`); a command ends with CRLF and nothing
else; the only end of DATA is CRLF "." CRLF (RFC 5321 §4.1.1.4), whatever the chunks it came in; octets after the end
stay for the next command. Nothing here interprets or logs content.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

HIGH = 256 * 1024
_END = b"\r\n.\r\n"


class ConnectionEnded(Exception):
    """The peer went away, or the connection was closed."""


class BadLine(Exception):
    """A command line that is too long, or that does not end with CRLF alone. The line has been consumed."""

    def __init__(self, *, too_long: bool) -> None:
        super().__init__("too long" if too_long else "bad line end")
        self.too_long = too_long


@dataclass(frozen=True, slots=True)
class Block:
    """What came after DATA: the message without dot-stuffing, or why it cannot be taken."""

    content: bytes
    too_big: bool


class Wire:
    """A bounded input buffer between a protocol's `data_received` and one reader."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._transport: asyncio.ReadTransport | None = None
        self._paused = False
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None

    def attach(self, transport: asyncio.ReadTransport) -> None:
        """Use this transport for flow control from now on (again after STARTTLS)."""
        self._transport = transport
        self._paused = False

    def feed(self, data: bytes) -> None:
        """Octets have come."""
        self._buffer += data
        if len(self._buffer) > HIGH and not self._paused and self._transport is not None:
            self._transport.pause_reading()
            self._paused = True
        self._wake()

    def end(self) -> None:
        """No more octets will come."""
        self._ended = True
        self._wake()

    @property
    def pending(self) -> int:
        """How many octets wait to be read."""
        return len(self._buffer)

    async def line(self, limit: int) -> bytes:
        """The next command line without its CRLF. Raises BadLine, ConnectionEnded."""
        too_long = False
        seen = 0
        while True:
            at = self._buffer.find(b"\n", seen)
            if at >= 0:
                line = self._take(at + 1)
                break
            if len(self._buffer) > limit:
                too_long = True
                self._take(len(self._buffer))
            seen = len(self._buffer)
            await self._more()
        if too_long or len(line) > limit:
            raise BadLine(too_long=True)
        if not line.endswith(b"\r\n") or b"\r" in line[:-2] or b"\0" in line:
            raise BadLine(too_long=False)
        return line[:-2]

    async def block(self, limit: int, hard_limit: int) -> Block:
        """The message after a 354, at most `limit` octets on the wire; above it, what follows is read and thrown away.

        Raises ConnectionEnded when the peer leaves before the end, or sends more than `hard_limit` octets.
        """
        kept = bytearray(b"\r\n")  # the CRLF of the DATA command itself: a lone dot may be the first line
        size = 0
        too_big = False
        while True:
            start = max(0, len(kept) - len(_END) + 1)
            fresh = self._take(len(self._buffer))
            kept += fresh
            at = kept.find(_END, start)
            if at >= 0:
                self._buffer[:0] = kept[at + len(_END) :]
                size += at + 2 - (len(kept) - len(fresh))
                del kept[at + 2 :]
                break
            size += len(fresh)
            if size > hard_limit:
                raise ConnectionEnded
            if size > limit:
                too_big = True
                del kept[: -len(_END)]
            await self._more()
        if too_big or size > limit:
            return Block(b"", True)
        # Every line that begins with a dot loses it (RFC 5321 §4.5.2); the first CRLF is the one added above.
        return Block(bytes(kept.replace(b"\r\n.", b"\r\n")[2:]), False)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        if self._paused and len(self._buffer) <= HIGH // 2 and self._transport is not None:
            self._transport.resume_reading()
            self._paused = False
        return taken

    async def _more(self) -> None:
        if self._ended:
            raise ConnectionEnded
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
