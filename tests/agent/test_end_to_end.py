"""A stock mail program, the agent, the card behind pcscd, and a real operator."""

from __future__ import annotations

import asyncio
import imaplib
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import mime
import smime
from caducee.demo.virtual_reader import Pcscd
from tests.agent.conftest import PASSWORD, Operator, Run
from tests.cards.conftest import NATIONAL_ID, TokenCard
from tests.proxy.conftest import ALICE, BRUNO
from tests.smtp.world import free_port
from trustspace import pem

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("swaks"), reason="swaks is not installed"),
]
Insert = Callable[..., str]
Start = Callable[..., Run]


async def swaks(run: Run, *more: str, sender: str = ALICE, to: str = ALICE, password: str = "") -> str:
    """Send with swaks; what it and the agent said to each other."""
    process = await asyncio.create_subprocess_exec(
        "swaks", "--server", f"127.0.0.1:{run.port}", "--from", sender, "--to", to, "--auth", "PLAIN",
        "--auth-user", ALICE, "--auth-password", password or run.password, "--header", "Subject: Compte rendu d'Élodie",
        "--body", "Le patient va bien.", "--timeout", "60", *more,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    return out.decode("utf-8", "replace")


def check_signed(raw: bytes, operator: Operator, folder: Path) -> None:
    """By us and by OpenSSL: Alice's card signed this."""
    (one,) = smime.verify_message(raw, at=operator.desk.now, path=None)
    assert one.national_id == NATIONAL_ID
    assert one.signer_certificate == operator.cards.pairs[0].certificate
    (folder / "message").write_bytes(raw)
    (folder / "roots.pem").write_bytes(pem.chain_to_pem(operator.desk.authority.anchors))
    said = subprocess.run(
        ["openssl", "cms", "-verify", "-in", folder / "message", "-CAfile", folder / "roots.pem", "-purpose", "any"],
        capture_output=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    assert b"Le patient va bien." in said.stdout


@pytest.mark.parametrize("model", ["CPS3", "CPS4"])
async def test_a_mail_program_sends_signed_with_the_card(
    operator: Operator, insert: Insert, start_agent: Start, tmp_path: Path, model: str
) -> None:
    emulated = operator.cards.card(model)
    insert(emulated)
    operator.desk.store.set_policy(ALICE, "sign", "own", operator.desk.now)
    run = start_agent(operator, [b"1234", b"o", b"n"])
    said = await swaks(run)
    assert "250 2.0.0" in said, said
    (raw,) = operator.inbox(ALICE)
    check_signed(raw, operator, tmp_path)
    # What was to be signed was shown, and the PIN was not.
    for wanted in ("Alice EXEMPLE", NATIONAL_ID, "Compte rendu", f"À / to : {ALICE}", "tries left: 3"):
        assert wanted in run.shown
    assert "1234" not in run.shown
    # The PIN is kept, consent is asked each time.
    assert "250 2.0.0" in await swaks(run)
    assert "550 5.7.1" in await swaks(run)
    assert (len(operator.inbox(ALICE)), run.asked, emulated.signatures) == (2, 3, 2)


async def test_the_card_logs_in_to_the_operator(
    operator: Operator, insert: Insert, start_agent: Start, tmp_path: Path
) -> None:
    emulated = operator.cards.card()
    insert(emulated)
    run = start_agent(operator, [b"1234", b"1234"], "--login", "card", "--pin-minutes", "0")
    assert "535 5.7.8" in await swaks(run)  # the operator does not know this card: its own answer
    operator.accept_card()
    said = await swaks(run)
    assert "250 2.0.0" in said, said + run.shown
    (raw,) = operator.inbox(ALICE)
    check_signed(raw, operator, tmp_path)
    assert (emulated.signatures, run.asked) == (4, 2)  # each time the message and the login, with one question
    assert "535 5.7.8" in await swaks(run, password="another")


async def test_the_card_is_reached_through_the_library_of_the_settings(
    operator: Operator, token_card: TokenCard, start_agent: Start, tmp_path: Path
) -> None:
    """Signature and login, by a PKCS#11 library in a process of its own."""
    token_card.personalise(operator.cards.pairs)
    operator.accept_card()
    run = start_agent(operator, [b"4321", b"1234"], "--library", token_card.library, "--login", "card")
    assert "550 5.7.8 code PIN refuse, 2 essai(s)" in await swaks(run)
    said = await swaks(run)
    assert "250 2.0.0" in said, said + run.shown
    (raw,) = operator.inbox(ALICE)
    check_signed(raw, operator, tmp_path)
    assert "tries left: 2" in run.shown and "1234" not in run.shown


async def test_imap_is_passed_on_to_the_operator(operator: Operator, start_agent: Start) -> None:
    """By Python's imaplib, a stock client: what is sent through the agent is read through it, over the operator's TLS."""
    port = free_port()
    run = start_agent(operator, [], "--listen-imap-port", str(port))
    letter = b"From: a@b.fr\r\nSubject: Avis\r\n\r\nBonjour\r\n" * 5000

    def read() -> bytes:
        with imaplib.IMAP4("127.0.0.1", port, timeout=20) as client:
            with pytest.raises(imaplib.IMAP4.error):
                client.login(ALICE, "faux")
            client.login(ALICE, PASSWORD)
            client.append("INBOX", "", "", letter)
            client.select("INBOX")
            (found,) = client.fetch("1", "(BODY.PEEK[])")[1][:1]
            assert isinstance(found, tuple)
            return found[1]

    assert await asyncio.to_thread(read) == letter
    assert f"IMAP 127.0.0.1:{port}" in run.shown
    await operator.imap.stop()
    with socket.create_connection(("127.0.0.1", port), 5) as program:
        said = await asyncio.to_thread(program.recv, 200)
    assert said.startswith(b"* BYE operateur injoignable")


async def test_what_the_card_refuses_is_said_and_sends_nothing(
    operator: Operator, insert: Insert, start_agent: Start, pcscd: Pcscd
) -> None:
    """No card, blocked PIN, wrong PIN shown once, refusal by its holder, card pulled out while it signs."""
    run = start_agent(operator, [b"0000", b"", b"1234", b"o"])
    assert "451 4.7.5 carte absente" in await swaks(run)
    emulated = operator.cards.card()
    emulated.tries = 0
    insert(emulated)
    assert "550 5.7.8 code PIN bloque" in await swaks(run)
    assert (run.asked, emulated.pin_shown) == (0, 0)
    emulated.tries = 3
    assert "550 5.7.8 code PIN refuse, 2 essai(s)" in await swaks(run)
    assert (emulated.pin_shown, emulated.tries) == (1, 2)
    assert "550 5.7.1" in await swaks(run)  # an empty PIN is a refusal
    assert emulated.pin_shown == 1
    emulated.faults.remove_on = 0x2A
    assert "451 4.7.5" in await swaks(run)
    assert operator.inbox(ALICE) == []
    pcscd.slots[0].remove()
    emulated.faults.remove_on = None
    insert(emulated)
    said = await swaks(run)  # the card had accepted the PIN: it is kept, consent is asked
    assert "250 2.0.0" in said, said


async def test_who_may_send(operator: Operator, insert: Insert, start_agent: Start) -> None:
    """Nobody without the password, nobody for another mailbox; the operator's refusals come back as they are."""
    insert(operator.cards.card())
    run = start_agent(operator, [b"1234", b"o"])
    assert "535 5.7.8" in await swaks(run, password="faux mot de passe")
    assert "553 5.7.1" in await swaks(run, sender=BRUNO)
    process = await asyncio.create_subprocess_exec(
        "swaks", "--server", f"127.0.0.1:{run.port}", "--from", ALICE, "--to", ALICE,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert b"530" in (await process.communicate())[0]
    assert "550 5.1.2" in await swaks(run, to="quelquun@ailleurs.example")
    assert "550 5.1.1" in await swaks(run, to=ALICE.replace("alice", "personne"))
    assert operator.inbox(ALICE) == []


async def test_a_signed_message_passes_untouched(
    operator: Operator, insert: Insert, start_agent: Start, tmp_path: Path
) -> None:
    issued = operator.desk.keys[ALICE]["sign"]
    raw = mime.message(
        [("From", ALICE), ("To", ALICE), ("Subject", "Avis"), ("Message-ID", "<7@x>")],
        mime.leaf("text/plain", b"Bonjour", disposition=None),
    )
    signed = smime.sign_message(raw, smime.SoftwareSigner(issued.key, issued.chain), at=operator.desk.now)
    (tmp_path / "signed").write_bytes(signed)
    emulated = operator.cards.card()
    insert(emulated)
    run = start_agent(operator, [])
    assert "250 2.0.0" in await swaks(run, "--data", f"@{tmp_path / 'signed'}")
    assert (emulated.signatures, run.asked) == (0, 0)
