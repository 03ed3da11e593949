"""The national audit peers (mssante.md §1.3, tool MOTCO1): each connects to our reception, and each gets an SMTP reply, after a
handshake that goes through whatever the certificate; and what we make of such a peer when we send."""

from __future__ import annotations

import asyncio
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from smtp import Kind
from tests.smtp.test_sender import _last, _queue, _route
from tests.smtp.transcript import Dialogue, client_tls
from tests.smtp.world import World, message
from trustspace import Issued, ListedDomain, PracticeAuthority

FOREIGN = "cert-non-igc-audit"


def _peer(world: World, name: str, folder: Path) -> Issued:
    """The certificate that this audit peer shows, the white list published accordingly."""
    at, common = world.clock.now, f"{name}.audit.test"
    start = at - timedelta(days=1200) if name == "cert-expire-audit" else at - timedelta(days=1)
    authority = world.authority
    if name == FOREIGN:
        authority = PracticeAuthority.create(folder / "foreign", at=at - timedelta(days=2))
    listed = authority.issue_server(common, "AUDIT", "1990000088", "Paris (75)", ips=("127.0.0.1",), at=start)
    shown = listed
    if name == "cert-cn-diff-dn-audit":
        shown = world.issue(common, organisation="AUTRE ORGANISATION")
    elif name == "cert-no-match-audit":
        shown = world.issue("tout-autre.test")
    elif name == "cert-revoque-audit":
        world.authority.revoke(listed.certificate, at)
    entries = [
        ListedDomain.of("a.mssante.fr", world.a.certificate.certificate),
        ListedDomain.of("audit.mssante.fr", listed.certificate),
    ]
    world.publish(entries)
    return shown


@pytest.mark.parametrize(
    ("name", "reply", "rule"),
    [
        ("cert-valide-audit", "250 2.1.0", ""),
        ("cert-expire-audit", "550 5.7.1 Le certificat (ou une autorite au-dessus) est expire.", "CERTIFICATE_expired"),
        (
            "cert-revoque-audit",
            "550 5.7.1 Le certificat (ou une autorite au-dessus) est revoque.",
            "CERTIFICATE_revoked",
        ),
        (FOREIGN, "550 5.7.1 Le certificat n'est pas emis", "CERTIFICATE_untrusted"),
        ("cert-no-match-audit", "550 5.7.1 Le nom du certificat n'est pas dans la liste", "CERTIFICATE_NOT_LISTED"),
        ("cert-cn-diff-dn-audit", "550 5.7.1 Le nom du certificat n'est pas dans la liste", "CERTIFICATE_NOT_LISTED"),
        ("tests-operateur", "250 2.1.0", ""),
    ],
)
async def test_each_audit_peer_gets_its_reply(world: World, tmp_path: Path, name: str, reply: str, rule: str) -> None:
    shown = _peer(world, name, tmp_path)
    async with world.a.listening(Kind.RECEPTION):
        dialogue = await Dialogue.open(world.a.ports[Kind.RECEPTION])
        await dialogue.play("S: 220\nC: EHLO peer")
        await dialogue.reply()
        await dialogue.play("C: STARTTLS\nS: 220")
        await dialogue.starttls(client_tls(world.a.services.trust, shown))
        await dialogue.play("C: EHLO peer")
        await dialogue.reply()
        await dialogue.play(f"C: MAIL FROM:<x@audit.mssante.fr>\nS: {reply}")
        if not rule:
            await dialogue.play("C: RCPT TO:<bob@a.mssante.fr>\nS: 250\nC: DATA\nS: 354")
            await dialogue.raw(message("x@audit.mssante.fr", "bob@a.mssante.fr") + b".\r\n")
            await dialogue.play("S: 250 2.0.0")
        await dialogue.close()
    refusals = world.a.store.refusals(5)
    assert [one.event.detail["rule"].lower() for one in refusals] == ([rule.lower()] if rule else [])
    assert len(world.a.inbox("bob")) == (0 if rule else 1)


async def test_without_tls_nothing_is_heard(world: World) -> None:
    """`sans-tls-audit`."""
    async with world.a.listening(Kind.RECEPTION):
        dialogue = await Dialogue.open(world.a.ports[Kind.RECEPTION])
        await dialogue.play("S: 220\nC: EHLO peer")
        await dialogue.reply()
        await dialogue.play("C: MAIL FROM:<x@b.mssante.fr>\nS: 530 5.7.0\nC: DATA\nS: 530 5.7.0")
        await dialogue.close()


@pytest.mark.parametrize("name", ["cert-expire-audit", "cert-revoque-audit", FOREIGN, "cert-cn-diff-dn-audit"])
async def test_nothing_is_sent_to_such_a_peer(world: World, tmp_path: Path, name: str) -> None:
    world.b.certificate = _peer(world, name, tmp_path)
    world.publish(
        [
            ListedDomain.of("a.mssante.fr", world.a.certificate.certificate),
            ListedDomain.of("b.mssante.fr", world.b.certificate.certificate)
            if name != "cert-cn-diff-dn-audit"
            else ListedDomain(
                "b.mssante.fr", "CN=cert-cn-diff-dn-audit.audit.test,OU=1990000088,O=AUDIT,ST=Paris (75),C=FR"
            ),
        ]
    )
    _queue(world.a, "bob@b.mssante.fr")
    async with world.b.listening(Kind.RECEPTION):
        await world.a.sender(_route(world.b)).once()
    event, detail = _last(world.a)
    assert event == "outgoing.deferred"
    assert detail["reply"].startswith("451 4.")
    assert world.b.inbox("bob") == []
    (attempt,) = world.a.store.attempts(world.a.store.queue()[0].row_id)
    assert attempt.reply == detail["reply"]


async def test_openssl_with_an_expired_certificate_hears_a_reply(world: World, tmp_path: Path) -> None:
    shown = _peer(world, "cert-expire-audit", tmp_path)
    chain, key = shown.write(tmp_path, "expired")
    async with world.a.listening(Kind.RECEPTION):
        command = ["openssl", "s_client", "-starttls", "smtp", "-crlf", "-quiet", "-ign_eof"]
        command += ["-connect", f"127.0.0.1:{world.a.ports[Kind.RECEPTION]}", "-cert", str(chain), "-key", str(key)]
        said = "EHLO peer\nMAIL FROM:<x@audit.mssante.fr>\nQUIT\n"
        done = await asyncio.to_thread(subprocess.run, command, input=said, capture_output=True, text=True, timeout=20)
    assert "550 5.7.1 Le certificat (ou une autorite au-dessus) est expire." in done.stdout
