"""The sender against a real reception listener: delivered once, deferred, given up, and never to the wrong peer."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from email.utils import format_datetime
from threading import Event
from typing import Any

import pytest

import mime
from mailstore import Acceptance, DeliveryState, Direction, OutgoingCopy, Settlement, StoreError
from smtp import Carrier, Kind, Sender, SmtpClient
from smtp.delivery import Peer
from smtp.dialogue import Answer
from smtp.gate import Door
from smtp.outcomes import SenderSettings, delay
from smtp.outgoing import Outgoing
from smtp.sender import UNSETTLED
from tests.smtp.transcript import client_tls
from tests.smtp.world import PASSWORD, Operator, World, free_port, message
from trustspace import ListedDomain


def _queue(operator: Operator, *recipients: str, name: str = "m1") -> str:
    content = message("alice@a.mssante.fr", "x", body=".Bonjour.\r\n..", message_id=f"{name}@test")
    acceptance = Acceptance(
        direction=Direction.SUBMISSION,
        principal="alice@a.mssante.fr",
        mail_from="alice@a.mssante.fr",
        recipients=recipients,
        message_id=f"<{name}@test>",
        received=content,
        outgoing=(OutgoingCopy(recipients, content),),
    )
    return operator.store.accept(acceptance, operator.clock.now).submission_id


def _route(operator: Operator) -> dict[str, str]:
    return {"b.mssante.fr": f"127.0.0.1:{operator.ports[Kind.RECEPTION]}"}


def _last(operator: Operator, message_id: str = "m1@test") -> tuple[str, dict[str, str]]:
    traced = operator.store.trace(message_id)[-1]
    return traced.event.name, dict(traced.event.detail)


async def test_from_submission_to_the_other_mailbox(world: World) -> None:
    """The whole way: submission at A wakes the sender, which delivers to the reception of B."""
    async with world.a.listening(Kind.SUBMISSION_TLS), world.b.listening(Kind.RECEPTION):
        sender = world.a.sender(_route(world.b))
        running = asyncio.create_task(sender.run())
        client = await SmtpClient.connect(
            "127.0.0.1",
            world.a.ports[Kind.SUBMISSION_TLS],
            hostname="gp",
            tls=client_tls(world.a.services.trust),
        )
        await client.login_plain("alice@a.mssante.fr", PASSWORD)
        recipients = ["bob@b.mssante.fr", "alice@b.mssante.fr"]
        answers = await client.send("alice@a.mssante.fr", recipients, message("alice@a.mssante.fr", "x"))
        assert all(answer.ok for answer in answers.values())
        await client.quit()
        async with asyncio.timeout(10):
            while world.a.store.queue():
                await asyncio.sleep(0.02)
        sender.stop()
        await running
    assert len(world.b.inbox("bob")) == len(world.b.inbox("alice")) == 1
    name, detail = _last(world.a)
    assert name == "outgoing.delivered"
    assert detail["dn"] == world.b.certificate.certificate.subject.rfc4514_string()
    assert detail["reply"].startswith("250 2.0.0")


async def test_content_arrives_byte_for_byte(world: World) -> None:
    _queue(world.a, "bob@b.mssante.fr")
    async with world.b.listening(Kind.RECEPTION):
        assert await world.a.sender(_route(world.b)).once() == 1
    (delivered,) = world.b.inbox("bob")
    assert delivered.endswith(message("alice@a.mssante.fr", "x", body=".Bonjour.\r\n.."))


async def test_killed_between_250_and_settle(world: World) -> None:
    """The first worker delivers and dies before it settles; the second repeats the hand-over, B recognises it."""
    _queue(world.a, "bob@b.mssante.fr", "alice@b.mssante.fr")
    async with world.b.listening(Kind.RECEPTION):
        rows = world.a.store.lease_outgoing("dead", world.clock.now, timedelta(minutes=20), 10)
        client = await SmtpClient.connect("127.0.0.1", world.b.ports[Kind.RECEPTION], hostname="mss.a.test")
        await client.starttls(client_tls(world.b.services.trust, world.a.certificate))
        await client.ehlo()
        content = world.a.store.read_blob(rows[0].blob)
        answers = await client.send("alice@a.mssante.fr", [row.recipient for row in rows], content)
        assert all(answer.ok for answer in answers.values())
        client.close()
        second = world.a.sender(_route(world.b), owner="second")
        assert await second.once() == 0
        world.clock.forward(minutes=21)
        assert await second.once() == 2
    assert world.a.store.queue() == []
    assert len(world.b.inbox("bob")) == len(world.b.inbox("alice")) == 1


async def test_a_lost_250_of_a_group_is_recognised_however_it_comes_back(world: World) -> None:
    """B accepted for two mailboxes and its 250 was lost; A comes back with one of them, then with both."""
    content = message("alice@a.mssante.fr", "x", message_id="group@test")
    both = ["bob@b.mssante.fr", "alice@b.mssante.fr"]
    async with world.b.listening(Kind.RECEPTION):
        for recipients in (both, both[1:], both[:1], list(reversed(both))):
            client = await SmtpClient.connect("127.0.0.1", world.b.ports[Kind.RECEPTION], hostname="mss.a.example")
            await client.starttls(client_tls(world.a.services.trust, world.a.certificate))
            await client.ehlo()
            answers = await client.send("alice@a.mssante.fr", recipients, content)
            assert all(answer.ok for answer in answers.values())
            await client.quit()
    assert len(world.b.inbox("bob")) == len(world.b.inbox("alice")) == 1


async def test_recipients_deferred_together_come_back_together(world: World) -> None:
    _queue(world.a, "bob@b.mssante.fr", "alice@b.mssante.fr")
    assert await world.a.sender({"b.mssante.fr": f"127.0.0.1:{free_port()}"}).once() == 2
    first, second = world.a.store.queue()
    assert first.next_attempt_at == second.next_attempt_at


async def test_a_damaged_content_is_not_tried_for_ever(world: World) -> None:
    """The file of a queued message was altered: the sender is told, the row ends."""
    _queue(world.a, "bob@b.mssante.fr")
    world.a.store._journal.settle()
    for file in (world.a.folder / "blobs").glob("??/*"):
        file.write_bytes(file.read_bytes()[:-1] + b"\0\0")
    async with world.b.listening(Kind.RECEPTION):
        assert await world.a.sender(_route(world.b)).once() == 1
    assert world.a.store.queue() == []
    (notice,) = world.a.inbox("alice")
    assert b"5.3.0" in notice


async def test_peer_down_then_back(world: World) -> None:
    _queue(world.a, "bob@b.mssante.fr")
    port = free_port()
    sender = world.a.sender({"b.mssante.fr": f"127.0.0.1:{port}"})
    assert await sender.once() == 1
    assert _last(world.a)[0] == "outgoing.deferred"
    assert await sender.once() == 0
    world.clock.forward(minutes=1)
    async with world.b.listening(Kind.RECEPTION, port=port):
        assert await sender.once() == 1
    assert _last(world.a)[0] == "outgoing.delivered"
    assert len(world.b.inbox("bob")) == 1


async def test_permanent_refusal_of_one_recipient_is_told(world: World) -> None:
    _queue(world.a, "bob@b.mssante.fr", "nobody@b.mssante.fr")
    async with world.b.listening(Kind.RECEPTION):
        await world.a.sender(_route(world.b)).once()
    states = {row.recipient: row.state for row in world.a.store.queue(None)}
    assert states == {"bob@b.mssante.fr": DeliveryState.DELIVERED, "nobody@b.mssante.fr": DeliveryState.FAILED}
    (notice,) = world.a.inbox("alice")
    part = mime.parse(notice)
    assert (part.media_type, part.parameters["report-type"]) == ("multipart/report", "delivery-status")
    text, status, header = part.children
    assert "n'a pas pu être remis" in text.decoded(notice).decode()
    assert b"Final-Recipient: rfc822; nobody@b.mssante.fr\r\nAction: failed\r\nStatus: 5.1.1\r\n" in status.body(notice)
    assert status.encoding in ("", "7bit")
    assert b"bob@b.mssante.fr" not in status.body(notice)
    assert b"Message-ID: <m1@test>" in header.decoded(notice)
    assert b"Bonjour" not in notice
    assert part.get("return-path") == "<>"
    assert part.get("auto-submitted") == "auto-replied"


async def test_gives_up_after_two_days(world: World) -> None:
    start = world.clock.now
    _queue(world.a, "bob@b.mssante.fr")
    sender = world.a.sender({"b.mssante.fr": f"127.0.0.1:{free_port()}"})
    await sender.once()
    world.clock.forward(hours=47, minutes=59)
    await sender.once()
    (delayed,) = world.a.inbox("alice")
    assert b"Action: delayed\r\nStatus: 4.4.7" in delayed
    assert f"Will-Retry-Until: {format_datetime(start + timedelta(hours=48))}\r\n".encode() in delayed
    assert b"connexion refusee / connection refused" in delayed and b"RefusedError" not in delayed
    world.clock.forward(hours=2)
    await sender.once()
    assert _last(world.a)[0] in ("outgoing.failed", "notice.failure")
    assert world.a.store.queue() == []
    assert b"Status: 5.4.7" in world.a.inbox("alice")[1]


async def test_a_notice_is_not_doubled_by_a_crash(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The notice is stored, then the worker dies before settling: the repeated attempt stores no second notice."""
    _queue(world.a, "nobody@b.mssante.fr")

    def die(*args: object) -> None:
        raise RuntimeError("killed")

    async with world.b.listening(Kind.RECEPTION):
        with monkeypatch.context() as patch:
            patch.setattr(world.a.store, "settle_all", die)
            await world.a.sender(_route(world.b), owner="first").once()
        world.clock.forward(minutes=21)
        assert await world.a.sender(_route(world.b), owner="second").once() == 1
    assert world.a.store.queue() == []
    assert len(world.a.inbox("alice")) == 1


async def test_unlisted_peer_hears_nothing_but_ehlo_and_starttls(world: World) -> None:
    """B's listener has a certificate of the right authority that is listed for nothing: no envelope leaves."""
    _queue(world.a, "bob@b.mssante.fr")
    world.b.certificate = world.issue("mss.b.test")
    async with world.b.listening(Kind.RECEPTION):
        await world.a.sender(_route(world.b)).once()
    name, detail = _last(world.a)
    assert name == "outgoing.deferred"
    assert detail["reply"].startswith("451 4.7.5")
    assert detail["rule"]
    assert world.b.store.trace("m1@test") == []
    assert world.b.inbox("bob") == []


async def test_peer_listed_for_another_domain(world: World) -> None:
    _queue(world.a, "bob@b.mssante.fr")
    world.publish(
        [
            ListedDomain.of("a.mssante.fr", world.a.certificate.certificate),
            ListedDomain.of("c.mssante.fr", world.b.certificate.certificate),
            ListedDomain("b.mssante.fr", "CN=other,OU=1990000055,O=X,ST=Paris (75),C=FR"),
        ]
    )
    async with world.b.listening(Kind.RECEPTION):
        await world.a.sender(_route(world.b)).once()
    assert _last(world.a)[1]["reply"].startswith("451 4.7.5")
    assert world.b.inbox("bob") == []


async def test_revoked_peer(world: World) -> None:
    _queue(world.a, "bob@b.mssante.fr")
    world.authority.revoke(world.b.certificate.certificate, world.clock.now)
    world.trust_again()
    async with world.b.listening(Kind.RECEPTION):
        await world.a.sender(_route(world.b)).once()
    assert _last(world.a)[1]["rule"] == "CERTIFICATE_REVOKED"
    assert world.b.inbox("bob") == []


async def test_a_peer_that_strips_starttls_gets_nothing(world: World) -> None:
    heard: list[bytes] = []

    async def strip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 evil\r\n")
        while line := await reader.readline():
            heard.append(line)
            writer.write(b"250 evil\r\n")
        writer.close()

    server = await asyncio.start_server(strip, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    _queue(world.a, "bob@b.mssante.fr")
    await world.a.sender({"b.mssante.fr": f"127.0.0.1:{port}"}).once()
    server.close()
    assert heard == [b"EHLO mss.a.test\r\n"]
    assert "STARTTLS not offered" in _last(world.a)[1]["reply"]


async def test_octets_injected_before_tls_end_the_connection(world: World) -> None:
    async def inject(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 evil\r\n")
        await reader.readline()
        writer.write(b"250-evil\r\n250 STARTTLS\r\n")
        await reader.readline()
        writer.write(b"220 go\r\n250 injected\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(inject, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    _queue(world.a, "bob@b.mssante.fr")
    await world.a.sender({"b.mssante.fr": f"127.0.0.1:{port}"}).once()
    server.close()
    assert "octets received before TLS" in _last(world.a)[1]["reply"]


async def test_many_messages_share_a_connection(world: World) -> None:
    for number in range(10):
        _queue(world.a, "bob@b.mssante.fr", name=f"n{number}")
    async with world.b.listening(Kind.RECEPTION) as servers:
        seen: list[int] = []
        gate = servers._gates[0]
        enter = gate.enter

        def count(door: Door, address: str) -> bool:
            seen.append(1)
            return enter(door, address)

        gate.enter = count  # type: ignore[method-assign]
        assert await world.a.sender(_route(world.b)).once() == 10
    assert len(world.b.inbox("bob")) == 10
    assert len(seen) == 1


def test_back_off_doubles_is_capped_and_jittered() -> None:
    chance = random.Random(7)
    delays = [delay(SenderSettings(), attempts, chance).total_seconds() for attempts in range(60)]
    for attempts, found in enumerate(delays):
        whole = min(3600.0, 60.0 * 2 ** min(attempts, 20))
        assert 0.75 * whole <= found <= whole
    assert len(set(delays[10:])) > 40


def test_a_lost_lease_is_not_settled(world: World) -> None:
    _queue(world.a, "bob@b.mssante.fr")
    (row,) = world.a.store.lease_outgoing("one", world.clock.now, timedelta(minutes=1), 10)
    world.clock.forward(minutes=2)
    world.a.store.lease_outgoing("two", world.clock.now, timedelta(minutes=1), 10)
    with pytest.raises(Exception, match="lease"):
        world.a.store.settle_outgoing(row.row_id, "one", Settlement(DeliveryState.DELIVERED, "250"), world.clock.now)


class _Script:
    """A peer that already passed TLS and the white list, and answers what a test says."""

    def __init__(self, answers: dict[str, list[str]], *, slow: str = "") -> None:
        self.answers = answers
        self.slow = slow
        self.heard: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 peer\r\n")
        while line := (await reader.readline()).decode().strip():
            word = line.split(" ")[0].split(":")[0].upper()
            self.heard.append(word)
            if word == self.slow:
                await asyncio.sleep(30)
            answer = self.answers.get(word, []).pop(0) if self.answers.get(word) else "250 ok"
            writer.write(answer.encode() + b"\r\n")
            if answer.startswith("421") or "closing" in answer:
                break
            if answer.startswith("354"):
                while (await reader.readline()) != b".\r\n":
                    pass
                writer.write(b"250 taken\r\n")
        writer.close()


@contextlib.asynccontextmanager
async def _scripted(world: World, script: _Script, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sender]:
    server = await asyncio.start_server(script, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def opened(self: Carrier, domain: str, route: str = "") -> Peer:
        return Peer(await SmtpClient.connect("127.0.0.1", port, hostname="a", patience=self.patience), {})

    monkeypatch.setattr(Carrier, "open", opened)
    try:
        yield world.a.sender({})
    finally:
        server.close()


@pytest.mark.parametrize(
    ("recipient", "subject", "options", "reply"),
    [
        ("bob@b.mssante.fr", "resultats", {"utf8": "yes"}, "250 taken"),
        ("bob@b.mssante.fr", "résultats", {"utf8": "yes"}, "553 5.6.7"),
        ("hélène@b.mssante.fr", "resultats", {"utf8": "yes"}, "553 5.6.7"),
        ("bob@b.mssante.fr", "resultats", {"requiretls": "yes"}, "554 5.7.30"),
    ],
)
async def test_what_the_peer_does_not_offer_is_not_asked_of_it(
    world: World, monkeypatch: pytest.MonkeyPatch, recipient: str, subject: str, options: dict[str, str], reply: str
) -> None:
    """RFC 6531 §3.2, RFC 8689 §4.2.1: refused here, nothing of the message said to the peer."""
    content = f"From: alice@a.mssante.fr\r\nSubject: {subject}\r\n\r\nx\r\n".encode()
    acceptance = Acceptance(
        direction=Direction.SUBMISSION,
        principal="alice@a.mssante.fr",
        mail_from="alice@a.mssante.fr",
        recipients=(recipient,),
        message_id="<m1@test>",
        received=content,
        outgoing=(OutgoingCopy((recipient,), content, options),),
    )
    world.a.store.accept(acceptance, world.clock.now)
    script = _Script({"EHLO": ["250-peer\r\n250 8BITMIME"], "DATA": ["354 go"]})
    async with _scripted(world, script, monkeypatch) as sender:
        await sender.once()
    (row,) = world.a.store.queue_rows("<m1@test>")
    assert row.reply.startswith(reply)
    assert ("MAIL" in script.heard) == reply.startswith("250")


async def test_a_refused_data_does_not_refuse_the_next_message(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without RSET the peer would answer the next MAIL with a final 503."""
    _queue(world.a, "bob@b.mssante.fr", name="m1")
    _queue(world.a, "bob@b.mssante.fr", name="m2")
    script = _Script({"DATA": ["451 4.3.1 full", "354 go"]})
    async with _scripted(world, script, monkeypatch) as sender:
        await sender.once()
    assert script.heard[:8] == ["EHLO", "MAIL", "RCPT", "DATA", "RSET", "MAIL", "RCPT", "DATA"]
    assert _last(world.a, "m1@test")[0] == "outgoing.deferred"
    assert _last(world.a, "m2@test")[0] == "outgoing.delivered"


async def test_success_before_the_content_is_no_delivery(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _queue(world.a, "bob@b.mssante.fr")
    async with _scripted(world, _Script({"DATA": ["250 already"]}), monkeypatch) as sender:
        await sender.once()
    assert _last(world.a)[0] == "outgoing.deferred"


async def test_a_final_refusal_counts_though_the_peer_hangs_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _queue(world.a, "bob@b.mssante.fr")
    async with _scripted(world, _Script({"MAIL": ["550 5.7.1 never, closing"]}), monkeypatch) as sender:
        await sender.once()
    assert _last(world.a)[0] == "outgoing.failed"


async def test_a_slow_peer_is_left_before_the_lease_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were it served on, the row would be leased again meanwhile and sent twice."""
    _queue(world.a, "bob@b.mssante.fr")
    monkeypatch.setattr("smtp.sender._LEASE_MARGIN", timedelta(seconds=1))
    script = _Script({}, slow="RCPT")
    async with _scripted(world, script, monkeypatch) as sender:
        sender._settings = replace(sender._settings, lease=timedelta(seconds=1.2))
        async with asyncio.timeout(3):
            await sender.once()
    assert "DATA" not in script.heard
    name, detail = _last(world.a)
    assert (name, detail["reply"]) == (
        "outgoing.deferred",
        "451 4.4.2 serveur trop lent en face / the peer is too slow",
    )


async def test_one_bad_message_does_not_hold_up_its_domain(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("m1", "m2"):
        _queue(world.a, "bob@b.mssante.fr", name=name)
    send = SmtpClient.send

    async def failing(
        self: SmtpClient, sender: str, recipients: list[str], content: Outgoing, *more: Any
    ) -> dict[str, Answer]:
        if b"m1@test" in (content.small or b""):
            raise KeyError("content of the message")
        return await send(self, sender, recipients, content, *more)

    monkeypatch.setattr(SmtpClient, "send", failing)
    async with world.b.listening(Kind.RECEPTION):
        assert await world.a.sender(_route(world.b)).once() == 2
    assert len(world.b.inbox("bob")) == 1
    name, detail = _last(world.a)
    assert name == "outgoing.deferred"
    assert detail["reply"].startswith("451 4.3.0")
    assert "content of" not in str(detail)


async def test_a_notice_that_cannot_be_stored_has_nothing_sent_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _queue(world.a, "bob@b.mssante.fr", "nobody@b.mssante.fr")

    def full(*args: object) -> None:
        raise StoreError("no room")

    monkeypatch.setattr(world.a.store, "accept", full)
    async with world.b.listening(Kind.RECEPTION):
        await world.a.sender(_route(world.b)).once()
    (left,) = world.a.store.queue()
    assert left.recipient == "nobody@b.mssante.fr"


async def test_stopping_does_not_wait_for_all_that_is_leased(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        _queue(world.a, "bob@b.mssante.fr", name=f"m{number}")
    script = _Script({"DATA": ["354 go", "354 go", "354 go"]})
    async with _scripted(world, script, monkeypatch) as sender:
        deliver = sender._deliver

        async def one_then_stop(job: Any, peer: Any) -> Any:
            sender.stop()
            return await deliver(job, peer)

        monkeypatch.setattr(sender, "_deliver", one_then_stop)
        async with asyncio.timeout(5):
            await sender.run()
    left = world.a.store.queue()
    assert len(left) == 2
    assert {row.lease_owner for row in left} == {""}
    assert {row.attempts for row in left} == {0}


async def test_the_next_messages_leave_while_the_last_are_settled_but_few(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, gate = world.a.store, Event()
    settle = store.settle_all

    def slow(*arguments: Any) -> list[int]:
        assert gate.wait(20)
        return settle(*arguments)

    monkeypatch.setattr(store, "settle_all", slow)
    for number in range(12):
        _queue(world.a, "bob@b.mssante.fr", name=f"m{number}")
    async with world.b.listening(Kind.RECEPTION):
        sender = world.a.sender(_route(world.b))
        working = asyncio.create_task(sender.once())
        async with asyncio.timeout(20):
            while len(world.b.inbox("bob")) < UNSETTLED + 1:
                await asyncio.sleep(0.01)
        assert len(store.queue()) == 12
        gate.set()
        await working
    assert store.queue() == []
    assert len(world.b.inbox("bob")) == 12


async def test_two_senders_share_a_queue(world: World) -> None:
    for number in range(60):
        _queue(world.a, "bob@b.mssante.fr", name=f"m{number}")
    async with world.b.listening(Kind.RECEPTION):
        senders = [world.a.sender(_route(world.b), owner=f"mail-{number}") for number in range(2)]
        for sender in senders:
            sender._settings = replace(sender._settings, batch=10)

        async def work(sender: Sender) -> int:
            taken = 0
            while now := await sender.once():
                taken += now
            return taken

        assert sum(await asyncio.gather(*map(work, senders))) == 60
    assert world.a.store.queue() == []
    assert len(world.b.inbox("bob")) == 60
