"""Listening sockets: connections accepted one at a time, so that the processes that share a socket share its connections.

Invariants: one connection for each turn of the loop, hence the process with the least to do takes the most; what a full machine
refuses (no descriptor left) is tried again after a pause, and nothing busy waits; a closed listener accepts no more.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence

import structlog

BACKLOG = 1024
_PAUSE = 1.0
"""Seconds without accepting when there is no descriptor or memory left."""
_log = structlog.get_logger()


def bound(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on every address of `host` ("" for all of the machine's); port 0 takes a free one. Raises OSError."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    made: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            made.append(socket.create_server(address[:2], family=family, backlog=BACKLOG))
    except BaseException:
        for one in made:
            one.close()
        raise
    return made


class Listener:
    """Listening sockets, its own from now on, and what becomes of their connections."""

    def __init__(self, sockets: Sequence[socket.socket], protocol: Callable[[], asyncio.Protocol]) -> None:
        """Accepts at once; `protocol` makes the protocol of each connection."""
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._sockets = list(sockets)
        self._beginning: set[asyncio.Task[None]] = set()
        for one in self._sockets:
            one.setblocking(False)
            self._loop.add_reader(one.fileno(), self._accept, one)

    @property
    def port(self) -> int:
        """The port of the first socket."""
        port: int = self._sockets[0].getsockname()[1]
        return port

    def close(self) -> None:
        """Accept no more."""
        for one in self._sockets:
            if one.fileno() >= 0:
                self._loop.remove_reader(one.fileno())
                one.close()

    def _accept(self, listening: socket.socket) -> None:
        try:
            connection, _ = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another process took it, or it is gone
        except OSError as error:
            _log.error("no connection can be accepted", error=type(error).__name__)
            self._loop.remove_reader(listening.fileno())
            self._loop.call_later(_PAUSE, self._again, listening)
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._begin(connection))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    def _again(self, listening: socket.socket) -> None:
        if listening.fileno() >= 0:
            self._loop.add_reader(listening.fileno(), self._accept, listening)

    async def _begin(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:
            connection.close()  # gone before it began
