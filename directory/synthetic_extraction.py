"""Writes deliveries of the national extraction that hold nobody: for practice, tests and measurements, up to full size.

The shape is the published one (mssante.md §5.4, measured on 25 and 26/08/2026): 85 % PER and 15 % ORG; 5,018 domains with a
median of 4 mailboxes, p90 87, p99 1,193, the largest 62,151, the top 10 holding 46 % and the top 50 66 %; 169 addresses
on several lines in 535,928; activity rows, most of them of people without a mailbox. Numbers are valid in form and outside
what registers give (RPPS 1099…, FINESS 99…). The same seed gives the same bytes on every machine.
"""

from __future__ import annotations

import math
import random
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import IO, Final

from directory.identifiers import with_luhn
from directory.nomenclature import PROFESSION_LABELS, SPECIALITY_LABELS
from directory.wording import plain

FULL_MAILBOXES: Final = 535_928
FULL_ACTIVITIES: Final = 2_000_000
DOMAINS: Final = 5_018
MAILBOX_HEADER: Final = (
    "Type de BAL|Adresse BAL|Type Identifiant PP|Identifiant PP|Identification nationale PP|Type identifiant structure|"
    "Identification Structure|Service de rattachement|Civilité d'exercice|Nom d'exercice|Prénom d'exercice|"
    "Catégorie profession|Libellé de catégorie profession|Code Profession|Libellé Profession|Code savoir-faire|"
    "Libellé savoir-faire|Dématérialisation|Raison Sociale structure BAL|Enseigne commerciale structure BAL|"
    "L2COMPLEMENTLOCALISATION structure BAL|L3COMPLEMENTDISTRIBUTION structure BAL|L4NUMEROVOIE structure BAL|"
    "L4COMPLEMENTNUMEROVOIE structure BAL|NL4TYPEVOIE structure BAL|L4LIBELLEVOIE structure BAL|"
    "L5LIEUDITMENTION structure BAL|L6LIGNEACHEMINEMENT structure BAL|Code postal structure BAL|"
    "Département structure BAL|Pays structure BAL"
)
ACTIVITY_HEADER: Final = (
    "Type d'identifiant PP|Identifiant PP|Identification nationale PP|Code civilité d'exercice|"
    "Libellé civilité d'exercice|Code civilité|Libellé civilité|Nom d'exercice|Prénom d'exercice|Code profession|"
    "Libellé profession|Code catégorie professionnelle|Libellé catégorie professionnelle|Code type savoir-faire|"
    "Libellé type savoir-faire|Code savoir-faire|Libellé savoir-faire|Code mode exercice|Libellé mode exercice|"
    "Numéro SIRET site|Numéro SIREN site|Numéro FINESS site|Numéro FINESS établissement juridique|"
    "Identifiant technique de la structure|Raison sociale site|Enseigne commerciale site|"
    "Complément destinataire (coord. structure)|Complément point géographique (coord. structure)|"
    "Numéro Voie (coord. structure)|Indice répétition voie (coord. structure)|Code type de voie (coord. structure)|"
    "Libellé type de voie (coord. structure)|Libellé Voie (coord. structure)|Mention distribution (coord. structure)|"
    "Bureau cedex (coord. structure)|Code postal (coord. structure)|Code commune (coord. structure)|"
    "Libellé commune (coord. structure)|Code pays (coord. structure)|Libellé pays (coord. structure)|"
    "Téléphone (coord. structure)|Téléphone 2 (coord. structure)|Télécopie (coord. structure)|"
    "Adresse e-mail (coord. structure)|Code Département (structure)|Libellé Département (structure)|"
    "Ancien identifiant de la structure|Autorité d'enregistrement|Code secteur d'activité|Libellé secteur d'activité|"
    "Code section tableau pharmaciens|Libellé section tableau pharmaciens|Code rôle|Libellé rôle|Code genre activité|"
    "Libellé genre activité|"
)
SKILL_HEADER: Final = (
    "Type d'identifiant PP|Identifiant PP|Identification nationale PP|Nom d'exercice|Prénom d'exercice|Code profession|"
    "Libellé profession|Code catégorie professionnelle|Libellé catégorie professionnelle|Code type savoir-faire|"
    "Libellé type savoir-faire|Code savoir-faire|Libellé savoir-faire|"
)
DIPLOMA_HEADER: Final = (
    "Type d'identifiant PP|Identifiant PP|Identification nationale PP|Nom d'exercice|Prénom d'exercice|"
    "Code type diplôme obtenu|Libellé type diplôme obtenu|Code diplôme obtenu|Libellé diplôme obtenu|"
    "Code type autorisation|Libellé type autorisation|Code discipline autorisation|Libellé discipline autorisation|"
)
_NATIONAL_DOMAINS: Final = (
    "medecin", "infirmier", "masseur-kinesitherapeute", "pharmacien", "chirurgien-dentiste", "sage-femme", "pro",
    "orthophoniste", "pedicure-podologue", "social",
)  # fmt: skip
_WORDS: Final = (
    "ba be bi bon du da lo ma mar tin ler oux ron son vil lan cour bou pel lier gar nier che val dou ger mé ré lé ta"
)
_SYLLABLES: Final = tuple(_WORDS.split())
_REGIONS: Final = ("aura", "oc", "paca", "idf", "bretagne", "naq", "elsan", "grandest")
_PROFESSIONS: Final = {"10": 45, "60": 20, "21": 10, "70": 9, "40": 7, "50": 4, "91": 3, "80": 2}


@dataclass(frozen=True, slots=True)
class Delivery:
    """What to write. `removed` and `changed` are how many of the first rows go and differ from those of a delivery
    without them; `created` how many are added: two deliveries of one seed are two days of one country.
    """

    mailboxes: int = 1000
    activities: int = 3000
    seed: int = 0
    created: int = 0
    removed: int = 0
    changed: int = 0


def full_size() -> Delivery:
    """The country of August 2026."""
    return Delivery(FULL_MAILBOXES, FULL_ACTIVITIES)


def next_months(delivery: Delivery) -> Delivery:
    """The same country 75 days later: +25,756 and −36,119 mailboxes at full size (mssante.md §5.4)."""
    scale = delivery.mailboxes / FULL_MAILBOXES
    return replace(delivery, created=round(25_756 * scale), removed=round(36_119 * scale))


def write_delivery(
    folder: Path, delivery: Delivery, *, stamp: str = "202608260200", zipped: bool = False
) -> list[Path]:
    """Write the four files (or the two ZIP archives they come in) and return their paths."""
    country = _Country(delivery)
    files = {
        f"Extraction_Correspondance_MSSante_{stamp}.txt": country.mailbox_lines,
        f"PS_LibreAcces_Personne_activite_{stamp}.txt": country.activity_lines,
        f"PS_LibreAcces_SavoirFaire_{stamp}.txt": country.skill_lines,
        f"PS_LibreAcces_Dipl_AutExerc_{stamp}.txt": country.diploma_lines,
    }
    paths = []
    for name, lines in files.items():
        path = folder / name
        with path.open("wb") as file:
            _write(file, lines())
        paths.append(path)
    if not zipped:
        return paths
    archives = {"Extraction_Correspondance_MSSante.zip": paths[:1], "PS_LibreAcces.zip": paths[1:]}
    for archive, members in archives.items():
        with zipfile.ZipFile(folder / archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in members:
                packed.write(path, path.name)
                path.unlink()
    return [folder / archive for archive in archives]


def _write(file: IO[bytes], lines: Iterator[str]) -> None:
    block: list[str] = []
    for line in lines:
        block.append(line)
        if len(block) == 5000:
            file.write(("\n".join(block) + "\n").encode())
            block.clear()
    if block:
        file.write(("\n".join(block) + "\n").encode())


def domain_weights(count: int = DOMAINS) -> list[float]:
    """Relative sizes of the domains, largest first: power laws between the published quantiles."""
    known = [
        (1, 62_151.0),
        (2, 45_000.0),
        (10, 8_500.0),
        (11, 6_500.0),
        (50, 1_193.0),
        (502, 87.0),
        (2_509, 4.0),
        (DOMAINS, 1.0),
    ]
    weights = []
    for number in range(count):
        rank = 1 + number * (DOMAINS - 1) / max(count - 1, 1)
        (low, high) = next((a, b) for a, b in pairwise(known) if rank <= b[0])
        share = math.log(rank / low[0]) / math.log(high[0] / low[0])
        weights.append(low[1] * (high[1] / low[1]) ** share)
    return weights


class _Country:
    """People, structures and towns drawn once; rows made from them by number."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        draw = random.Random(delivery.seed)  # noqa: S311  (people to practise with, not secrets)

        def invented(syllables: tuple[int, ...], count: int) -> list[str]:
            return ["".join(draw.choices(_SYLLABLES, k=draw.choice(syllables))) for _ in range(count)]

        self._surnames, self._given = invented((2, 3, 3, 4), 40_000), invented((2,), 2_000)
        self._cities = [
            (name.upper(), f"{1 + number % 95:02d}{number % 1000:03d}")
            for number, name in enumerate(invented((2, 3), 6_000))
        ]
        self._domains = [
            f"{_NATIONAL_DOMAINS[rank]}.mssante.fr"
            if rank < len(_NATIONAL_DOMAINS)
            else f"structure{rank}.{_REGIONS[rank % len(_REGIONS)]}.mssante.fr"
            for rank in range(min(DOMAINS, max(20, delivery.mailboxes)))
        ]
        self._domain_sums = list(accumulate(domain_weights(len(self._domains))))
        self._specialities = sorted(SPECIALITY_LABELS)

    def _numbers(self) -> Iterator[int]:
        """Numbers of the mailboxes of this delivery: spread removals, then creations."""
        wanted = self._delivery
        step = wanted.mailboxes / wanted.removed if wanted.removed else 0.0
        gone = {int(index * step) for index in range(wanted.removed)}
        yield from (number for number in range(wanted.mailboxes) if number not in gone)
        yield from range(wanted.mailboxes, wanted.mailboxes + wanted.created)

    def _draw(self, number: int, what: str) -> random.Random:
        return random.Random(f"{self._delivery.seed}/{what}/{number}")  # noqa: S311

    def mailbox_lines(self) -> Iterator[str]:
        """Header and rows of the extraction of mailboxes."""
        yield MAILBOX_HEADER
        doubled = round(self._delivery.mailboxes * 169 / FULL_MAILBOXES)
        for number in self._numbers():
            draw = self._draw(number, "bal")
            domain = draw.choices(self._domains, cum_weights=self._domain_sums)[0]
            city, code = self._place(draw)
            if number < self._delivery.changed:
                city, code = self._place(self._draw(number, "move"))
            if draw.random() < 455_471 / 535_357:
                yield self._person_row(draw, number, domain, city, code)
                if number < doubled:  # the same mailbox, in a second structure
                    yield self._person_row(self._draw(number, "bal2"), number, domain, city, code, again=True)
            else:
                yield self._structure_row(draw, number, domain, city, code)

    def _place(self, draw: random.Random) -> tuple[str, str]:
        return self._cities[int(len(self._cities) * draw.random() ** 2.5)]

    def _identity(self, number: int) -> tuple[str, str, str, str, str]:
        """(RPPS, surname, given name, profession, speciality) of the person `number`."""
        draw = self._draw(number, "pp")
        surname = self._surnames[int(len(self._surnames) * draw.random() ** 2)]
        given = self._given[int(len(self._given) * draw.random() ** 2)]
        profession = draw.choices(list(_PROFESSIONS), list(_PROFESSIONS.values()))[0]
        speciality = draw.choice(("SM54", "SM26", draw.choice(self._specialities))) if profession == "10" else ""
        return with_luhn(f"1099{number:06d}"), surname, given, profession, speciality

    def _person_row(
        self, draw: random.Random, number: int, domain: str, city: str, code: str, *, again: bool = False
    ) -> str:
        rpps, surname, given, profession, skill = self._identity(number)
        own = draw.random() < 0.4 or again
        finess = with_luhn(f"99{draw.randrange(20_000):06d}") if own else ""
        label = SPECIALITY_LABELS.get(skill, "")
        house = f"CENTRE HOSPITALIER {city}" if own else f"CABINET {surname.upper()}"
        return (
            f"PER|{plain(given)}.{plain(surname)}{number}@{domain}|8|{rpps}|8{rpps}|{'FINESS' if own else ''}|{finess}||"
            f"{'DR' if profession == '10' else 'MME'}|{surname.upper()}|{given.capitalize()}|C|Civil|{profession}|"
            f"{PROFESSION_LABELS[profession]}|{skill}|{label}|{'O' if number % 3 else 'N'}|{house}|{house}|||"
            f"{number % 90}||RUE|DE LA PAIX||{code} {city}|{code}|Exemple|France"
        )

    def _structure_row(self, draw: random.Random, number: int, domain: str, city: str, code: str) -> str:
        finess = with_luhn(f"99{draw.randrange(20_000):06d}")
        service = draw.choice(("Secrétariat", "Cardiologie", "Imagerie", "Biologie", "Urgences", "Accueil"))
        return (
            f"ORG|{plain(service)}{number}@{domain}||||FINESS|{finess}|{service}||||||||||O|CENTRE HOSPITALIER {city}|||||||"
            f"||{code} {city}|{code}|Exemple|France"
        )

    def activity_lines(self) -> Iterator[str]:
        """Header and rows of activities: everybody has one, some two; beyond the mailboxes, people without any."""
        yield ACTIVITY_HEADER
        for row in range(self._delivery.activities):
            number = row * 3 // 4 if row % 4 else row * 3 // 4 + 1
            rpps, surname, given, profession, skill = self._identity(number)
            city, code = self._cities[row % len(self._cities)]
            label = SPECIALITY_LABELS.get(skill, "")
            yield (
                f"8|{rpps}|8{rpps}|DR|Docteur|MME|Madame|{surname.upper()}|{given.capitalize()}|{profession}|"
                f"{PROFESSION_LABELS[profession]}|C|Civil|S|Spécialité ordinale|{skill}|{label}|L|Libéral|||||"
                f"R{row}|CABINET DU DR {surname.upper()}||||12||R|Rue|DE LA PAIX||"
                f"{code} {city}|{code}|{code}|{city}|99000|France|||||"
                f"{code[:2]}|Exemple|4{rpps}0001|CNOM/CNOM/CNOM|SA07|Cabinet individuel|||||||"
            )

    def skill_lines(self) -> Iterator[str]:
        """Header and rows of skills: a second speciality for one person in ten."""
        yield SKILL_HEADER
        for number in range(0, self._delivery.mailboxes, 10):
            rpps, surname, given, profession, _ = self._identity(number)
            skill = self._specialities[number % len(self._specialities)]
            yield (
                f"8|{rpps}|8{rpps}|{surname.upper()}|{given.capitalize()}|{profession}|{PROFESSION_LABELS[profession]}|C|Civil|S|"
                f"Spécialité ordinale|{skill}|{SPECIALITY_LABELS[skill]}|"
            )

    def diploma_lines(self) -> Iterator[str]:
        """Header and rows of diplomas."""
        yield DIPLOMA_HEADER
        for number in range(0, self._delivery.mailboxes, 2):
            rpps, surname, given, _, _ = self._identity(number)
            yield f"8|{rpps}|8{rpps}|{surname.upper()}|{given.capitalize()}|DE|Diplôme d'Etat|DE09|DE Docteur en médecine|||||"
