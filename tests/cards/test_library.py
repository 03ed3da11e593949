"""A card through a PKCS#11 library in a process of its own; SoftHSM2 stands for the national library."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from pkcs11 import TokenFlag

import smime
from caducee.demo.practice_card_files import Pair
from smime.cps_errors import (
    BadPin,
    CardRemoved,
    ExpiredCard,
    KeyMismatch,
    NoReader,
    PinRequired,
    ReaderFailed,
    SeveralCards,
    UnsuitableCard,
    WrongPin,
)
from smime.cps_library import MOST_TRIES, tries_left
from smime.cps_model import CardSigner
from smime.cps_remote import LibraryCardAccess
from tests.cards.conftest import NATIONAL_ID, NOW, Factory, TokenCard

DIGEST = hashlib.sha256(b"x").digest()
pytestmark = pytest.mark.slow


@pytest.fixture
def access(token_card: TokenCard) -> Iterator[LibraryCardAccess]:
    with closing(LibraryCardAccess(token_card.library)) as found:
        yield found


def test_it_signs_as_the_card_read_directly_does(
    factory: Factory, token_card: TokenCard, access: LibraryCardAccess
) -> None:
    token_card.personalise(factory.pairs)
    with access.session() as card:
        holder = card.holder()
        assert (holder.national_id, holder.surname, holder.given_name) == (NATIONAL_ID, "EXEMPLE", "Alice")
        assert card.signature_certificate() == factory.pairs[0].certificate
        assert card.authentication_certificate() == factory.pairs[1].certificate
        assert card.serial and card.pin_status().left == MOST_TRIES
        card.check_period(NOW)
        with pytest.raises(ExpiredCard):
            card.check_period(NOW.replace(year=2100))
        with pytest.raises(PinRequired):
            card.sign_digest(DIGEST)
        card.verify_pin(b"1234")
        raw = b"From: a@b.fr\r\nSubject: x\r\nContent-Type: text/plain\r\n\r\nBonjour\r\n"
        signed = smime.sign_message(raw, CardSigner(card), at=NOW)
        assert len(card.authenticate(DIGEST)) == 256
    (one,) = smime.verify_message(signed, at=NOW, path=None)
    assert (one.national_id, one.signer_certificate) == (NATIONAL_ID, factory.pairs[0].certificate)
    with access.session() as card, pytest.raises(PinRequired):  # the end of a session logs out
        card.sign_digest(DIGEST)


def test_a_wrong_pin_is_shown_once_and_counted(
    factory: Factory, token_card: TokenCard, access: LibraryCardAccess, capfd: pytest.CaptureFixture[str]
) -> None:
    token_card.personalise(factory.pairs)
    with access.session() as card:
        for text in (b"12", b"123456789", b"12a4"):
            with pytest.raises(BadPin):
                card.verify_pin(text)
        with pytest.raises(WrongPin) as wrong:
            card.verify_pin(b"9876")
        assert wrong.value.left == MOST_TRIES - 1
    with access.session() as card:
        assert card.pin_status().left == MOST_TRIES - 1
        card.verify_pin(b"1234")
    with access.session() as card:
        assert card.pin_status().left == MOST_TRIES
    assert "9876" not in str(wrong.value) + "".join(capfd.readouterr())


def test_what_the_flags_say_of_the_pin() -> None:
    """The national library's flags, which SoftHSM2 does not all raise."""
    low, final, locked = TokenFlag.USER_PIN_COUNT_LOW, TokenFlag.USER_PIN_FINAL_TRY, TokenFlag.USER_PIN_LOCKED
    assert [tries_left(flags) for flags in (TokenFlag(0), low, low | final, low | final | locked)] == [3, 2, 1, 0]


def test_a_key_that_is_not_its_certificates_signs_nothing(
    factory: Factory, token_card: TokenCard, access: LibraryCardAccess
) -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    token_card.personalise((Pair(other, factory.pairs[0].certificate), factory.pairs[1]))
    with access.session() as card:
        card.verify_pin(b"1234")
        with pytest.raises(KeyMismatch):
            card.sign_digest(DIGEST)


def test_no_card_other_cards_and_several_cards_are_told_apart(
    factory: Factory, token_card: TokenCard, access: LibraryCardAccess
) -> None:
    with pytest.raises(UnsuitableCard), access.session():  # the empty slot of SoftHSM2 holds no CPS
        pass
    token_card.personalise(factory.pairs, "CPS3v3-1111111111")
    access.close()  # SoftHSM2 counts its slots when it is loaded
    with access.session() as card:
        assert card.holder().surname == "EXEMPLE"
    token_card.personalise(factory.pairs, "CPS4v1-2222222222")
    access.close()
    with pytest.raises(SeveralCards), access.session():
        pass
    with (
        closing(LibraryCardAccess(token_card.library, reader="nobody")) as other,
        pytest.raises(NoReader),
        other.session(),
    ):
        pass


def test_a_library_that_hangs_dies_or_is_none_is_an_error_and_not_a_hang(
    factory: Factory, token_card: TokenCard
) -> None:
    token_card.personalise(factory.pairs)
    with closing(LibraryCardAccess(token_card.library, seconds=5.0)) as access:
        with access.session() as card:
            card.verify_pin(b"1234")
        access._process.seconds = 1.0
        os.kill(access._process.pid, signal.SIGSTOP)
        begin = time.monotonic()
        with pytest.raises(ReaderFailed), access.session():
            pass
        assert time.monotonic() - begin < 4
        access._process.seconds = 10.0
        with access.session() as card:
            running = access._process._running
            assert running is not None
            running.process.kill()
            running.process.wait()
            with pytest.raises(CardRemoved):  # the new process has no session
                card.sign_digest(DIGEST)
        with access.session() as card:
            assert card.holder().surname == "EXEMPLE"
    with closing(LibraryCardAccess("/nonexistent.so")) as none, pytest.raises(ReaderFailed), none.session():
        pass
