"""Listening sockets: accepts connections, and goes on after what a full machine refuses."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import structlog

BACKLOG = 1024
_AT_ONCE = 64  # connections accepted before others have their turn on the loop
_PAUSE = 1.0  # seconds without accepting when there is no descriptor or memory left
_log = structlog.get_logger()

Accepted = Callable[[socket.socket, str], None]
"""Called with a connected socket that does not block, and the client's address without port."""


class Listener:
    """The sockets of one service on one event loop. Made by `open`."""

    def __init__(self, sockets: list[socket.socket], accepted: Accepted) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets = sockets
        self._accepted = accepted
        for listening in sockets:
            self._loop.add_reader(listening.fileno(), self._connections, listening)

    @classmethod
    async def open(cls, host: str, port: int, accepted: Accepted) -> Listener:
        """Listen on every address of `host` ("" for all of the machine's); port 0 takes a free one. Raises OSError."""
        found = await asyncio.get_running_loop().getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        sockets: list[socket.socket] = []
        try:
            for family, _, _, _, address in dict.fromkeys(found):
                sockets.append(_listening(family, address))
        except BaseException:
            for one in sockets:
                one.close()
            raise
        return cls(sockets, accepted)

    @property
    def port(self) -> int:
        """The port of the first socket."""
        port: int = self._sockets[0].getsockname()[1]
        return port

    def close(self) -> None:
        """Accepts no more."""
        for listening in self._sockets:
            if listening.fileno() >= 0:
                self._loop.remove_reader(listening.fileno())
                listening.close()

    def _connections(self, listening: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.error("no connection can be accepted", error=type(error).__name__)
                self._loop.remove_reader(listening.fileno())
                self._loop.call_later(_PAUSE, self._again, listening)
                return
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._accepted(accepted, str(address[0]))

    def _again(self, listening: socket.socket) -> None:
        if listening.fileno() >= 0:
            self._loop.add_reader(listening.fileno(), self._connections, listening)


def _listening(family: int, address: object) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)  # type: ignore[arg-type]
        made.setblocking(False)
        made.listen(BACKLOG)
    except BaseException:
        made.close()
        raise
    return made
