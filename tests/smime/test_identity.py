"""Who a certificate speaks for: the truth table."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

import smime
from tests.smime import certificates as make
from tests.smime.certificates import PERSON_ID, Holder

KEY = make.rsa_key()
STRUCTURE = "1990000010"
OTHER_PERSON = "810999000010"
DOCTOR, LAB = "medecin@test.mssante.fr", "labo@test.mssante.fr"

CARD = make.issue(KEY, emails=())
PERSON = make.issue(KEY, emails=(DOCTOR,))
UNIT = make.issue(KEY, subject=make.organisation_name(STRUCTURE), emails=())
SERVICE = make.issue(KEY, subject=make.organisation_name(STRUCTURE), emails=(LAB,))
MISCHIEF = make.issue(KEY, subject=make.organisation_name(STRUCTURE, common_name=PERSON_ID), emails=())


@pytest.mark.parametrize(
    ("holder", "address", "owner_id", "expected"),
    [
        # a person's certificate with an address
        (PERSON, DOCTOR, None, True),
        (PERSON, DOCTOR.upper(), None, True),
        (PERSON, DOCTOR, OTHER_PERSON, True),
        (PERSON, LAB, None, False),
        (PERSON, LAB, OTHER_PERSON, False),
        (PERSON, LAB, STRUCTURE, False),
        (PERSON, "second@hopital.mssante.fr", PERSON_ID, True),
        # a card, which names no address
        (CARD, DOCTOR, PERSON_ID, True),
        (CARD, DOCTOR, OTHER_PERSON, False),
        (CARD, DOCTOR, None, False),
        (CARD, "", None, False),
        (CARD, DOCTOR, "", False),
        # a structure's certificate
        (UNIT, LAB, STRUCTURE, True),
        (UNIT, LAB, "1990000028", False),
        (UNIT, LAB, None, False),
        (UNIT, DOCTOR, PERSON_ID, False),
        # a service's certificate: its own address only
        (SERVICE, LAB, None, True),
        (SERVICE, LAB, STRUCTURE, True),
        (SERVICE, "urgences@test.mssante.fr", STRUCTURE, False),
        (SERVICE, "labo@test.mssante.fr.evil.fr", None, False),
        (SERVICE, "xlabo@test.mssante.fr", None, False),
        # an organisation that puts a professional's number into its CN is not that professional
        (MISCHIEF, DOCTOR, PERSON_ID, False),
    ],
)
def test_speaks_for(holder: Holder, address: str, owner_id: str | None, expected: bool) -> None:
    assert smime.speaks_for(holder.certificate, address, owner_id=owner_id) is expected


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        (make.person_name(), PERSON_ID),
        (make.person_name("0999990013"), "0999990013"),
        (make.person_name("899700366241"), None),  # wrong check digit
        (make.person_name("8997003662401"), None),
        (make.person_name(PERSON_ID + " "), None),
        (make.person_name("٨" + PERSON_ID[1:]), None),  # digits of another script
        (make.organisation_name("399900001100018"), "399900001100018"),
        (make.organisation_name("0002 187512751"), None),
        (make.organisation_name("12A0000010"), "12A0000010"),
    ],
)
def test_national_id(subject: x509.Name, expected: str | None) -> None:
    assert smime.national_id(make.issue(KEY, subject=subject).certificate) == expected


def test_several_names_name_nobody() -> None:
    two_units = make.name(
        [(NameOID.ORGANIZATIONAL_UNIT_NAME, STRUCTURE)], [(NameOID.ORGANIZATIONAL_UNIT_NAME, "1990000028")]
    )
    two_people = make.name(
        [(NameOID.COMMON_NAME, PERSON_ID), (NameOID.SURNAME, "A")], [(NameOID.COMMON_NAME, OTHER_PERSON)]
    )
    for subject in (two_units, two_people):
        assert smime.national_id(make.issue(KEY, subject=subject).certificate) is None


def test_addresses() -> None:
    both = make.name([(NameOID.COMMON_NAME, "x"), (NameOID.EMAIL_ADDRESS, "Subject@x.fr")])
    assert smime.addresses(make.issue(KEY, subject=both, emails=()).certificate) == ("subject@x.fr",)
    assert smime.addresses(make.issue(KEY, subject=both, emails=("A@x.fr", "a@X.fr")).certificate) == ("a@x.fr",)
    assert smime.addresses(make.issue(KEY, emails=("no-at-sign",)).certificate) == ()
    blank = make.name([(NameOID.EMAIL_ADDRESS, "a@x.fr \n@evil.fr")])
    assert smime.addresses(make.issue(KEY, subject=blank, emails=()).certificate) == ()


def test_usages() -> None:
    encrypt_only = make.issue(KEY, usage=make.key_usage(key_encipherment=True)).certificate
    sign_only = make.issue(KEY, usage=make.key_usage(content_commitment=True)).certificate
    unlimited = make.issue(KEY, usage=None, extended=None).certificate
    assert [smime.may_sign_mail(item) for item in (encrypt_only, sign_only, unlimited)] == [False, True, True]
    assert [smime.may_receive_keys(item) for item in (encrypt_only, sign_only, unlimited)] == [True, False, True]
