"""The receiving side of a server connection: bytes that came in, read as command lines or as pieces of a message.

Invariants: what is buffered is bounded (the transport is paused above `HIGH`); a command ends with CRLF and nothing else; the
pieces of a message are handed on as they came, without a copy. Nothing here interprets or logs content.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque

HIGH = 256 * 1024
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux


class ConnectionEnded(ConnectionError):
    """The peer went away, or the connection was closed."""


class BadLine(Exception):
    """A command line that is too long, or that does not end with CRLF alone. The line has been consumed."""

    def __init__(self, *, too_long: bool) -> None:
        super().__init__("too long" if too_long else "bad line end")
        self.too_long = too_long


class Wire:
    """A bounded input buffer between a protocol's `data_received` and one reader."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._start = 0  # what was read of the first piece: cutting it off would copy the rest for every command
        self._size = 0
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
        if data:
            self._pieces.append(data)
            self._size += len(data)
        if self._size > HIGH and not self._paused and self._transport is not None:
            self._transport.pause_reading()
            self._paused = True
        self._wake()

    def end(self) -> None:
        """No more octets will come."""
        self._ended = True
        self._wake()

    @property
    def ended(self) -> bool:
        """Whether no more octets will come."""
        return self._ended

    @property
    def pending(self) -> int:
        """How many octets wait to be read."""
        return self._size

    async def line(self, limit: int, seconds: float) -> bytes:
        """The next command line without its CRLF, whole within `seconds`. Raises BadLine, ConnectionEnded, TimeoutError."""
        deadline = 0.0
        too_long = False
        while True:
            data = self._joined()
            at = data.find(b"\n", self._start)
            if at >= 0:
                break
            if self._size > limit:
                too_long = True
                self.take_all()
            deadline = deadline or asyncio.get_running_loop().time() + seconds
            await self._more(deadline)
        line = self._take(at + 1 - self._start)
        if too_long or len(line) > limit:
            raise BadLine(too_long=True)
        if not line.endswith(b"\r\n") or b"\r" in line[:-2] or b"\0" in line:
            raise BadLine(too_long=False)
        return line[:-2]

    async def some(self, limit: int = HIGH, *, begun: bool = False) -> bytes:
        """What has come, at least one octet and at most `limit`. `begun`: it is the rest of something. Raises ConnectionEnded."""
        while not self._pieces:
            if begun:
                self._hasten()
            await self._more()
        return self._take(min(limit, len(self._pieces[0]) - self._start))

    def take_all(self) -> bytes:
        """What has come and was not read, without waiting."""
        self._joined()
        return self._take(self._size)

    def push_back(self, data: bytes) -> None:
        """Octets read too far: the next reader begins with them."""
        if data:
            rest = self.take_all()
            self._pieces.append(data + rest)
            self._size += len(data) + len(rest)

    def _joined(self) -> bytes:
        """Everything that waits, as one piece that begins at `_start`."""
        if len(self._pieces) > 1:
            self._pieces[0] = self._pieces[0][self._start :]
            whole = b"".join(self._pieces)
            self._start = 0
            self._pieces.clear()
            self._pieces.append(whole)
        return self._pieces[0] if self._pieces else b""

    def _take(self, count: int) -> bytes:
        """The next octets, all of them in the first piece."""
        if not count:
            return b""
        first, end = self._pieces[0], self._start + count
        taken = first if count == len(first) else first[self._start : end]
        self._start = end
        if end == len(first):
            self._pieces.popleft()
            self._start = 0
        self._size -= count
        if self._paused and self._size <= HIGH // 2 and self._transport is not None:
            self._transport.resume_reading()
            self._paused = False
        return taken

    async def _more(self, deadline: float | None = None) -> None:
        """Wait for octets. A timer of the loop costs a tenth of what a time-out block does, once for every command."""
        if self._ended:
            raise ConnectionEnded
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = loop.call_at(deadline, _late, waiter) if deadline is not None else None
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _hasten(self) -> None:
        """Acknowledge at once what has come of a message: a client whose system waits for our ACK before it sends a small
        piece (Nagle) would wait 40 ms for it."""
        network = self._transport.get_extra_info("socket") if self._transport is not None else None
        if network is not None and _QUICKACK is not None:
            with contextlib.suppress(OSError):
                network.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _late(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())
