"""A directory entry (one mailbox) as a value, and its forms: LDAP attributes and LDIF (RFC 2849).

Invariants: attribute names are those of mssante.md §5.1; the DN of an entry we make is built from its address, so an
address exists once; every national identifier written is well formed; a certificate that cannot be read is left out
(without it nobody encrypts, which is the safe side), it never hides the rest of the entry.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import ldif  # type: ignore[import-untyped]  # python-ldap ships it untyped, outside the `ldap` package
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.hazmat.primitives.serialization.pkcs7 import load_der_pkcs7_certificates
from ldap.dn import escape_dn_chars

from directory.errors import DirectoryError
from directory.identifiers import (
    PERSON_CHECKS,
    STRUCTURE_CHECKS,
    StructureIdType,
    parse_person_id,
    parse_structure_id,
)
from directory.naming import DERIVED, Facts, derived, display_name

BASE: Final = "dc=mssante,dc=fr"
OBJECT_CLASS: Final = "balMSSante"
CERTIFICATE: Final = "userCertificate;binary"
SMIME_CERTIFICATE: Final = "userSMIMECertificate"  # its syntax is Binary: slapd knows it without the option ;binary
OPERATOR: Final = "operateur"
EXTRACTION: Final = "extraction"
"""Values of `origine`: who keeps an entry up to date. None: an administrator."""
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


_KINDS: Final = {kind.value: kind for kind in MailboxKind}


@dataclass(frozen=True, slots=True)
class Entry:
    """One mailbox of the directory. Empty string: not given.

    `mail` is lower case. `national_id` is `8`+RPPS or `0`+ADELI; `structure_id` is `1`+FINESS, `2`+SIREN or `3`+SIRET;
    `profession` is a TRE_G15 code, `speciality` a TRE_R01 code (the first one, when there are several). `service` is the
    service inside the structure, `dematerialised` whether the holder does without paper. `suspended` mailboxes are hidden
    like those of the red list, and nobody encrypts to them. `red_list` entries are hidden
    from anonymous readers.
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
    service: str = ""
    postal_code: str = ""
    dematerialised: bool = False
    suspended: bool = False

    @property
    def facts(self) -> Facts:
        """What the shown and searched attributes are made of (see `naming`)."""
        return Facts(
            given_name=self.given_name,
            surname=self.surname,
            profession=self.profession,
            specialities=(self.speciality,) if self.speciality else (),
            organisation=self.organisation,
            service=self.service,
            description=self.description,
            city=self.city,
            postal_code=self.postal_code,
            mail=self.mail,
        )

    @property
    def display_name(self) -> str:
        """The name that address books show."""
        return display_name(self.facts)


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
        "ou": entry.service,
        "postalCode": entry.postal_code,
        "dematerialisation": "TRUE" if entry.dematerialised else "",
        "listeRouge": "TRUE" if entry.red_list else "",
        "suspendue": "TRUE" if entry.suspended else "",
        "origine": OPERATOR,
    }
    if entry.national_id:
        person = parse_person_id(entry.national_id)
        values |= {"IdentifiantPP": person.number, "TypeIdentifiantPP": person.type.value}
    if entry.structure_id:
        structure = parse_structure_id(entry.structure_id)
        values |= {"IdentifiantPM": structure.number, "TypeIdentifiantPM": structure.type.name}
        values["idNatStruct"] = entry.structure_id
    if len(entry.certificates) > MAX_CERTIFICATES:
        raise DirectoryError(f"Plus de {MAX_CERTIFICATES} certificats par BAL / too many certificates in one entry")
    attributes: Attributes = {"objectClass": [OBJECT_CLASS.encode()]}
    attributes.update((name, [value.encode()]) for name, value in values.items() if value)
    attributes.update((name, [value.encode() for value in some]) for name, some in derived(entry.facts).items())
    if entry.certificates:
        attributes[CERTIFICATE] = [c.public_bytes(Encoding.DER) for c in dict.fromkeys(entry.certificates)]
    return attributes


# The attributes `publish` owns: an update replaces exactly these, and leaves those an administrator added.
MANAGED: Final = (
    "givenName", "sn", "profession", "savoirFaire", "o", "l", "description", "listeRouge",
    "IdentifiantPP", "TypeIdentifiantPP", "IdentifiantPM", "TypeIdentifiantPM", "idNatStruct", "ou", "postalCode",
    "dematerialisation", "suspendue", "origine", *DERIVED, CERTIFICATE, SMIME_CERTIFICATE,
)  # fmt: skip
READ: Final = (
    "objectClass", "mail", "TypeBAL", "givenName", "sn", "profession", "savoirFaire", "o", "l", "description", "listeRouge",
    "IdentifiantPP", "TypeIdentifiantPP", "IdentifiantPM", "TypeIdentifiantPM", "ou", "postalCode", "dematerialisation",
    "suspendue", CERTIFICATE, SMIME_CERTIFICATE, "entryUUID",
)  # fmt: skip


_CANONICAL: Final = {name.lower(): name for name in READ} | {
    "usercertificate": CERTIFICATE, f"{SMIME_CERTIFICATE.lower()};binary": SMIME_CERTIFICATE,
}  # fmt: skip
_READ: Final = frozenset(READ)


def from_attributes(dn: str, attributes: Mapping[str, Sequence[bytes]]) -> Entry:
    """The entry at `dn`; attribute names in any case. Raises DirectoryError when it is not a usable mailbox entry."""
    if not attributes.keys() <= _READ:
        attributes = {_CANONICAL.get(name.lower(), name): values for name, values in attributes.items()}
    # Made for every look-up: one pass over what is there, which is less than what may be, and a call only where one is needed.
    first = {
        name: values[0].decode("utf-8", "replace")
        for name, values in attributes.items()
        if values and name not in _BINARY
    }.get
    kind = _KINDS.get(first("TypeBAL", "").upper())
    if kind is None:
        raise DirectoryError("Fiche d'annuaire sans TypeBAL connu / entry without a known TypeBAL")
    certificates, bundles = attributes.get(CERTIFICATE, ()), attributes.get(SMIME_CERTIFICATE, ())
    return Entry(
        dn=dn,
        mail=checked_address(first("mail", "")),
        kind=kind,
        given_name=first("givenName", ""),
        surname=first("sn", ""),
        national_id=_person_id(first("TypeIdentifiantPP", ""), number) if (number := first("IdentifiantPP")) else "",
        profession=first("profession", ""),
        organisation=first("o", ""),
        structure_id=_structure_id(first("TypeIdentifiantPM", ""), number)
        if (number := first("IdentifiantPM"))
        else "",
        city=first("l", ""),
        certificates=_certificates(certificates, bundles) if certificates or bundles else (),
        speciality=first("savoirFaire", ""),
        description=first("description", ""),
        red_list=first("listeRouge", "").upper() == "TRUE",
        service=first("ou", ""),
        postal_code=first("postalCode", ""),
        dematerialised=first("dematerialisation", "").upper() == "TRUE",
        suspended=first("suspendue", "").upper() == "TRUE",
    )


_BINARY: Final = frozenset({CERTIFICATE, SMIME_CERTIFICATE, "objectClass", "entryUUID"})


def _person_id(kind: str, number: str) -> str:
    check = PERSON_CHECKS.get(kind)
    try:
        return kind + check(number) if check else ""
    except ValueError:
        return ""  # an identifier that does not check identifies nobody


_REGISTERS: Final = {one.name: (one.value, STRUCTURE_CHECKS[one.value]) for one in StructureIdType}


def _structure_id(register: str, number: str) -> str:
    digit, check = _REGISTERS.get(register) or _REGISTERS.get(register.upper()) or ("", None)
    try:
        return digit + check(number) if check else ""
    except ValueError:
        return ""


def _certificates(values: Sequence[bytes], bundles: Sequence[bytes]) -> tuple[x509.Certificate, ...]:
    """Those of userCertificate, then those of userSMIMECertificate (a PKCS#7 bundle, RFC 2798 §2.8)."""
    found: dict[x509.Certificate, None] = {}
    for value in values[:MAX_CERTIFICATES]:
        with contextlib.suppress(ValueError):
            found[x509.load_der_x509_certificate(value)] = None
    for bundle in bundles[:MAX_CERTIFICATES]:
        with contextlib.suppress(ValueError, UnsupportedAlgorithm):
            found.update(dict.fromkeys(load_der_pkcs7_certificates(bundle)))
    return tuple(found)[:MAX_CERTIFICATES]


def skeleton(base: str = BASE) -> list[tuple[str, Attributes]]:
    """(dn, attributes) of the suffix and of the branch of mailboxes. `base` must begin with a `dc`."""
    name = base.split(",", 1)[0].partition("=")
    if name[0].strip().lower() != "dc" or not name[2]:
        raise DirectoryError("Le suffixe de l'annuaire doit commencer par dc= / the suffix must begin with dc=")
    return [
        (base, {"objectClass": [b"dcObject", b"organization"], "dc": [name[2].encode()], "o": [b"MSSante"]}),
        (f"ou=bal,{base}", {"objectClass": [b"organizationalUnit"], "ou": [b"bal"]}),
    ]


def to_ldif(entries: Iterable[Entry]) -> str:
    """LDIF text of `entries` (RFC 2849), in their order. Raises InvalidIdentifier or DirectoryError."""
    return ldif_text((entry.dn, to_attributes(entry)) for entry in entries)


def ldif_text(records: Iterable[tuple[str, Attributes]]) -> str:
    """LDIF text of (dn, attributes) records, in their order (RFC 2849)."""
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
