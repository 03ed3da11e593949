"""The same cards through pcscd and a virtual reader, with OpenSC and OpenSSL as witnesses."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

import smime
from caducee.demo.virtual_reader import Pcscd
from smime import cps_reader
from smime.cps_errors import CardRemoved, NoCard, NoReader, PinRequired, ReaderFailed, SeveralCards
from smime.cps_model import CardSigner
from tests.cards.conftest import NATIONAL_ID, NOW, Factory
from tests.cards.emulator import Card, Faults
from trustspace import pem

pytestmark = pytest.mark.slow
Insert = Callable[..., str]


@pytest.mark.parametrize("model", ["CPS3", "CPS4"])
def test_openssl_and_we_verify_what_a_card_signs_through_pcscd(
    factory: Factory, insert: Insert, tmp_path: Path, model: str
) -> None:
    reader = insert(factory.card(model))
    raw = b"From: a@b.fr\r\nSubject: Avis\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nBonjour\r\n"
    with cps_reader.session(reader) as card:
        card.verify_pin(b"1234")
        signed = smime.sign_message(raw, CardSigner(card, factory.authority.intermediates), at=NOW)
    (one,) = smime.verify_message(signed, at=NOW, path=None)
    assert one.national_id == NATIONAL_ID
    (tmp_path / "message").write_bytes(signed)
    (tmp_path / "roots.pem").write_bytes(pem.chain_to_pem(factory.authority.anchors))
    said = subprocess.run(
        [
            "openssl",
            "cms",
            "-verify",
            "-in",
            tmp_path / "message",
            "-CAfile",
            tmp_path / "roots.pem",
            "-purpose",
            "any",
        ],
        capture_output=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    assert b"Bonjour" in said.stdout


def test_the_pin_is_forgotten_when_a_session_ends(factory: Factory, insert: Insert) -> None:
    emulated = factory.card()
    reader = insert(emulated)
    with cps_reader.session(reader) as card:
        card.verify_pin(b"1234")
        during = emulated.verified
    assert (during, emulated.verified) == (True, False)
    with pytest.raises(PinRequired), cps_reader.session(reader) as card:
        card.sign_digest(bytes(32))


def test_opensc_reads_the_same_card(factory: Factory, insert: Insert, pcscd: Pcscd) -> None:
    emulated = factory.card()
    insert(emulated)

    def run(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, env=pcscd.environment, check=False)
        return done.stdout + done.stderr

    assert run("opensc-tool", "-n").startswith("IAS-ECC")
    dump = run("pkcs15-tool", "-D")
    for name in ("Certificat de Signature CPS", "CPS_PRIV_AUT", "Key ref        : 129 (0x81)", "CPS_ACTIVITY_01_PS"):
        assert name in dump
    found = run("pkcs15-tool", "--read-certificate", "e828bd080f8025000001ff001001")
    assert factory.pairs[0].certificate.public_bytes(Encoding.PEM).strip().decode() in found
    # It reads the PIN's counter and rights as we do, and shows it as we do.
    assert "PIN code or key incorrect" in run("pkcs15-tool", "--verify-pin", "--pin", "4321")
    assert (emulated.pin_shown, emulated.tries) == (1, 2)
    assert "failed" not in run("pkcs15-tool", "--verify-pin", "--pin", "1234")
    assert (emulated.pin_shown, emulated.tries) == (2, 3)


def test_the_counter_is_answered_as_a_real_card_did(factory: Factory) -> None:
    """The bytes of a recorded exchange (facts sheet §3.5)."""
    card = factory.card()
    card.transmit(bytes.fromhex("00A4090C023F00"))
    assert card.transmit(bytes.fromhex("00CB3FFF0A4D087006BF810102A080")) == b"\x61\x18"
    recorded = "7016BF810112A0109A01039B0103A1088C06F3000013FF00"
    assert card.transmit(bytes.fromhex("00C0000018")) == bytes.fromhex(recorded + "9000")


def test_two_cards_must_be_told_apart(factory: Factory, insert: Insert) -> None:
    insert(factory.card(serial="11111111"), 0)
    second = insert(factory.card("CPS4", serial="22222222"), 1)
    with pytest.raises(SeveralCards):
        cps_reader.find_reader()
    assert cps_reader.find_reader("00 01") == second
    with cps_reader.session(second) as card:
        assert card.serial == "22222222"
    with pytest.raises(NoReader):
        cps_reader.find_reader("other")


def test_no_card_is_said(pcscd: Pcscd) -> None:
    with pytest.raises(NoCard):
        cps_reader.find_reader()


def test_no_service_is_said(tmp_path: Path) -> None:
    """In a program of its own: the library remembers the service it found."""
    program = (
        "from smime import cps_reader, cps_errors\ntry: cps_reader.readers()\nexcept cps_errors.NoReader: print('said')"
    )
    environment = {**os.environ, "PCSCLITE_CSOCK_NAME": str(tmp_path / "nobody")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "said", done.stderr


def test_a_card_pulled_out_in_the_middle_is_said(factory: Factory, insert: Insert) -> None:
    reader = insert(factory.card(faults=Faults(remove_on=0x2A)))
    with pytest.raises((CardRemoved, NoCard, ReaderFailed)), cps_reader.session(reader, seconds=5) as card:
        card.verify_pin(b"1234")
        card.sign_digest(hashlib.sha256(b"x").digest())


def test_a_reader_that_hangs_does_not_hang_us(factory: Factory, insert: Insert) -> None:
    reader = insert(factory.card(faults=Faults(hang_on=0x20)))
    begin = time.monotonic()
    with pytest.raises(ReaderFailed), cps_reader.session(reader, seconds=0.5) as card:
        card.verify_pin(b"1234")
    assert time.monotonic() - begin < 5


def test_two_threads_take_turns(factory: Factory, insert: Insert) -> None:
    emulated: Card = factory.card()
    reader = insert(emulated)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                with cps_reader.session(reader) as card:
                    card.verify_pin(b"1234")
                    card.sign_digest(hashlib.sha256(b"x").digest())
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert failed == []
    assert (emulated.signatures, emulated.pin_shown, emulated.tries) == (15, 15, 3)
