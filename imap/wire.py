"""One socket, in clear or inside TLS, on an event loop: octets in as they come, octets out as the client takes them.

Why not asyncio's transports: for TLS they keep, for each connection, two memory BIOs and a protocol of their own beside
OpenSSL's state, three times what an idle session needs; and STARTTLS must find nothing buffered anywhere, which only who
reads the socket can say. Here OpenSSL reads and writes the socket itself.

Invariants: nothing is read while `listening` is off; what could not be sent yet is kept, in order, and sent when the socket
takes it; a wire that broke or was cut calls `lost` once and holds no descriptor.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

READ_SIZE = 64 * 1024
# One TLS record at a time: a send that would block is then repeated with the same octets, as OpenSSL demands.
_RECORD = 16 * 1024
_FLIGHT = 8 * 1024
"""Octets received at once that tell of a long literal."""
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux
_NOT_NOW = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Wire:
    """`received` is called with octets, b"" at the end of what the client sends; `drained` when all was sent after a wait;
    `lost` when the connection is gone. All in the thread of the loop that is running."""

    __slots__ = ("_drained", "_listening", "_loop", "_lost", "_received", "_socket", "_unsent", "_writing", "tls")

    def __init__(
        self,
        accepted: socket.socket,
        received: Callable[[bytes], None],
        drained: Callable[[], None],
        lost: Callable[[], None],
    ) -> None:
        self._socket: socket.socket | None = accepted
        self._received = received
        self._drained = drained
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._listening = False
        self._writing = False
        self._unsent: bytearray | None = None
        self.tls = False

    @property
    def open(self) -> bool:
        """Whether the connection is there."""
        return self._socket is not None

    @property
    def unsent(self) -> int:
        """Octets that the client has not taken yet."""
        return len(self._unsent) if self._unsent else 0

    @property
    def certificate(self) -> bytes | None:
        """The client's certificate in DER, when it showed one and the TLS library found it good."""
        return self._socket.getpeercert(binary_form=True) if isinstance(self._socket, ssl.SSLSocket) else None

    def listen(self) -> None:
        """Lets octets in."""
        if self._socket is None or self._listening:
            return
        self._listening = True
        self._loop.add_reader(self._socket.fileno(), self._readable)
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            # Already out of the kernel, which will therefore not call.
            self._loop.call_soon(self._readable)

    def pause(self) -> None:
        """Lets nothing more in."""
        if self._socket is not None and self._listening:
            self._listening = False
            self._loop.remove_reader(self._socket.fileno())

    def hasten(self) -> None:
        """Acknowledges at once what has come: the rest is on its way, and a client whose system waits for our ACK before it
        sends a small piece (Nagle) would wait 40 ms for it."""
        if self._socket is not None and _QUICKACK is not None:
            with suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """The server side of a handshake, on a wire that is not listening. The caller bounds its time. Raises OSError
        (ssl.SSLError among it): the wire is then cut."""
        if self._socket is None:
            raise ConnectionResetError
        try:
            wrapped = context.wrap_socket(self._socket, server_side=True, do_handshake_on_connect=False)
            self._socket = wrapped
            while True:
                try:
                    wrapped.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await self._ready(self._loop.add_reader, self._loop.remove_reader)
                except ssl.SSLWantWriteError:
                    await self._ready(self._loop.add_writer, self._loop.remove_writer)
        except BaseException:
            self.cut()
            raise
        self.tls = True

    async def _ready(self, add: Callable[..., object], remove: Callable[[int], object]) -> None:
        """Until the socket can be read, or written."""
        if self._socket is None:
            raise ConnectionResetError
        number, ready = self._socket.fileno(), self._loop.create_future()
        add(number, _settle, ready)
        try:
            await ready
        finally:
            remove(number)

    def _readable(self) -> None:
        """Everything that has come, until the reader has enough and pauses."""
        try:
            while self._listening and self._socket is not None:
                data = self._socket.recv(READ_SIZE)
                if not data:
                    self.pause()
                    self._received(b"")
                    return
                if len(data) >= _FLIGHT:
                    self.hasten()
                self._received(data)
                if not (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()):
                    return  # what else the kernel holds makes it call again
        except _NOT_NOW:
            return
        except (OSError, ValueError):
            self.cut()

    def send(self, data: bytes) -> None:
        """Sends what the socket takes now, keeps the rest."""
        if self._unsent is not None:
            self._unsent += data
            return
        sent = self._send(memoryview(data))
        if sent < len(data) and self._socket is not None:
            self._unsent = bytearray(memoryview(data)[sent:])
            self._loop.add_writer(self._socket.fileno(), self._writable)

    def _send(self, data: memoryview) -> int:
        """How much of `data` was taken; a broken connection takes nothing and is cut."""
        sent = 0
        try:
            while sent < len(data) and self._socket is not None:
                sent += self._socket.send(data[sent : sent + _RECORD])
        except _NOT_NOW:
            pass
        except (OSError, ValueError):
            self.cut()
        return sent

    def _writable(self) -> None:
        unsent = self._unsent
        if unsent is None:
            return
        with memoryview(unsent) as view:
            sent = self._send(view)
        del unsent[:sent]
        if self._socket is not None and not unsent:
            self._unsent = None
            self._loop.remove_writer(self._socket.fileno())
            self._drained()

    def finish(self) -> None:
        """Tells the client that nothing more will come (close_notify, FIN). Everything must have been sent."""
        try:
            if isinstance(self._socket, ssl.SSLSocket):
                with suppress(*_NOT_NOW):
                    self._socket.unwrap()
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_WR)
        except (OSError, ValueError):
            self.cut()

    def cut(self) -> None:
        """Closes at once."""
        if self._socket is None:
            return
        number = self._socket.fileno()
        if number >= 0:
            self._loop.remove_reader(number)
            self._loop.remove_writer(number)
        gone, self._socket = self._socket, None
        gone.close()
        self._listening = False
        self._unsent = None
        self._lost()


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
