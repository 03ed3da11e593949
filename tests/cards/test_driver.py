"""The card driver against emulated cards, honest, worn and hostile, without a reader in between."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

import smime
from caducee.demo.practice_card import CPS3_ATR, CPS4_ATR, Removed
from caducee.demo.practice_card_files import APP, Pair, serial_file
from smime.cps import CpsCard, model_of
from smime.cps_errors import (
    BadPin,
    CardError,
    CardRemoved,
    ExpiredCard,
    KeyMismatch,
    LastTry,
    MalformedCard,
    PinBlocked,
    PinRequired,
    UnsuitableCard,
    WrongPin,
)
from smime.cps_files import Model, certificate_octets, period_of_use, serial_number
from smime.cps_model import CardDecryptor, CardSigner
from smime.cps_pkcs15 import object_directory, objects, private_keys
from smime.cps_tlv import read
from tests.cards.conftest import NATIONAL_ID, NOW, Factory
from tests.cards.emulator import Card, Faults

DIGEST = hashlib.sha256(b"x").digest()
MODELS = pytest.mark.parametrize("model", ["CPS3", "CPS4"])


class Direct:
    """A link straight to an emulated card, T=0."""

    protocol = 0

    def __init__(self, card: Card) -> None:
        self.card = card
        self.atr = card.atr

    def transmit(self, command: bytes) -> bytes:
        try:
            return self.card.transmit(command)
        except Removed:
            raise CardRemoved("pulled out") from None

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        yield


def opened(card: Card) -> CpsCard:
    return CpsCard.open(Direct(card))


@MODELS
def test_who_holds_the_card(factory: Factory, model: str) -> None:
    card = opened(factory.card(model))
    assert card.model is Model(model)
    assert card.serial == "12345678"
    holder = card.holder()
    assert (holder.national_id, holder.surname, holder.given_name, holder.profession) == (
        NATIONAL_ID,
        "EXEMPLE",
        "Alice",
        "Médecin",
    )
    assert card.signature_certificate() == factory.pairs[0].certificate
    assert card.authentication_certificate() == factory.pairs[1].certificate
    assert card.speciality() == "SM26"


@MODELS
def test_signing_needs_the_pin_and_verifies(factory: Factory, model: str) -> None:
    emulated = factory.card(model)
    card = opened(emulated)
    with pytest.raises(PinRequired):
        card.sign_digest(DIGEST)
    with pytest.raises(PinRequired):
        card.activities()
    card.verify_pin(b"1234")
    raw = b"From: a@b.fr\r\nSubject: x\r\nContent-Type: text/plain\r\n\r\nBonjour\r\n"
    signed = smime.sign_message(raw, CardSigner(card), at=NOW)
    (one,) = smime.verify_message(signed, at=NOW, path=None)
    assert (one.national_id, one.signer_certificate) == (NATIONAL_ID, factory.pairs[0].certificate)
    assert len(card.authenticate(DIGEST)) == 256
    (activity,) = card.activities()
    assert (activity.structure_name, activity.structure_id, activity.sector) == (
        "CABINET EXEMPLE",
        "499700735741008",
        "SA07",
    )
    assert emulated.pin_shown == 1


@MODELS
def test_the_card_opens_what_is_encrypted_to_it(factory: Factory, model: str) -> None:
    card = opened(factory.card(model))
    card.verify_pin(b"1234")
    public = factory.pairs[1].certificate.public_key()
    assert isinstance(public, rsa.RSAPublicKey)
    key = bytes(range(32))
    decryptor = CardDecryptor(card)
    transport = smime.KeyTransport()
    assert decryptor.unwrap(public.encrypt(key, padding.PKCS1v15()), transport, 32) == key
    for bad in (bytes(256), b"\xff" * 256, b"short", public.encrypt(b"other size", padding.PKCS1v15())):
        answers = {decryptor.unwrap(bad, transport, 32) for _ in range(2)}
        assert len(answers) == 2 and all(len(one) == 32 for one in answers)  # random, never an error


@MODELS
def test_the_counter_is_read_first_and_a_wrong_pin_is_shown_once(factory: Factory, model: str) -> None:
    emulated = factory.card(model)
    card = opened(emulated)
    assert card.pin_status().left == 3
    with pytest.raises(WrongPin) as wrong:
        card.verify_pin(b"0000")
    assert wrong.value.left == 2 and "0000" not in str(wrong.value)
    assert (emulated.pin_shown, card.pin_status().left) == (1, 2)
    with pytest.raises(WrongPin):
        card.verify_pin(b"0000")
    with pytest.raises(LastTry):
        card.verify_pin(b"1234")
    assert emulated.pin_shown == 2
    card.verify_pin(b"1234", take_last_try=True)
    assert emulated.tries == 3


@MODELS
def test_a_blocked_pin_is_said_and_never_tried(factory: Factory, model: str) -> None:
    emulated = factory.card(model)
    emulated.tries = 0
    card = opened(emulated)
    for action in (card.pin_status, lambda: card.verify_pin(b"1234")):
        with pytest.raises(PinBlocked):
            action()
    emulated.tries = 1
    with pytest.raises(PinBlocked):
        card.verify_pin(b"0000", take_last_try=True)
    assert emulated.pin_shown == 1


@pytest.mark.parametrize("pin", [b"", b"12", b"123456789", b"12a4", "١٢٣٤".encode()])
def test_what_is_not_a_pin_is_not_shown(factory: Factory, pin: bytes) -> None:
    emulated = factory.card()
    with pytest.raises(BadPin):
        opened(emulated).verify_pin(pin)
    assert emulated.pin_shown == 0


def test_an_expired_card_says_so(factory: Factory) -> None:
    today = NOW.date()
    opened(factory.card()).check_period(NOW)
    opened(factory.card(period=(today - timedelta(days=9), today))).check_period(NOW)
    for period in ((date(2020, 1, 1), today - timedelta(days=1)), (today + timedelta(days=1), date(2040, 1, 1))):
        with pytest.raises(ExpiredCard):
            opened(factory.card(period=period)).check_period(NOW)
    with pytest.raises(ExpiredCard):
        opened(factory.card()).check_period(NOW + timedelta(days=3650))


def test_a_key_that_is_not_its_certificates_signs_nothing(factory: Factory) -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    card = opened(factory.card(faults=Faults(other_key=other)))
    card.verify_pin(b"1234")
    with pytest.raises(KeyMismatch):
        card.sign_digest(DIGEST)


@pytest.mark.parametrize(
    "faults",
    [Faults(endless_61xx=True), Faults(endless_empty_61xx=True), Faults(huge_file=True), Faults(short_answer=True)],
    ids=["endless data", "endless nothing", "huge file", "short answer"],
)
def test_a_card_that_never_ends_is_an_error(factory: Factory, faults: Faults) -> None:
    emulated = factory.card(faults=faults)
    with pytest.raises(CardError):
        opened(emulated).holder()
    assert len(emulated.log) < 1000


def test_a_file_shorter_than_announced_is_read_to_its_end(factory: Factory) -> None:
    assert opened(factory.card(faults=Faults(wrong_length_file=True))).holder().surname == "EXEMPLE"


@pytest.mark.parametrize("ins", [0xA4, 0xB0, 0x20, 0x22, 0x2A])
def test_a_card_pulled_out_at_any_moment_is_said(factory: Factory, ins: int) -> None:
    def work() -> None:
        card = opened(factory.card(faults=Faults(remove_on=ins)))
        card.verify_pin(b"1234")
        card.sign_digest(DIGEST)

    with pytest.raises(CardRemoved):
        work()


@pytest.mark.parametrize("content", [b"", b"\x30\x82", b"\x30\x03abc", b"\x00" * 100, b"\x30\x84\xff\xff\xff\xff"])
def test_a_certificate_that_is_none_is_refused(factory: Factory, content: bytes) -> None:
    path = APP + bytes.fromhex("3441")
    with pytest.raises(CardError):
        opened(factory.card(files={path: content})).holder()


def test_a_certificate_without_an_rsa_key_or_of_another_person_is_seen(factory: Factory) -> None:
    other = factory.authority.issue_professional(
        "810999000028", "AUTRE", "Bruno", "Médecin", usage="sign", email=None, at=NOW
    )
    swapped = Pair(factory.pairs[0].key, other.certificate)
    emulated = factory.card(files={APP + bytes.fromhex("3441"): other.certificate.public_bytes(Encoding.DER)})
    card = opened(emulated)
    card.verify_pin(b"1234")
    with pytest.raises(KeyMismatch):
        card.sign_digest(DIGEST)
    assert swapped.certificate == card.signature_certificate()


@pytest.mark.parametrize("atr", [b"", b"\x3b", bytes(17), bytes.fromhex("3B8F80010031B86404B0ECC1739401808290000E")])
def test_other_cards_are_refused(atr: bytes) -> None:
    with pytest.raises(UnsuitableCard):
        model_of(atr)


def test_masks_of_the_same_card_are_known() -> None:
    assert model_of(CPS3_ATR) is Model.CPS3
    assert model_of(CPS4_ATR) is Model.CPS4
    varied = bytearray(CPS3_ATR)
    varied[2], varied[11] = 0x41, 0x01
    assert model_of(bytes(varied)) is Model.CPS3


def test_serial_numbers_are_checked() -> None:
    good = serial_file("87654321")
    assert serial_number(good) == "87654321"
    for index in range(2, len(good)):
        broken = bytearray(good)
        broken[index] ^= 0x10
        with pytest.raises(MalformedCard):
            serial_number(bytes(broken))
    with pytest.raises(MalformedCard):
        period_of_use(bytes.fromhex("EC0681042026FFFF"))


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_any_file_is_read_or_malformed(content: bytes) -> None:
    for reader in (
        lambda: list(read(content)),
        lambda: object_directory(content),
        lambda: list(objects(content)),
        lambda: list(private_keys(content)),
        lambda: serial_number(content),
        lambda: period_of_use(content),
        lambda: certificate_octets(content),
    ):
        try:
            reader()
        except MalformedCard:
            continue


@given(st.lists(st.binary(min_size=0, max_size=260), max_size=40))
@settings(max_examples=200)
def test_any_answers_are_an_error_or_an_end(answers: list[bytes]) -> None:
    class Hostile:
        atr, protocol = CPS3_ATR, 0

        def __init__(self) -> None:
            self.left = list(answers)

        def transmit(self, command: bytes) -> bytes:
            return self.left.pop() if self.left else b"\x6f\x00"

        @contextmanager
        def exclusive(self) -> Iterator[None]:
            yield

    with pytest.raises(CardError):
        CpsCard.open(Hostile()).holder()
