"""Listening sockets that several accept from."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

import pytest

from smtp import listening
from smtp.listening import Listener, bound


class Says(asyncio.Protocol):
    """Says who it is, and closes."""

    def __init__(self, name: bytes) -> None:
        self._name = name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(self._name)
        transport.close()


def says(name: bytes) -> Callable[[], asyncio.Protocol]:
    return lambda: Says(name)


async def heard(port: int) -> bytes:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            return await reader.read()
        finally:
            writer.close()


async def test_listeners_of_one_socket_share_its_connections_and_the_last_has_them_all() -> None:
    (one,) = await asyncio.to_thread(bound, "127.0.0.1", 0)
    first, second = Listener([one], says(b"first")), Listener([one.dup()], says(b"second"))
    found = await asyncio.gather(*(heard(first.port) for _ in range(40)))
    assert set(found) == {b"first", b"second"}
    first.close()
    assert {await heard(second.port) for _ in range(3)} == {b"second"}
    port = second.port
    second.close()
    with pytest.raises(ConnectionRefusedError):
        await heard(port)


async def test_without_a_descriptor_left_it_tries_again_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_PAUSE", 0.01)

    class Full(socket.socket):
        refusals = 2

        def accept(self) -> tuple[socket.socket, object]:
            if self.refusals:
                self.refusals -= 1
                raise OSError(errno.EMFILE, "too many open files")
            return super().accept()

    (one,) = await asyncio.to_thread(bound, "127.0.0.1", 0)
    full = Full(fileno=one.detach())
    listener = Listener([full], says(b"at last"))
    assert await heard(listener.port) == b"at last"
    assert not full.refusals
    listener.close()
