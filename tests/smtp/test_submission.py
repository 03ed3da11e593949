"""Submission, as transcripts: who may send what to whom, and what is left behind."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import mime
from mailstore import MailboxKind
from smtp import Kind, Limits, SmtpClient, SmtpServers, fields
from smtp.replies import Reply
from smtp.shell import Shell
from smtp.wire import HIGH
from tests.smtp.transcript import Dialogue, client_tls
from tests.smtp.world import PASSWORD, World, build, message

PLAIN = base64.b64encode(f"\0alice@a.mssante.fr\0{PASSWORD}".encode()).decode()
GREETED = """
S: 220 mss.a.test ESMTP
C: EHLO client
S: 250-mss.a.test
S: 250-PIPELINING
S: 250-SIZE
S: 250-8BITMIME
S: 250-SMTPUTF8
S: 250-ENHANCEDSTATUSCODES
S: 250-CHUNKING
S: 250-BINARYMIME
S: 250-DSN
S: 250-REQUIRETLS
S: 250 AUTH PLAIN LOGIN SCRAM-SHA-256 SCRAM-SHA-256-PLUS
"""
LOGGED_IN = GREETED + f"C: AUTH PLAIN {PLAIN}\nS: 235 2.7.0\n"


async def _send(dialogue: Dialogue, content: bytes, *recipients: str, sender: str = "alice@a.mssante.fr") -> bytes:
    await dialogue.play(f"C: MAIL FROM:<{sender}>\nS: 250 2.1.0")
    for recipient in recipients:
        await dialogue.play(f"C: RCPT TO:<{recipient}>\nS: 250 2.1.5")
    await dialogue.play("C: DATA\nS: 354")
    await dialogue.raw(content + b".\r\n")
    return await dialogue.reply()


async def test_implicit_tls_to_both_sides(world: World) -> None:
    content = message(
        "Alice <alice@a.mssante.fr>", "bob@a.mssante.fr", "Bcc: hidden@a.mssante.fr", "X-Caducee-Forged: yes"
    )
    async with world.a.listening(Kind.SUBMISSION_TLS):
        dialogue = await Dialogue.open(world.a.ports[Kind.SUBMISSION_TLS], client_tls(world.a.services.trust))
        await dialogue.play(LOGGED_IN)
        reply = await _send(
            dialogue, content, "bob@a.mssante.fr", "bob@b.mssante.fr", "285057799999915@patient.mssante.fr"
        )
        assert reply.startswith(b"250 2.0.0"), reply
        await dialogue.play("C: QUIT\nS: 221")
        await dialogue.close()
    (delivered,) = world.a.inbox("bob")
    part = mime.parse(delivered)
    assert part.get("bcc") is None
    assert part.get("x-caducee-forged") is None
    assert part.get("return-path") == "<alice@a.mssante.fr>"
    assert part.get_all("authentication-results") == ["mss.a.test; auth=pass smtp.mailfrom=alice@a.mssante.fr"]
    assert delivered.endswith(b"\r\n\r\nBonjour.\r\n")
    assert sorted(row.recipient for row in world.a.store.queue()) == [
        "285057799999915@patient.mssante.fr",
        "bob@b.mssante.fr",
    ]
    assert "submission.accepted" in world.a.events("<m1@test>")


async def test_starttls_is_needed_before_anything(world: World) -> None:
    async with world.a.listening(Kind.SUBMISSION):
        dialogue = await Dialogue.open(world.a.ports[Kind.SUBMISSION])
        await dialogue.play(
            f"""
            S: 220
            C: EHLO client
            S: 250-mss.a.test
            S: 250-PIPELINING
            S: 250-SIZE 26214400
            S: 250-8BITMIME
            S: 250-SMTPUTF8
            S: 250-ENHANCEDSTATUSCODES
            S: 250-CHUNKING
            S: 250-BINARYMIME
            S: 250-DSN
            S: 250 STARTTLS
            C: AUTH PLAIN {PLAIN}
            S: 530 5.7.0
            C: MAIL FROM:<alice@a.mssante.fr>
            S: 530 5.7.0
            C: STARTTLS
            S: 220 2.0.0
            """
        )
        await dialogue.starttls(client_tls(world.a.services.trust))
        await dialogue.play(
            f"""
            C: MAIL FROM:<alice@a.mssante.fr>
            S: 503
            C: EHLO client
            S: 250-mss.a.test
            S: 250-PIPELINING
            S: 250-SIZE
            S: 250-8BITMIME
            S: 250-SMTPUTF8
            S: 250-ENHANCEDSTATUSCODES
            S: 250-CHUNKING
            S: 250-BINARYMIME
            S: 250-DSN
            S: 250-REQUIRETLS
            S: 250 AUTH PLAIN LOGIN SCRAM-SHA-256 SCRAM-SHA-256-PLUS
            C: MAIL FROM:<alice@a.mssante.fr>
            S: 530 5.7.0
            C: AUTH PLAIN {PLAIN}
            S: 235
            C: STARTTLS
            S: 503
            """
        )
        assert (await _send(dialogue, message("alice@a.mssante.fr", "x"), "bob@a.mssante.fr")).startswith(b"250")
        await dialogue.close()


async def test_plaintext_after_starttls_ends_the_connection(world: World) -> None:
    async with world.a.listening(Kind.SUBMISSION):
        dialogue = await Dialogue.open(world.a.ports[Kind.SUBMISSION])
        await dialogue.play("S: 220")
        await dialogue.raw(b"STARTTLS\r\nEHLO injected\r\n")
        await dialogue.play("S: 554 5.5.1")
        assert await dialogue.line() == b""
        await dialogue.close()


@pytest.mark.parametrize(
    "script",
    [
        "C: AUTH PLAIN " + base64.b64encode(b"\0alice@a.mssante.fr\0wrong").decode() + "\nS: 535 5.7.8",
        "C: AUTH PLAIN " + base64.b64encode(b"\0nobody@a.mssante.fr\0wrong").decode() + "\nS: 535 5.7.8",
        "C: AUTH PLAIN "
        + base64.b64encode(f"bob@a.mssante.fr\0alice@a.mssante.fr\0{PASSWORD}".encode()).decode()
        + "\nS: 535",
        "C: AUTH PLAIN !!!\nS: 501 5.5.2",
        "C: AUTH PLAIN\nS: 334\nC: *\nS: 501 5.7.0",
        "C: AUTH EXTERNAL =\nS: 504",
        "C: AUTH CRAM-MD5\nS: 504 5.5.4",
    ],
)
async def test_refused_logins(world: World, script: str) -> None:
    async with world.a.listening(Kind.SUBMISSION_TLS):
        dialogue = await Dialogue.open(world.a.ports[Kind.SUBMISSION_TLS], client_tls(world.a.services.trust))
        await dialogue.play(GREETED + script + "\nC: MAIL FROM:<alice@a.mssante.fr>\nS: 530 5.7.0")
        await dialogue.close()


async def test_login_guessing_is_cut(world: World) -> None:
    wrong = base64.b64encode(b"\0alice@a.mssante.fr\0wrong").decode()
    async with world.a.listening(Kind.SUBMISSION_TLS):
        dialogue = await Dialogue.open(world.a.ports[Kind.SUBMISSION_TLS], client_tls(world.a.services.trust))
        await dialogue.play(GREETED + f"C: AUTH PLAIN {wrong}\nS: 535\n" * 4 + f"C: AUTH PLAIN {wrong}\nS: 421")
        assert await dialogue.line() == b""
        await dialogue.close()


async def test_auth_login_in_any_case(world: World) -> None:
    user, secret = (base64.b64encode(text.encode()).decode() for text in ("Alice@A.mssante.fr", PASSWORD))
    async with world.a.listening(Kind.SUBMISSION_TLS):
        dialogue = await Dialogue.open(world.a.ports[Kind.SUBMISSION_TLS], client_tls(world.a.services.trust))
        await dialogue.play(GREETED + f"C: auth login\nS: 334\nC: {user}\nS: 334\nC: {secret}\nS: 235")
        await dialogue.play(f"C: AUTH PLAIN {PLAIN}\nS: 503")
        await dialogue.close()


async def test_envelope_rules(world: World) -> None:
    async with world.a.listening(Kind.SUBMISSION_TLS):
        dialogue = await Dialogue.open(world.a.ports[Kind.SUBMISSION_TLS], client_tls(world.a.services.trust))
        await dialogue.play(
            LOGGED_IN
            + """
            C: RCPT TO:<bob@a.mssante.fr>
            S: 503
            C: MAIL FROM:<bob@a.mssante.fr>
            S: 553 5.7.1
            C: MAIL FROM:<alice@a.mssante.fr> SIZE=99999999
            S: 552 5.3.4
            C: MAIL FROM:<alice@a.mssante.fr> NONSENSE
            S: 555
            C: MAIL FROM:<alice@a.mssante.fr> BODY=9BIT
            S: 501
            C: MAIL FROM:<@relay:bob@a.mssante.fr>
            S: 553 5.7.1
            C: MAIL FROM:<ALICE@a.mssante.fr> BODY=8BITMIME AUTH=<>
            S: 250
            C: MAIL FROM:<alice@a.mssante.fr>
            S: 503
            C: DATA
            S: 503
            C: RCPT TO:<nobody@a.mssante.fr>
            S: 550 5.1.1
            C: RCPT TO:<someone@gmail.com>
            S: 550 5.1.2 gmail.com : domaine absent de la liste blanche
            C: RCPT TO:<"odd name"@b.mssante.fr>
            S: 250
            C: RCPT TO:<bob@[127.0.0.1]>
            S: 550 5.1.2
            C: RCPT TO:<postmaster>
            S: 550 5.1.1
            C: RCPT TO:<a..b@b.mssante.fr>
            S: 553 5.1.3
            C: RCPT TO:<285057799999915@patient.mssante.fr>
            S: 250
            C: RSET
            S: 250
            C: DATA
            S: 503
            C: NONSENSE
            S: 500 5.5.1
            """
        )
        await dialogue.close()
    assert world.a.inbox("bob") == []
    assert world.a.store.queue() == []


@pytest.mark.parametrize(
    "head",
    [
        "bob@a.mssante.fr",
        "alice@a.mssante.fr, bob@a.mssante.fr",
        '"alice@a.mssante.fr" <bob@a.mssante.fr>',
        "=?utf-8?q?alice=40a.mssante.fr_=28?= <bob@a.mssante.fr>",
        "bob@b.mssante.fr (Dr) Bob, alice@a.mssante.fr",
        "alice@a.mssante.fr, <bob@b.mssante.fr> Dr Bob",
        "Bob bob@b.mssante.fr;: alice@a.mssante.fr",
        "alice@a.mssante.fr (, bob@b.mssante.fr",
        "=?utf-8?q?bob=40b,?= <alice@a.mssante.fr>",
        "alice@a.mssante.fr\r\nX-Pad: " + "\r\n ".join(["p" * 900] * 280) + "\r\nFrom: bob@a.mssante.fr",
        "alice@a.mssante.fr\r\nFrom: bob@a.mssante.fr",
        "alice@a.mssante.fr\r\nSender: bob@a.mssante.fr",
    ],
)
async def test_from_is_the_owner_alone(world: World, head: str) -> None:
    async with world.a.listening(Kind.SUBMISSION_TLS):
        dialogue = await Dialogue.open(world.a.ports[Kind.SUBMISSION_TLS], client_tls(world.a.services.trust))
        await dialogue.play(LOGGED_IN)
        reply = await _send(dialogue, message(head, "x"), "bob@a.mssante.fr")
        assert reply.startswith(b"550 5.7.1"), reply
        await dialogue.close()
    assert world.a.inbox("bob") == []
    assert world.a.events("<m1@test>") == ["submission.refused"]


async def test_a_refused_protection_leaves_only_an_audit_line(world: World) -> None:
    async with world.a.listening(Kind.SUBMISSION_TLS):
        dialogue = await Dialogue.open(world.a.ports[Kind.SUBMISSION_TLS], client_tls(world.a.services.trust))
        await dialogue.play(LOGGED_IN)
        content = message("alice@a.mssante.fr", "x", "X-Test: refuse")
        assert (
            await _send(dialogue, content, "bob@a.mssante.fr") == b"550 5.7.8 code d'envoi refuse / send code refused"
        )
        crash = await _send(dialogue, message("alice@a.mssante.fr", "x", "X-Test: crash"), "bob@a.mssante.fr")
        assert crash.startswith(b"451 4.3.0")
        assert b"secret" not in crash
        await dialogue.close()
    assert world.a.inbox("bob") == []
    assert world.a.events("<m1@test>") == ["code.refused", "submission.refused"]


async def test_missing_message_id_and_date_are_completed(world: World) -> None:
    async with world.a.listening(Kind.SUBMISSION_TLS):
        dialogue = await Dialogue.open(world.a.ports[Kind.SUBMISSION_TLS], client_tls(world.a.services.trust))
        await dialogue.play(LOGGED_IN)
        assert (await _send(dialogue, b"From: alice@a.mssante.fr\r\n\r\nx\r\n", "bob@a.mssante.fr")).startswith(b"250")
        await dialogue.close()
    part = mime.parse(world.a.inbox("bob")[0])
    assert (part.get("message-id") or "").endswith("@mss.a.test>")
    assert part.get("date")


async def test_a_repeated_hand_over_is_one_message(world: World) -> None:
    content = message("alice@a.mssante.fr", "x")
    async with world.a.listening(Kind.SUBMISSION_TLS):
        dialogue = await Dialogue.open(world.a.ports[Kind.SUBMISSION_TLS], client_tls(world.a.services.trust))
        await dialogue.play(LOGGED_IN)
        first = await _send(dialogue, content, "bob@a.mssante.fr")
        assert await _send(dialogue, content, "bob@a.mssante.fr") == first
        await dialogue.close()
    assert len(world.a.inbox("bob")) == 1


async def test_null_sender_is_for_receipts_only(world: World) -> None:
    receipt = message(
        "alice@a.mssante.fr", "x", "Content-Type: multipart/report; report-type=disposition-notification; boundary=b"
    )
    async with world.a.listening(Kind.SUBMISSION_TLS):
        dialogue = await Dialogue.open(world.a.ports[Kind.SUBMISSION_TLS], client_tls(world.a.services.trust))
        await dialogue.play(LOGGED_IN)
        plain = await _send(dialogue, message("alice@a.mssante.fr", "x"), "bob@a.mssante.fr", sender="")
        assert plain.startswith(b"553 5.7.1")
        assert (await _send(dialogue, receipt, "bob@a.mssante.fr", sender="")).startswith(b"250")
        await dialogue.close()


@pytest.mark.parametrize("ending", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r\n"])
async def test_smuggled_endings_are_refused(world: World, ending: bytes) -> None:
    inner = b"MAIL FROM:<alice@a.mssante.fr>\r\nRCPT TO:<bob@a.mssante.fr>\r\nDATA\r\n" + message(
        "alice@a.mssante.fr", "x"
    )
    async with world.a.listening(Kind.SUBMISSION_TLS):
        dialogue = await Dialogue.open(world.a.ports[Kind.SUBMISSION_TLS], client_tls(world.a.services.trust))
        await dialogue.play(LOGGED_IN)
        reply = await _send(dialogue, message("alice@a.mssante.fr", "x")[:-2] + ending + inner, "bob@a.mssante.fr")
        assert reply.startswith(b"550 5.6.0"), reply
        await dialogue.play("C: NOOP\nS: 250")
        await dialogue.close()
    assert world.a.inbox("bob") == []


async def test_limits(template: Path, tmp_path: Path) -> None:
    limits = Limits(size=5000, recipients=2, connections_per_address=1, errors=5, command_time=0.5, tarpit_step=0.0)
    world = build(template, tmp_path, limits=limits)
    async with world.a.listening(Kind.SUBMISSION_TLS):
        port, tls = world.a.ports[Kind.SUBMISSION_TLS], client_tls(world.a.services.trust)
        dialogue = await Dialogue.open(port, tls)
        await dialogue.play(LOGGED_IN)
        second = await Dialogue.open(port, tls)
        await second.play("S: 421 4.7.0")
        await second.close()
        big = await _send(dialogue, message("alice@a.mssante.fr", "x", body="x\r\n" * 3000), "bob@a.mssante.fr")
        assert big.startswith(b"552 5.3.4")
        await dialogue.play(
            "C: MAIL FROM:<alice@a.mssante.fr>\nS: 250\nC: RCPT TO:<bob@a.mssante.fr>\nS: 250\n"
            "C: RCPT TO:<BOB@a.mssante.fr>\nS: 250\nC: RCPT TO:<alice@a.mssante.fr>\nS: 250\n"
            "C: RCPT TO:<x@b.mssante.fr>\nS: 452 4.5.3\nC: RSET\nS: 250\n"
        )
        await dialogue.play("C: X\nS: 500\n" * 3 + "C: X\nS: 421")
        await dialogue.close()
        await asyncio.sleep(0.05)
        idle = await Dialogue.open(port, tls)
        await idle.play("S: 220\nS: 421 4.4.2")
        await idle.close()
    world.a.store.close()
    world.b.store.close()


async def test_login_by_client_certificate(world: World) -> None:
    application = world.authority.issue_organisation(
        "logiciel", "A", "1990000010", "Paris (75)", usage="auth", at=world.clock.now
    )
    world.a.store.add_account(
        "app@a.mssante.fr",
        MailboxKind.APP,
        display_name="Logiciel",
        national_id="1990000010",
        client_key=hashlib.sha256(
            application.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ).digest(),
        at=world.clock.now,
    )
    async with world.a.listening(Kind.SUBMISSION):
        port = world.a.ports[Kind.SUBMISSION]
        client = await SmtpClient.connect("127.0.0.1", port, hostname="gateway")
        await client.starttls(client_tls(world.a.services.trust, application))
        await client.ehlo()
        assert "EXTERNAL" in client.capabilities["AUTH"].split()
        await client.login_external()
        answers = await client.send("app@a.mssante.fr", ["bob@a.mssante.fr"], message("app@a.mssante.fr", "x"))
        assert answers["bob@a.mssante.fr"].ok
        await client.quit()
        world.authority.revoke(application.certificate, world.clock.now)
        world.trust_again()
        client = await SmtpClient.connect("127.0.0.1", port, hostname="gateway")
        await client.starttls(client_tls(world.a.services.trust, application))
        await client.ehlo()
        assert (await client.command("AUTH EXTERNAL =")).code == 535
        await client.quit()


async def test_stale_list_defers(world: World) -> None:
    world.clock.forward(days=8)
    async with world.a.listening(Kind.SUBMISSION_TLS):
        dialogue = await Dialogue.open(world.a.ports[Kind.SUBMISSION_TLS], client_tls(world.a.services.trust))
        await dialogue.play(
            LOGGED_IN
            + "C: MAIL FROM:<alice@a.mssante.fr>\nS: 250\nC: RCPT TO:<bob@b.mssante.fr>\nS: 451 4.7.5\n"
            + "C: RCPT TO:<bob@a.mssante.fr>\nS: 250\n"
        )
        await dialogue.close()


async def test_swaks_is_served(world: World) -> None:
    """swaks talks through openssl, because its own TLS needs a Perl module that is not always there."""
    async with world.a.listening(Kind.SUBMISSION_TLS):
        tunnel = f"openssl s_client -quiet -connect 127.0.0.1:{world.a.ports[Kind.SUBMISSION_TLS]}"
        command = ["swaks", "--pipe", tunnel, "--auth", "PLAIN", "--auth-user", "alice@a.mssante.fr"]
        command += ["--auth-password", PASSWORD, "--pipeline", "--helo", "swaks"]
        command += ["--from", "alice@a.mssante.fr", "--to", "bob@a.mssante.fr,bob@b.mssante.fr"]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "250 2.0.0" in done.stdout
    assert len(world.a.inbox("bob")) == 1


async def test_smtplib_is_served_over_starttls(world: World) -> None:
    def run(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
            client.starttls(context=client_tls(world.a.services.trust))
            client.login("alice@a.mssante.fr", PASSWORD)
            refused = client.sendmail(
                "alice@a.mssante.fr",
                ["bob@a.mssante.fr", "nobody@a.mssante.fr"],
                message("alice@a.mssante.fr", "x", body=".dot\r\n..two"),
            )
            assert refused["nobody@a.mssante.fr"][0] == 550

    async with world.a.listening(Kind.SUBMISSION):
        await asyncio.to_thread(run, world.a.ports[Kind.SUBMISSION])
    assert world.a.inbox("bob")[0].endswith(b"\r\n\r\n.dot\r\n..two\r\n")


async def test_openssl_sees_tls_12_at_least(world: World) -> None:
    async with world.a.listening(Kind.SUBMISSION):
        base = ["openssl", "s_client", "-starttls", "smtp", "-connect", f"127.0.0.1:{world.a.ports[Kind.SUBMISSION]}"]
        done = await asyncio.to_thread(
            subprocess.run, [*base, "-brief"], input="QUIT\r\n", capture_output=True, text=True, timeout=20
        )
        assert "TLSv1.3" in done.stderr + done.stdout
        old = await asyncio.to_thread(
            subprocess.run, [*base, "-tls1_1"], input="QUIT\r\n", capture_output=True, text=True, timeout=20
        )
        assert old.returncode != 0


@pytest.mark.parametrize(
    "head", ['"Bob, a@b (x" <alice@a.mssante.fr>', "Dr. Alice <ALICE@a.mssante.fr> (ici (là))", "alice@a.mssante.fr"]
)
async def test_one_plain_mailbox_is_the_author(head: str) -> None:
    assert fields.author_is(message(head, "x"), "alice@a.mssante.fr")


async def test_a_header_of_endless_fields_is_refused(world: World) -> None:
    async with world.a.listening(Kind.SUBMISSION_TLS):
        dialogue = await Dialogue.open(world.a.ports[Kind.SUBMISSION_TLS], client_tls(world.a.services.trust))
        await dialogue.play(LOGGED_IN)
        for head in ("a:\r\n" * 6000, "a: " + "\r\n ".join(["x" * 900] * 300) + "\r\n"):
            content = head.encode() + message("alice@a.mssante.fr", "x")
            assert (await _send(dialogue, content, "bob@a.mssante.fr")).startswith(b"552 5.3.4")
        long_body = message("alice@a.mssante.fr", "x", body="a:\r\n" * 6000)
        assert (await _send(dialogue, long_body, "bob@a.mssante.fr")).startswith(b"250")
        await dialogue.close()


async def test_a_mailbox_closed_during_the_session_sends_no_more(world: World) -> None:
    async with world.a.listening(Kind.SUBMISSION_TLS):
        dialogue = await Dialogue.open(world.a.ports[Kind.SUBMISSION_TLS], client_tls(world.a.services.trust))
        await dialogue.play(LOGGED_IN)
        world.a.store.set_active("alice@a.mssante.fr", False)
        await dialogue.play("C: MAIL FROM:<alice@a.mssante.fr>\nS: 550 5.2.1")
        await dialogue.close()


async def test_blind_copies_are_not_shown(world: World) -> None:
    content = message("alice@a.mssante.fr", "x", "Bcc: carol@b.mssante.fr", "Resent-Bcc: carol@b.mssante.fr")
    async with world.a.listening(Kind.SUBMISSION_TLS):
        dialogue = await Dialogue.open(world.a.ports[Kind.SUBMISSION_TLS], client_tls(world.a.services.trust))
        await dialogue.play(LOGGED_IN)
        assert (await _send(dialogue, content, "bob@a.mssante.fr")).startswith(b"250")
        await dialogue.close()
    (delivered,) = world.a.inbox("bob")
    assert b"carol" not in delivered


async def _unread(world: World, servers: SmtpServers) -> None:
    """Ask a great deal and read nothing, until the server has had enough."""
    with socket.socket() as flood:
        flood.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        flood.connect(("127.0.0.1", world.a.ports[Kind.SUBMISSION]))
        flood.setblocking(False)
        (gate,) = servers._gates
        async with asyncio.timeout(15):
            while not gate.open:
                await asyncio.sleep(0.02)
            while gate.open:
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    flood.send(b"EHLO a.test\r\n" * 1000)
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_client_that_does_not_read_is_cut(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[[Any], None]
) -> None:
    monkeypatch.setattr("smtp.shell.CLOSING_TIME", 0.3)
    world = build(template, tmp_path, limits=Limits(command_time=0.5, tarpit_step=0.0))
    monkeypatch.setattr("smtp.shell.Shell._last_word", _no_last_word)

    async def main() -> None:
        async with world.a.listening(Kind.SUBMISSION) as servers:
            await _unread(world, servers)

    run(main())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_tls_client_that_neither_reads_nor_closes_is_cut(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[[Any], None]
) -> None:
    """asyncio's TLS transport forgets its connection at a second close(): abort() then ended nothing."""
    monkeypatch.setattr("smtp.shell.CLOSING_TIME", 0.3)
    world = build(template, tmp_path, limits=Limits(command_time=0.3))
    context = client_tls(world.a.services.trust)

    def silent(port: int) -> ssl.SSLSocket:
        return context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="127.0.0.1")

    async def main() -> None:
        async with world.a.listening(Kind.SUBMISSION_TLS) as servers:
            held = await asyncio.to_thread(silent, world.a.ports[Kind.SUBMISSION_TLS])
            async with asyncio.timeout(10):
                await servers._gates[0].empty.wait()
            held.close()

    run(main())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_what_is_not_read_yet_is_bounded(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[[Any], None]
) -> None:
    """The transport is paused, in clear too: uvloop's was not, and a message faster than the disk went to memory."""
    world = build(template, tmp_path)
    shells: list[Shell] = []

    async def idle(self: Shell) -> None:
        shells.append(self)
        await asyncio.Event().wait()

    monkeypatch.setattr(Shell, "_handle_client", idle)

    async def main() -> None:
        async with world.a.listening(Kind.SUBMISSION) as servers:
            with socket.socket() as flood:
                flood.connect(("127.0.0.1", world.a.ports[Kind.SUBMISSION]))
                flood.setblocking(False)
                refused = 0
                while refused < 20:
                    try:
                        flood.send(b"x" * 65536)
                    except BlockingIOError:
                        refused += 1
                    await asyncio.sleep(0.005)
            assert 0 < shells[0]._wire.pending <= 4 * HIGH
            for gate in servers._gates:
                for shell in list(gate.open):
                    shell._handler_coroutine.cancel()  # type: ignore[attr-defined]

    run(main())


async def _no_last_word(self: Shell, reply: Reply) -> None:
    """Spares the test five seconds."""
