"""Codes the directory knows: professions (TRE_G15), specialities (TRE_R01), what people call them, departments.

Invariants: codes and labels are those of mssante.md §6; `CALLED` holds everyday words of ours that are only ever added
to search keys. An unknown speciality code is carried as it is; an unknown profession is a rejected row.
"""

from __future__ import annotations

import re
from typing import Final

PROFESSION_LABELS: Final = {
    "10": "Médecin", "21": "Pharmacien", "26": "Audioprothésiste", "28": "Opticien-Lunetier", "31": "Assistant dentaire",
    "32": "Physicien médical", "35": "Aide-soignant", "36": "Ambulancier", "37": "Auxiliaire de puériculture",
    "38": "Préparateur en pharmacie hospitalière", "39": "Préparateur en pharmacie", "40": "Chirurgien-Dentiste",
    "50": "Sage-Femme", "60": "Infirmier", "69": "Infirmier psychiatrique", "70": "Masseur-Kinésithérapeute",
    "80": "Pédicure-Podologue", "81": "Orthoprothésiste", "82": "Podo-Orthésiste", "83": "Orthopédiste-Orthésiste",
    "84": "Oculariste", "85": "Epithésiste", "86": "Technicien de labo médical", "91": "Orthophoniste",
    "92": "Orthoptiste", "93": "Psychologue", "94": "Ergothérapeute", "95": "Diététicien", "96": "Psychomotricien",
    "98": "Manipulateur ERM",
}  # fmt: skip
# 71 is seen in real extractions without being in the published list; 200 to 210 are the social professions.
KNOWN_PROFESSIONS: Final = frozenset(PROFESSION_LABELS) | {"71"} | {str(code) for code in range(200, 211)}

SPECIALITY_LABELS: Final = {
    "SM01": "Anatomie et Cytologie pathologiques", "SM02": "Anesthésie-réanimation", "SM03": "Biologie médicale",
    "SM04": "Cardiologie et Maladies vasculaires", "SM08": "Chirurgie orthopédique et Traumatologie",
    "SM14": "Chirurgie viscérale et digestive", "SM15": "Dermatologie et vénéréologie", "SM18": "Gériatrie",
    "SM20": "Gynécologie-obstétrique", "SM24": "Gastro-entérologie et Hépatologie", "SM25": "Médecine du travail",
    "SM26": "Qualifié en Médecine générale", "SM30": "Néphrologie", "SM32": "Neurologie",
    "SM36": "Oncologie option médicale", "SM37": "Oncologie option radiothérapie", "SM38": "Ophtalmologie",
    "SM40": "Pédiatrie", "SM41": "Pneumologie", "SM42": "Psychiatrie", "SM44": "Radio-diagnostic",
    "SM48": "Rhumatologie", "SM49": "Santé publique et Médecine sociale", "SM53": "Spécialiste en Médecine générale",
    "SM54": "Médecine générale", "SM59": "Médecine d'urgence", "SM62": "Endocrinologie, diabétologie, nutrition",
}  # fmt: skip
# What a speciality or a profession is called when it is not by its label. A word that begins a label needs no line.
CALLED: Final = {
    "SM02": "anesthesiste reanimateur", "SM03": "biologiste", "SM04": "cardiologue", "SM08": "orthopediste chirurgien",
    "SM14": "chirurgien viscéral", "SM15": "dermatologue dermato", "SM18": "geriatre", "SM20": "gyneco gynecologue obstetricien",
    "SM24": "gastro gastroenterologue hepatologue", "SM26": "generaliste", "SM30": "nephrologue", "SM32": "neurologue",
    "SM36": "oncologue cancerologue", "SM37": "radiotherapeute", "SM38": "ophtalmologue ophtalmo ophtalmologiste",
    "SM40": "pediatre", "SM41": "pneumologue", "SM42": "psychiatre", "SM44": "radiologue radiologie", "SM48": "rhumatologue",
    "SM53": "generaliste", "SM54": "generaliste", "SM59": "urgentiste urgences", "SM62": "endocrinologue diabetologue",
    "40": "dentiste", "60": "infirmiere ide", "70": "kine kinesitherapeute kinesitherapie", "80": "podologue",
    "98": "manipulateur radio",
}  # fmt: skip

_SPECIALITY: Final = re.compile(r"[A-Z]{1,5}[0-9]{1,4}")


def is_speciality_code(value: str) -> bool:
    """Whether `value` has the form of a TRE_R01 code (`SM04`, `SCH12`, `CAPA03`)."""
    return _SPECIALITY.fullmatch(value) is not None


def department_of(postal_code: str) -> str:
    """Department number of a French postal code (`69003` gives `69`, `20090` gives `2A`, `97400` gives `974`), or ""."""
    if len(postal_code) != 5 or not postal_code.isascii() or not postal_code.isdigit():
        return ""
    if postal_code.startswith(("97", "98")):
        return postal_code[:3]
    if postal_code.startswith("20"):
        return "2A" if postal_code[2] in "01" else "2B"
    return postal_code[:2]
