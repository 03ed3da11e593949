"""The national extraction files' headers: which file is it, and where is each column, whatever the wording and the order.

Invariants: pure. Columns are found by their wording reduced to plain words without articles (`Libellé civilité
d'exercice`, `Libellé civilité exercice`, `(coord. Structure)`: mssante.md §5.4), never by their place; an unknown column is
never read; a file that lacks a column we need, or has one twice, is refused with the column's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from directory.errors import DirectoryError
from directory.wording import plain

_ARTICLES: Final = frozenset({"d", "de", "du", "des", "l", "la", "le", "les", "pour"})
MAX_COLUMNS: Final = 200


class FileKind(StrEnum):
    """The extraction files we know (mssante.md §5.4)."""

    MAILBOXES = "Extraction_Correspondance_MSSante"
    ACTIVITIES = "PS_LibreAcces_Personne_activite"
    SKILLS = "PS_LibreAcces_SavoirFaire"
    DIPLOMAS = "PS_LibreAcces_Dipl_AutExerc"


# Our name for a column → its wording, normalised. The first tuple is needed, the second is used when present.
_PERSON: Final = {"person": "identification nationale pp"}
_MAILBOX: Final = {
    "kind": "type bal",
    "mail": "adresse bal",
    "person_type": "type identifiant pp",
    "person_number": "identifiant pp",
    **_PERSON,
    "structure_type": "type identifiant structure",
    "structure": "identification structure",
    "service": "service rattachement",
    "surname": "nom exercice",
    "given_name": "prenom exercice",
    "profession": "code profession",
    "skill": "code savoir faire",
    "skill_label": "libelle savoir faire",
    "paperless": "dematerialisation",
    "organisation": "raison sociale structure bal",
}
_MAILBOX_OPTIONAL: Final = {
    "sign": "enseigne commerciale structure bal",
    "number": "l4numerovoie structure bal",
    "street_type": "nl4typevoie structure bal",
    "street": "l4libellevoie structure bal",
    "routing": "l6ligneacheminement structure bal",
    "postal_code": "code postal structure bal",
    "red_list": "liste rouge",
}
_ACTIVITY: Final = {
    **_PERSON,
    "profession": "code profession",
    "skill": "code savoir faire",
}
_ACTIVITY_OPTIONAL: Final = {
    "skill_label": "libelle savoir faire",
    "siret": "numero siret site",
    "siren": "numero siren site",
    "finess": "numero finess site",
    "organisation": "raison sociale site",
    "sign": "enseigne commerciale site",
    "postal_code": "code postal coord structure",
    "city": "libelle commune coord structure",
}
_SKILL: Final = {**_PERSON, "skill": "code savoir faire"}
_DIPLOMA: Final = {**_PERSON, "diploma": "code diplome obtenu"}
_DIPLOMA_OPTIONAL: Final = {"authorisation": "code type autorisation"}
_NEEDED: Final = {
    FileKind.MAILBOXES: _MAILBOX,
    FileKind.ACTIVITIES: _ACTIVITY,
    FileKind.SKILLS: _SKILL,
    FileKind.DIPLOMAS: _DIPLOMA,
}
_OPTIONAL: Final[dict[FileKind, dict[str, str]]] = {
    FileKind.MAILBOXES: _MAILBOX_OPTIONAL,
    FileKind.ACTIVITIES: _ACTIVITY_OPTIONAL,
    FileKind.SKILLS: {"skill_label": "libelle savoir faire"},
    FileKind.DIPLOMAS: _DIPLOMA_OPTIONAL,
}
# What tells a file from the others, most telling first.
_TELLING: Final = {
    FileKind.MAILBOXES: "adresse bal",
    FileKind.DIPLOMAS: "code diplome obtenu",
    FileKind.ACTIVITIES: "code mode exercice",
    FileKind.SKILLS: "code type savoir faire",
}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a file's columns are. `width` is the number of columns its header names."""

    kind: FileKind
    width: int
    places: dict[str, int]


def normalised(column: str) -> str:
    """The wording of a column reduced to what does not vary between deliveries."""
    return " ".join(word for word in plain(column).split() if word not in _ARTICLES)


def layout(header: Sequence[str]) -> Layout:
    """The layout of a file from its header. Raises DirectoryError naming what is missing, doubled or unknown."""
    names = [normalised(column) for column in header]
    while names and not names[-1]:
        names.pop()  # PS_LibreAcces lines end with a separator
    if len(names) > MAX_COLUMNS:
        raise DirectoryError("Trop de colonnes pour une extraction / too many columns for an extraction")
    kind = next((kind for kind, word in _TELLING.items() if word in names), None)
    if kind is None:
        raise DirectoryError(
            "En-tête inconnu : ce n'est aucune des extractions attendues (Correspondance MSSanté, Personne activité, "
            "Savoir-faire, Diplômes) / unknown header: none of the expected extractions"
        )
    wanted = {**_NEEDED[kind], **_OPTIONAL[kind]}
    for name in wanted.values():
        if names.count(name) > 1:
            raise DirectoryError(f"{kind} : colonne « {name} » en double / column given twice")
    missing = [name for name in _NEEDED[kind].values() if name not in names]
    if missing:
        raise DirectoryError(f"{kind} : colonne absente / missing column: {', '.join(missing)}")
    return Layout(kind, len(names), {key: names.index(name) for key, name in wanted.items() if name in names})
