"""Small extraction files for the tests, made of chosen rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from directory.extraction import Report, read_delivery
from directory.national import NationalDirectory
from directory.synthetic_extraction import ACTIVITY_HEADER, MAILBOX_HEADER, SKILL_HEADER

COLUMNS = MAILBOX_HEADER.split("|")
CLAIRE = {
    "Type de BAL": "PER",
    "Adresse BAL": "claire.essai@medecin.mssante.fr",
    "Type Identifiant PP": "8",
    "Identifiant PP": "10999000010",
    "Identification nationale PP": "810999000010",
    "Nom d'exercice": "ESSAI",
    "Prénom d'exercice": "Claire",
    "Code Profession": "10",
    "Code savoir-faire": "SM04",
    "Libellé savoir-faire": "Cardiologie et Maladies vasculaires",
    "Dématérialisation": "O",
    "L6LIGNEACHEMINEMENT structure BAL": "69003 LYON CEDEX 03",
    "Code postal structure BAL": "69003",
}
SERVICE = {
    "Type de BAL": "ORG",
    "Adresse BAL": "cardio@chu-essai.mssante.fr",
    "Type identifiant structure": "FINESS",
    "Identification Structure": "990000010",
    "Service de rattachement": "Cardiologie",
    "Raison Sociale structure BAL": "CHU ESSAI",
    "Dématérialisation": "N",
    "L6LIGNEACHEMINEMENT structure BAL": "69003 LYON",
}


def row(columns: Sequence[str] = COLUMNS, **changes: str) -> str:
    """A line made from CLAIRE, with changes given by column (spaces and signs of the wording as `_`)."""
    return line({**CLAIRE, **{_column(name): value for name, value in changes.items()}}, columns)


def line(values: dict[str, str], columns: Sequence[str] = COLUMNS) -> str:
    return "|".join(values.get(column, "") for column in columns)


def _column(name: str) -> str:
    short = {
        "mail": "Adresse BAL",
        "kind": "Type de BAL",
        "national": "Identification nationale PP",
        "number": "Identifiant PP",
        "number_type": "Type Identifiant PP",
        "surname": "Nom d'exercice",
        "profession": "Code Profession",
        "skill": "Code savoir-faire",
        "paperless": "Dématérialisation",
        "structure_type": "Type identifiant structure",
        "structure": "Identification Structure",
        "routing": "L6LIGNEACHEMINEMENT structure BAL",
    }
    return short[name]


def mailboxes(folder: Path, *rows: str, header: str = MAILBOX_HEADER) -> Path:
    """A file of mailboxes with these rows."""
    path = folder / "Extraction_Correspondance_MSSante_202608260200.txt"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def activities(folder: Path, *rows: dict[str, str]) -> Path:
    """A file of activities; columns not given are empty."""
    columns = ACTIVITY_HEADER.rstrip("|").split("|")
    path = folder / "PS_LibreAcces_Personne_activite_202608260200.txt"
    lines = ["|".join(one.get(column, "") for column in columns) + "|" for one in rows]
    path.write_text("\n".join([ACTIVITY_HEADER, *lines]) + "\n", encoding="utf-8")
    return path


def skills(folder: Path, *rows: dict[str, str]) -> Path:
    """A file of skills."""
    columns = SKILL_HEADER.rstrip("|").split("|")
    path = folder / "PS_LibreAcces_SavoirFaire_202608260200.txt"
    lines = ["|".join(one.get(column, "") for column in columns) + "|" for one in rows]
    path.write_text("\n".join([SKILL_HEADER, *lines]) + "\n", encoding="utf-8")
    return path


def read(*paths: Path, max_rejected: float = 1.0) -> tuple[NationalDirectory, Report]:
    report = Report()
    return read_delivery(list(paths), report, max_rejected=max_rejected), report
