"""Extensions of ESMTP, as transcripts: CHUNKING, BINARYMIME, SMTPUTF8, DSN, REQUIRETLS, and the logins beyond passwords."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

import mime
from mailstore import Account, scram_verifier
from smtp import Kind, sasl
from smtp.content import IN_MEMORY
from tests.smtp.test_submission import LOGGED_IN
from tests.smtp.transcript import Dialogue, client_tls
from tests.smtp.world import PASSWORD, World, message

ALICE, BOB = "alice@a.mssante.fr", "bob@a.mssante.fr"
OPEN = f"C: MAIL FROM:<{ALICE}>\nS: 250\nC: RCPT TO:<{BOB}>\nS: 250\n"


@asynccontextmanager
async def submitting(world: World, script: str = LOGGED_IN) -> AsyncIterator[Dialogue]:
    """A dialogue on port 465, the given script played."""
    async with world.a.listening(Kind.SUBMISSION_TLS):
        dialogue = await Dialogue.open(world.a.ports[Kind.SUBMISSION_TLS], client_tls(world.a.services.trust))
        try:
            await dialogue.play(script)
            yield dialogue
        finally:
            await dialogue.close()


async def _sent(dialogue: Dialogue, content: bytes) -> bytes:
    await dialogue.play(OPEN + "C: DATA\nS: 354")
    await dialogue.raw(content + b".\r\n")
    return await dialogue.reply()


# ---- CHUNKING, BINARYMIME


async def test_chunks_make_one_message(world: World) -> None:
    content = message(ALICE, BOB, body="deux\r\n.points\r\n" * 50)
    async with submitting(world) as dialogue:
        await dialogue.play(OPEN)
        cut = len(content) // 2
        await dialogue.raw(f"BDAT {cut}\r\n".encode() + content[:cut])
        await dialogue.play("S: 250")
        await dialogue.raw(f"BDAT {len(content) - cut}\r\n".encode() + content[cut:] + b"BDAT 0 LAST\r\n")
        await dialogue.play("S: 250\nS: 250 2.0.0 accepte")
        await dialogue.play(OPEN)
        await dialogue.raw(f"BDAT {len(content)} LAST\r\n".encode() + content + b"NOOP\r\n")
        await dialogue.play("S: 250 2.0.0 accepte\nS: 250")
    assert len(world.a.inbox("bob")) == 1  # the same hand-over, in other chunks
    assert world.a.inbox("bob")[0].endswith(b"deux\r\n.points\r\n\r\n")


async def test_chunks_that_lie_or_come_out_of_order(world: World) -> None:
    content = message(ALICE, BOB)
    async with submitting(world) as dialogue:
        await dialogue.raw(b"BDAT 4\r\nNOOP")
        await dialogue.play("S: 503 5.5.1")
        await dialogue.play(OPEN)
        await dialogue.raw(b"BDAT 3\r\nabc")
        await dialogue.play("S: 250\nC: DATA\nS: 503\nC: RCPT TO:<x@a.mssante.fr>\nS: 503\nC: RSET\nS: 250")
        await dialogue.play(OPEN)
        await dialogue.raw(f"BDAT {len(content) + 2} LAST\r\n".encode() + content + b"\n\n")
        await dialogue.play("S: 550 5.6.0")
        await dialogue.raw(b"BDAT 5 LAST\r\nabcde")
        await dialogue.play("S: 503\nC: BDAT x\nS: 501 5.5.4")
        assert await dialogue.line() == b""
    assert world.a.inbox("bob") == []


async def test_too_many_chunks_are_refused_and_forgotten(world: World) -> None:
    world.a.services = replace(world.a.services, limits=replace(world.a.services.limits, size=2000))
    async with submitting(world) as dialogue:
        await dialogue.play(OPEN)
        for expected in ("250", "552 5.3.4", "503"):
            await dialogue.raw(b"BDAT 1500\r\n" + b"x" * 1500)
            await dialogue.play(f"S: {expected}")
        await dialogue.raw(b"BDAT 10 LAST\r\n" + b"x" * 10)
        await dialogue.play("S: 503\nC: NOOP\nS: 250")


async def test_binary_content_is_re_encoded(world: World) -> None:
    image = bytes(range(256)) + b"\n\r\0"
    content = b"From: alice@a.mssante.fr\r\nMIME-Version: 1.0\r\nContent-Type: image/png\r\n"
    content += b"Content-Transfer-Encoding: binary\r\n\r\n" + image
    async with submitting(world) as dialogue:
        await dialogue.play(f"C: MAIL FROM:<{ALICE}> BODY=BINARYMIME\nS: 250\nC: RCPT TO:<{BOB}>\nS: 250")
        await dialogue.play("C: DATA\nS: 503")
        await dialogue.raw(f"BDAT {len(content)} LAST\r\n".encode() + content)
        await dialogue.play("S: 250 2.0.0")
        signed = b"From: alice@a.mssante.fr\r\nContent-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\na\nb\r\n--b--\r\n"
        await dialogue.play(f"C: MAIL FROM:<{ALICE}> BODY=BINARYMIME\nS: 250\nC: RCPT TO:<{BOB}>\nS: 250")
        await dialogue.raw(f"BDAT {len(signed)} LAST\r\n".encode() + signed)
        await dialogue.play("S: 554 5.6.3")
    (delivered,) = world.a.inbox("bob")
    part = mime.parse(delivered)
    assert part.encoding == "base64"
    assert part.decoded(delivered) == image


async def test_over_long_lines_are_repaired_on_submission(world: World) -> None:
    async with submitting(world) as dialogue:
        assert (await _sent(dialogue, message(ALICE, BOB, body="é" * 3000))).startswith(b"250")
    (delivered,) = world.a.inbox("bob")
    assert max(map(len, delivered.split(b"\r\n"))) <= 998
    assert mime.parse(delivered).decoded(delivered).decode().strip() == "é" * 3000


async def test_a_large_message_goes_through_the_store(world: World) -> None:
    body = "ligne de texte\r\n" * (IN_MEMORY // 8)
    async with submitting(world) as dialogue:
        assert (await _sent(dialogue, message(ALICE, BOB, body=body))).startswith(b"250")
    assert world.a.inbox("bob")[0].endswith(body.encode() + b"\r\n")
    assert len([one for one in (world.a.folder / "blobs").glob("??/*") if one.is_file()]) == 1


# ---- SMTPUTF8


async def test_smtputf8(world: World) -> None:
    async with submitting(world) as dialogue:
        await dialogue.play(
            f"""
            C: MAIL FROM:<{ALICE}> SMTPUTF8
            S: 250
            C: RCPT TO:<hélène@a.mssante.fr>
            S: 550 5.1.1
            C: RCPT TO:<hélène@b.mssante.fr>
            S: 250
            C: RSET
            S: 250
            C: MAIL FROM:<{ALICE}>
            S: 250
            C: RCPT TO:<hélène@b.mssante.fr>
            S: 553 5.6.7
            """
        )


# ---- DSN, REQUIRETLS


async def test_envelope_options_are_kept_for_the_queue(world: World) -> None:
    async with submitting(world) as dialogue:
        await dialogue.play(
            f"""
            C: MAIL FROM:<{ALICE}> RET=HDRS ENVID=abc+2B REQUIRETLS
            S: 250
            C: RCPT TO:<bob@b.mssante.fr> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;bob+40b
            S: 250
            C: DATA
            S: 354
            """
        )
        await dialogue.raw(message(ALICE, "x") + b".\r\n")
        await dialogue.play("S: 250")
    (row,) = world.a.store.queue()
    assert row.options == {
        "notify": "DELAY,SUCCESS", "orcpt": "rfc822;bob+40b", "ret": "HDRS", "envid": "abc+2B", "requiretls": "yes"
    }  # fmt: skip


@pytest.mark.parametrize(
    "command",
    [
        f"MAIL FROM:<{ALICE}> RET=SOME",
        f"MAIL FROM:<{ALICE}> RET",
        f"MAIL FROM:<{ALICE}> ENVID=a b",
        f"MAIL FROM:<{ALICE}> ENVID=" + "x" * 101,
        f"MAIL FROM:<{ALICE}> REQUIRETLS=yes",
        f"MAIL FROM:<{ALICE}> SIZE=-1",
        f"MAIL FROM:<{ALICE}> SIZE=1 SIZE=2",
    ],
)
async def test_malformed_mail_parameters(world: World, command: str) -> None:
    async with submitting(world) as dialogue:
        await dialogue.raw(command.encode() + b"\r\n")
        assert (await dialogue.reply())[:3] in (b"501", b"555")


@pytest.mark.parametrize("words", ["NOTIFY=NEVER,SUCCESS", "NOTIFY=", "NOTIFY=MAYBE", "ORCPT=bob", "ORCPT=rfc822;a+zz"])
async def test_malformed_rcpt_parameters(world: World, words: str) -> None:
    async with submitting(world) as dialogue:
        await dialogue.play(f"C: MAIL FROM:<{ALICE}>\nS: 250\nC: RCPT TO:<{BOB}> {words}\nS: 501")


async def test_a_delivery_here_is_told_when_asked(world: World) -> None:
    async with submitting(world) as dialogue:
        await dialogue.play(f"C: MAIL FROM:<{ALICE}> ENVID=e1\nS: 250\nC: RCPT TO:<{BOB}> NOTIFY=SUCCESS\nS: 250")
        await dialogue.play("C: DATA\nS: 354")
        await dialogue.raw(message(ALICE, "x", body="corps") + b".\r\n")
        await dialogue.play("S: 250")
    (told,) = world.a.inbox("alice")
    assert b"Original-Envelope-Id: e1\r\n" in told
    assert b"Action: delivered\r\nStatus: 2.0.0" in told
    assert b"corps" not in told
    (receipt,) = world.a.store.receipts("m1@test")
    assert (receipt.recipient, receipt.state.value) == (BOB, "positive")


# ---- logins


def _scram(mechanism: str, password: str, binding: bytes, kind: str = "tls-exporter") -> tuple[str, object]:
    header = f"p={kind},," if mechanism.endswith("PLUS") else "n,,"
    bare = f"n={ALICE},r=clientnonce1"

    def final(server_first: bytes) -> tuple[str, bytes]:
        parts = dict(part.split("=", 1) for part in server_first.decode().split(","))
        verifier = scram_verifier(password, base64.b64decode(parts["s"]), int(parts["i"]))
        salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(parts["s"]), int(parts["i"]))
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        bound = base64.b64encode(header.encode() + (binding if mechanism.endswith("PLUS") else b"")).decode()
        without = f"c={bound},r={parts['r']}"
        transcript = f"{bare},{server_first.decode()},{without}".encode()
        signature = hmac.digest(verifier.stored_key, transcript, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        return f"{without},p={base64.b64encode(proof).decode()}", hmac.digest(verifier.server_key, transcript, "sha256")

    return header + bare, final


GREET = "S: 220\nC: EHLO x"


@pytest.mark.parametrize(
    ("mechanism", "password", "kind", "right"),
    [
        ("SCRAM-SHA-256", PASSWORD, "", True),
        ("SCRAM-SHA-256", "wrong password", "", False),
        ("SCRAM-SHA-256-PLUS", PASSWORD, "tls-server-end-point", True),
        ("SCRAM-SHA-256-PLUS", PASSWORD, "tls-unbound", False),
    ],
)
async def test_scram(world: World, mechanism: str, password: str, kind: str, right: bool) -> None:
    certificate = world.a.certificate.certificate
    binding = hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()
    first, final = _scram(mechanism, password, binding, kind)
    async with submitting(world, GREET) as dialogue:
        await dialogue.reply()
        await dialogue.raw(f"AUTH {mechanism} {base64.b64encode(first.encode()).decode()}\r\n".encode())
        answer = await dialogue.reply()
        if answer.startswith(b"501"):
            assert kind == "tls-unbound"
            return
        last, expected = final(base64.b64decode(answer[4:]))  # type: ignore[operator]
        await dialogue.raw(base64.b64encode(last.encode()) + b"\r\n")
        answer = await dialogue.reply()
        if not right:
            assert answer.startswith(b"535")
            return
        assert base64.b64decode(answer[4:]) == b"v=" + base64.b64encode(expected)
        await dialogue.raw(b"\r\n")
        await dialogue.play("S: 235")


@pytest.mark.parametrize(
    ("typed", "computed"),
    [
        ("clé² du cabinet", "clé2 du cabinet"),
        ("cle\u0301 du cabinet", "clé du cabinet"),
        ("clé\u00a0du\u00ad cabinet", "clé du cabinet"),
        ("I\u00adX \u2168 \u00aa", "IX IX a"),  # RFC 4013 §3
        ("clé\u0007 du² cabinet", "clé\u0007 du² cabinet"),
    ],
)
def test_a_scram_password_is_prepared_as_clients_do(typed: str, computed: str) -> None:
    """RFC 5802 §2.2: SASLprep; our own client gives what is computed, octet for octet."""
    salted = hashlib.pbkdf2_hmac("sha256", computed.encode(), b"salt", 4096)
    expected = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    assert scram_verifier(typed, b"salt", 4096).stored_key == expected


async def test_scram_hides_who_is_here(world: World) -> None:
    async with submitting(world, GREET) as dialogue:
        await dialogue.reply()
        salts = []
        for login in ("nobody@a.mssante.fr", "nobody@a.mssante.fr", ALICE):
            first = base64.b64encode(f"n,,n={login},r=abcdefgh".encode()).decode()
            await dialogue.raw(f"AUTH SCRAM-SHA-256 {first}\r\n".encode())
            salts.append(base64.b64decode((await dialogue.reply())[4:]).split(b",")[1:])
            await dialogue.play("C: *\nS: 501 5.7.0")
    assert salts[0] == salts[1] != salts[2]
    assert salts[0][1] == salts[2][1]


@pytest.mark.parametrize(
    ("mechanism", "initial"),
    [
        ("SCRAM-SHA-256", b"y,,n=alice,r=abcdefgh"),
        ("SCRAM-SHA-256", b"p=tls-exporter,,n=alice,r=abcdefgh"),
        ("SCRAM-SHA-256", b"n,,n=al=ice,r=abcdefgh"),
        ("SCRAM-SHA-256-PLUS", b"n,,n=alice,r=abcdefgh"),
        ("OAUTHBEARER", b"n,a=x,\x01auth=Basic x\x01\x01"),
        ("XOAUTH2", b"user=x\x01\x01"),
        ("PLAIN", b"\xff\0a\0b"),
    ],
)
def test_garbage_is_no_claim(mechanism: str, initial: bytes) -> None:
    known = scram_verifier("x", b"salt")
    conversation = sasl.converse(mechanism, initial, verifiers=lambda _: known, bindings=lambda _: b"b")
    with pytest.raises(sasl.SaslError):
        next(conversation)


async def test_bearer_tokens(world: World) -> None:
    def login(address: str, token: str, at: datetime) -> Account | None:
        if token == "away":
            raise LookupError
        return world.a.store.find_account(address) if token == "good" else None

    world.a.services = replace(world.a.services, bearer=login, bearer_away=(LookupError,))
    async with submitting(world, GREET) as dialogue:
        assert b"OAUTHBEARER XOAUTH2" in await dialogue.reply()
        for token, code in (("bad", "334"), ("away", "454 4.7.0"), ("good", "235")):
            said = base64.b64encode(f"user={ALICE}\x01auth=Bearer {token}\x01\x01".encode()).decode()
            await dialogue.play(f"C: AUTH XOAUTH2 {said}\nS: {code}")
            if code == "334":
                await dialogue.raw(b"\r\n")
                await dialogue.play("S: 535 5.7.8")
    async with submitting(world, GREET) as dialogue:
        await dialogue.reply()
        said = base64.b64encode(f"n,a={ALICE},\x01auth=Bearer good\x01\x01".encode()).decode()
        await dialogue.play(f"C: AUTH OAUTHBEARER {said}\nS: 235")


# ---- what submission completes and checks


async def test_delegations(world: World) -> None:
    content = message(BOB, ALICE, f"Reply-To: {ALICE}, {BOB}")
    async with submitting(world) as dialogue:
        await dialogue.play(f"C: MAIL FROM:<{BOB}>\nS: 553 5.7.1")
        world.a.store.add_delegation(BOB, ALICE, world.clock.now)
        await dialogue.play(f"C: MAIL FROM:<{BOB}>\nS: 250\nC: RCPT TO:<{ALICE}>\nS: 250\nC: DATA\nS: 354")
        await dialogue.raw(content + b".\r\n")
        await dialogue.play("S: 250")
        world.a.store.remove_delegation(BOB, ALICE)
        await dialogue.play(f"C: MAIL FROM:<{BOB}>\nS: 553 5.7.1")
        reply = await _sent(dialogue, message(ALICE, BOB, f"Reply-To: {BOB}"))
        assert reply.startswith(b"550 5.7.1")
    assert len(world.a.inbox("alice")) == 1


async def test_labels_are_added_when_missing_and_kept_when_present(world: World) -> None:
    rules = replace(world.a.services.rules, nil="PRODUIT-1")
    world.a.services = replace(world.a.services, rules=rules)
    async with submitting(world) as dialogue:
        await _sent(dialogue, message(ALICE, BOB, "X-Test: documents", message_id="l1@test"))
        kept = ("X-Test: documents", "X-MSS-NIL: AUTRE", "X-MSS-INS: N", "X-MSS-CODECDA: 1-1", "X-MSS-MES: FIN")
        await _sent(dialogue, message(f"Moi <{ALICE}>", BOB, *kept, message_id="l2@test"))
        refused = await _sent(dialogue, message(ALICE, BOB, "X-MSS-MES: fin", message_id="l3@test"))
        assert refused.startswith(b"550 5.6.0")
    first, second = (mime.parse(raw) for raw in world.a.inbox("bob"))
    assert first.get("from") == f'"Alice" <{ALICE}>'
    names = ("x-mss-nil", "x-mss-ins", "x-mss-codecda", "x-mss-mes")
    assert [first.get(name) for name in names] == ["PRODUIT-1", "O", "34112-3", None]
    assert [second.get_all(name) for name in names] == [["AUTRE"], ["N"], ["1-1"], ["FIN"]]
    assert second.get("from") == f"Moi <{ALICE}>"


async def test_patients(world: World) -> None:
    rules = replace(world.a.services.rules, patient_size=2000)
    world.a.services = replace(world.a.services, rules=rules)
    async with submitting(world) as dialogue:
        await dialogue.play(
            f"""
            C: MAIL FROM:<{ALICE}> SIZE=3000
            S: 250
            C: RCPT TO:<285057799999915@patient.mssante.fr>
            S: 552 5.3.4 message trop volumineux pour Mon espace sante
            C: RSET
            S: 250
            C: MAIL FROM:<{ALICE}>
            S: 250
            C: RCPT TO:<285057799999914@patient.mssante.fr>
            S: 550 5.1.3 adresse de patient invalide
            C: RCPT TO:<jean.dupont@patient.mssante.fr>
            S: 550 5.1.3
            C: RCPT TO:<285057799999915@patient.mssante.fr>
            S: 250
            C: DATA
            S: 354
            """
        )
        await dialogue.raw(message(ALICE, "x", body="x" * 900 + "\r\n" + "y" * 900 + "\r\n" + "z" * 900) + b".\r\n")
        await dialogue.play("S: 552 5.3.4")
