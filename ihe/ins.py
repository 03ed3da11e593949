"""The national health identity (INS): object identifiers, matricule key, completeness of the qualified traits.

Sources: dmp.md §4.3 and §6. Nothing here talks to INSi: only internal consistency can be judged from a document.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

INS_NIR = "1.2.250.1.213.1.4.8"
INS_NIA = "1.2.250.1.213.1.4.9"
INS_TEST = "1.2.250.1.213.1.4.10"
INS_DEMO = "1.2.250.1.213.1.4.11"

INS_OIDS = frozenset({INS_NIR, INS_NIA, INS_TEST, INS_DEMO})
PRODUCTION_OIDS = frozenset({INS_NIR, INS_NIA})

_MATRICULE = re.compile(r"[0-9]{5}(?:[0-9]{2}|2[AB])[0-9]{8}")
_BODY = re.compile(r"[0-9]{5}(?:[0-9]{2}|2[AB])[0-9]{6}")


class Trait(StrEnum):
    """The traits that must all be present when a document carries an INS (dmp.md §4.3)."""

    MATRICULE = "matricule"
    BIRTH_NAME = "birth_name"
    FIRST_GIVEN = "first_given"
    GIVEN_NAMES = "given_names"
    SEX = "sex"
    BIRTH_DATE = "birth_date"
    BIRTH_PLACE = "birth_place"


@dataclass(frozen=True, slots=True)
class InsCheck:
    """The verdict on an INS and its traits.

    `missing` names the absent traits; `key_valid` is the key of the matricule; `consistent` compares sex and birth year
    and month with the matricule where it encodes them (a test OID may carry fancy values: then only a warning is due).
    """

    present: bool
    production: bool
    key_valid: bool
    consistent: bool
    missing: tuple[Trait, ...]

    @property
    def complete(self) -> bool:
        """Every trait is there (says nothing about the key)."""
        return self.present and not self.missing

    def __bool__(self) -> bool:
        raise TypeError("an INS check has no truth value: read its fields")


def nir_key(body: str) -> str:
    """The two-digit key of a 13-character matricule: 97 - (N mod 97), Corsica 2A→19, 2B→18 (dmp.md §6.2).

    Raises ValueError when `body` has not the form of a matricule.
    """
    if _BODY.fullmatch(body) is None:
        raise ValueError("13 characters of a matricule are needed")
    number = int(body.replace("2A", "19").replace("2B", "18"))
    return f"{97 - number % 97:02d}"


def is_valid_matricule(value: str) -> bool:
    """15 characters (13 + key) with the right key."""
    return _MATRICULE.fullmatch(value) is not None and nir_key(value[:13]) == value[13:]


def is_ins_oid(root: str) -> bool:
    """True for the four INS roots."""
    return root in INS_OIDS


def _consistent(matricule: str, sex: str, birth_date: str) -> bool:
    if _MATRICULE.fullmatch(matricule) is None:
        return False
    expected = {"1": "M", "2": "F", "3": "M", "4": "F", "7": "M", "8": "F"}.get(matricule[0])
    if expected is None or (sex in ("M", "F") and sex != expected):
        return False
    year, month = matricule[1:3], matricule[3:5]
    if len(birth_date) >= 4 and birth_date[2:4] != year:
        return False
    # Months above 12 are legal in a NIR (birth date not fully known): they cannot be compared.
    comparable = len(birth_date) >= 6 and "01" <= month <= "12"
    return not comparable or birth_date[4:6] == month


def check_ins(
    matricule: str,
    oid: str,
    *,
    birth_name: str,
    first_given: str,
    given_names: str,
    sex: str,
    birth_date: str,
    birth_place: str,
) -> InsCheck:
    """Judges an INS with its traits. `birth_date` as HL7 digits, `birth_place` as the INSEE (COG) code."""
    traits = {
        Trait.MATRICULE: matricule,
        Trait.BIRTH_NAME: birth_name,
        Trait.FIRST_GIVEN: first_given,
        Trait.GIVEN_NAMES: given_names,
        Trait.SEX: sex,
        Trait.BIRTH_DATE: birth_date,
        Trait.BIRTH_PLACE: birth_place,
    }
    return InsCheck(
        present=bool(matricule) and is_ins_oid(oid),
        production=oid in PRODUCTION_OIDS,
        key_valid=is_valid_matricule(matricule),
        consistent=_consistent(matricule, sex, birth_date),
        missing=tuple(trait for trait, value in traits.items() if not value.strip()),
    )
