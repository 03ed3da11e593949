"""Look-ups and publication through the client: exact, escaped, bounded, safe to repeat and to share between threads."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from directory import (
    ALICE_MARTIN_DURAND,
    CARDIOLOGY,
    CHU_EXEMPLE,
    CLAIRE_EXEMPLE,
    GATEWAY,
    Directory,
    DirectoryError,
    Entry,
    InvalidIdentifier,
    MailboxKind,
    Slapd,
    TooManyEntries,
    entry_dn,
    synthetic_professionals,
)
from directory.identifiers import with_luhn
from tests.directory.helpers import CLIENT, EMAIL, NOW, certificate, witness

MAIL = "essai@medecin.mssante.fr"
ENTRY = Entry(entry_dn(MAIL), MAIL, MailboxKind.PER, "Essai", "ESSAI", "810999000010", "10", city="Lyon")


def test_by_address(reader: Directory) -> None:
    assert reader.by_address("Claire.EXEMPLE@medecin.mssante.fr") == CLAIRE_EXEMPLE.entry()
    assert reader.by_address("inconnu@medecin.mssante.fr") is None


@pytest.mark.parametrize(
    "mail", ["*", "*@medecin.mssante.fr", "a@b)(mail=*", "claire.exemple@medecin.mssante.fr)(cn=*"]
)
def test_an_address_cannot_carry_a_filter(reader: Directory, mail: str) -> None:
    assert reader.by_address(mail) is None  # `*` is legal in a local part: it then means itself


@pytest.mark.parametrize(
    "mail", ["hélène@medecin.mssante.fr", '"claire exemple"@medecin.mssante.fr', "a@[127.0.0.1]", ""]
)
def test_an_address_that_no_entry_can_hold_is_in_none(reader: Directory, mail: str) -> None:
    """Not an error: a message to such an address at another operator would be deferred for ever."""
    assert reader.by_address(mail) is None
    assert reader.encryption_certificates(mail, NOW) == []


@pytest.mark.parametrize(
    "term", ["*", "EX*", "*)(mail=*", "EXEMPLE)(|(sn=*", "\\2a", "EXEMPLE)\x00", "))((", "(|(sn=*))", "&", "|(sn=*)"]
)
def test_a_search_term_cannot_carry_a_filter(reader: Directory, term: str) -> None:
    for criterion in ("surname", "given_name", "profession", "city"):
        try:
            assert reader.search(**{criterion: term}) == []  # type: ignore[arg-type]
        except DirectoryError as error:
            assert "\0" in term, error


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(term=st.text(alphabet="*()\\&|!=<>~ \0aé%", min_size=1, max_size=12))
def test_no_term_finds_what_it_does_not_equal(reader: Directory, term: str) -> None:
    try:
        assert reader.search(surname=term) == []
    except DirectoryError:
        assert not term.strip() or "\0" in term


def test_search(reader: Directory) -> None:
    assert reader.search(surname="exemple", given_name="claire", profession="10", city="lyon") == [
        CLAIRE_EXEMPLE.entry()
    ]
    everybody = synthetic_professionals(300, seed=7)
    midwives = reader.search(profession="50")
    assert [m.mail for m in midwives] == sorted(p.mail for p in everybody if p.profession == "50")
    accents = next(p for p in everybody if not p.surname.isascii())
    assert accents.mail in [found.mail for found in reader.search(surname=accents.surname)]
    assert [found.mail for found in reader.search(city="Lyon", kind=MailboxKind.APP)] == [GATEWAY]


def test_search_needs_a_criterion_and_has_a_limit(reader: Directory) -> None:
    with pytest.raises(DirectoryError):
        reader.search(kind=MailboxKind.PER)
    with pytest.raises(DirectoryError):
        reader.search(surname="x" * 1000)
    with pytest.raises(TooManyEntries):
        reader.search(profession="10", limit=10)


def test_by_national_id(reader: Directory) -> None:
    assert reader.by_national_id(CLAIRE_EXEMPLE.national_id) == [CLAIRE_EXEMPLE.entry()]
    chu = {found.mail: found.kind for found in reader.by_national_id(CHU_EXEMPLE.national_id)}
    assert chu[CARDIOLOGY] is MailboxKind.ORG
    assert chu[ALICE_MARTIN_DURAND.mail] is MailboxKind.PER
    assert reader.by_national_id("8" + with_luhn("1099999999")) == []
    with pytest.raises(InvalidIdentifier):
        reader.by_national_id("810999000011")


def test_publish_adds_replaces_and_takes_away(operator: Directory) -> None:
    first = replace(ENTRY, certificates=(certificate(), certificate()))
    second = replace(ENTRY, city="Paris", profession="", certificates=(certificate(),))
    try:
        for entry in (first, first, second, ENTRY):
            operator.publish(entry)
            assert operator.by_address(MAIL) == entry
    finally:
        assert operator.remove(MAIL)
    assert operator.by_address(MAIL) is None
    assert not operator.remove(MAIL)


def test_publish_leaves_what_an_administrator_added(slapd: Slapd, operator: Directory, password_file: Path) -> None:
    operator.publish(ENTRY)
    try:
        added = f"dn: {ENTRY.dn}\nchangetype: modify\nadd: responsable\nresponsable: Dr X\n"
        bind = ("-D", slapd.admin_dn, "-y", str(password_file), "-H", slapd.url)
        assert witness("ldapmodify", "-x", *bind, stdin=added).returncode == 0
        operator.publish(replace(ENTRY, city="Paris"))
        assert "responsable: Dr X" in witness("ldapsearch", "-x", *bind, "-b", ENTRY.dn).stdout
    finally:
        operator.remove(MAIL)


def test_the_type_of_a_mailbox_is_immutable(operator: Directory) -> None:
    operator.publish(ENTRY)
    try:
        with pytest.raises(DirectoryError, match="immutable"):
            operator.publish(replace(ENTRY, kind=MailboxKind.ORG, city="Paris"))
        assert operator.by_address(MAIL) == ENTRY
    finally:
        operator.remove(MAIL)


@pytest.mark.parametrize("dn", ["cn=config", "dc=mssante,dc=fr", "mail=a@b.fr,dc=autre,dc=fr", "pas un dn", ""])
def test_publish_stays_in_its_directory(operator: Directory, dn: str) -> None:
    with pytest.raises(DirectoryError):
        operator.publish(replace(ENTRY, dn=dn))


def test_two_entries_with_one_address_are_nobody(operator: Directory, slapd: Slapd, password_file: Path) -> None:
    """An address that became ambiguous by hand must not give somebody else's certificate."""
    bind = ("-D", slapd.admin_dn, "-y", str(password_file), "-H", slapd.url)
    operator.publish(ENTRY)
    try:
        change = f"dn: {ENTRY.dn}\nchangetype: modify\nadd: mail\nmail: {CLAIRE_EXEMPLE.mail}\n"
        assert witness("ldapmodify", "-x", *bind, stdin=change).returncode == 0
        with pytest.raises(DirectoryError):
            operator.encryption_certificates(CLAIRE_EXEMPLE.mail, NOW)
    finally:
        assert witness("ldapdelete", "-x", *bind, ENTRY.dn).returncode == 0
    assert operator.by_address(CLAIRE_EXEMPLE.mail) == CLAIRE_EXEMPLE.entry()


def test_encryption_certificates(operator: Directory) -> None:
    day = timedelta(days=1)
    old = certificate(start=NOW - 100 * day)
    new = certificate(start=NOW - 10 * day, usages=frozenset({"key_agreement"}), purposes=(EMAIL,))
    others = (
        certificate(end=NOW - timedelta(hours=1)),
        certificate(start=NOW + day),
        certificate(usages=frozenset({"digital_signature"})),
        certificate(usages=None),
        certificate(purposes=(CLIENT,)),
    )
    operator.publish(replace(ENTRY, certificates=(old, *others, new)))
    try:
        assert operator.encryption_certificates(MAIL, NOW) == [new, old]
        assert operator.encryption_certificates(MAIL, NOW + 2 * day)[0] == others[1]
        assert operator.encryption_certificates(MAIL, NOW + 5000 * day) == []
        assert operator.encryption_certificates("inconnu@medecin.mssante.fr", NOW) == []
        with pytest.raises(ValueError, match="aware"):
            operator.encryption_certificates(MAIL, datetime(2026, 1, 1))
    finally:
        operator.remove(MAIL)


def test_many_threads_share_one_client(reader: Directory) -> None:
    people = synthetic_professionals(300, seed=7)
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda person: reader.by_address(person.mail), people))
    assert [entry.national_id for entry in found if entry] == [person.national_id for person in people]


def test_a_forked_child_opens_its_own_connection(reader: Directory) -> None:
    assert reader.by_address(CLAIRE_EXEMPLE.mail)
    child = os.fork()
    if child == 0:
        ok = reader.by_address(ALICE_MARTIN_DURAND.mail) == ALICE_MARTIN_DURAND.entry()
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert reader.by_address(CLAIRE_EXEMPLE.mail) == CLAIRE_EXEMPLE.entry()
