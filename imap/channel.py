"""One connection as lines and octets: bounded buffering both ways, STARTTLS, and nothing read that was not asked for.

Why not asyncio's StreamReader: STARTTLS must be refused when any octet is already buffered, and nothing may enter the
buffer between that check and the handshake. Here the buffer is ours, and reading is paused before it is looked at.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from imap.errors import ConnectionGone

HIGH_WATER = 256 * 1024
CLOSE_TIME = 30.0


class LineTooLong(Exception):
    """A line longer than allowed: what follows cannot be trusted to be a command."""


class Channel(asyncio.Protocol):
    """A protocol object of asyncio with awaitable reads. `on_connect` is called once, when the connection (with
    implicit TLS: the handshake) is complete."""

    def __init__(self, on_connect: Callable[[Channel], None], *, tls: bool) -> None:
        self.tls = tls
        self._on_connect: Callable[[Channel], None] | None = on_connect
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._scanned = 0
        self._ended = False
        self._closing: asyncio.TimerHandle | None = None
        self._paused = False
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def peer(self) -> str:
        """The client's network address, without port."""
        name = self._transport.get_extra_info("peername") if self._transport else None
        return str(name[0]) if name else ""

    @property
    def buffered(self) -> int:
        """Octets received and not yet asked for."""
        return len(self._buffer)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection is there, or has been wrapped in TLS."""
        self._transport = transport  # type: ignore[assignment]
        if self._on_connect is not None:
            on_connect, self._on_connect = self._on_connect, None
            on_connect(self)

    def data_received(self, data: bytes) -> None:
        """asyncio: octets arrived."""
        self._buffer += data
        if len(self._buffer) > HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._readable.set()

    def eof_received(self) -> bool:
        """asyncio: the client will send no more."""
        self._ended = True
        self._readable.set()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self._ended = True
        self._readable.set()
        self._writable.set()
        self._transport = None
        if self._closing is not None:
            self._closing.cancel()

    def pause_writing(self) -> None:
        """asyncio: the client reads slower than we write."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """asyncio: the client has caught up."""
        self._writable.set()

    async def _more(self) -> None:
        if self._ended:
            raise ConnectionGone
        self._readable.clear()
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        await self._readable.wait()

    async def read_line(self, limit: int) -> bytes:
        """The next line with its end, LF or CRLF. Raises LineTooLong beyond `limit` octets, ConnectionGone at the end.

        May be cancelled: nothing received is lost.
        """
        while True:
            found = self._buffer.find(b"\n", self._scanned)
            size = found + 1 if found >= 0 else len(self._buffer)
            if size > limit:
                raise LineTooLong
            if found >= 0:
                return self._take(size)
            self._scanned = len(self._buffer)
            await self._more()

    def _take(self, size: int) -> bytes:
        taken = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        self._scanned = 0
        return taken

    async def read_exactly(self, size: int) -> bytes:
        """The next `size` octets, which the caller has bounded."""
        out = bytearray()
        while len(out) < size:
            if self._buffer:
                out += self._take(min(size - len(out), len(self._buffer)))
            else:
                await self._more()
        return bytes(out)

    async def discard(self, size: int) -> None:
        """Reads and forgets `size` octets."""
        while size > 0:
            if self._buffer:
                size -= len(self._take(min(size, len(self._buffer))))
            else:
                await self._more()

    async def write(self, data: bytes, within: float) -> None:
        """Sends, and waits until the client has taken enough. Raises ConnectionGone after `within` seconds."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionGone
        self._transport.write(data)
        if not self._writable.is_set():
            try:
                async with asyncio.timeout(within):
                    await self._writable.wait()
            except TimeoutError:
                self.abort()
                raise ConnectionGone from None

    def hold(self) -> bool:
        """Stops reading from the socket, and says whether nothing is buffered: the condition for STARTTLS."""
        if self._transport is not None:
            self._transport.pause_reading()
        self._paused = True
        return not self._buffer

    async def start_tls(self, context: ssl.SSLContext, within: float) -> None:
        """The server side of a TLS handshake on a held connection. Raises ConnectionGone when it fails."""
        if self._transport is None or self._buffer:
            raise ConnectionGone
        loop = asyncio.get_running_loop()
        try:
            upgraded = await loop.start_tls(
                self._transport, self, context, server_side=True, ssl_handshake_timeout=within
            )
        except (OSError, TimeoutError) as error:
            raise ConnectionGone from error
        if upgraded is None:
            raise ConnectionGone
        self._transport = upgraded
        self._paused = False
        self.tls = True

    def close(self) -> None:
        """Closes after what was written has been sent, or after CLOSE_TIME seconds: a client that does not read must not
        hold a connection that nobody counts any more."""
        if self._transport is not None:
            self._transport.close()
            if self._closing is None:
                self._closing = asyncio.get_running_loop().call_later(CLOSE_TIME, self._transport.abort)

    def abort(self) -> None:
        """Closes at once."""
        if self._transport is not None:
            self._transport.abort()
