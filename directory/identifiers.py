"""National identifiers of persons, structures and patients: RPPS, ADELI, FINESS, SIREN, SIRET, INS, and their prefixes.

Invariants: a typed value exists only if its form and its check digits are right; the check digits of the first five
are Luhn's, computed on the number itself without any type prefix (mssante.md §5.3, checked on public values); error
texts never repeat the value, because an INS must reach no log. Blanks inside a number are not tolerated: these
values are compared byte for byte with certificates and directory entries.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NewType

from stdnum import luhn
from stdnum.exceptions import ValidationError
from stdnum.fr import nir, siren, siret

from directory.errors import InvalidIdentifier

Rpps = NewType("Rpps", str)
Adeli = NewType("Adeli", str)
Finess = NewType("Finess", str)
Siren = NewType("Siren", str)
Siret = NewType("Siret", str)

PERSON_OID: Final = "1.2.250.1.71.4.2.1"  # idNat_PS (TRE_G08)
STRUCTURE_OID: Final = "1.2.250.1.71.4.2.2"  # idNat_Struct (TRE_G07)

_FINESS = re.compile(r"(?:[0-9]{2}|2[AB])[0-9]{7}")
_NIR = re.compile(r"[1-478][0-9]{2}(?:[0-9]{2})(?:[0-9]{2}|2[AB])[0-9]{6}")
_CORSICA: Final = str.maketrans("AB", "12")
_DOUBLED: Final = bytes.maketrans(b"0123456789", b"0246813579")


def luhn_holds(digits: str) -> bool:
    """Luhn's rule on decimal digits. python-stdnum has it too (the tests compare): this one costs a look-up less."""
    codes = digits.encode()
    return (sum(codes[-1::-2]) + sum(codes[-2::-2].translate(_DOUBLED)) - ord("0") * len(codes)) % 10 == 0


def _digits(value: str, length: int) -> bool:
    return len(value) == length and value.isascii() and value.isdigit()


def _refuse(what_fr: str, what_en: str) -> InvalidIdentifier:
    return InvalidIdentifier(f"{what_fr} / {what_en}")


def parse_rpps(value: str) -> Rpps:
    """An RPPS number: 11 digits, the last one Luhn's over the first ten. Raises InvalidIdentifier."""
    if not _digits(value, 11):
        raise _refuse("Numéro RPPS : 11 chiffres attendus", "RPPS number: 11 digits expected")
    if not luhn_holds(value):
        raise _refuse("Numéro RPPS : clé de contrôle fausse", "RPPS number: wrong check digit")
    return Rpps(value)


def parse_adeli(value: str) -> Adeli:
    """An ADELI number: 9 characters as FINESS (the first two are a department), Luhn. Raises InvalidIdentifier."""
    if not _FINESS.fullmatch(value):
        raise _refuse("Numéro ADELI : 9 chiffres attendus", "ADELI number: 9 digits expected")
    if not luhn_holds(value.translate(_CORSICA)):
        raise _refuse("Numéro ADELI : clé de contrôle fausse", "ADELI number: wrong check digit")
    return Adeli(value)


def parse_finess(value: str) -> Finess:
    """A FINESS number: 9 digits, Luhn; in Corsica the second character is A or B. Raises InvalidIdentifier.

    The Corsican rule is not in the official texts at hand. Counting A as 1 gives a right Luhn sum for the public values
    2A0000154 and 2A0000204 and no other digit does; B counted as 2 follows by analogy and is unconfirmed.
    """
    if not _FINESS.fullmatch(value):
        raise _refuse("Numéro FINESS : 9 chiffres attendus", "FINESS number: 9 digits expected")
    if not luhn_holds(value.translate(_CORSICA)):
        raise _refuse("Numéro FINESS : clé de contrôle fausse", "FINESS number: wrong check digit")
    return Finess(value)


def parse_siren(value: str) -> Siren:
    """A SIREN number: 9 digits, Luhn. Raises InvalidIdentifier."""
    if not _digits(value, 9):
        raise _refuse("Numéro SIREN : 9 chiffres attendus", "SIREN number: 9 digits expected")
    if not siren.is_valid(value):
        raise _refuse("Numéro SIREN : clé de contrôle fausse", "SIREN number: wrong check digit")
    return Siren(value)


def parse_siret(value: str) -> Siret:
    """A SIRET number: 14 digits, Luhn (La Poste: sum of digits modulo 5). Raises InvalidIdentifier."""
    if not _digits(value, 14):
        raise _refuse("Numéro SIRET : 14 chiffres attendus", "SIRET number: 14 digits expected")
    if not siret.is_valid(value):
        raise _refuse("Numéro SIRET : clé de contrôle fausse", "SIRET number: wrong check digits")
    return Siret(value)


@dataclass(frozen=True, slots=True)
class Ins:
    """A patient's identity number (matricule INS: the NIR or NIA) and its key. It is health data: repr hides it."""

    matricule: str = field(repr=False)
    key: str = field(repr=False)

    def __str__(self) -> str:
        return "INS(…)"

    @property
    def full(self) -> str:
        """The 15 characters that documents carry (13 of the matricule, 2 of the key)."""
        return self.matricule + self.key


def ins_key(matricule: str) -> str:
    """The two-digit key of a 13-character matricule: 97 - (number mod 97), 2A counted as 19 and 2B as 18.

    Raises InvalidIdentifier when the matricule has not the form of a NIR.
    """
    if not _NIR.fullmatch(matricule):
        raise _refuse("Matricule INS : 13 caractères attendus", "INS matricule: 13 characters expected")
    return nir.calc_check_digits(matricule)


def parse_ins(value: str) -> Ins:
    """A matricule INS with its key: 15 characters. Raises InvalidIdentifier.

    The form is checked (sex or temporary digit, year, month code, department, order) and the key; a month code above
    12 is legal (persons whose birth record is incomplete), so no calendar rule is applied.
    """
    if len(value) != 15 or not _NIR.fullmatch(value[:13]) or not _digits(value[13:], 2):
        raise _refuse("Matricule INS : 15 caractères attendus", "INS matricule: 15 characters expected")
    if ins_key(value[:13]) != value[13:]:
        raise _refuse("Matricule INS : clé fausse", "INS matricule: wrong key")
    return Ins(value[:13], value[13:])


class PersonIdType(StrEnum):
    """First digit of a person's national id (idNat_PS) for the two registers that give numbers of their own."""

    ADELI = "0"
    RPPS = "8"


class StructureIdType(StrEnum):
    """First digit of a structure's national id (idNat_Struct) for the three registers that give numbers of their
    own.
    """

    FINESS = "1"
    SIREN = "2"
    SIRET = "3"


@dataclass(frozen=True, slots=True)
class PersonId:
    """A person's national id. `str()` gives the form of certificates (`810999000010`)."""

    type: PersonIdType
    number: str

    def __str__(self) -> str:
        return self.type.value + self.number


@dataclass(frozen=True, slots=True)
class StructureId:
    """A structure's national id. `str()` gives the form of certificates and of the white list (`1990000010`)."""

    type: StructureIdType
    number: str

    def __str__(self) -> str:
        return self.type.value + self.number


PERSON_CHECKS: Final[dict[str, Callable[[str], str]]] = {"0": parse_adeli, "8": parse_rpps}
"""Of the national ids of persons, by their type's digit: each gives the number back, or raises InvalidIdentifier."""
STRUCTURE_CHECKS: Final[dict[str, Callable[[str], str]]] = {"1": parse_finess, "2": parse_siren, "3": parse_siret}
"""Of the national ids of structures, likewise."""


def parse_person_id(value: str) -> PersonId:
    """`8` + RPPS or `0` + ADELI (mssante.md §5.3). Other prefixes (local ids in a structure) are refused.

    Raises InvalidIdentifier.
    """
    parse = PERSON_CHECKS.get(value[:1])
    if parse is None:
        raise _refuse(
            "Identifiant national de personne : 8 + RPPS ou 0 + ADELI attendu",
            "national person id: 8 + RPPS or 0 + ADELI expected",
        )
    return PersonId(PersonIdType(value[0]), parse(value[1:]))


def parse_structure_id(value: str) -> StructureId:
    """`1` + FINESS, `2` + SIREN or `3` + SIRET (mssante.md §5.3). Raises InvalidIdentifier."""
    parse = STRUCTURE_CHECKS.get(value[:1])
    if parse is None:
        raise _refuse(
            "Identifiant national de structure : 1 + FINESS, 2 + SIREN ou 3 + SIRET attendu",
            "national structure id: 1 + FINESS, 2 + SIREN or 3 + SIRET expected",
        )
    return StructureId(StructureIdType(value[0]), parse(value[1:]))


@dataclass(frozen=True, slots=True)
class NationalForm:
    """Any national id of the two nomenclatures, read into its parts: type digit, register's number, local part."""

    type: str
    number: str
    local: str = ""


def read_person_form(value: str) -> NationalForm:
    """Any idNat_PS (TRE_G08; mssante.md §5.3): also the local ids that a structure or practice gives, `3`+FINESS+`/`+id.

    The register's number is checked, the local part is any 1 to 32 printable characters without `/`. A local id is
    unique in its structure only: it never opens a mailbox (see `parse_person_id`). Raises InvalidIdentifier.
    """
    if value[:1] in PERSON_CHECKS:
        found = parse_person_id(value)
        return NationalForm(found.type.value, found.number)
    parse = _PERSON_LOCAL.get(value[:1])
    number, slash, local = value[1:].partition("/")
    if parse is None or not slash or not _LOCAL.fullmatch(local):
        raise _refuse("Identifiant national de personne : forme inconnue", "national person id: unknown form")
    return NationalForm(value[0], parse(number), local)


def read_structure_form(value: str) -> NationalForm:
    """Any idNat_Struct (TRE_G07): also `0`+ADELI and `4`+RPPS with the practice's rank (`4` + 11 digits + 2 to 4 digits).

    Raises InvalidIdentifier.
    """
    if value[:1] in STRUCTURE_CHECKS:
        found = parse_structure_id(value)
        return NationalForm(found.type.value, found.number)
    if value[:1] == "0":
        return NationalForm("0", parse_adeli(value[1:]))
    if value[:1] == "4" and 14 <= len(value) <= 16 and value.isascii() and value.isdigit():
        return NationalForm("4", parse_rpps(value[1:12]), value[12:])
    raise _refuse("Identifiant national de structure : forme inconnue", "national structure id: unknown form")


_LOCAL: Final = re.compile(r"[!-.0-~]{1,32}")
_PERSON_LOCAL: Final[dict[str, Callable[[str], str]]] = {
    "1": parse_adeli,
    "3": parse_finess,
    "4": parse_siren,
    "5": parse_siret,
    "6": parse_rpps,
}


def _holds(parse: Callable[[str], object], value: str) -> bool:
    try:
        parse(value)
    except (InvalidIdentifier, ValidationError):
        return False
    return True


def is_rpps(value: str) -> bool:
    """Whether `value` is a well-formed RPPS number with a right check digit."""
    return _holds(parse_rpps, value)


def is_adeli(value: str) -> bool:
    """Whether `value` is a well-formed ADELI number with a right check digit."""
    return _holds(parse_adeli, value)


def is_finess(value: str) -> bool:
    """Whether `value` is a well-formed FINESS number with a right check digit."""
    return _holds(parse_finess, value)


def is_siren(value: str) -> bool:
    """Whether `value` is a well-formed SIREN number with a right check digit."""
    return _holds(parse_siren, value)


def is_siret(value: str) -> bool:
    """Whether `value` is a well-formed SIRET number with right check digits."""
    return _holds(parse_siret, value)


def is_ins(value: str) -> bool:
    """Whether `value` is a 15-character matricule INS with a right key."""
    return _holds(parse_ins, value)


def is_person_id(value: str) -> bool:
    """Whether `value` is a person's national id (`8` + RPPS, `0` + ADELI)."""
    return _holds(parse_person_id, value)


def is_structure_id(value: str) -> bool:
    """Whether `value` is a structure's national id (`1` + FINESS, `2` + SIREN, `3` + SIRET)."""
    return _holds(parse_structure_id, value)


def with_luhn(stem: str) -> str:
    """The decimal `stem` followed by its Luhn check digit (used to make synthetic numbers)."""
    return stem + str(luhn.calc_check_digit(stem))
