"""The synthetic people: deterministic, valid, unique, recognisably synthetic."""

from __future__ import annotations

import pytest

from directory import (
    ALICE_MARTIN_DURAND,
    CARDIOLOGY,
    CHU_EXEMPLE,
    CLAIRE_EXEMPLE,
    GATEWAY,
    DirectoryError,
    MailboxKind,
    structure_mailboxes,
    synthetic_entries,
    synthetic_professionals,
)
from directory.entry import checked_address
from directory.identifiers import is_finess, is_rpps
from directory.people import PROFESSIONS, SPECIALITIES, STRUCTURES


def test_the_same_seed_gives_the_same_people() -> None:
    assert synthetic_professionals(seed=3) == synthetic_professionals(seed=3)
    assert synthetic_professionals(seed=3) != synthetic_professionals(seed=4)
    assert synthetic_professionals(50, seed=3) == synthetic_professionals(seed=3)[:50]


def test_everybody_is_valid_unique_and_synthetic() -> None:
    people = synthetic_professionals(2000, seed=1)
    assert len(people) == len({p.rpps for p in people}) == len({p.mail for p in people}) == 2000
    for person in people:
        assert is_rpps(person.rpps) and person.rpps.startswith("10999")
        assert person.profession in PROFESSIONS
        assert (person.speciality in SPECIALITIES) == (person.profession == "10")
        assert checked_address(person.mail) == person.mail
        assert person.mail.endswith(".mssante.fr")
    assert {p.profession for p in people} == set(PROFESSIONS)
    assert all(is_finess(s.finess) and s.finess.startswith("990") for s in STRUCTURES)


def test_the_demonstration_people() -> None:
    assert synthetic_professionals(2) == [CLAIRE_EXEMPLE, ALICE_MARTIN_DURAND]
    assert CLAIRE_EXEMPLE.national_id == "810999000010"
    assert CLAIRE_EXEMPLE.mail == "claire.exemple@medecin.mssante.fr"
    assert CLAIRE_EXEMPLE.city.name == "Lyon"
    assert CLAIRE_EXEMPLE.profession_label == "Médecin"
    assert ALICE_MARTIN_DURAND.speciality == "SM04"
    assert ALICE_MARTIN_DURAND.entry().structure_id == CHU_EXEMPLE.national_id == "1990000010"


def test_the_structures_mailboxes() -> None:
    boxes = {entry.mail: entry for entry in structure_mailboxes()}
    assert boxes[CARDIOLOGY].kind is MailboxKind.ORG
    assert boxes[GATEWAY].kind is MailboxKind.APP
    entries = synthetic_entries(300, seed=1)
    assert len({entry.mail for entry in entries}) == len(entries) == 300 + len(boxes)


def test_the_number_of_people_is_bounded() -> None:
    with pytest.raises(DirectoryError):
        synthetic_professionals(10**9)
