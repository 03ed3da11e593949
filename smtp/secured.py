"""TLS on one connection of the listeners: between the loop's transport, which knows nothing of it, and the wire (ADR 0058).

Why not the loop's own TLS: it keeps, for each session, a protocol, a transport, two memory BIOs and a buffer of 256 KiB beside
what OpenSSL keeps: half of the memory of an idle session.

Invariants: what has come is decrypted and handed on at once, so that nothing waits here, and a wire that has enough stops the
network; what TLS itself has to say (handshake, alert, answer to a new key) goes out at once; before the handshake is done
nothing is handed on, and never is anything written in clear; what a peer leaves unread is bounded. Truncation is an end, never
a success: who reads the wire knows whether what it read was whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any

from smtp.handshake import Channel
from smtp.wire import ConnectionEnded, Wire

_NOTHING = memoryview(b"")
UNREAD_LIMIT = 256 * 1024
"""Octets that a peer may leave unread: it may ask for new keys for ever. Who writes waits far below (StreamWriter.drain)."""


class Octets:
    """What came from the network and TLS has not taken yet; nothing is held when there is nothing."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = _NOTHING

    def write(self, data: bytes) -> None:
        """More have come."""
        self._data = memoryview(b"".join((self._data, data)) if self._data else data)

    def read(self, size: int) -> memoryview:
        """The next ones, at most `size`, without a copy."""
        taken, rest = self._data[:size], self._data[size:]
        self._data = rest or _NOTHING
        return taken


class Secured(asyncio.Transport):
    """The transport of a connection under TLS, over `lower`, whose octets its protocol hands to `received`."""

    __slots__ = ("_incoming", "_lower", "_open", "_parted", "_shaken", "_wire", "channel")

    def __init__(self, lower: asyncio.Transport, context: ssl.SSLContext, wire: Wire) -> None:
        """`context` is a `handshake.DecidingContext`, or follows one; clear octets go to `wire`."""
        super().__init__()
        self._lower = lower
        self._wire = wire
        self._incoming = Octets()
        self._shaken: asyncio.Future[None] | None = None
        self._open = False
        self._parted = False
        wrap: Any = context.wrap_bio  # what it answers here is a Channel, between objects that are no ssl.MemoryBIO
        self.channel: Channel = wrap(self._incoming, lower, server_side=True)

    async def handshake(self, early: bytes, seconds: float) -> None:
        """The server's side of it; `early` are its octets that were read already. The network is read from now on. Raises
        ssl.SSLError (a peer that speaks TLS was sent an alert), ConnectionEnded, TimeoutError: the connection then closes."""
        self._shaken = asyncio.get_running_loop().create_future()
        try:
            self.received(early)
            if self._wire.ended:
                self.ended()
            self._lower.resume_reading()
            async with asyncio.timeout(seconds):
                await self._shaken
        except BaseException:
            self.close()
            raise
        finally:
            self._shaken = None

    def received(self, data: bytes) -> None:
        """Octets of the network."""
        if self._parted or self._lower.is_closing():
            return
        self._incoming.write(data)
        pieces: list[bytes] = []
        try:
            if not self._open:
                self.channel.do_handshake()
                self._open = True
            while piece := self.channel.read():
                pieces.append(piece)
            self._parted = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._fail(error)
        self._hand_on(pieces)

    def _hand_on(self, pieces: list[bytes]) -> None:
        if self._open and self._shaken is not None and not self._shaken.done():
            self._shaken.set_result(None)
        if pieces:
            self._wire.feed(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self._parted:
            self._wire.end()
        if self._lower.get_write_buffer_size() > UNREAD_LIMIT:
            self.abort()

    def _fail(self, error: ssl.SSLError) -> None:
        """TLS is broken; its alert has been written. Nothing more can be said or heard."""
        self._parted = True
        if self._shaken is not None and not self._shaken.done():
            self._shaken.set_exception(error)
        self._lower.close()

    def ended(self) -> bool:
        """The network will bring no more. True when the peer had said so under TLS: it may hear what is left to say."""
        if self._shaken is not None and not self._shaken.done():
            self._shaken.set_exception(ConnectionEnded())
        self._wire.end()
        return self._parted

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send; before the handshake is done, or when the connection is closing, nothing."""
        if data and self._open and not self._lower.is_closing():
            try:
                self.channel.write(data)
            except ssl.SSLError as error:
                self._fail(error)

    def close(self) -> None:
        """Say goodbye (close_notify), wait for no answer, close when all is sent."""
        if not self._lower.is_closing():
            with contextlib.suppress(ssl.SSLError):  # before the end of a handshake there is nobody to take leave of
                self.channel.unwrap()
            self._lower.close()

    def abort(self) -> None:
        """Cut."""
        self._lower.abort()

    def is_closing(self) -> bool:
        """Whether it closes or is closed."""
        return self._lower.is_closing()

    def pause_reading(self) -> None:
        """Let the network wait."""
        self._lower.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._lower.resume_reading()

    def get_write_buffer_size(self) -> int:
        """Octets, encrypted, that wait for the peer."""
        return self._lower.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`ssl_object` is the channel; all else is the network's."""
        return self.channel if name == "ssl_object" else self._lower.get_extra_info(name, default)
