"""What an entry shows and is found by, made from its facts: `cn`, `displayName`, `title`, `departement`, `cleRecherche`.

Why several `cn`: address books show the first value, and search in all. LDAP's matching rules do not see that `Lefèvre`
and `lefevre` are one name, so two more values hold the plain words: name and place, then speciality and place
("cardio lyon" typed in a client becomes `(cn=cardio*lyon*)`). `cleRecherche` holds each plain word by itself, for exact,
prefix and one-letter-off searches (see `correspondents`). Invariants: pure; made of public facts only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from directory.nomenclature import CALLED, PROFESSION_LABELS, SPECIALITY_LABELS, department_of
from directory.wording import words

DERIVED: Final = ("cn", "displayName", "title", "departement", "cleRecherche")
_LONGEST_CN: Final = 200
_KIND_WORDS: Final = 3  # each letter of a `cn` is a key of the index: the whole title is in `title`


@dataclass(frozen=True, slots=True)
class Facts:
    """What the derived attributes are made of; empty when not known. Codes as in the entry, names as people write them."""

    given_name: str = ""
    surname: str = ""
    profession: str = ""
    specialities: Sequence[str] = ()
    speciality_label: str = ""
    organisation: str = ""
    service: str = ""
    description: str = ""
    city: str = ""
    postal_code: str = ""
    mail: str = ""


def display_name(facts: Facts) -> str:
    """`Prénom NOM` of a person (ECO.2.2.7, without the optional title), else `structure – service`, else the address."""
    person = " ".join(part for part in (facts.given_name, facts.surname.upper()) if part)
    service = facts.service or facts.description
    place = " – ".join(dict.fromkeys(part for part in (facts.organisation, service) if part))
    return (person or place or facts.mail)[:_LONGEST_CN]


def title(facts: Facts) -> str:
    """The profession in words, with the speciality: `Médecin, Cardiologie et Maladies vasculaires`."""
    speciality = next((SPECIALITY_LABELS[code] for code in facts.specialities if code in SPECIALITY_LABELS), "")
    parts = (PROFESSION_LABELS.get(facts.profession, ""), speciality or facts.speciality_label)
    return ", ".join(part for part in parts if part)[:_LONGEST_CN]


def derived(facts: Facts) -> dict[str, list[str]]:
    """The derived attributes of an entry; none is empty."""
    shown, role = display_name(facts), title(facts)
    called = [CALLED.get(code, "") for code in (*facts.specialities, facts.profession)]
    name = words(facts.surname, facts.given_name)
    place = words(facts.city)
    kind = words(role.partition(", ")[2] or role) or words(facts.service, facts.description)
    house = words(facts.organisation, facts.service, facts.description)
    who = name or words(facts.organisation)
    values = {
        "cn": [shown, " ".join((*who, *place)), " ".join((*kind[:_KIND_WORDS], *place))],
        "displayName": [shown],
        "title": [role],
        "departement": [department_of(facts.postal_code)],
        "cleRecherche": [
            *words(" ".join(name), " ".join(place), role, *called, " ".join(house)),
            *words(facts.postal_code, department_of(facts.postal_code)),
        ],
    }
    return {key: _distinct(some) for key, some in values.items() if any(some)}


def _distinct(values: Sequence[str]) -> list[str]:
    """Without empty values and without those that LDAP's caseIgnoreMatch holds equal."""
    seen: dict[str, str] = {}
    for value in values:
        short = value[:_LONGEST_CN].strip()
        if short:
            seen.setdefault(" ".join(short.lower().split()), short)
    return list(seen.values())
