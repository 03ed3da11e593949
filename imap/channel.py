"""One connection as lines and octets: bounded buffering both ways, STARTTLS, COMPRESS, and nothing read that was not asked for.

Why not asyncio's StreamReader: STARTTLS must be refused when any octet is already buffered, and nothing may enter the
buffer between that check and the handshake. Here the buffer is ours, and reading is paused before it is looked at.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import Callable

from imap.errors import ConnectionGone

HIGH_WATER = 256 * 1024
CLOSE_TIME = 30.0


class LineTooLong(Exception):
    """A line longer than allowed: what follows cannot be trusted to be a command."""


class Deflated:
    """The two streams of COMPRESS=DEFLATE (RFC 4978): raw DEFLATE, flushed after each write; inflating is bounded."""

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


class Channel(asyncio.Protocol):
    """A protocol object of asyncio with awaitable reads. `on_connect` is called once, when the connection (with
    implicit TLS: the handshake) is complete. `bell` is set when octets arrive or the connection ends; IDLE has others
    ring it too."""

    __slots__ = (
        "_buffer",
        "_closing",
        "_deflated",
        "_ended",
        "_on_connect",
        "_paused",
        "_scanned",
        "_transport",
        "_writable",
        "bell",
        "tls",
    )

    def __init__(self, on_connect: Callable[[Channel], None], *, tls: bool) -> None:
        self.tls = tls
        self.bell = asyncio.Event()
        self._on_connect: Callable[[Channel], None] | None = on_connect
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._scanned = 0
        self._ended = False
        self._closing: asyncio.TimerHandle | None = None
        self._paused = False
        self._deflated: Deflated | None = None
        self._writable: asyncio.Event | None = None  # made when the client first reads slower than we write

    @property
    def peer(self) -> str:
        """The client's network address, without port."""
        name = self._transport.get_extra_info("peername") if self._transport else None
        return str(name[0]) if name else ""

    @property
    def certificate(self) -> bytes | None:
        """The client's certificate in DER, when it showed one and the TLS library found it good."""
        tls = self._transport.get_extra_info("ssl_object") if self._transport else None
        found: bytes | None = tls.getpeercert(binary_form=True) if tls is not None else None
        return found

    @property
    def buffered(self) -> int:
        """Octets received and not yet asked for."""
        return len(self._buffer)

    @property
    def line_waiting(self) -> bool:
        """Whether `read_line` would answer (or fail) at once."""
        return self._ended or len(self._buffer) > HIGH_WATER or b"\n" in self._buffer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection is there, or has been wrapped in TLS."""
        self._transport = transport  # type: ignore[assignment]
        if self._on_connect is not None:
            on_connect, self._on_connect = self._on_connect, None
            on_connect(self)

    def data_received(self, data: bytes) -> None:
        """asyncio: octets arrived."""
        if self._deflated is not None:
            self._deflated.add(data)
            self._inflate()
        else:
            self._buffer += data
        self._pause_when_full()
        self.bell.set()

    def _pause_when_full(self) -> None:
        if len(self._buffer) > HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _inflate(self) -> None:
        """Inflates until a high-water mark of text waits; a few octets may stand for gigabytes."""
        deflated = self._deflated
        try:
            while deflated is not None and deflated.waiting and len(self._buffer) <= HIGH_WATER:
                self._buffer += deflated.inflate(HIGH_WATER)
        except zlib.error:
            self._ended, self._deflated = True, None
            self.abort()

    def eof_received(self) -> bool:
        """asyncio: the client will send no more."""
        self._ended = True
        self.bell.set()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self._ended = True
        self.bell.set()
        if self._writable is not None:
            self._writable.set()
        self._transport = None
        if self._closing is not None:
            self._closing.cancel()

    def pause_writing(self) -> None:
        """asyncio: the client reads slower than we write."""
        if self._writable is None:
            self._writable = asyncio.Event()
        self._writable.clear()

    def resume_writing(self) -> None:
        """asyncio: the client has caught up."""
        if self._writable is not None:
            self._writable.set()

    def listen(self) -> None:
        """Lets octets in again after a pause."""
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    async def _more(self) -> None:
        if self._deflated is not None and self._deflated.waiting:
            self._inflate()
            return
        if self._ended:
            raise ConnectionGone
        self.bell.clear()
        self.listen()
        await self.bell.wait()

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
        # A new, empty buffer gives its memory back, which the 5,000 that idle would hold.
        if size == len(self._buffer):
            self._buffer = bytearray()
        else:
            del self._buffer[:size]
        self._scanned = 0
        return taken

    async def read_some(self, most: int) -> bytes:
        """Between one and `most` octets, as they come."""
        while not self._buffer:
            await self._more()
        return self._take(min(most, len(self._buffer)))

    async def read_exactly(self, size: int) -> bytes:
        """The next `size` octets, which the caller has bounded."""
        out = bytearray()
        while len(out) < size:
            out += await self.read_some(size - len(out))
        return bytes(out)

    async def discard(self, size: int) -> None:
        """Reads and forgets `size` octets."""
        while size > 0:
            size -= len(await self.read_some(size))

    async def write(self, data: bytes, within: float) -> None:
        """Sends, and waits until the client has taken enough. Raises ConnectionGone after `within` seconds."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionGone
        self._transport.write(data if self._deflated is None else self._deflated.deflate(data))
        if self._writable is not None and not self._writable.is_set():
            try:
                async with asyncio.timeout(within):
                    await self._writable.wait()
            except TimeoutError:
                self.abort()
                raise ConnectionGone from None

    def compress(self) -> None:
        """From here on both directions are deflated (RFC 4978)."""
        self._deflated = Deflated(bytes(self._buffer))
        self._buffer = bytearray()
        self._scanned = 0

    @property
    def compressed(self) -> bool:
        """Whether COMPRESS is on."""
        return self._deflated is not None

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
        if self._transport is not None and self._closing is None:
            # close() is said once: asyncio's TLS transport answers a second one by forgetting what abort() would have to end.
            self._transport.close()
            self._closing = asyncio.get_running_loop().call_later(CLOSE_TIME, self._transport.abort)

    def abort(self) -> None:
        """Closes at once."""
        if self._transport is not None:
            self._transport.abort()
