"""A row of the extraction of mailboxes, checked: a `MailboxRow`, or the reason why not.

Invariants: pure; a row that is accepted can be written in the directory as it is; a reason names the field and the rule,
never the value. What is only wrong in a person's structure is left out with a warning: the person's identity is what
matters; a structure's mailbox with a wrong structure identifier is rejected, because that is its identity.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Final, NamedTuple

from directory.columns import Layout
from directory.entry import MailboxKind, checked_address
from directory.errors import DirectoryError, InvalidIdentifier
from directory.identifiers import StructureIdType, parse_person_id, parse_structure_id
from directory.nomenclature import KNOWN_PROFESSIONS, is_speciality_code

MAX_FIELD: Final = 256
_PERSONAL: Final = frozenset({"PER", "CAB"})
_KINDS: Final = frozenset(kind.value for kind in MailboxKind)
_YES: Final = frozenset({"O", "OUI", "TRUE", "VRAI", "1", "Y"})
_NO: Final = frozenset({"N", "NON", "FALSE", "FAUX", "0", ""})
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_POSTAL: Final = re.compile(r"[0-9]{5}")
# mssante.md §5.4: the values of this column are not published; the names and the codes of the registers are both read.
_REGISTERS: Final = {one.name: one for one in StructureIdType} | {one.value: one for one in StructureIdType}


class Rejected(Exception):
    """A row that is not taken; the text is the reason, for the report."""


class MailboxRow(NamedTuple):
    """One accepted row. Empty: not given. `person` and `structure` are national ids (with their type's digit)."""

    mail: str
    kind: str
    person: str
    structure: str
    service: str
    surname: str
    given_name: str
    profession: str
    skill: str
    skill_label: str
    paperless: bool
    organisation: str
    street: str
    postal_code: str
    city: str
    red_list: bool


class RowReader:
    """Reads rows of one file. `warn` receives what was left out of an accepted row."""

    def __init__(self, layout: Layout, warn: Callable[[str], None], professions: Collection[str] = ()) -> None:
        self._places = layout.places
        self._warn = warn
        self._professions = KNOWN_PROFESSIONS | set(professions)
        self._shared: dict[str, str] = {}

    def read(self, fields: list[str]) -> MailboxRow:
        """The row. Raises Rejected."""
        places = self._places

        def get(name: str) -> str:
            place = places.get(name, -1)
            return fields[place].strip() if place >= 0 else ""

        if any(len(field) > MAX_FIELD for field in fields):
            raise Rejected(f"champ de plus de {MAX_FIELD} signes / field too long")
        if any(_CONTROL.search(field) for field in fields):
            raise Rejected("signe de contrôle dans un champ / control character in a field")
        kind = get("kind").upper()
        if kind not in _KINDS:
            raise Rejected("Type de BAL inconnu / unknown mailbox type")
        try:
            mail = checked_address(get("mail"))
        except DirectoryError:
            raise Rejected("Adresse BAL mal formée / malformed address") from None
        person = self._person(get("person"), get("person_type"), get("person_number"), kind)
        structure = self._structure(get("structure_type"), get("structure"), needed=not person)
        profession = get("profession")
        if profession and profession not in self._professions:
            raise Rejected("Code profession inconnu / unknown profession code")
        skill = get("skill")
        if skill and not is_speciality_code(skill):
            raise Rejected("Code savoir-faire mal formé / malformed skill code")
        share, routing = self._share, get("routing")
        postal_code = get("postal_code") if _POSTAL.fullmatch(get("postal_code")) else ""
        return MailboxRow(
            mail=mail,
            kind=share(kind),
            person=person,
            structure=share(structure),
            service=share(get("service")),
            surname=share(get("surname")) if person else "",
            given_name=share(get("given_name")) if person else "",
            profession=share(profession) if person else "",
            skill=share(skill) if person else "",
            skill_label=share(get("skill_label")) if person else "",
            paperless=self._flag(get("paperless"), "Dématérialisation"),
            organisation=share(get("organisation") or get("sign")),
            street=share(" ".join(part for part in (get("number"), get("street_type"), get("street")) if part)),
            postal_code=share(postal_code),
            city=share(city_of(routing)),
            red_list=self._flag(get("red_list"), "Liste rouge"),
        )

    def _share(self, text: str) -> str:
        """One object for equal texts: a country's rows repeat the same few thousand structures and towns."""
        return self._shared.setdefault(text, text)

    def _person(self, national: str, kind: str, number: str, mailbox: str) -> str:
        if not national and not number:
            return ""  # a structure's box, or a person under a structure's responsibility (mssante.md §4.1)
        if mailbox not in _PERSONAL:
            raise Rejected("Identifiant de personne sur une BAL de structure / person id on a structure's mailbox")
        try:
            found = parse_person_id(national or kind + number)
        except InvalidIdentifier as error:
            raise Rejected(str(error)) from None
        if (number and number != found.number) or (kind and kind != found.type.value):
            raise Rejected("Identification nationale PP contredite par l'identifiant / person ids disagree")
        return str(found)

    def _structure(self, kind: str, number: str, *, needed: bool) -> str:
        if not number:
            if needed:
                raise Rejected("Ni personne ni structure / neither person nor structure")
            return ""
        found = structure_id(kind, number)
        if found is None:
            if needed:
                raise Rejected("Identification structure invalide / invalid structure id")
            self._warn("Identification structure invalide, laissée de côté / invalid structure id, left out")
            return ""
        return found

    @staticmethod
    def _flag(value: str, column: str) -> bool:
        upper = value.upper()
        if upper not in _YES and upper not in _NO:
            raise Rejected(f"{column} : O ou N attendu / O or N expected")
        return upper in _YES


@lru_cache(maxsize=65536)
def structure_id(kind: str, number: str) -> str | None:
    """The national id of a structure from a register's name or code and a number, with or without its type's digit.

    None when it does not check. Without a register the number must say it itself (`1` + FINESS...).
    """
    register = _REGISTERS.get(kind.upper())
    candidates = [register.value + number, number] if register else [number]
    for candidate in candidates:
        if register and not candidate.startswith(register.value):
            continue
        try:
            return str(parse_structure_id(candidate))
        except InvalidIdentifier:
            continue
    return None


@lru_cache(maxsize=65536)
def city_of(routing: str) -> str:
    """The town of a routing line (`69003 LYON`, `75014 PARIS CEDEX 14`), without postal code nor CEDEX."""
    parts = routing.split()
    if parts and _POSTAL.fullmatch(parts[0]):
        parts = parts[1:]
    if "CEDEX" in (upper := [part.upper() for part in parts]):
        parts = parts[: upper.index("CEDEX")]
    return " ".join(parts)
