"""The queue in a person's hands, what senders are told, receipts that come back or stay silent, DKIM."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import mime
from mailstore import Acceptance, DeliveryState, Direction, OutgoingCopy, ReceiptKind, ReceiptState
from smtp import Checker, DkimKeyError, Kind, Signer, load_key, mdn, notices
from smtp.content import Received
from smtp.settling import tell_silences
from tests.smtp.test_extensions import ALICE, submitting
from tests.smtp.test_sender import _last, _queue, _route, _Script, _scripted
from tests.smtp.world import World, free_port, message

BOB = "bob@b.mssante.fr"


def _asked(world: World, content: bytes, **options: str) -> str:
    acceptance = Acceptance(
        direction=Direction.SUBMISSION,
        principal=ALICE,
        mail_from=ALICE,
        recipients=(BOB,),
        message_id="<q@test>",
        received=content,
        outgoing=(OutgoingCopy((BOB,), content, options),),
    )
    return world.a.store.accept(acceptance, world.clock.now).submission_id


# ---- a person's hands


async def test_hold_release_drop(world: World) -> None:
    store, now = world.a.store, world.clock.now
    reference = _queue(world.a, BOB)
    (row,) = store.queue_rows(reference)
    assert store.queue_rows("<m1@test>") == [row] == store.queue_rows(str(row.row_id))
    assert store.hold([row.row_id], "ops", now) == 1
    async with world.b.listening(Kind.RECEPTION):
        assert await world.a.sender(_route(world.b)).once() == 0
        assert store.queue_sizes() == {"queued": 0, "held": 1}
        assert store.hold([row.row_id], "ops", now) == 0
        assert store.release([row.row_id], "ops", now) == 1
        assert await world.a.sender(_route(world.b)).once() == 1
    assert len(world.b.inbox("bob")) == 1
    second = _queue(world.a, BOB, name="m2")
    (other,) = store.queue_rows(second)
    assert store.drop([other.row_id], "ops", now) == 1
    assert store.queue_rows(second)[0].state is DeliveryState.DROPPED
    names = world.a.events("m1@test") + world.a.events("m2@test")
    assert {"outgoing.held", "outgoing.released", "outgoing.dropped"} <= set(names)
    assert world.a.inbox("alice") == []


async def test_retry_now_begins_the_pauses_anew(world: World) -> None:
    _queue(world.a, BOB)
    sender = world.a.sender({"b.mssante.fr": f"127.0.0.1:{free_port()}"})
    for _ in range(4):
        await sender.once()
        world.clock.forward(hours=1)
    (row,) = world.a.store.queue()
    assert row.attempts == 4
    assert [one.number for one in world.a.store.attempts(row.row_id)] == [1, 2, 3, 4]
    assert world.a.store.retry_now([row.row_id], "ops", world.clock.now) == 1
    await sender.once()
    (again,) = world.a.store.queue()
    assert again.next_attempt_at is not None
    assert again.next_attempt_at - world.clock.now <= timedelta(minutes=1)


async def test_a_row_in_a_senders_hands_is_left_alone(world: World) -> None:
    _queue(world.a, BOB)
    (row,) = world.a.store.lease_outgoing("other", world.clock.now, timedelta(minutes=5), 10)
    for act in (world.a.store.hold, world.a.store.drop, world.a.store.retry_now):
        assert act([row.row_id], "ops", world.clock.now) == 0


async def test_reroute_still_asks_who_the_peer_is(world: World) -> None:
    _queue(world.a, BOB)
    sender = world.a.sender({"b.mssante.fr": f"127.0.0.1:{free_port()}"})
    await sender.once()
    (row,) = world.a.store.queue()
    async with world.a.listening(Kind.RECEPTION):  # a listed peer, but for another domain
        port = world.a.ports[Kind.RECEPTION]
        assert world.a.store.reroute([row.row_id], f"127.0.0.1:{port}", "ops", world.clock.now) == 1
        await sender.once()
    assert _last(world.a)[1]["reply"].startswith("451 4.7.5")
    async with world.b.listening(Kind.RECEPTION):
        port = world.b.ports[Kind.RECEPTION]
        assert world.a.store.reroute([row.row_id], f"127.0.0.1:{port}", "ops", world.clock.now) == 1
        await sender.once()
    assert len(world.b.inbox("bob")) == 1


async def test_a_peer_that_calls_gets_what_waits_for_it(world: World) -> None:
    """After hours of silence the next attempt is far; the peer's own connection brings it forward."""
    _queue(world.a, BOB)
    sender = world.a.sender({"b.mssante.fr": f"127.0.0.1:{free_port()}"})
    for _ in range(8):
        await sender.once()
        world.clock.forward(hours=1)
    await sender.once()
    (row,) = world.a.store.queue()
    assert row.next_attempt_at is not None and row.next_attempt_at > world.clock.now
    content = message("carol@b.mssante.fr", "bob@a.mssante.fr", message_id="from-b@test")
    acceptance = Acceptance(
        direction=Direction.SUBMISSION,
        principal="carol@b.mssante.fr",
        mail_from="carol@b.mssante.fr",
        recipients=("bob@a.mssante.fr",),
        message_id="<from-b@test>",
        received=content,
        outgoing=(OutgoingCopy(("bob@a.mssante.fr",), content),),
    )
    world.b.store.accept(acceptance, world.clock.now)
    async with world.a.listening(Kind.RECEPTION), world.b.listening(Kind.RECEPTION):
        back = world.b.sender({"a.mssante.fr": f"127.0.0.1:{world.a.ports[Kind.RECEPTION]}"})
        assert await back.once() == 1
        assert await world.a.sender(_route(world.b)).once() == 1
    assert len(world.b.inbox("bob")) == 1


async def test_an_hour_of_silence_catches_up(world: World) -> None:
    """Messages for an hour of the test's clock to a peer that is down: back, it gets each of them once."""
    sender = world.a.sender({"b.mssante.fr": f"127.0.0.1:{free_port()}"})
    for minute in range(0, 60, 6):
        for number in range(5):
            _queue(world.a, BOB, name=f"down-{minute}-{number}")
        await sender.once()
        world.clock.forward(minutes=6)
    world.clock.forward(hours=1)
    async with world.b.listening(Kind.RECEPTION):
        assert await world.a.sender(_route(world.b)).once() == 50
    assert world.a.store.queue() == []
    found = [mime.parse(raw).get("message-id") for raw in world.b.inbox("bob")]
    assert len(found) == len(set(found)) == 50


# ---- notices


@pytest.mark.parametrize(("notify", "told"), [("", 1), ("NEVER", 0), ("SUCCESS", 0), ("FAILURE", 1)])
async def test_failures_are_told_as_asked(world: World, notify: str, told: int) -> None:
    content = message(ALICE, "x", body="clair-confidentiel", message_id="q@test")
    options = {"notify": notify} if notify else {}
    acceptance = Acceptance(
        direction=Direction.SUBMISSION,
        principal=ALICE,
        mail_from=ALICE,
        recipients=("nobody@b.mssante.fr",),
        message_id="<q@test>",
        received=content,
        outgoing=(
            OutgoingCopy(("nobody@b.mssante.fr",), content, {**options, "ret": "FULL", "orcpt": "rfc822;no+2B"}),
        ),
    )
    world.a.store.accept(acceptance, world.clock.now)
    async with world.b.listening(Kind.RECEPTION):
        await world.a.sender(_route(world.b)).once()
    notices = world.a.inbox("alice")
    assert len(notices) == told
    for notice in notices:
        assert b"Original-Recipient: rfc822;no+\r\n" in notice  # decoded (RFC 3464 §2.3.1)
        assert b"Remote-MTA: dns; [127.0.0.1]\r\n" in notice
        assert b"clair-confidentiel" not in notice  # RET=FULL gives back an envelope, never clear text


@pytest.mark.parametrize(("identifier", "more"), [("m1@test", b""), (f"{'m' * 80}@test", "X-Note: é\r\n".encode())])
async def test_a_success_is_told_by_the_peer_and_correlated(world: World, identifier: str, more: bytes) -> None:
    """B offers DSN: B's server writes the "delivered" notice, it comes home by B's queue, and answers the receipt; also when the
    header that it returns had to be encoded."""
    async with submitting(world) as dialogue:
        await dialogue.play(
            f"C: MAIL FROM:<{ALICE}> BODY=8BITMIME SMTPUTF8\nS: 250\nC: RCPT TO:<{BOB}> NOTIFY=SUCCESS\nS: 250\nC: DATA\nS: 354"
        )
        await dialogue.raw(more + message(ALICE, BOB, message_id=identifier) + b".\r\n")
        await dialogue.play("S: 250")
    (expected,) = world.a.store.receipts(identifier)
    assert expected.state is ReceiptState.WAITING
    async with world.a.listening(Kind.RECEPTION), world.b.listening(Kind.RECEPTION):
        assert await world.a.sender(_route(world.b)).once() == 1
        back = world.b.sender({"a.mssante.fr": f"127.0.0.1:{world.a.ports[Kind.RECEPTION]}"})
        assert await back.once() == 1
    (notice,) = world.a.inbox("alice")
    assert b"Action: delivered" in notice and (not more or b"quoted-printable" in notice)
    assert b"Original-Envelope-Id" not in notice  # none was given: none may be added on the way (RFC 3461 §5.2.1)
    assert notice.count(b"Return-Path: <>\r\n") == 1
    (answered,) = world.a.store.receipts(identifier)
    assert (answered.state, answered.detail) == (ReceiptState.POSITIVE, "delivered 2.0.0")


def test_a_notice_as_the_rfcs_have_it(world: World) -> None:
    """RFC 3464, RFC 6533 §3; Return-Path is written by who delivers, never sent (RFC 5321 §4.4)."""
    about = notices.About("carol@b.mssante.fr", "s1", "<q@test>", world.clock.now, b"Subject: x\r\n\r\n", "a+2Bb")
    status = notices.Status(
        "hélène@a.mssante.fr", "5.1.1", "550 non\r\nX: y", r"rfc822;h+40x", notices.mta_name("::1:25")
    )
    made = notices.notice(notices.Kind.FAILED, about, [status], None, hostname="h.test", at=world.clock.now)
    (copy,) = made.outgoing
    assert isinstance(copy.content, bytes)
    assert b"Return-Path" not in copy.content
    assert b"Original-Envelope-Id: a+b\r\n" in copy.content
    assert rb"Final-Recipient: utf-8; h\x{E9}l\x{E8}ne@a.mssante.fr" in copy.content
    assert b"Original-Recipient: rfc822;h@x\r\n" in copy.content
    assert b"Remote-MTA: dns; [IPv6:::1]\r\n" in copy.content
    assert b"Diagnostic-Code: smtp; 550 non??X: y\r\n" in copy.content


@pytest.mark.parametrize(
    ("place", "name"),
    [("", ""), ("mx.b.test:25", "mx.b.test"), ("192.0.2.1:25", "[192.0.2.1]"), ("::1:25", "[IPv6:::1]")],
)
def test_the_name_of_an_mta_has_no_port(place: str, name: str) -> None:
    assert notices.mta_name(place) == name


async def test_a_peer_that_returns_no_receipts_is_said_to_have_relayed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 3461 §5.2.2: NOTIFY=SUCCESS cannot be passed on, so the sender hears "relayed" from us, once."""
    submission = _asked(world, message(ALICE, BOB), notify="SUCCESS", envid="abc")
    async with _scripted(world, _Script({"DATA": ["354 go"]}), monkeypatch) as sender:
        assert await sender.once() == 1
    (told,) = world.a.inbox("alice")
    assert b"Action: relayed\r\nStatus: 2.0.0" in told and b"Original-Envelope-Id: abc" in told
    assert "Message relayé / Relayed message" in mime.decode_words(mime.parse(told).get("subject") or "")
    assert b"Bonjour" not in told
    assert world.a.store.queue_rows(submission)[0].state is DeliveryState.DELIVERED


async def test_requiretls_is_asked_of_the_peer(world: World) -> None:
    _asked(world, message(ALICE, BOB, message_id="q@test"), requiretls="yes")
    async with world.b.listening(Kind.RECEPTION):
        await world.a.sender(_route(world.b)).once()
    assert len(world.b.inbox("bob")) == 1


# ---- receipts of reading


def _received(raw: bytes) -> Received:
    end, _ = mime.header_end(raw)
    return Received(raw[:end], len(raw), False, raw)


@pytest.mark.parametrize(
    ("disposition", "failed", "code"),
    [
        ("Disposition: automatic-action/MDN-sent-automatically; processed", False, ""),
        ("Disposition: automatic-action/MDN-sent-automatically; processed/error\r\nError: 902^inconnu", True, "902"),
        ("Disposition: automatic-action/MDN-sent-automatically; processed/Error: 903^absent", True, "903"),
        ("Disposition: manual-action/MDN-sent-manually; displayed", False, ""),
        ("Disposition: automatic-action/MDN-sent-automatically; processed/error", True, ""),
    ],
)
def test_both_error_forms_are_read(disposition: str, failed: bool, code: str) -> None:
    read = mdn.read(_mdn(disposition, "m1@test"))
    assert read is not None
    assert (read.recipient, read.failed, read.error) == ("bob@b.mssante.fr", failed, code)


def _mdn(disposition: str, message_id: str) -> bytes:
    return (
        "From: bob@b.mssante.fr\r\nContent-Type: multipart/report; report-type=disposition-notification; boundary=b\r\n\r\n"
        "--b\r\n\r\nlu\r\n--b\r\nContent-Type: message/disposition-notification\r\n\r\n"
        f"Final-Recipient: rfc822; Bob@b.mssante.fr\r\nOriginal-Message-ID: <{message_id}>\r\n{disposition}\r\n--b--\r\n"
    ).encode()


async def test_a_receipt_that_comes_and_one_that_does_not(world: World) -> None:
    ask = f"Disposition-Notification-To: {ALICE}"
    async with submitting(world) as dialogue:
        for number in (1, 2):
            await dialogue.play(f"C: MAIL FROM:<{ALICE}>\nS: 250\nC: RCPT TO:<{BOB}>\nS: 250\nC: DATA\nS: 354")
            await dialogue.raw(message(ALICE, BOB, ask, message_id=f"r{number}@test") + b".\r\n")
            await dialogue.play("S: 250")
    answer = _mdn("Disposition: automatic-action/MDN-sent-automatically; processed/error\r\nError: 906^?", "r1@test")
    mdn.correlate(world.a.store, _received(answer), BOB, world.clock.now)
    (first,), (second,) = world.a.store.receipts("r1@test"), world.a.store.receipts("r2@test")
    assert (first.kind, first.state) == (ReceiptKind.READING, ReceiptState.NEGATIVE)
    assert "906" in first.detail
    assert second.state is ReceiptState.WAITING
    world.clock.forward(days=8)
    for _ in range(2):
        tell_silences(world.a.services, world.clock.now)
    told = [raw for raw in world.a.inbox("alice") if b"Auto-Submitted: auto-replied" in raw]
    assert len(told) == 1
    assert b"References: <r2@test>" in told[0]
    assert world.a.store.receipts("r2@test")[0].state is ReceiptState.SILENT


# ---- DKIM


def _key_file(folder: Path, kind: str) -> Path:
    key = ed25519.Ed25519PrivateKey.generate() if kind == "ed" else rsa.generate_private_key(65537, 2048)
    path = folder / f"{kind}.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


def test_dkim_signs_with_every_key_and_verifies(world: World, tmp_path: Path) -> None:
    keys = [load_key(_key_file(tmp_path, kind), kind, "a.mssante.fr") for kind in ("ed", "rsa")]
    raw = message(ALICE, BOB)
    signer = Signer(lambda: keys)
    fields = signer.fields(raw, "a.mssante.fr", world.clock.now)
    assert fields == signer.fields(raw, "a.mssante.fr", world.clock.now)
    assert signer.fields(raw, "b.mssante.fr", world.clock.now) == []
    signed = b"".join(fields) + raw
    records = {f"{one.selector}._domainkey.a.mssante.fr": one.record for one in keys}
    results = Checker(records).results(signed)
    assert [one.split(" ")[0] for one in results] == ["dkim=pass", "dkim=pass"]
    assert {one.rpartition("=")[2] for one in results} == {"ed25519-sha256", "rsa-sha256"}
    broken = Checker(records).results(signed.replace(b"Bonjour", b"Bonsoir"))
    assert [one.split(" ")[0] for one in broken] == ["dkim=fail", "dkim=fail"]
    assert Checker({}, lambda _: None).results(signed)[0].startswith("dkim=")
    assert "pass" not in "".join(Checker({}, lambda _: None).results(signed))
    assert Checker({}).results(raw) == ["dkim=none"]
    assert Checker({}).results(b"DKIM-Signature: nonsense\r\n" + raw)[0].startswith("dkim=permerror")


def test_a_weak_or_unreadable_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pem"
    path.write_text("nonsense")
    with pytest.raises(DkimKeyError):
        load_key(path, "x", "a")


async def test_dkim_from_submission_to_the_other_mailbox(world: World, tmp_path: Path) -> None:
    key = load_key(_key_file(tmp_path, "ed"), "s1", "a.mssante.fr")
    world.a.services = replace(world.a.services, dkim_signer=Signer(lambda: [key]))
    checker = Checker({"s1._domainkey.a.mssante.fr": key.record})
    world.b.services = replace(world.b.services, dkim_checker=checker)
    async with submitting(world) as dialogue:
        await dialogue.play(f"C: MAIL FROM:<{ALICE}>\nS: 250\nC: RCPT TO:<{BOB}>\nS: 250\nC: DATA\nS: 354")
        await dialogue.raw(message(ALICE, BOB) + b".\r\n")
        await dialogue.play("S: 250")
    async with world.b.listening(Kind.RECEPTION):
        assert await world.a.sender(_route(world.b)).once() == 1
    results = mime.parse(world.b.inbox("bob")[0]).get("authentication-results") or ""
    assert "dkim=pass header.d=a.mssante.fr header.s=s1 header.a=ed25519-sha256" in results


async def test_a_large_message_is_signed_and_verified(world: World, tmp_path: Path) -> None:
    """Far above what is held in memory while it comes in: an envelope of 9 MiB, let through as it is."""
    key = load_key(_key_file(tmp_path, "ed"), "s1", "a.mssante.fr")
    world.a.services = replace(world.a.services, dkim_signer=Signer(lambda: [key]))
    checker = Checker({"s1._domainkey.a.mssante.fr": key.record})
    world.b.services = replace(world.b.services, dkim_checker=checker)
    start = base64.b64encode(b"\x30\x80\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03" + bytes(41)).decode()
    head = ("Content-Type: application/pkcs7-mime; smime-type=enveloped-data", "Content-Transfer-Encoding: base64")
    content = message(ALICE, BOB, *head, body=start + "\r\n" + ("A" * 76 + "\r\n") * 121_000)
    async with submitting(world) as dialogue:
        await dialogue.play(f"C: MAIL FROM:<{ALICE}>\nS: 250\nC: RCPT TO:<{BOB}>\nS: 250\nC: DATA\nS: 354")
        await dialogue.raw(content + b".\r\n")
        await dialogue.play("S: 250")
    (row,) = world.a.store.queue()
    assert "message.encrypted_by_sender" in world.a.events("m1@test")
    async with world.b.listening(Kind.RECEPTION):
        assert await world.a.sender(_route(world.b)).once() == 1
    (delivered,) = world.b.inbox("bob")
    assert "dkim=pass header.d=a.mssante.fr" in (mime.parse(delivered).get("authentication-results") or "")
    assert delivered.endswith(content[-1000:])
    assert len(list((world.a.folder / "blobs").glob("??/*"))) == 1, "the unsigned copy is gone"
    assert row.recipient == BOB
