"""Entries and LDIF: what goes in comes out; what is hostile or damaged does not pass for something else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from directory import Entry, InvalidIdentifier, MailboxKind, entry_dn, from_ldif, synthetic_entries, to_ldif
from directory.entry import MAX_CERTIFICATES, from_attributes, ldif_text, skeleton, to_attributes
from directory.errors import DirectoryError
from tests.directory.helpers import certificate

MAIL = "claire.exemple@medecin.mssante.fr"
ENTRY = Entry(
    entry_dn(MAIL), MAIL, MailboxKind.PER, "Claire", "EXEMPLE", "810999000010", "10", city="Saint-Étienne"
)  # fmt: skip
NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=80).filter(
    lambda text: text.strip() == text
)


def test_ldif_round_trip_of_everybody() -> None:
    entries = synthetic_entries(300, seed=2)
    assert from_ldif(ldif_text(skeleton()) + to_ldif(entries)) == entries


def test_certificates_survive() -> None:
    entry = replace(ENTRY, certificates=(certificate(), certificate()), red_list=True)
    assert from_ldif(to_ldif([entry])) == [entry]


@given(NAME, NAME)
def test_any_name_stays_one_value(given_name: str, surname: str) -> None:
    """A name with line ends, colons or blanks cannot add an attribute or an entry to the file."""
    entry = replace(ENTRY, given_name=given_name, surname=surname)
    assert from_ldif(to_ldif([entry])) == [entry]


def test_a_url_value_is_refused() -> None:
    text = f"dn: {ENTRY.dn}\nobjectClass: balMSSante\nmail: {MAIL}\nTypeBAL: PER\nsn:< file:///etc/hostname\n"
    with pytest.raises(DirectoryError, match="URL"):
        from_ldif(text)


@pytest.mark.parametrize("text", ["pas du LDIF", "dn: x\nmail", "dn: mail=a,dc=fr\nmail:: ====\n\n: x\n"])
def test_text_that_is_not_ldif(text: str) -> None:
    with pytest.raises(DirectoryError):
        from_ldif(text)


@pytest.mark.parametrize("kind", ["", "XXX", "PERSONNE"])
def test_an_entry_without_a_known_type_is_refused(kind: str) -> None:
    with pytest.raises(DirectoryError):
        from_attributes(ENTRY.dn, {"mail": [MAIL.encode()], "TypeBAL": [kind.encode()]})


def test_a_damaged_certificate_does_not_hide_the_entry() -> None:
    attributes = to_attributes(replace(ENTRY, certificates=(certificate(),)))
    attributes["userCertificate;binary"].insert(0, b"\x30\x82\xff\xff")
    assert len(from_attributes(ENTRY.dn, attributes).certificates) == 1


def test_an_identifier_that_does_not_check_identifies_nobody() -> None:
    attributes = to_attributes(ENTRY) | {"IdentifiantPP": [b"10999000011"]}
    assert from_attributes(ENTRY.dn, attributes).national_id == ""


def test_what_we_publish_is_checked() -> None:
    with pytest.raises(InvalidIdentifier):
        to_attributes(replace(ENTRY, national_id="810999000011"))
    with pytest.raises(DirectoryError):
        to_attributes(replace(ENTRY, certificates=tuple(certificate() for _ in range(MAX_CERTIFICATES + 1))))


@pytest.mark.parametrize(
    "mail", ["", "a", "@x.fr", "a@", "a b@x.fr", "a@x.fr\nTypeBAL: APP", "é@x.fr", "a@x.fr,dc=fr", "a" * 250 + "@x.fr"]
)
def test_what_is_not_an_address_makes_no_dn(mail: str) -> None:
    with pytest.raises(DirectoryError):
        entry_dn(mail)


def test_special_characters_of_addresses_are_escaped_in_the_dn() -> None:
    assert entry_dn("A+b=c@X.mssante.fr") == "mail=a\\+b\\=c@x.mssante.fr,ou=bal,dc=mssante,dc=fr"
