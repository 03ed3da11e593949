"""What an entry shows and is found by, made from its facts: `cn`, `displayName`, `title`, `departement`, `cleRecherche`.

Why several `cn`: address books show the first value, and search in all. LDAP's matching rules do not see that `Lefèvre`
and `lefevre` are one name, so two more values hold the plain words: name and place, then speciality and place
("cardio lyon" typed in a client becomes `(cn=cardio*lyon*)`). `cleRecherche` holds each plain word by itself, for exact,
prefix and one-letter-off searches (see `correspondents`). Invariants: pure; made of public facts only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from directory.nomenclature import CALLED, PROFESSION_LABELS, SPECIALITY_LABELS, department_of
from directory.wording import together, words

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
    return _calling(facts.profession, tuple(facts.specialities), facts.speciality_label)[0]


@lru_cache(maxsize=4096)
def _calling(profession: str, codes: tuple[str, ...], label: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """What somebody does: (title, the words that tell it best, every word it is looked for by)."""
    speciality = next((SPECIALITY_LABELS[code] for code in codes if code in SPECIALITY_LABELS), "")
    parts = (PROFESSION_LABELS.get(profession, ""), speciality or label)
    role = ", ".join(part for part in parts if part)[:_LONGEST_CN]
    called = [CALLED.get(code, "") for code in (*codes, profession)]
    return role, words(role.partition(", ")[2] or role), words(role, *called)


def derived(facts: Facts) -> dict[str, list[str]]:
    """The derived attributes of an entry; none is empty."""
    shown = display_name(facts)
    role, kind, called = _calling(facts.profession, tuple(facts.specialities), facts.speciality_label)
    name, place = words(facts.surname, facts.given_name), words(facts.city)
    kind = kind or words(facts.service, facts.description)
    house = words(facts.organisation, facts.service, facts.description)
    who = name or words(facts.organisation)
    department = department_of(facts.postal_code)
    found = (*together(name, place, called, house), *words(facts.postal_code, department))
    values = {
        "cn": _distinct((shown, " ".join((*who, *place)), " ".join((*kind[:_KIND_WORDS], *place)))),
        "displayName": _distinct((shown,)),
        "title": [role] if role else [],
        "departement": [department] if department else [],
        "cleRecherche": list(dict.fromkeys(found)),
    }
    return {key: some for key, some in values.items() if some}


def _distinct(values: Sequence[str]) -> list[str]:
    """Without empty values and without those that LDAP's caseIgnoreMatch holds equal."""
    seen: dict[str, str] = {}
    for value in values:
        short = value[:_LONGEST_CN].strip()
        if short:
            seen.setdefault(" ".join(short.lower().split()), short)
    return list(seen.values())
