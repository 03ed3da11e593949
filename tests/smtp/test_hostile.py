"""What an attacker of the listeners sends: a defined reply, bounded memory, no crash, nothing leaked."""

from __future__ import annotations

import asyncio
import contextlib
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtp import Kind, Limits, Listen, SmtpServers, proxyline
from smtp.gate import PeerLimits
from smtp.handshake import DecidingContext
from smtp.machine import Machine, Profile, Step
from smtp.replies import SmtpRefusal
from smtp.sasl import MECHANISMS
from tests.smtp.test_extensions import ALICE, BOB, OPEN, submitting
from tests.smtp.test_reception import _greeted
from tests.smtp.transcript import Dialogue, client_tls
from tests.smtp.world import World, build, message


async def test_99_mib_without_a_line_end_stay_out_of_memory(world: World) -> None:
    async with submitting(world) as dialogue:
        await dialogue.play(OPEN + "C: DATA\nS: 354")
        tracemalloc.start()
        piece = b"x" * (1 << 20)
        for _ in range(99):
            await dialogue.raw(piece)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        await dialogue.raw(b"\r\n.\r\n")
        await dialogue.play("S: 552 5.3.4\nC: NOOP\nS: 250")
    assert peak < 16 * (1 << 20)


async def test_100_000_recipients_are_cut(world: World) -> None:
    """Pipelined at once: a hundred are taken, a few refusals follow, then the connection is over."""
    flood = b"".join(b"RCPT TO:<x%d@b.mssante.fr>\r\n" % number for number in range(100_000))
    async with submitting(world) as dialogue:
        await dialogue.play(f"C: MAIL FROM:<{ALICE}>\nS: 250")
        dialogue.writer.write(flood)
        codes = []
        with contextlib.suppress(ConnectionError):
            while line := await dialogue.line():
                codes.append(line[:9])
        assert codes[:100] == [b"250 2.1.5"] * 100
        assert set(codes[100:-1]) == {b"452 4.5.3"} and len(codes) < 130
        assert codes[-1] == b"421 4.7.0"


async def test_octets_that_drip_do_not_hold_a_session(template: Path, tmp_path: Path) -> None:
    """A command has its time as a whole, and so has a message: each octet does not begin it anew."""
    world = build(template, tmp_path, limits=Limits(command_time=0.6, data_time=0.6))
    async with submitting(world) as dialogue:
        drip = asyncio.create_task(_drip(dialogue, b"NOOP but slowly, very slowly indeed"))
        await dialogue.play("S: 421 4.4.2")
        drip.cancel()
    async with submitting(world) as dialogue:
        await dialogue.play(OPEN + "C: DATA\nS: 354")
        drip = asyncio.create_task(_drip(dialogue, b"Subject: one octet after the other\r\n"))
        await dialogue.play("S: 421 4.4.2")
        drip.cancel()
    assert list((world.a.folder / "blobs").glob("??/*")) == []
    world.a.store.close()
    world.b.store.close()


async def _drip(dialogue: Dialogue, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        for octet in data:
            await dialogue.raw(bytes([octet]))
            await asyncio.sleep(0.1)


async def test_a_half_closed_client_hears_the_answers_to_what_it_said(world: World) -> None:
    async with world.a.listening(Kind.SUBMISSION):
        dialogue = await Dialogue.open(world.a.ports[Kind.SUBMISSION])
        await dialogue.raw(b"EHLO x\r\nNOOP\r\nNOO")
        dialogue.writer.write_eof()
        said = await asyncio.wait_for(dialogue.reader.read(), 10)
        assert said.count(b"250 ") == 2 and said.startswith(b"220 ")
        await dialogue.close()


async def test_errors_are_answered_more_and_more_slowly(template: Path, tmp_path: Path) -> None:
    world = build(template, tmp_path, limits=Limits(tarpit_after=1, tarpit_step=0.1, errors=4))
    async with submitting(world) as dialogue:
        clock, waits = asyncio.get_running_loop(), []
        for _ in range(4):
            begin = clock.time()
            await dialogue.play("C: NONSENSE\nS: 500 5.5.1")
            waits.append(clock.time() - begin)
        assert waits[3] > waits[2] > 0.15 > waits[0]
        await dialogue.play("C: NONSENSE\nS: 421 4.7.0")
    world.a.store.close()
    world.b.store.close()


async def test_half_closed_and_vanished_clients_leave_nothing(world: World) -> None:
    async with world.a.listening(Kind.SUBMISSION_TLS) as servers:
        tls = client_tls(world.a.services.trust)
        for cut in (b"", b"EHL", b"EHLO x\r\n"):
            dialogue = await Dialogue.open(world.a.ports[Kind.SUBMISSION_TLS], tls)
            await dialogue.raw(cut)
            dialogue.writer.transport.abort()
        reader, writer = await asyncio.open_connection("127.0.0.1", world.a.ports[Kind.SUBMISSION_TLS])
        writer.write(b"not a TLS hello\r\n\r\n")
        writer.write_eof()
        assert await reader.read() is not None
        writer.close()
        async with asyncio.timeout(10):
            await servers._gates[0].empty.wait()


async def test_a_message_cut_in_the_middle_leaves_no_file(world: World) -> None:
    async with submitting(world) as dialogue:
        await dialogue.play(OPEN + "C: DATA\nS: 354")
        await dialogue.raw(message(ALICE, BOB, body="x\r\n" * 400_000))
        dialogue.writer.transport.abort()
        await asyncio.sleep(0.2)
    assert list((world.a.folder / "blobs").glob("??/*")) == []
    assert world.a.inbox("bob") == []


async def test_a_spooled_message_that_is_refused_leaves_no_file(world: World) -> None:
    async with submitting(world) as dialogue:
        await dialogue.play(OPEN + "C: DATA\nS: 354")
        await dialogue.raw(message(ALICE, BOB, "X-Test: refuse", body="x\r\n" * 200_000) + b".\r\n")
        await dialogue.play("S: 550 5.7.8")
    assert list((world.a.folder / "blobs").glob("??/*")) == []


# ---- limits of one operator


def test_an_operator_is_limited_by_its_name() -> None:
    peers = PeerLimits(Limits(peer_connections=2, peer_messages=3))
    assert [peers.connected("CN=a") for _ in range(3)] == [True, True, False]
    peers.gone("CN=a")
    peers.gone("CN=a")
    assert peers.connected("CN=a") and peers.connected("CN=b")
    assert [peers.may_send("CN=a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert peers.may_send("CN=b", 0.0)
    assert [peers.may_send("CN=a", 20.0), peers.may_send("CN=a", 20.0)] == [True, False]


async def test_the_limits_are_answered(template: Path, tmp_path: Path) -> None:
    world = build(template, tmp_path, limits=Limits(peer_connections=1, peer_messages=1))
    async with world.a.listening(Kind.RECEPTION):
        dialogue = await _greeted(world, world.b.certificate)
        await dialogue.play(
            "C: MAIL FROM:<c@b.mssante.fr>\nS: 250\nC: RSET\nS: 250\nC: MAIL FROM:<c@b.mssante.fr>\nS: 451 4.7.1"
        )
        second = await Dialogue.open(world.a.ports[Kind.RECEPTION])
        await second.play("S: 220\nC: EHLO x")
        await second.reply()
        await second.play("C: STARTTLS\nS: 220")
        await second.starttls(client_tls(world.a.services.trust, world.b.certificate))
        await second.play("S: 421 4.7.0")
        await second.close()
        await dialogue.close()
    world.a.store.close()
    world.b.store.close()


# ---- PROXY protocol


@pytest.mark.parametrize(
    ("header", "source"),
    [
        (b"PROXY TCP4 192.0.2.9 127.0.0.1 5000 465\r\n", "192.0.2.9"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (proxyline.SIGNATURE + b"\x21\x11\x00\x0c\xc0\x00\x02\x09\x7f\0\0\x01\x13\x88\x01\xd1", "192.0.2.9"),
    ],
)
@pytest.mark.parametrize("kind", [Kind.SUBMISSION_TLS, Kind.RECEPTION])
async def test_the_balancer_tells_whose_connection_it_is(world: World, header: bytes, source: str, kind: Kind) -> None:
    import ipaddress

    tls = DecidingContext.build(world.a.certificate.chain, world.a.certificate.key)
    listen = Listen(kind, "127.0.0.1", 0, tls, (ipaddress.ip_network("127.0.0.0/8"),))
    servers = SmtpServers(world.a.services, [listen], grace=1)
    await servers.start()
    dialogue = await Dialogue.open(servers.ports[kind])
    await dialogue.raw(header)
    if kind is Kind.SUBMISSION_TLS:
        await dialogue.starttls(client_tls(world.a.services.trust))
    await dialogue.play("S: 220")
    assert list(servers._gates[0].open.values()) == [source]
    await dialogue.close()
    bad = await Dialogue.open(servers.ports[kind])
    await bad.raw(b"EHLO x\r\n")
    await bad.play("S: 421 4.3.2")
    await bad.close()
    await servers.stop()


@given(st.binary(max_size=64) | st.binary(max_size=64).map(lambda tail: proxyline.SIGNATURE + tail))
def test_a_proxy_header_is_read_or_refused(data: bytes) -> None:
    try:
        found = proxyline.read(data)
    except proxyline.ProxyError:
        return
    assert found is None or found[1] <= len(data)


@pytest.mark.parametrize(
    "line",
    [
        "PROXY TCP4 ::1 ::1 1 2",
        "PROXY TCP6 1.2.3.4 1.2.3.4 1 2",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3",
        "PROXY tcp4 a b 1 2",
        "PROXY TCP4 1.2.3.4 1.2.3.4 65536 25",
    ],
)
def test_malformed_proxy_lines(line: str) -> None:
    with pytest.raises(proxyline.ProxyError):
        proxyline.read(f"{line}\r\n".encode())


def test_a_balancer_may_add_what_it_knows_of_tls() -> None:
    """The names of a client certificate make a header longer than its addresses."""
    more = b"\x20" + (600).to_bytes(2, "big") + b"x" * 600
    body = b"\xc0\x00\x02\x09\x7f\0\0\x01\x13\x88\x01\xd1" + more
    header = proxyline.SIGNATURE + b"\x21\x11" + len(body).to_bytes(2, "big") + body
    assert proxyline.read(header + b"EHLO") == ("192.0.2.9", len(header))
    assert proxyline.read(header[:-1]) is None
    with pytest.raises(proxyline.ProxyError):
        proxyline.read(proxyline.SIGNATURE + b"\x21\x11\xff\xff")


# ---- the machine under any input


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["EHLO x", "HELO x", "STARTTLS", "AUTH PLAIN", "MAIL FROM:<>", f"MAIL FROM:<{ALICE}> BODY=BINARYMIME",
             f"RCPT TO:<{BOB}>", "DATA", "BDAT 5", "BDAT 5 LAST", "RSET", "NOOP", "VRFY x", "EXPN x", "HELP", "QUIT"]
        )
        | st.text(max_size=20)
    )
)  # fmt: skip
def test_no_input_breaks_the_machine(lines: list[str]) -> None:
    machine = Machine(Profile("h", MECHANISMS), Limits(errors=1000))
    for line in lines:
        try:
            step: Step | None = machine.command(line.encode("utf-8", "replace").replace(b"\n", b" "))
        except SmtpRefusal as refusal:
            step = None
            assert refusal.reply.code >= 500 or refusal.reply.code == 452
        assert machine.secure or step is None or type(step).__name__ in ("Greet", "StartTls", "Say", "Quit")


async def test_unknown_errors_show_a_reference_only(world: World) -> None:
    def broken(*_: object) -> None:
        raise KeyError("secret")

    async with submitting(world) as dialogue:
        world.a.store.find_accounts = broken  # type: ignore[assignment,method-assign]
        await dialogue.play(f"C: MAIL FROM:<{ALICE}>\nS: 451 4.3.0 erreur interne, reference")
