"""Reception: which operator may hand over what; what a delivered message says of its journey."""

from __future__ import annotations

import pytest

import mime
from smtp import Kind
from tests.smtp.transcript import Dialogue, client_tls
from tests.smtp.world import World, message
from trustspace import Issued, ListedDomain


async def _greeted(world: World, certificate: Issued | None) -> Dialogue:
    dialogue = await Dialogue.open(world.a.ports[Kind.RECEPTION])
    await dialogue.play("S: 220 mss.a.test ESMTP\nC: EHLO peer.test")
    await dialogue.reply()
    await dialogue.play("C: STARTTLS\nS: 220")
    await dialogue.starttls(client_tls(world.a.services.trust, certificate))
    await dialogue.play("C: EHLO peer.test")
    assert b"AUTH" not in await dialogue.reply()
    return dialogue


async def _hand_over(dialogue: Dialogue, content: bytes, sender: str = "carol@b.mssante.fr") -> bytes:
    await dialogue.play(f"C: MAIL FROM:<{sender}>\nS: 250\nC: RCPT TO:<bob@a.mssante.fr>\nS: 250\nC: DATA\nS: 354")
    await dialogue.raw(content + b".\r\n")
    return await dialogue.reply()


async def test_a_listed_peer_delivers(world: World) -> None:
    forged = [
        "Authentication-Results: mss.a.test; smime=pass",
        "authentication-results: other; smime=pass",
        "X-Caducee-Trust: forged",
        "Return-Path: <forged@x>",
    ]
    content = message("Carol <carol@b.mssante.fr>", "bob@a.mssante.fr", *forged)
    async with world.a.listening(Kind.RECEPTION):
        dialogue = await _greeted(world, world.b.certificate)
        assert (await _hand_over(dialogue, content)).startswith(b"250 2.0.0")
        await dialogue.close()
    (delivered,) = world.a.inbox("bob")
    part = mime.parse(delivered)
    (results,) = part.get_all("authentication-results")
    assert results.startswith("mss.a.test; smime=none; x-mss-trust=pass smtp.mailfrom=b.mssante.fr policy.dn=")
    assert '"CN=mss.b.test,OU=1990000011,O=B,ST=Paris (75),C=FR"' in results
    assert "x-mss-from=pass header.from=b.mssante.fr" in results
    assert part.get_all("return-path") == ["<carol@b.mssante.fr>"]
    assert part.get("x-caducee-trust") is None
    (received,) = part.get_all("received")
    assert received.startswith("from peer.test ([127.0.0.1]) (TLSv1.3")
    assert "by mss.a.test with ESMTPS id " in received
    assert delivered.endswith(b"\r\n\r\nBonjour.\r\n")


async def test_nothing_before_starttls(world: World) -> None:
    async with world.a.listening(Kind.RECEPTION):
        dialogue = await Dialogue.open(world.a.ports[Kind.RECEPTION])
        await dialogue.play(
            """
            S: 220
            C: HELO peer
            S: 250 mss.a.test
            C: MAIL FROM:<carol@b.mssante.fr>
            S: 530 5.7.0
            C: RCPT TO:<bob@a.mssante.fr>
            S: 530 5.7.0
            C: VRFY bob
            S: 530 5.7.0
            C: QUIT
            S: 221
            """
        )
        await dialogue.close()


async def test_no_certificate(world: World) -> None:
    async with world.a.listening(Kind.RECEPTION):
        dialogue = await _greeted(world, None)
        await dialogue.play("C: MAIL FROM:<carol@b.mssante.fr>\nS: 554 5.7.1\nC: MAIL FROM:<>\nS: 554 5.7.1")
        await dialogue.close()


async def test_listed_for_another_domain(world: World) -> None:
    async with world.a.listening(Kind.RECEPTION):
        dialogue = await _greeted(world, world.b.certificate)
        await dialogue.play(
            "C: MAIL FROM:<x@a.mssante.fr>\nS: 550 5.7.1\n"
            "C: MAIL FROM:<x@unknown.mssante.fr>\nS: 550 5.7.1\n"
            "C: MAIL FROM:<x@patient.mssante.fr>\nS: 250\n"
        )
        await dialogue.close()


async def test_unlisted_certificate_with_the_same_common_name(world: World) -> None:
    imposter = world.issue("mss.b.test")
    async with world.a.listening(Kind.RECEPTION):
        dialogue = await _greeted(world, imposter)
        await dialogue.play("C: MAIL FROM:<carol@b.mssante.fr>\nS: 550 5.7.1\nC: MAIL FROM:<>\nS: 550 5.7.1")
        await dialogue.close()


async def test_revoked_certificate(world: World) -> None:
    async with world.a.listening(Kind.RECEPTION):
        dialogue = await _greeted(world, world.b.certificate)
        await dialogue.play("C: MAIL FROM:<carol@b.mssante.fr>\nS: 250\nC: RSET\nS: 250")
        world.authority.revoke(world.b.certificate.certificate, world.clock.now)
        world.trust_again()
        await dialogue.play("C: MAIL FROM:<carol@b.mssante.fr>\nS: 550 5.7.1\nC: MAIL FROM:<>\nS: 550 5.7.1")
        await dialogue.close()


async def test_stale_list_and_missing_revocation_defer(world: World) -> None:
    async with world.a.listening(Kind.RECEPTION):
        dialogue = await _greeted(world, world.b.certificate)
        world.clock.forward(days=8)
        await dialogue.play("C: MAIL FROM:<carol@b.mssante.fr>\nS: 451 4.7.5")
        world.clock.forward(days=-8)
        for crl in (world.a.folder / "trust" / "crl").iterdir():
            crl.unlink()
        world.a.services.trust.refresh(world.clock.now)
        await dialogue.play("C: MAIL FROM:<carol@b.mssante.fr>\nS: 451 4.7.5")
        await dialogue.close()


async def test_recipients_are_ours_only(world: World) -> None:
    async with world.a.listening(Kind.RECEPTION):
        dialogue = await _greeted(world, world.b.certificate)
        await dialogue.play(
            """
            C: MAIL FROM:<carol@b.mssante.fr>
            S: 250
            C: RCPT TO:<alice@b.mssante.fr>
            S: 550 5.7.1 relais refuse
            C: RCPT TO:<nobody@a.mssante.fr>
            S: 550 5.1.1
            C: RCPT TO:<bob%b.mssante.fr@a.mssante.fr>
            S: 550 5.1.1
            C: DATA
            S: 503
            """
        )
        world.a.store.set_active("bob@a.mssante.fr", False)
        await dialogue.play("C: RCPT TO:<bob@a.mssante.fr>\nS: 550 5.2.1")
        await dialogue.close()


async def test_null_sender_of_a_listed_peer(world: World) -> None:
    async with world.a.listening(Kind.RECEPTION):
        dialogue = await _greeted(world, world.b.certificate)
        reply = await _hand_over(dialogue, message("mailer-daemon@b.mssante.fr", "bob@a.mssante.fr"), "")
        assert reply.startswith(b"250")
        await dialogue.close()
    assert mime.parse(world.a.inbox("bob")[0]).get("return-path") == "<>"


async def test_a_from_the_peer_may_not_speak_for_is_marked(world: World) -> None:
    async with world.a.listening(Kind.RECEPTION):
        dialogue = await _greeted(world, world.b.certificate)
        reply = await _hand_over(dialogue, message("Alice <alice@a.mssante.fr>", "bob@a.mssante.fr"))
        assert reply.startswith(b"250")
        await dialogue.close()
    assert "x-mss-from=fail" in (mime.parse(world.a.inbox("bob")[0]).get("authentication-results") or "")


async def test_loops_end(world: World) -> None:
    content = message("carol@b.mssante.fr", "bob@a.mssante.fr", *["Received: from x by y"] * 31)
    async with world.a.listening(Kind.RECEPTION):
        dialogue = await _greeted(world, world.b.certificate)
        assert (await _hand_over(dialogue, content)).startswith(b"554 5.4.6")
        await dialogue.close()
    assert world.a.inbox("bob") == []


async def test_repeated_hand_over_and_one_with_other_content(world: World) -> None:
    content = message("carol@b.mssante.fr", "bob@a.mssante.fr")
    async with world.a.listening(Kind.RECEPTION):
        for certificate in (world.b.certificate, world.b.certificate):
            dialogue = await _greeted(world, certificate)
            assert (await _hand_over(dialogue, content)).startswith(b"250")
            await dialogue.close()
        dialogue = await _greeted(world, world.b.certificate)
        assert (await _hand_over(dialogue, content + b"more\r\n")).startswith(b"250")
        await dialogue.close()
    assert len(world.a.inbox("bob")) == 2


async def test_refusals_are_audited_with_the_certificate_and_the_rule(world: World) -> None:
    content = message("carol@b.mssante.fr", "bob@a.mssante.fr", *["Received: from x by y"] * 31)
    async with world.a.listening(Kind.RECEPTION):
        dialogue = await _greeted(world, world.b.certificate)
        await _hand_over(dialogue, content)
        await dialogue.close()
    (traced,) = world.a.store.trace("m1@test")
    assert traced.event.name == "reception.refused"
    assert traced.event.detail["dn"] == world.b.certificate.certificate.subject.rfc4514_string()
    assert traced.event.detail["reply"].startswith("554 5.4.6")


async def test_new_white_list_takes_effect_in_an_open_connection(world: World) -> None:
    async with world.a.listening(Kind.RECEPTION):
        dialogue = await _greeted(world, world.b.certificate)
        await dialogue.play("C: MAIL FROM:<carol@b.mssante.fr>\nS: 250\nC: RSET\nS: 250")
        world.clock.forward(minutes=1)
        world.publish([ListedDomain.of("a.mssante.fr", world.a.certificate.certificate)])
        await dialogue.play("C: MAIL FROM:<carol@b.mssante.fr>\nS: 550 5.7.1")
        await dialogue.close()


@pytest.mark.parametrize("bare", [b"a\nb\r\n", b"a\rb\r\n", b"a\0b\r\n"])
async def test_bare_line_ends_are_refused(world: World, bare: bytes) -> None:
    async with world.a.listening(Kind.RECEPTION):
        dialogue = await _greeted(world, world.b.certificate)
        reply = await _hand_over(dialogue, message("carol@b.mssante.fr", "bob@a.mssante.fr") + bare)
        assert reply.startswith(b"550 5.6.0")
        await dialogue.close()
