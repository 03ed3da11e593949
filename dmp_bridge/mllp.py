"""MLLP: HL7 v2 messages over a connection, framed by 0x0B and 0x1C 0x0D (dmp.md §8.7); a listener and a sender, with
or without TLS.

Invariants: one message at a time on a connection, answered before the next is read; bounded in bytes, time and
connections; whatever
the handler raises, a peer that sent a frame gets an acknowledgement; nothing of a message is logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from ihe import hl7v2

START, END = b"\x0b", b"\x1c\x0d"
_CHUNK = 64 * 1024
_log = structlog.get_logger()

Handler = Callable[[bytes, bytes | None], bytes]
"""A message and the peer's DER certificate (None without TLS) in, its acknowledgement out. Called in a thread."""


class MllpError(Exception):
    """The peer did not speak MLLP, or did not answer."""


class MllpServer:
    """The listener of the hospital's feed."""

    def __init__(
        self,
        handler: Handler,
        *,
        host: str,
        port: int,
        tls: ssl.SSLContext | None = None,
        max_message: int = hl7v2.MAX_SIZE,
        connections: int = 50,
        idle_seconds: float = 600.0,
        message_seconds: float = 120.0,
    ) -> None:
        self._handler = handler
        self._host, self._port, self._tls = host, port, tls
        self._max = max_message
        self._places = asyncio.Semaphore(connections)
        self._idle, self._patience = idle_seconds, message_seconds
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port in use, once started."""
        return int(self._server.sockets[0].getsockname()[1]) if self._server is not None else self._port

    async def start(self) -> None:
        """Listen. Raises OSError."""
        self._server = await asyncio.start_server(self._connected, self._host, self._port, ssl=self._tls)

    async def stop(self) -> None:
        """Stop listening; a message being answered is finished (ten seconds)."""
        if self._server is None:
            return
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._server.wait_closed(), 10)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        try:
            if self._places.locked():
                _log.warning("mllp connection refused", reason="too many")
                return
            async with self._places:
                await self._serve(reader, writer)
        except (MllpError, TimeoutError, ConnectionError, ssl.SSLError) as error:
            _log.info("mllp connection ended", error=type(error).__name__)
        finally:
            if task is not None:
                self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tls = writer.get_extra_info("ssl_object")
        peer = tls.getpeercert(binary_form=True) if tls is not None else None
        pending = b""
        while True:
            frame, pending = await self._frame(reader, pending)
            if frame is None:
                return
            # An answer on its way is finished even when the listener stops: the sender must know what was taken.
            answer = await asyncio.shield(asyncio.ensure_future(self._answer(frame, peer)))
            writer.write(START + answer + END)
            async with asyncio.timeout(self._patience):
                await writer.drain()

    async def _frame(self, reader: asyncio.StreamReader, pending: bytes) -> tuple[bytes | None, bytes]:
        """The next frame, and what was read beyond it; None at the end of the connection."""
        pieces = [pending]
        size = len(pending)
        begun = bool(pending.strip(b"\r\n"))
        deadline = asyncio.get_running_loop().time() + (self._patience if begun else self._idle)
        while True:
            tail = pieces[-2][-1:] + pieces[-1] if len(pieces) > 1 else pieces[-1]
            if END in tail:
                data = b"".join(pieces)
                stop = data.index(END)
                head = data[:stop].lstrip(b"\r\n")
                if head[:1] != START:
                    raise MllpError("no start block")
                return head[1:], data[stop + len(END) :]
            async with asyncio.timeout_at(deadline):
                piece = await reader.read(_CHUNK)
            if not piece:
                return None, b""
            if not begun:
                begun = True
                deadline = asyncio.get_running_loop().time() + self._patience
                if piece.lstrip(b"\r\n")[:1] not in (START, b""):
                    raise MllpError("no start block")
            size += len(piece)
            if size > self._max:
                raise MllpError("too large")
            pieces.append(piece)

    async def _answer(self, frame: bytes, peer: bytes | None) -> bytes:
        try:
            return await asyncio.to_thread(self._handler, frame, peer)
        except Exception as error:
            reference = uuid.uuid4().hex[:12]
            _log.error("hl7 message failed by a defect", error=type(error).__name__, reference=reference)
            return refusal(frame, "AR", reference)


def refusal(frame: bytes, code: str, text: str) -> bytes:
    """A last-resort acknowledgement: AR may be sent again (dmp.md §8.4)."""
    try:
        message: hl7v2.Message | None = hl7v2.parse(frame)
    except hl7v2.Hl7Error:
        message = None
    error = hl7v2.Hl7Error("207", "MSH", "application error")
    return hl7v2.build_ack(message, code, control_id=_control_id(), at=datetime.now(UTC), errors=(error,), text=text)


def _control_id() -> str:
    return uuid.uuid4().hex[:20]


def send(
    host: str,
    port: int,
    message: bytes,
    *,
    tls: ssl.SSLContext | None = None,
    seconds: float = 20.0,
    server_name: str | None = None,
) -> tuple[str, str]:
    """Hand a message over and wait for its acknowledgement: MSA-1 and MSA-2. Raises MllpError, OSError, hl7v2.Hl7Error."""
    with socket.create_connection((host, port), seconds) as raw:
        raw.settimeout(seconds)
        connection = tls.wrap_socket(raw, server_hostname=server_name or host) if tls is not None else raw
        with connection:
            connection.sendall(START + message + END)
            received = b""
            while END not in received:
                piece = connection.recv(_CHUNK)
                if not piece or len(received) > 1024 * 1024:
                    raise MllpError("no acknowledgement")
                received += piece
    return hl7v2.read_ack(received[: received.index(END)].lstrip(b"\r\n")[1:])
