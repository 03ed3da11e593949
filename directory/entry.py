"""A directory entry (one mailbox) as a value, and its forms: LDAP attributes and LDIF (RFC 2849).

Invariants: attribute names are those of mssante.md §5.1; the DN of an entry we make is built from its address, so an
address exists once; every national identifier written is well formed; a certificate that cannot be read is left out
(without it nobody encrypts, which is the safe side), it never hides the rest of the entry.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import ldif  # type: ignore[import-untyped]  # python-ldap ships it untyped, outside the `ldap` package
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from ldap.dn import escape_dn_chars

from directory.errors import DirectoryError
from directory.identifiers import (
    PersonId,
    PersonIdType,
    StructureId,
    StructureIdType,
    parse_person_id,
    parse_structure_id,
)

BASE: Final = "dc=mssante,dc=fr"
OBJECT_CLASS: Final = "balMSSante"
CERTIFICATE: Final = "userCertificate;binary"
MAX_CERTIFICATES: Final = 32
MAX_LDIF: Final = 64 * 1024 * 1024

# RFC 5321 local-part and domain lengths; only the ASCII dot-string form, which is what the trust space uses.
_ADDRESS = re.compile(r"(?=.{3,254}\Z)[a-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*@[a-z0-9.-]+")

Attributes = dict[str, list[bytes]]


class MailboxKind(StrEnum):
    """TypeBAL, the national mailbox types (TRE_R257; mssante.md §4.1)."""

    PER = "PER"
    ORG = "ORG"
    APP = "APP"
    CAB = "CAB"


@dataclass(frozen=True, slots=True)
class Entry:
    """One mailbox of the directory. Empty string: not given.

    `mail` is lower case. `national_id` is `8`+RPPS or `0`+ADELI; `structure_id` is `1`+FINESS, `2`+SIREN or `3`+SIRET;
    `profession` is a TRE_G15 code, `speciality` a TRE_R01 code. `red_list` entries are hidden from anonymous readers.
    """

    dn: str
    mail: str
    kind: MailboxKind
    given_name: str = ""
    surname: str = ""
    national_id: str = ""
    profession: str = ""
    organisation: str = ""
    structure_id: str = ""
    city: str = ""
    certificates: tuple[x509.Certificate, ...] = ()
    speciality: str = ""
    description: str = ""
    red_list: bool = False


def entry_dn(mail: str, base: str = BASE) -> str:
    """The DN of the mailbox `mail` in a directory of ours. Raises DirectoryError when `mail` is not an address."""
    return f"mail={escape_dn_chars(checked_address(mail))},ou=bal,{base}"


def checked_address(mail: str) -> str:
    """`mail` in lower case; DirectoryError when it is not a plain ASCII address (RFC 5321 §4.1.2, dot-string)."""
    lowered = mail.lower()
    if not _ADDRESS.fullmatch(lowered):
        raise DirectoryError("Adresse de messagerie mal formée / malformed mail address")
    return lowered


def to_attributes(entry: Entry) -> Attributes:
    """The LDAP attributes of `entry`, without those that are empty. Raises InvalidIdentifier or DirectoryError."""
    values: dict[str, str] = {
        "mail": checked_address(entry.mail),
        "TypeBAL": entry.kind.value,
        "givenName": entry.given_name,
        "sn": entry.surname,
        "profession": entry.profession,
        "savoirFaire": entry.speciality,
        "o": entry.organisation,
        "l": entry.city,
        "description": entry.description,
        "listeRouge": "TRUE" if entry.red_list else "",
    }
    if entry.national_id:
        person = parse_person_id(entry.national_id)
        values |= {"IdentifiantPP": person.number, "TypeIdentifiantPP": person.type.value}
    if entry.structure_id:
        structure = parse_structure_id(entry.structure_id)
        values |= {"IdentifiantPM": structure.number, "TypeIdentifiantPM": structure.type.name}
    if len(entry.certificates) > MAX_CERTIFICATES:
        raise DirectoryError(f"Plus de {MAX_CERTIFICATES} certificats par BAL / too many certificates in one entry")
    attributes: Attributes = {"objectClass": [OBJECT_CLASS.encode()]}
    attributes.update((name, [value.encode()]) for name, value in values.items() if value)
    if entry.certificates:
        attributes[CERTIFICATE] = [c.public_bytes(Encoding.DER) for c in dict.fromkeys(entry.certificates)]
    return attributes


# The attributes `publish` owns: an update replaces exactly these, and leaves those an administrator added.
MANAGED: Final = (
    "givenName", "sn", "profession", "savoirFaire", "o", "l", "description", "listeRouge",
    "IdentifiantPP", "TypeIdentifiantPP", "IdentifiantPM", "TypeIdentifiantPM", CERTIFICATE,
)  # fmt: skip
READ: Final = ("objectClass", "mail", "TypeBAL", *MANAGED)


def from_attributes(dn: str, attributes: Mapping[str, Sequence[bytes]]) -> Entry:
    """The entry at `dn`; attribute names in any case. Raises DirectoryError when it is not a usable mailbox entry."""
    by_name = {name.lower(): values for name, values in attributes.items()}

    def first(name: str) -> str:
        values = by_name.get(name.lower())
        return values[0].decode("utf-8", "replace") if values else ""

    try:
        kind = MailboxKind(first("TypeBAL").upper())
    except ValueError as error:
        raise DirectoryError("Fiche d'annuaire sans TypeBAL connu / entry without a known TypeBAL") from error
    certificates = by_name.get(CERTIFICATE.lower()) or by_name.get("usercertificate") or ()
    return Entry(
        dn=dn,
        mail=checked_address(first("mail")),
        kind=kind,
        given_name=first("givenName"),
        surname=first("sn"),
        national_id=_person_id(first("TypeIdentifiantPP"), first("IdentifiantPP")),
        profession=first("profession"),
        organisation=first("o"),
        structure_id=_structure_id(first("TypeIdentifiantPM"), first("IdentifiantPM")),
        city=first("l"),
        certificates=_certificates(certificates),
        speciality=first("savoirFaire"),
        description=first("description"),
        red_list=first("listeRouge").upper() == "TRUE",
    )


def _person_id(kind: str, number: str) -> str:
    try:
        return str(parse_person_id(str(PersonId(PersonIdType(kind), number))))
    except ValueError:
        return ""  # an identifier that does not check identifies nobody


def _structure_id(kind: str, number: str) -> str:
    try:
        return str(parse_structure_id(str(StructureId(StructureIdType[kind.upper()], number))))
    except (KeyError, ValueError):
        return ""


def _certificates(values: Sequence[bytes]) -> tuple[x509.Certificate, ...]:
    found: list[x509.Certificate] = []
    for value in values[:MAX_CERTIFICATES]:
        try:
            found.append(x509.load_der_x509_certificate(value))
        except ValueError:
            continue
    return tuple(found)


def skeleton_ldif(base: str = BASE) -> str:
    """LDIF of the two entries above all mailboxes: the suffix and `ou=bal`. `base` must begin with a `dc`."""
    name = base.split(",", 1)[0].partition("=")
    if name[0].strip().lower() != "dc" or not name[2]:
        raise DirectoryError("Le suffixe de l'annuaire doit commencer par dc= / the suffix must begin with dc=")
    return _ldif(
        [
            (base, {"objectClass": [b"dcObject", b"organization"], "dc": [name[2].encode()], "o": [b"MSSante"]}),
            (f"ou=bal,{base}", {"objectClass": [b"organizationalUnit"], "ou": [b"bal"]}),
        ]
    )


def to_ldif(entries: Iterable[Entry]) -> str:
    """LDIF text of `entries` (RFC 2849), in their order. Raises InvalidIdentifier or DirectoryError."""
    return _ldif((entry.dn, to_attributes(entry)) for entry in entries)


def _ldif(records: Iterable[tuple[str, Attributes]]) -> str:
    output = io.StringIO()
    writer = ldif.LDIFWriter(output)
    for dn, attributes in records:
        writer.unparse(dn, attributes)
    return output.getvalue()


def from_ldif(text: str) -> list[Entry]:
    """The mailbox entries in LDIF `text`; entries of other classes are passed over.

    Values given by URL (`attr:< file://...`) are refused, never fetched. Raises DirectoryError on text that is not LDIF, is
    larger than MAX_LDIF characters, or holds an unusable mailbox entry.
    """
    if len(text) > MAX_LDIF:
        raise DirectoryError("Fichier LDIF trop grand / LDIF file too large")
    records = ldif.LDIFRecordList(io.StringIO(text), process_url_schemes=None)
    try:
        records.parse()
    except (ValueError, UnicodeError) as error:
        raise DirectoryError("Fichier LDIF illisible / unreadable LDIF file") from error
    if any(
        value is None for _, attributes in records.all_records for values in attributes.values() for value in values
    ):
        raise DirectoryError("LDIF : valeur donnée par URL refusée / LDIF: value given by URL refused")
    return [from_attributes(dn, attributes) for dn, attributes in records.all_records if _is_mailbox(attributes)]


def _is_mailbox(attributes: Mapping[str, Sequence[bytes]]) -> bool:
    classes = [v.lower() for name, values in attributes.items() if name.lower() == "objectclass" for v in values]
    return OBJECT_CLASS.lower().encode() in classes
