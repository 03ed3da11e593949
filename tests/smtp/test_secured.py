"""TLS between the transport and the wire: whatever the pieces, the ends and the peer's manners, and on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from OpenSSL import SSL

from smtp import Kind, Listen, SmtpServers
from smtp.handshake import DecidingContext
from smtp.secured import UNREAD_LIMIT, Secured
from smtp.shell import Shell
from smtp.wire import HIGH, ConnectionEnded, Wire
from tests.smtp.test_submission import PLAIN
from tests.smtp.transcript import client_tls
from tests.smtp.world import World, build, message

RUNS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
ALERT, FATAL = 0x15, 2
READ = 256 * 1024
"""The most that a loop reads at once."""


class Network(asyncio.Transport):
    """The lower transport, by hand: what was sent, and how much of it the peer has left unread."""

    def __init__(self) -> None:
        super().__init__()
        self.sent, self.unread, self.closing = b"", 0, ""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closing
        self.sent += bytes(data)

    def taken(self) -> bytes:
        """What was sent since."""
        sent, self.sent = self.sent, b""
        return sent

    def get_write_buffer_size(self) -> int:
        return self.unread

    def is_closing(self) -> bool:
        return bool(self.closing)

    def close(self) -> None:
        self.closing = "closed"

    def abort(self) -> None:
        self.closing = "aborted"

    def resume_reading(self) -> None:
        """It reads always."""


class Pair:
    """Our side over a network by hand, and a client of Python's `ssl`, whose octets we carry."""

    def __init__(self, world: World, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> None:
        self.network, self.wire = Network(), Wire()
        tls = DecidingContext.build(world.a.certificate.chain, world.a.certificate.key)
        self.ours = Secured(self.network, tls, self.wire)
        self.wire.attach(self.ours)
        context = client_tls(world.a.services.trust)
        context.minimum_version = context.maximum_version = version
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = context.wrap_bio(self._incoming, self._outgoing, server_hostname="127.0.0.1")

    def step(self) -> bool:
        """The client's part of the handshake, as far as it goes: whether it is done."""
        self._incoming.write(self.network.taken())
        with contextlib.suppress(ssl.SSLWantReadError):
            self.client.do_handshake()
            return True
        return False

    def says(self, data: bytes = b"") -> bytes:
        """What the client sends, with `data` at its end."""
        if data:
            self.client.write(data)
        return self._outgoing.read()

    def hears(self) -> bytes:
        """What the client reads next."""
        self._incoming.write(self.network.taken())
        return self.client.read()

    async def shake(self, *, cut: int = 1 << 20, after: bytes = b"", early: int = 0) -> None:
        """The whole handshake, the client's octets in pieces of `cut`, `after` right behind its last ones."""
        self.step()
        flight = self.says()
        shaking = asyncio.create_task(self.ours.handshake(flight[:early], 5))
        await asyncio.sleep(0)
        flight = flight[early:]
        done = False
        while flight:
            for at in range(0, len(flight), cut):
                self.ours.received(flight[at : at + cut])
            before, done = done, self.step()
            flight = self.says(after if done > before else b"")
        await shaking


@VERSIONS
@pytest.mark.parametrize("cut", [1, 7, 1 << 20])
async def test_a_handshake_whatever_the_pieces(world: World, version: ssl.TLSVersion, cut: int) -> None:
    """What comes with its last octets came under TLS, and is kept."""
    pair = Pair(world, version)
    pair.ours.write(b"220 too early\r\n")
    await pair.shake(cut=cut, after=b"EHLO x\r\n", early=cut if cut < 9 else 0)
    assert pair.ours.get_extra_info("ssl_object").version() == pair.client.version() == version.name.replace("_", ".")
    assert await pair.wire.line(100, 5) == b"EHLO x"
    pair.ours.write(b"250 hello\r\n")
    assert pair.hears() == b"250 hello\r\n"
    for at in range(0, len(octets := pair.says(b"NOOP\r\n" * 9)), cut):
        pair.ours.received(octets[at : at + cut])
    assert pair.wire.take_all() == b"NOOP\r\n" * 9
    assert not pair.network.closing


HELLO_CUT_SHORT = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"


@pytest.mark.parametrize(
    ("octets", "told"),
    [(HELLO_CUT_SHORT, True), (b"EHLO x\r\n" * 99, False), (b"GET / HTTP/1.1\r\n\r\n", False), (b"\x80" * 3000, False)],
)
async def test_what_is_no_handshake_ends_at_once(world: World, octets: bytes, told: bool) -> None:
    """With an alert for who speaks TLS, without a word for who does not."""
    pair = Pair(world)
    with pytest.raises(ssl.SSLError):
        await pair.ours.handshake(octets, 5)
    sent = pair.network.sent
    assert (sent[0], sent[5]) == (ALERT, FATAL) if told else not sent
    assert (pair.network.closing, pair.wire.pending) == ("closed", 0)


async def test_a_handshake_that_never_comes_or_is_cut(world: World) -> None:
    late = Pair(world)
    with pytest.raises(TimeoutError):
        await late.ours.handshake(b"", 0.02)
    assert (late.network.closing, late.network.sent) == ("closed", b"")
    gone = Pair(world)
    gone.step()
    shaking = asyncio.create_task(gone.ours.handshake(gone.says()[:99], 5))
    await asyncio.sleep(0)
    gone.ours.ended()
    with pytest.raises(ConnectionEnded):
        await shaking


@VERSIONS
async def test_the_end_is_the_peers_word_or_a_cut(world: World, version: ssl.TLSVersion) -> None:
    """After close_notify the peer may still hear; a cut is told from it; in both, what came before is read."""
    for says_so in (True, False):
        pair = Pair(world, version)
        await pair.shake()
        pair.ours.received(pair.says(b"QUIT\r\n"))
        if says_so:
            with contextlib.suppress(ssl.SSLWantReadError):
                pair.client.unwrap()
            pair.ours.received(pair.says())
        assert pair.ours.ended() is says_so
        assert await pair.wire.line(100, 5) == b"QUIT"
        with pytest.raises(ConnectionEnded):
            await pair.wire.line(100, 5)
        assert not pair.ours.is_closing()
        pair.ours.write(b"221 bye\r\n")
        pair.ours.close()
        assert pair.ours.is_closing()
        assert pair.hears() == b"221 bye\r\n"
        if says_so:
            pair.client.unwrap()
        else:
            assert pair.client.read() == b""


@VERSIONS
async def test_an_altered_octet_ends_it_with_an_alert(world: World, version: ssl.TLSVersion) -> None:
    pair = Pair(world, version)
    await pair.shake()
    good, bad, after = (pair.says(one) for one in (b"NOOP\r\n", b"RSET\r\n", b"QUIT\r\n"))
    pair.ours.received(good + bad[:-1] + bytes([bad[-1] ^ 1]))
    with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
        pair.hears()
    assert await pair.wire.line(100, 5) == b"NOOP"
    with pytest.raises(ConnectionEnded):
        await pair.wire.line(100, 5)
    assert pair.network.closing
    pair.ours.received(after)
    pair.ours.write(b"221 bye\r\n")
    assert pair.wire.pending == 0 and not pair.network.sent


async def test_renegotiation_is_refused(world: World) -> None:
    """The client is told so (an alert of level warning), and nothing is begun anew."""
    pair = Pair(world, ssl.TLSVersion.TLSv1_2)
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    client = SSL.Connection(context, None)
    client.set_connect_state()
    shaking = asyncio.create_task(pair.ours.handshake(b"", 5))
    await asyncio.sleep(0)
    while not shaking.done():
        with contextlib.suppress(SSL.WantReadError):
            client.do_handshake()
        with contextlib.suppress(SSL.WantReadError):
            pair.ours.received(client.bio_read(1 << 16))
        if sent := pair.network.taken():
            client.bio_write(sent)
        await asyncio.sleep(0)
    client.do_handshake()
    assert client.renegotiate()
    with contextlib.suppress(SSL.WantReadError):
        client.do_handshake()
    pair.ours.received(client.bio_read(1 << 16))
    client.bio_write(answer := pair.network.taken())
    assert answer[0] == ALERT and len(answer) < 60
    with pytest.raises(SSL.Error, match="no renegotiation"):
        client.do_handshake()


async def test_a_peer_that_makes_us_talk_and_does_not_listen_is_cut(world: World) -> None:
    """It may ask for new keys for ever: each is answered, and nothing else would bound the answers."""
    pair = Pair(world)
    await pair.shake()
    pair.network.unread = UNREAD_LIMIT + 1
    pair.ours.received(pair.says(b"NOOP\r\n"))
    assert pair.network.closing == "aborted"


# ---- with real connections, on both event loops


def _narrow(one: socket.socket) -> socket.socket:
    """The same, with small buffers in the kernel, so that little is on its way."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    return one


def _serving(
    run: Callable[[Any], None], template: Path, folder: Path, play: Callable[[World, int], Coroutine[Any, Any, None]]
) -> None:
    """Play against our implicit TLS on that loop; nothing may reach the loop's handler of errors."""
    world, errors = build(template, folder), list[object]()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: errors.append(context))
        listening = _narrow(socket.create_server(("127.0.0.1", 0)))
        tls = DecidingContext.build(world.a.certificate.chain, world.a.certificate.key)
        listen = Listen(Kind.SUBMISSION_TLS, "", 0, tls, sockets=[listening])
        servers = SmtpServers(world.a.services, [listen], grace=2.0)
        await servers.start()
        async with asyncio.timeout(60):
            await play(world, servers.ports[Kind.SUBMISSION_TLS])
            await servers._gates[0].empty.wait()
        await servers.stop()

    run(main())
    for operator in (world.a, world.b):
        operator.store.close()
    assert errors == []


@RUNS
def test_a_large_message_arrives_and_a_cut_one_does_not(
    template: Path, tmp_path: Path, run: Callable[[Any], None]
) -> None:
    body = "".join(f"{number:070}\r\n" for number in range(100_000))
    content = message("alice@a.mssante.fr", "bob@a.mssante.fr", body=body)
    login = f"EHLO x\r\nAUTH PLAIN {PLAIN}\r\nMAIL FROM:<alice@a.mssante.fr>\r\nRCPT TO:<bob@a.mssante.fr>\r\nDATA\r\n"

    def send(context: ssl.SSLContext, port: int, end: bytes) -> bytes:
        """All at once, pipelined; then FIN, without close_notify; what was heard to the end."""
        lower = socket.create_connection(("127.0.0.1", port))
        with context.wrap_socket(lower, server_hostname="127.0.0.1", suppress_ragged_eofs=False) as peer:
            peer.sendall(login.encode() + content + end)
            heard = b""
            while end and b"221 " not in heard:
                heard += peer.recv(65536)
            raw = socket.socket(fileno=os.dup(peer.fileno()))
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(65536):
                pass
            raw.close()
            return heard

    async def play(world: World, port: int) -> None:
        context = client_tls(world.a.services.trust)
        await asyncio.to_thread(send, context, port, b"")
        assert (list((world.a.folder / "blobs").glob("??/*")), world.a.inbox("bob")) == ([], [])
        assert b"\r\n250 2.0.0" in await asyncio.to_thread(send, context, port, b".\r\nQUIT\r\n")
        (delivered,) = world.a.inbox("bob")
        assert delivered.endswith(b"\r\n\r\n" + body.encode() + b"\r\n")

    _serving(run, template, tmp_path, play)


@RUNS
def test_what_a_peer_sends_and_what_it_does_not_read_are_bounded(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[[Any], None]
) -> None:
    """A peer that writes commands and reads nothing is made to wait; then it reads, slowly, and has every answer."""
    shells: list[Shell] = []
    first = Shell._one_command

    async def noted(self: Shell) -> None:
        shells.append(self)
        await first(self)

    monkeypatch.setattr(Shell, "_one_command", noted)

    command, held = b"EHLO client.example\r\n", list[tuple[int, int]]()

    def flood(context: ssl.SSLContext, port: int) -> None:
        with context.wrap_socket(_narrow(socket.socket()), server_hostname="127.0.0.1") as peer:
            peer.connect(("127.0.0.1", port))
            peer.settimeout(0.5)
            sent = 0
            with contextlib.suppress(TimeoutError):
                while True:
                    peer.sendall(command * 500)
                    sent += 500
            held.append((shells[0]._wire.pending, shells[0]._writer.transport.get_write_buffer_size()))
            peer.settimeout(20)
            heard = 0
            while heard < sent:
                heard += peer.recv(16384).count(b"\r\n250 ")

    async def play(world: World, port: int) -> None:
        await asyncio.to_thread(flood, client_tls(world.a.services.trust), port)

    _serving(run, template, tmp_path, play)
    ((incoming, outgoing),) = held
    assert 0 < incoming <= HIGH + READ and 0 < outgoing <= UNREAD_LIMIT // 2


@RUNS
def test_defined_ends_on_both_loops(template: Path, tmp_path: Path, run: Callable[[Any], None]) -> None:
    """Garbage, half a hello then nothing more, and a hello of which the rest comes an octet at a time."""

    async def play(world: World, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HELLO_CUT_SHORT)
        assert (await reader.read())[0] == ALERT
        writer.close()
        pair = Pair(world)
        pair.step()
        hello = pair.says()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(hello[:50])
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for octet in hello:
            writer.write(bytes([octet]))
            await asyncio.sleep(0)
        assert (await reader.readexactly(1)) == b"\x16"
        writer.transport.abort()

    _serving(run, template, tmp_path, play)


async def test_new_keys_are_answered(world: World) -> None:
    """OpenSSL's own client asks for them (KeyUpdate, RFC 8446 §4.6.3), and both sides go on."""
    async with world.a.listening(Kind.SUBMISSION_TLS) as servers:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{servers.ports[Kind.SUBMISSION_TLS]}", "-crlf"]
        client = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert client.stdin is not None and client.stdout is not None
        async with asyncio.timeout(20):
            await client.stdout.readuntil(b"220 mss.a.test")
            for _ in range(3):
                client.stdin.write(b"K\n")
                await client.stdout.readuntil(b"KEYUPDATE")
                client.stdin.write(b"NOOP\n")
                await client.stdout.readuntil(b"250 2.0.0")
            client.stdin.close()
            await client.wait()
