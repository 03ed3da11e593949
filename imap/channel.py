"""One connection as lines and octets: bounded buffering both ways, STARTTLS, COMPRESS, and nothing read that was not asked for.

STARTTLS must be refused when any octet is already buffered, and nothing may enter the buffer between that check and the
handshake. The buffer is ours, and the socket is not read while it is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import zlib

from imap.bell import Bell
from imap.deflate import Deflated
from imap.errors import ConnectionGone
from imap.wire import Wire

HIGH_WATER = 256 * 1024
CLOSE_TIME = 30.0
"""Seconds that a closing connection may take to carry what was written."""
LINGER_TIME = 2.0
"""Seconds that a client may take to close its side: closing over octets it still sends would make the network take back
what it was told last."""


class LineTooLong(Exception):
    """A line longer than allowed: what follows cannot be trusted to be a command."""


class Channel:
    """An accepted socket with awaitable reads and writes. `bell` rings when octets arrive or the connection ends; IDLE has
    others ring it too. Reading begins with `listen` or the first read."""

    __slots__ = ("_buffer", "_deflated", "_drained", "_ended", "_scanned", "_wire", "bell", "peer")

    def __init__(self, accepted: socket.socket, peer: str) -> None:
        """`accepted` does not block; `peer` is the client's network address, without port."""
        self.bell = Bell()
        self.peer = peer
        self._wire = Wire(accepted, self._received, self._caught_up, self._lost)
        self._buffer = bytearray()
        self._scanned = 0
        self._ended = False
        self._deflated: Deflated | None = None
        self._drained: asyncio.Event | None = None  # made when the client first reads slower than we write

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self._wire.tls

    @property
    def certificate(self) -> bytes | None:
        """The client's certificate in DER, when it showed one and the TLS library found it good."""
        return self._wire.certificate

    @property
    def buffered(self) -> int:
        """Octets received and not yet asked for."""
        return len(self._buffer)

    @property
    def unsent(self) -> int:
        """Octets that the client has not taken yet."""
        return self._wire.unsent

    @property
    def open(self) -> bool:
        """Whether the connection holds a socket."""
        return self._wire.open

    @property
    def line_waiting(self) -> bool:
        """Whether `read_line` would answer (or fail) at once."""
        return self._ended or len(self._buffer) > HIGH_WATER or b"\n" in self._buffer

    def _received(self, data: bytes) -> None:
        if not data:
            self._ended = True
        elif self._deflated is not None:
            self._deflated.add(data)
            self._inflate()
        else:
            self._buffer += data
        if len(self._buffer) > HIGH_WATER:
            self._wire.pause()
        self.bell.ring()

    def _inflate(self) -> None:
        """Inflates until a high-water mark of text waits; a few octets may stand for gigabytes."""
        deflated = self._deflated
        try:
            while deflated is not None and deflated.waiting and len(self._buffer) <= HIGH_WATER:
                self._buffer += deflated.inflate(HIGH_WATER)
        except zlib.error:
            self._ended, self._deflated = True, None
            self.abort()

    def _caught_up(self) -> None:
        if self._drained is not None:
            self._drained.set()

    def _lost(self) -> None:
        self._ended = True
        self.bell.ring()
        self._caught_up()

    def listen(self) -> None:
        """Lets octets in, also after a pause."""
        if not self._ended:
            self._wire.listen()

    async def _more(self, *, hasten: bool = False) -> None:
        """Waits for octets; `hasten` when they are the rest of something that has begun."""
        if self._deflated is not None and self._deflated.waiting:
            self._inflate()
            return
        if self._ended:
            raise ConnectionGone
        self.bell.clear()
        self.listen()
        if hasten:
            self._wire.hasten()
        await self.bell.wait()

    async def read_line(self, limit: int, *, begun: bool = False) -> bytes:
        """The next line with its end, LF or CRLF. `begun`: it is the rest of a command. Raises LineTooLong beyond `limit`
        octets, ConnectionGone at the end.

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
            await self._more(hasten=begun or bool(self._buffer))

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
            await self._more(hasten=True)
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
        """Sends, and waits until the client has taken it. Raises ConnectionGone, also after `within` seconds."""
        if not self._wire.open:
            raise ConnectionGone
        self._wire.send(data if self._deflated is None else self._deflated.deflate(data))
        if self._wire.unsent:
            try:
                async with asyncio.timeout(within):
                    await self._all_sent()
            except TimeoutError:
                self.abort()
                raise ConnectionGone from None

    async def _all_sent(self) -> None:
        if self._drained is None:
            self._drained = asyncio.Event()
        while self._wire.unsent:
            self._drained.clear()
            await self._drained.wait()

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
        self._wire.pause()
        return not self._buffer

    async def start_tls(self, context: ssl.SSLContext, within: float) -> None:
        """The server side of a TLS handshake on a connection that does not listen. Raises ConnectionGone when it fails."""
        if self._buffer:
            raise ConnectionGone
        try:
            async with asyncio.timeout(within):
                await self._wire.start_tls(context)
        except (OSError, TimeoutError) as error:
            raise ConnectionGone from error

    async def close(self) -> None:
        """Closes after what was written has been sent and the client has closed its side; after CLOSE_TIME seconds in any
        case: a client that does not read must not hold a connection for ever."""
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIME):
                    await self._all_sent()
                    self._wire.finish()
                async with asyncio.timeout(LINGER_TIME):
                    await self._discard_all()
        finally:
            self.abort()

    async def _discard_all(self) -> None:
        self._deflated = None
        while not self._ended:
            self._buffer = bytearray()
            self.bell.clear()
            self.listen()
            await self.bell.wait()

    def abort(self) -> None:
        """Closes at once."""
        self._wire.cut()
