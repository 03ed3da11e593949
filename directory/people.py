"""Synthetic professionals and structures for practice, the demonstration and tests. Nobody here exists.

How the numbers are chosen: RPPS `10999` + a 5-digit counter + Luhn digit; FINESS `990` + a 5-digit counter + Luhn digit
(99 is no department). Both are valid in form and outside what the registers give, so they can be told at sight.
Names are common French given names and surnames drawn by a seeded generator; the same seed gives the same people on
every machine. Addresses are unique: a name drawn again gets a number (`marie.martin2@…`).
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from directory.entry import BASE, Entry, MailboxKind, entry_dn
from directory.errors import DirectoryError
from directory.identifiers import Finess, Rpps, parse_finess, parse_rpps, with_luhn

MAX_PEOPLE: Final = 20_000


@dataclass(frozen=True, slots=True)
class City:
    """A city with its department as certificates write it: `Rhône (69)`."""

    name: str
    department: str


@dataclass(frozen=True, slots=True)
class Structure:
    """A synthetic health structure. `domain` is its MSSanté domain."""

    finess: Finess
    name: str
    domain: str
    city: City

    @property
    def national_id(self) -> str:
        """`1` + FINESS."""
        return "1" + self.finess


@dataclass(frozen=True, slots=True)
class Professional:
    """A synthetic professional. `profession` is a TRE_G15 code, `speciality` a TRE_R01 code or empty, `civility` DR,
    M, MME.
    """

    rpps: Rpps
    civility: str
    given_name: str
    surname: str
    profession: str
    speciality: str
    city: City
    mail: str
    structure: Structure | None = None

    @property
    def national_id(self) -> str:
        """`8` + RPPS."""
        return "8" + self.rpps

    @property
    def profession_label(self) -> str:
        """The profession in French, as `title` in certificates."""
        return PROFESSIONS[self.profession].label

    def entry(self, *, base: str = BASE, certificates: Sequence[x509.Certificate] = ()) -> Entry:
        """The directory entry of this professional's PER mailbox."""
        return Entry(
            dn=entry_dn(self.mail, base),
            mail=self.mail,
            kind=MailboxKind.PER,
            given_name=self.given_name,
            surname=self.surname,
            national_id=self.national_id,
            profession=self.profession,
            speciality=self.speciality,
            organisation=self.structure.name if self.structure else "",
            structure_id=self.structure.national_id if self.structure else "",
            city=self.city.name,
            certificates=tuple(certificates),
        )


@dataclass(frozen=True, slots=True)
class Profession:
    """A TRE_G15 profession, its national mail domain (mssante.md §4.2) and its share among the synthetic people."""

    label: str
    domain: str
    share: int


PROFESSIONS: Final = {
    "10": Profession("Médecin", "medecin.mssante.fr", 45),
    "21": Profession("Pharmacien", "pharmacien.mssante.fr", 12),
    "40": Profession("Chirurgien-Dentiste", "chirurgien-dentiste.mssante.fr", 8),
    "50": Profession("Sage-Femme", "sage-femme.mssante.fr", 5),
    "60": Profession("Infirmier", "infirmier.mssante.fr", 17),
    "70": Profession("Masseur-Kinésithérapeute", "masseur-kinesitherapeute.mssante.fr", 8),
    "80": Profession("Pédicure-Podologue", "pedicure-podologue.mssante.fr", 2),
    "91": Profession("Orthophoniste", "orthophoniste.mssante.fr", 3),
}
# TRE_R01 codes and labels (mssante.md §6); general practice is drawn as often as all the others together.
SPECIALITIES: Final = {
    "SM54": "Médecine générale",
    "SM26": "Qualifié en Médecine générale",
    "SM02": "Anesthésie-réanimation",
    "SM04": "Cardiologie et Maladies vasculaires",
    "SM15": "Dermatologie et vénéréologie",
    "SM18": "Gériatrie",
    "SM20": "Gynécologie-obstétrique",
    "SM24": "Gastro-entérologie et Hépatologie",
    "SM32": "Neurologie",
    "SM38": "Ophtalmologie",
    "SM40": "Pédiatrie",
    "SM41": "Pneumologie",
    "SM42": "Psychiatrie",
    "SM44": "Radio-diagnostic",
    "SM59": "Médecine d'urgence",
}
LYON: Final = City("Lyon", "Rhône (69)")
CITIES: Final = (
    LYON,
    City("Paris", "Paris (75)"),
    City("Marseille", "Bouches-du-Rhône (13)"),
    City("Toulouse", "Haute-Garonne (31)"),
    City("Nice", "Alpes-Maritimes (06)"),
    City("Nantes", "Loire-Atlantique (44)"),
    City("Strasbourg", "Bas-Rhin (67)"),
    City("Montpellier", "Hérault (34)"),
    City("Bordeaux", "Gironde (33)"),
    City("Lille", "Nord (59)"),
    City("Rennes", "Ille-et-Vilaine (35)"),
    City("Ajaccio", "Corse-du-Sud (2A)"),
    City("Saint-Denis", "La Réunion (974)"),
)
_WOMEN: Final = (
    "Marie", "Anne", "Élodie", "Nathalie", "Isabelle", "Sylvie", "Françoise", "Hélène", "Chloé", "Camille", "Léa",
    "Manon", "Anaïs", "Noémie", "Agnès", "Marie-Claude", "Zoé", "Aïcha", "Inès", "Béatrice",
)  # fmt: skip
_MEN: Final = (
    "Jean", "Pierre", "Michel", "André", "Philippe", "René", "François", "Jérôme", "Loïc", "Benoît", "Jean-Paul",
    "Rémi", "Hugo", "Lucas", "Mehdi", "Étienne", "Gaël", "Antoine", "Cédric", "Noël",
)  # fmt: skip
_SURNAMES: Final = (
    "MARTIN", "BERNARD", "THOMAS", "PETIT", "ROBERT", "RICHARD", "DURAND", "DUBOIS", "MOREAU", "LAURENT", "SIMON",
    "MICHEL", "LEFÈVRE", "LEROY", "ROUX", "DAVID", "BERTRAND", "MOREL", "FOURNIER", "GIRARD", "BONNET", "DUPONT",
    "LAMBERT", "FONTAINE", "ROUSSEAU", "VINCENT", "MÜLLER", "LE GOFF", "D'ARTOIS", "N'GUESSAN", "GARCÍA", "LEFÈBVRE",
    "MERCIER", "BLANC", "GUÉRIN", "BOYER", "GARNIER", "CHEVALIER", "FRANÇOIS", "LEGRAND", "GAUTHIER", "PERRIN",
    "ROBIN", "CLÉMENT", "MORIN", "NICOLAS", "HENRY", "ROUSSEL", "MATHIEU", "GAUTIER", "MASSON", "MARCHAND",
)  # fmt: skip


def synthetic_rpps(counter: int) -> Rpps:
    """The `counter`-th synthetic RPPS number (1 gives 10999000010). Raises InvalidIdentifier outside 1..99999."""
    return parse_rpps(with_luhn(f"10999{counter:05d}"))


def synthetic_finess(counter: int) -> Finess:
    """The `counter`-th synthetic FINESS number (1 gives 990000010). Raises InvalidIdentifier outside 1..99999."""
    return parse_finess(with_luhn(f"990{counter:05d}"))


CHU_EXEMPLE: Final = Structure(synthetic_finess(1), "CHU EXEMPLE", "chu-exemple.mssante.fr", LYON)
STRUCTURES: Final = (
    CHU_EXEMPLE,
    Structure(synthetic_finess(2), "CLINIQUE EXEMPLE DES PINS", "clinique-pins-exemple.mssante.fr", CITIES[2]),
    Structure(synthetic_finess(3), "LABORATOIRE EXEMPLE", "labo-exemple.mssante.fr", CITIES[5]),
    Structure(synthetic_finess(4), "EHPAD EXEMPLE LES TILLEULS", "ehpad-exemple.mssante.fr", CITIES[9]),
)
CARDIOLOGY: Final = "cardiologie@chu-exemple.mssante.fr"
GATEWAY: Final = "passerelle@chu-exemple.mssante.fr"
CLAIRE_EXEMPLE: Final = Professional(
    synthetic_rpps(1), "DR", "Claire", "EXEMPLE", "10", "SM54", LYON, "claire.exemple@medecin.mssante.fr"
)
ALICE_MARTIN_DURAND: Final = Professional(
    synthetic_rpps(2), "DR", "Alice", "MARTIN-DURAND", "10", "SM04", LYON,
    "alice.martin-durand@chu-exemple.mssante.fr", CHU_EXEMPLE,
)  # fmt: skip


def synthetic_professionals(count: int = 300, *, seed: int = 0) -> list[Professional]:
    """`count` synthetic professionals: Dr EXEMPLE, Dr MARTIN-DURAND, then people drawn with `seed`.

    Addresses and RPPS numbers are unique. Raises DirectoryError when `count` is not within 0..MAX_PEOPLE.
    """
    if not 0 <= count <= MAX_PEOPLE:
        raise DirectoryError(f"Nombre de professionnels de 0 à {MAX_PEOPLE} / number of people out of range")
    people = [CLAIRE_EXEMPLE, ALICE_MARTIN_DURAND][:count]
    draw = random.Random(seed)  # noqa: S311  (people to practise with, not secrets)
    taken = {CLAIRE_EXEMPLE.mail, ALICE_MARTIN_DURAND.mail, CARDIOLOGY, GATEWAY}
    codes = list(PROFESSIONS)
    shares = [PROFESSIONS[code].share for code in codes]
    for counter in range(3, count + 1):
        people.append(_draw_person(draw, counter, draw.choices(codes, shares)[0], taken))
    return people


def _draw_person(draw: random.Random, counter: int, profession: str, taken: set[str]) -> Professional:
    woman = draw.random() < 0.55
    given_name = draw.choice(_WOMEN if woman else _MEN)
    surname = draw.choice(_SURNAMES)
    structure = draw.choice(STRUCTURES) if profession in ("10", "60", "21") and draw.random() < 0.3 else None
    city = structure.city if structure else draw.choice(CITIES)
    return Professional(
        rpps=synthetic_rpps(counter),
        civility="DR" if profession == "10" else "MME" if woman else "M",
        given_name=given_name,
        surname=surname,
        profession=profession,
        speciality=_draw_speciality(draw) if profession == "10" else "",
        city=city,
        mail=_free_address(
            given_name, surname, structure.domain if structure else PROFESSIONS[profession].domain, taken
        ),
        structure=structure,
    )


def _draw_speciality(draw: random.Random) -> str:
    codes = list(SPECIALITIES)
    return codes[draw.randrange(2)] if draw.random() < 0.5 else draw.choice(codes[2:])


def _free_address(given_name: str, surname: str, domain: str, taken: set[str]) -> str:
    local = f"{_plain(given_name)}.{_plain(surname)}"
    address, number = f"{local}@{domain}", 1
    while address in taken:
        number += 1
        address = f"{local}{number}@{domain}"
    taken.add(address)
    return address


def _plain(name: str) -> str:
    """`LE GOFF` → `le-goff`, `Élodie` → `elodie`: what address local parts are made of."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return "-".join("".join(c if c.isalnum() else " " for c in ascii_name).split())


def structure_mailboxes(*, base: str = BASE) -> list[Entry]:
    """The mailboxes of the synthetic structures: CHU EXEMPLE's cardiology (ORG) and gateway (APP), a secretariat
    (ORG) each.
    """

    def box(mail: str, kind: MailboxKind, structure: Structure, description: str) -> Entry:
        return Entry(
            dn=entry_dn(mail, base),
            mail=mail,
            kind=kind,
            organisation=structure.name,
            structure_id=structure.national_id,
            city=structure.city.name,
            description=description,
        )

    boxes = [
        box(CARDIOLOGY, MailboxKind.ORG, CHU_EXEMPLE, "Service de cardiologie"),
        box(GATEWAY, MailboxKind.APP, CHU_EXEMPLE, "Passerelle de diffusion des comptes rendus"),
    ]
    boxes += [box(f"secretariat@{s.domain}", MailboxKind.ORG, s, "Secrétariat médical") for s in STRUCTURES]
    return boxes


def synthetic_entries(count: int = 300, *, seed: int = 0, base: str = BASE) -> list[Entry]:
    """Directory entries of `synthetic_professionals(count, seed=seed)` and of the structures' mailboxes."""
    people = [person.entry(base=base) for person in synthetic_professionals(count, seed=seed)]
    return people + structure_mailboxes(base=base)
