"""The server as an attacker meets it: before login, at STARTTLS, with oversized or malformed input, and guessing."""

from __future__ import annotations

import asyncio
import base64
import logging
import socket
import threading
import time
from contextlib import suppress
from datetime import datetime

import pytest

import imap.server
from imap import Limits, channel
from imap.channel import Channel
from imap.listener import Listener
from imap.session import Session
from mailstore import Account
from tests.imap.support import ADDRESS, PASSWORD, SIMPLE, Client, House


async def test_no_login_before_tls(house: House) -> None:
    async with house.serving() as server:
        client = await Client.connect(house, server, tls=False)
        capabilities = (await client.command("a CAPABILITY"))[0]
        assert b" LOGINDISABLED" in capabilities and b" STARTTLS" in capabilities
        assert b"AUTH=" not in capabilities
        assert (await client.command(f'b LOGIN {ADDRESS} "{PASSWORD}"'))[-1].startswith(b"b NO [PRIVACYREQUIRED]")
        plain = base64.b64encode(f"\0{ADDRESS}\0{PASSWORD}".encode()).decode()
        assert (await client.command(f"c AUTHENTICATE PLAIN {plain}"))[-1].startswith(b"c NO [PRIVACYREQUIRED]")
        client.close()


async def test_starttls_then_login(house: House) -> None:
    async with house.serving() as server:
        client = await Client.connect(house, server, tls=False)
        assert (await client.command("a STARTTLS"))[-1].startswith(b"a OK")
        await client.writer.start_tls(house.client_context(), server_hostname="127.0.0.1")
        capabilities = (await client.command("b CAPABILITY"))[0]
        assert b"LOGINDISABLED" not in capabilities and b"AUTH=PLAIN" in capabilities
        assert b"STARTTLS" not in capabilities
        await client.login()
        assert (await client.command("c STARTTLS"))[-1].startswith(b"c BAD")
        client.close()


async def test_text_injected_behind_starttls_ends_the_connection(house: House) -> None:
    async with house.serving() as server:
        client = await Client.connect(house, server, tls=False)
        await client.send(b"a STARTTLS\r\nb CAPABILITY\r\n")
        assert (await client.response()).startswith(b"* BYE")
        assert await client.eof()


async def test_text_injected_after_the_go_ahead_is_never_a_command(house: House) -> None:
    async with house.serving() as server:
        client = await Client.connect(house, server, tls=False)
        assert (await client.command("a STARTTLS"))[-1].startswith(b"a OK")
        await client.send(b"b CAPABILITY\r\n")
        rest = b""
        with suppress(ConnectionResetError):
            async with asyncio.timeout(10):
                while data := await client.reader.read(1000):
                    rest += data
        # At most a TLS alert comes back: the text was taken for a handshake.
        assert b"CAPABILITY" not in rest


async def test_three_failures_close_the_connection_slowly(house: House) -> None:
    async with house.serving() as server:
        client = await Client.connect(house, server)
        for tag in ("a", "b"):
            answer = await client.command(f"{tag} LOGIN {ADDRESS} wrong")
            text = "Adresse ou mot de passe incorrect. / Authentication failed."
            assert answer == [f"{tag} NO [AUTHENTICATIONFAILED] {text}\r\n".encode()]
        answer = await client.command("c LOGIN nobody@nowhere.fr wrong")
        assert answer[0].startswith(b"* OK [ALERT]") and answer[-1].startswith(b"c NO [AUTHENTICATIONFAILED]")
        assert (await client.response()).startswith(b"* BYE")
        assert await client.eof()
    assert len(house.sleeps) == 3 and all(1 <= seconds <= 2 for seconds in house.sleeps)


@pytest.mark.parametrize("initial", [True, False])
async def test_authenticate_plain(house: House, initial: bool) -> None:
    response = base64.b64encode(f"\0{ADDRESS}\0{PASSWORD}".encode()).decode()
    async with house.serving() as server:
        client = await Client.connect(house, server)
        if initial:
            answer = await client.command(f"a AUTHENTICATE PLAIN {response}")
        else:
            await client.send(b"a AUTHENTICATE PLAIN\r\n")
            assert await client.response() == b"+ \r\n"
            await client.send(response.encode() + b"\r\n")
            answer = [await client.response()]
        assert answer[-1].startswith(b"a OK [CAPABILITY")
        client.close()


async def test_nobody_acts_for_somebody_else(house: House) -> None:
    """RFC 4616: the identity asked for may be one's own. Whoever lacks the password learns nothing more than that."""
    async with house.serving() as server:
        client = await Client.connect(house, server)
        for identity, password, expected in (
            ("other@medecin.mssante.fr", "wrong", b"a NO [AUTHENTICATIONFAILED]"),
            ("other@medecin.mssante.fr", PASSWORD, b"a NO [AUTHORIZATIONFAILED]"),
            (ADDRESS.upper(), PASSWORD, b"a OK [CAPABILITY"),
        ):
            response = base64.b64encode(f"{identity}\0{ADDRESS}\0{password}".encode()).decode()
            assert (await client.command(f"a AUTHENTICATE PLAIN {response}"))[-1].startswith(expected), identity
        client.close()


async def test_malformed_plain_is_bad(house: House) -> None:
    async with house.serving() as server:
        client = await Client.connect(house, server)
        for response in (b"*", b"=", b"????", b"AGE=", base64.b64encode(b"\0me\0")):
            await client.send(b"a AUTHENTICATE PLAIN\r\n")
            await client.response()
            await client.send(response + b"\r\n")
            assert (await client.response()).startswith(b"a BAD"), response
        client.close()


NONSENSE = (
    b"a",
    b"a ",
    b" ",
    b"* NOOP",
    b"a FROB",
    b"a SELECT",
    b'a SELECT "',
    b"a FETCH 0 FLAGS",
    b"a FETCH 1:2:3 FLAGS",
    b"a UID NOOP",
    b"a SEARCH " + b"(" * 100,
    b"a SEARCH " + b"NOT " * 100 + b"ALL",
    b"a FETCH 1 BODY[" + b"1." * 40 + b"1]",
    b"a FETCH 99999999999 FLAGS",
    b"a LOGIN \xff \xff",
    b"a STORE 1 FLAGS (\\Recent)",
    b"\x00\x01\x02",
    b"a SELECT &AGE-",
    b"a NOOP\x00",
)


async def test_nonsense_is_bad_in_every_state(house: House) -> None:
    house.deliver()
    async with house.serving() as server:
        client = await Client.connect(house, server)
        for step in ("n NOOP", "login", "z SELECT INBOX"):
            await (client.login() if step == "login" else client.command(step))
            for line in NONSENSE:
                await client.send(line + b"\r\n")
                assert b" BAD " in await client.response(), line
                assert (await client.command("n NOOP"))[-1] == b"n OK NOOP completed\r\n"
        client.close()


async def test_many_bad_commands_end_the_session(house: House) -> None:
    async with house.serving(Limits(bad_commands=20)) as server:
        client = await Client.connect(house, server)
        for _ in range(19):
            assert (await client.command("a FROB"))[-1].startswith(b"a BAD")
        assert (await client.command("a FROB"))[-1].startswith(b"a BAD")
        assert (await client.response()).startswith(b"* BYE")


async def test_a_long_line_ends_the_session(house: House) -> None:
    async with house.serving() as server:
        client = await Client.connect(house, server)
        await client.send(b"a LOGIN " + b"x" * 9000)
        assert (await client.response()).startswith(b"* BYE")
        assert await client.eof()


async def test_literals_are_bounded(house: House) -> None:
    async with house.serving(Limits(message_size=1024**2)) as server:
        client = await Client.connect(house, server)
        # Before login: 4 KiB. The literal is refused before it is sent.
        await client.send(b"a LOGIN {5000}\r\n")
        assert (await client.response()).startswith(b"a NO [TOOBIG]")
        await client.login()
        await client.send(b"b APPEND INBOX {1048577}\r\n")
        assert (await client.response()).startswith(b"b NO [TOOBIG]")
        # Already on its way (LITERAL+): read to its end and refused, the connection stays usable.
        answer = await client.command(b"c APPEND INBOX {1048577+}\r\n" + b"x" * 1_048_577)
        # The text is what Thunderbird shows, word for word, when a draft or a sent message cannot be kept.
        text = "Message trop volumineux (1 Mo au plus). / Message too large (at most 1 MiB)."
        assert answer == [f"c NO [TOOBIG] {text}\r\n".encode()]
        assert (await client.command("d NOOP"))[-1].startswith(b"d OK")
        await client.send(b"e APPEND INBOX {4294967295+}\r\n")
        assert (await client.response()).startswith(b"* BYE [TOOBIG]")


async def test_a_synchronising_literal_is_invited(house: House) -> None:
    async with house.serving() as server:
        client = await Client.connect(house, server)
        await client.send(b"a LOGIN {%d}\r\n" % len(ADDRESS))
        assert (await client.response()).startswith(b"+ ")
        await client.send(ADDRESS.encode() + b' "' + PASSWORD.encode() + b'"\r\n')
        assert (await client.response()).startswith(b"a OK")
        client.close()


async def test_silence_before_login_ends_the_session(house: House) -> None:
    async with house.serving(Limits(login_time=0.2)) as server:
        client = await Client.connect(house, server)
        assert (await client.response()).startswith(b"* BYE Autologout")
        assert await client.eof()


async def test_silence_after_login_and_in_idle_ends_the_session(house: House) -> None:
    async with house.serving(Limits(idle_time=0.3)) as server:
        for command in (b"", b"a IDLE\r\n"):
            client = await Client.connect(house, server)
            await client.login()
            await client.send(command)
            answers = [await client.response() for _ in range(2 if command else 1)]
            assert answers[-1].startswith(b"* BYE Autologout")


async def test_connections_are_counted(house: House) -> None:
    async with house.serving(Limits(connections_per_address=3, connections_per_account=1)) as server:
        first = await Client.connect(house, server)
        await first.login()
        second = await Client.connect(house, server)
        assert (await second.command(f'a LOGIN {ADDRESS} "{PASSWORD}"'))[-1].startswith(b"a NO [LIMIT]")
        third = await Client.connect(house, server)
        reader, _ = await asyncio.open_connection("127.0.0.1", server.ports[0], ssl=house.client_context())
        assert (await reader.readline()).startswith(b"* BYE [LIMIT]")
        await first.command("b LOGOUT")
        assert await first.eof()
        first.close()
        await second.login()
        third.close()


async def test_unexpected_errors_show_and_log_a_reference_only(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(self: Session, *, expunge_allowed: bool) -> None:
        raise RuntimeError("Subject: secret of the patient")

    house.deliver()
    async with house.serving() as server:
        client = await Client.connect(house, server)
        await client.login()
        monkeypatch.setattr(Session, "sync", broken)
        with caplog.at_level(logging.DEBUG):
            answer = (await client.command("a SELECT INBOX"))[-1].decode()
        assert answer.startswith("a NO [SERVERBUG] Internal error (réf. ")
        reference = answer.split("réf. ")[1].split(")")[0]
        assert reference in caplog.text and "secret" not in caplog.text + answer
        client.close()


async def test_nothing_of_a_session_reaches_the_log(house: House, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with house.serving() as server:
            client = await Client.connect(house, server)
            await client.command(f"a LOGIN {ADDRESS} wrong-secret")
            await client.login()
            await client.command(b"b APPEND INBOX {%d+}\r\n" % len(SIMPLE) + SIMPLE)
            await client.command("c SELECT INBOX")
            await client.command("d SEARCH SUBJECT secret-search")
            client.close()
    for secret in (PASSWORD, "wrong-secret", "Glyc", "bilan", "secret-search"):
        assert secret not in caplog.text


async def test_a_client_that_does_not_read_is_cut_off(house: House) -> None:
    house.deliver(b"Subject: big\r\n\r\n" + (b"x" * 76 + b"\r\n") * 320_000)
    async with house.serving(Limits(write_time=0.5)) as server:
        client = await Client.connect(house, server)
        await client.login()
        await client.command("a SELECT INBOX")
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(b"b FETCH 1 BODY.PEEK[]\r\n")
        async with asyncio.timeout(10):
            while server._sessions:
                await asyncio.sleep(0.05)
        client.close()


async def test_a_flood_of_logins_leaves_the_threads_to_the_others(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, inside, most = threading.Lock(), 0, 0

    def slow(address: str, password: str, at: datetime, *, service: str, source: str) -> Account | None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.05)
        with lock:
            inside -= 1
        return None

    monkeypatch.setattr(house.store, "authenticate", slow)
    async with house.serving() as server:
        clients = [await Client.connect(house, server) for _ in range(8)]
        answers = await asyncio.gather(*(client.command("a LOGIN me wrong") for client in clients))
        assert all(answer[-1].startswith(b"a NO [AUTHENTICATIONFAILED]") for answer in answers)
        for client in clients:
            client.close()
    assert most == Limits().logins_at_once


async def test_a_mailbox_that_is_closed_loses_its_sessions(house: House) -> None:
    house.deliver()
    async with house.serving(Limits(account_check=0.0)) as server:
        reading, idling = [await Client.connect(house, server) for _ in range(2)]
        for client in (reading, idling):
            await client.login()
            assert (await client.command("a SELECT INBOX"))[-1].startswith(b"a OK")
        await idling.send(b"b IDLE\r\n")
        assert await idling.response() == b"+ idling\r\n"
        house.store.set_active(ADDRESS, False)
        answer = await reading.command("b FETCH 1 BODY[]")
        assert len(answer) == 1 and answer[0].startswith(b"* BYE")
        for _ in range(8):  # what it was being told while the mailbox was closed may still come
            house.deliver()
            answer = [await idling.response()]
            if answer[0].startswith(b"* BYE"):
                break
        assert answer[0].startswith(b"* BYE")
        assert await reading.eof() and await idling.eof()


async def test_one_message_with_an_impossible_date_does_not_break_searching(house: House) -> None:
    house.deliver(b"Date: 1 Jan 99999999999999999999 00:00:00 +0000\r\n\r\nx\r\n")
    house.deliver()
    async with house.serving() as server:
        client = await Client.connect(house, server)
        await client.login()
        await client.command("a SELECT INBOX")
        assert (await client.command("b SEARCH SENTSINCE 1-Jan-2026"))[0] == b"* SEARCH 2\r\n"
        client.close()


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("reads", [False, True])
async def test_a_closed_connection_does_not_stay(
    house: House, monkeypatch: pytest.MonkeyPatch, *, tls: bool, reads: bool
) -> None:
    """Neither with a client that does not read, nor with one that reads everything and never closes."""
    monkeypatch.setattr(channel, "CLOSE_TIME", 0.2)
    monkeypatch.setattr(channel, "LINGER_TIME", 0.2)
    met: asyncio.Queue[Channel] = asyncio.Queue()
    listener = await Listener.open("127.0.0.1", 0, lambda sock, peer: met.put_nowait(Channel(sock, peer)))

    def connect() -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", listener.port))
        return house.client_context().wrap_socket(plain, server_hostname="127.0.0.1") if tls else plain

    connecting = asyncio.create_task(asyncio.to_thread(connect))
    served = await met.get()
    if tls:
        await served.start_tls(house.context, 10)
    with await connecting as client:
        size = 1000 if reads else 16_000_000
        served._wire.send(b"x" * size)
        assert bool(served.unsent) is not reads
        if reads:
            assert len(await asyncio.to_thread(client.recv, size)) == size
        async with asyncio.timeout(5):
            await served.close()
        assert not served.open
    listener.close()


async def test_what_was_said_last_arrives_over_what_the_client_still_sends(house: House) -> None:
    """Closing over octets not read would have the network take back the answer."""
    async with house.serving() as server:
        client = await Client.connect(house, server)
        await client.send(b"a LOGOUT\r\n" + b"b NOOP\r\n" * 20_000)
        assert (await client.response()).startswith(b"* BYE")
        assert (await client.response()).startswith(b"a OK")
        assert await client.eof()
        client.close()


async def test_connections_too_many_are_cut_without_a_handshake(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imap.server, "_TURNED_AWAY", 0)
    async with house.serving(Limits(connections_per_address=1)) as server:
        first = await Client.connect(house, server)
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", server.ports[0], ssl=house.client_context())
        first.close()
