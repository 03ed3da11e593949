"""The receiving side of a server connection: bytes that came in, read as command lines or as pieces of a message.

Invariants: what is buffered is bounded (the transport is paused above `HIGH`); a command ends with CRLF and nothing else.
Nothing here interprets or logs content.
"""

from __future__ import annotations

import asyncio

HIGH = 256 * 1024


class ConnectionEnded(Exception):
    """The peer went away, or the connection was closed."""


class BadLine(Exception):
    """A command line that is too long, or that does not end with CRLF alone. The line has been consumed."""

    def __init__(self, *, too_long: bool) -> None:
        super().__init__("too long" if too_long else "bad line end")
        self.too_long = too_long


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

    async def some(self, limit: int = HIGH) -> bytes:
        """What has come, at least one octet and at most `limit`. Raises ConnectionEnded."""
        while not self._buffer:
            await self._more()
        return self._take(min(limit, len(self._buffer)))

    def take_all(self) -> bytes:
        """What has come and was not read, without waiting."""
        return self._take(len(self._buffer))

    def push_back(self, data: bytes) -> None:
        """Octets read too far: the next reader begins with them."""
        self._buffer[:0] = data

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
