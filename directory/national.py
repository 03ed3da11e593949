"""Joins the rows of the national extraction files into mailboxes, by address and by the person's national id.

Invariants
* The order of files and of rows changes nothing: everything gathered is a set, and whatever must choose takes the least.
* An address that two identities claim is nobody's: all its rows are rejected.
* Memory holds mailboxes and what their holders' rows say, never a whole file: 2,000,000 activity rows are read for the
  identifiers that own a mailbox, the others passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from directory.entry import EXTRACTION, OBJECT_CLASS, Attributes
from directory.identifiers import StructureIdType
from directory.mailbox_rows import MailboxRow, structure_id
from directory.naming import Facts, derived
from directory.nomenclature import is_speciality_code

Note = tuple[str, ...]
"""Something another file says of a person: (kind, value, ...). Notes are shared: a country has few different ones."""
SKILL, PROFESSION, PLACE, DIPLOMA, AUTHORISATION = "skill", "profession", "place", "diploma", "authorisation"


@dataclass(frozen=True, slots=True)
class Claim:
    """Where a row was read, for the report."""

    file: int
    line: int


class NationalDirectory:
    """The mailboxes of one delivery."""

    def __init__(self) -> None:
        self._rows: dict[str, MailboxRow | list[MailboxRow]] = {}
        self._claims: dict[str, Claim | list[Claim]] = {}
        self._people: dict[str, list[Note]] = {}
        self._shared: dict[Note, Note] = {}
        self.rejected: set[str] = set()
        """Addresses with a rejected row: what the directory already holds of them is left as it is."""

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: MailboxRow, claim: Claim) -> None:
        """Take one accepted row of mailboxes. Most addresses have one row: no list is made for them."""
        known = self._rows.setdefault(row.mail, row)
        if known is row:
            self._claims[row.mail] = claim
            if row.person:
                self._people.setdefault(row.person, _NOTHING)
            return
        claims = self._claims[row.mail]
        if not isinstance(known, list) or not isinstance(claims, list):
            known = self._rows[row.mail] = [known] if isinstance(known, MailboxRow) else known
            claims = self._claims[row.mail] = [claims] if isinstance(claims, Claim) else claims
        known.append(row)
        claims.append(claim)
        if row.person:
            self._people.setdefault(row.person, _NOTHING)

    def owns(self, person: str) -> bool:
        """Whether a mailbox is `person`'s."""
        return person in self._people

    def note(self, person: str, notes: Iterable[Note]) -> None:
        """Note what another file says of somebody who owns a mailbox."""
        known = self._people[person]
        if known is _NOTHING:
            known = self._people[person] = []
        for one in notes:
            shared = self._shared.setdefault(one, one)
            if shared not in known:
                known.append(shared)

    def conflicts(self) -> list[tuple[str, list[Claim]]]:
        """Take out the addresses that several identities claim; returns them with the places of their rows."""
        found: list[tuple[str, list[Claim]]] = []
        for mail, rows in self._rows.items():
            if isinstance(rows, list) and len({_identity(row) for row in rows}) > 1:
                claims = self._claims[mail]
                found.append((mail, sorted(claims if isinstance(claims, list) else [claims], key=_place)))
        for mail, _ in found:
            del self._rows[mail]
            self.rejected.add(mail)
        return sorted(found)

    def release(self) -> None:
        """Forget where rows were read, once conflicts are told."""
        self._claims.clear()

    def addresses(self) -> list[str]:
        """Every address, sorted."""
        return sorted(self._rows)

    def __contains__(self, mail: str) -> bool:
        return mail in self._rows

    def attributes(self, mail: str) -> Attributes:
        """The directory attributes of the mailbox `mail`."""
        known = self._rows[mail]
        rows = sorted(known) if isinstance(known, list) else [known]
        return _attributes(rows, self._people.get(rows[0].person, _NOTHING))


_NOTHING: list[Note] = []


def _identity(row: MailboxRow) -> tuple[str, str, str]:
    """Who a mailbox belongs to: a person, wherever they practise, or else a structure."""
    return row.kind, row.person, "" if row.person else row.structure


def _place(claim: Claim) -> tuple[int, int]:
    return claim.file, claim.line


def _attributes(rows: list[MailboxRow], notes: list[Note]) -> Attributes:
    first = rows[0]
    _, *place = min((one for one in notes if one[0] == PLACE), default=(PLACE, "", "", "", ""))
    known_skills = [one for one in notes if one[0] == SKILL]
    structures = sorted({row.structure for row in rows if row.structure} or ({place[0]} if place[0] else set()))
    skills = sorted({row.skill for row in rows if row.skill} | {one[1] for one in known_skills})
    labels = sorted(({row.skill_label for row in rows} | {one[2] for one in known_skills}) - {""})
    facts = Facts(
        given_name=first.given_name,
        surname=first.surname,
        profession=first.profession or min((one[1] for one in notes if one[0] == PROFESSION), default=""),
        specialities=skills,
        speciality_label=labels[0] if labels else "",
        organisation=first.organisation or place[1],
        service=first.service,
        city=first.city or place[3],
        postal_code=first.postal_code or place[2],
        mail=first.mail,
    )
    single = {
        "mail": first.mail,
        "TypeBAL": first.kind,
        "givenName": facts.given_name,
        "sn": facts.surname,
        "profession": facts.profession,
        "o": facts.organisation,
        "ou": facts.service,
        "l": facts.city,
        "postalCode": facts.postal_code,
        "street": first.street,
        "dematerialisation": "TRUE" if any(row.paperless for row in rows) else "",
        "listeRouge": "TRUE" if any(row.red_list for row in rows) else "",
        "origine": EXTRACTION,
        "IdentifiantPP": first.person[1:],
        "TypeIdentifiantPP": first.person[:1],
        "IdentifiantPM": structures[0][1:] if structures else "",
        "TypeIdentifiantPM": _REGISTERS[structures[0][0]] if structures else "",
    }
    several = {
        "savoirFaire": skills,
        "idNatStruct": structures,
        "diplome": sorted(one[1] for one in notes if one[0] == DIPLOMA),
        "autorisation": sorted(one[1] for one in notes if one[0] == AUTHORISATION),
        **derived(facts),
    }
    return {
        "objectClass": [OBJECT_CLASS.encode()],
        **{name: [value.encode()] for name, value in single.items() if value},
        **{name: [value.encode() for value in values] for name, values in several.items() if values},
    }


_REGISTERS = {one.value: one.name for one in StructureIdType}
_SITES = (("FINESS", "finess"), ("SIRET", "siret"), ("SIREN", "siren"))


def activity_notes(fields: dict[str, str]) -> Iterator[Note]:
    """What a row of Personne_activite says."""
    yield from skill_notes(fields)
    if fields.get("profession"):
        yield PROFESSION, fields["profession"]
    structure = next((found for kind, key in _SITES if (found := structure_id(kind, fields.get(key, "")))), "")
    organisation = fields.get("organisation") or fields.get("sign", "")
    if structure or organisation:
        yield PLACE, structure, organisation, fields.get("postal_code", ""), fields.get("city", "")


def skill_notes(fields: dict[str, str]) -> Iterator[Note]:
    """The skill (savoir-faire) of a row."""
    if is_speciality_code(fields.get("skill", "")):
        yield SKILL, fields["skill"], fields.get("skill_label", "")


def diploma_notes(fields: dict[str, str]) -> Iterator[Note]:
    """What a row of Dipl_AutExerc says."""
    for kind in (DIPLOMA, AUTHORISATION):
        if fields.get(kind):
            yield kind, fields[kind][:32]
