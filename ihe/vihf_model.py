"""The words of the VIHF: what goes in, what comes out, names of the two forms of XML it uses (dmp.md §2). Values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from lxml import etree

from ihe.values import Code, Identifier
from ihe.xml import Element

SAML = "urn:oasis:names:tc:SAML:2.0:assertion"
DS = "http://www.w3.org/2000/09/xmldsig#"
HL7 = "urn:hl7-org:v3"
EXC_C14N = "http://www.w3.org/2001/10/xml-exc-c14n#"
ENVELOPED = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"

SUBJECT_ID = "urn:oasis:names:tc:xspa:1.0:subject:subject-id"
SUBJECT_ROLE = "urn:oasis:names:tc:xacml:2.0:subject:role"
RESOURCE_ID = "urn:oasis:names:tc:xacml:2.0:resource:resource-id"
PURPOSE_OF_USE = "urn:oasis:names:tc:xspa:1.0:subject:purposeofuse"
CONFIDENTIALITY = "urn:oasis:names:tc:xspa:1.0:resource:patient:hl7:confidentiality-code"
TLS_CLIENT = "urn:oasis:names:tc:SAML:2.0:ac:classes:TLSClient"
SECTOR_SYSTEM = "1.2.250.1.71.4.2.4"
NORMAL_USE = Code("normal", "1.2.250.1.213.1.1.4.248", "Accès normal")

RSA_SHA256 = "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256"
SHA256 = "http://www.w3.org/2001/04/xmlenc#sha256"


class VihfError(Exception):
    """The assertion is refused. `code` is stable, the two texts carry no data of the patient."""

    def __init__(self, code: str, french: str, english: str) -> None:
        super().__init__(f"{code}: {english}")
        self.code = code
        self.french = french
        self.english = english


@dataclass(frozen=True, slots=True)
class VihfSettings:
    """What the sources disagree on, or what belongs to the software (dmp.md §2, §13)."""

    version: str = "3.0"
    mode_attribute: str = "Authentification_Mode"
    mode: str = "INDIRECTE"
    software_name: str = "Caducee"
    software_version: str = "0.1"
    software_id: str = ""
    homologation_id: str = "TEST-HOMOL-0000"
    authn_context: str = TLS_CLIENT


@dataclass(frozen=True, slots=True)
class VihfContent:
    """Who acts, for which structure, about which patient.

    `name_id`: PS_IdNat of the person (or of the person responsible for the processing); `roles`: profession (G15), then
    the speciality for physicians and pharmacists; `sector`: `SAxx`.
    """

    name_id: str
    subject_name: str
    roles: tuple[Code, ...]
    structure_id: str
    sector: str
    ins: str = field(repr=False)
    ins_oid: str
    authenticated_at: datetime
    purpose: Code = NORMAL_USE
    invisible_to_guardians: bool = False


@dataclass(frozen=True, slots=True)
class Vihf:
    """A verified assertion: only signed values. `certificate` signed it; its path has still to be checked."""

    assertion_id: str
    issuer: str
    issued_at: datetime
    authenticated_at: datetime
    authn_context: str
    name_id: str
    subject_name: str
    roles: tuple[Code, ...]
    structure_id: str
    sector: str
    patient: Identifier = field(repr=False)
    resource_urn: str
    purpose: Code
    mode: str
    version: str
    invisible_to_guardians: bool
    software_name: str
    software_version: str
    homologation_id: str
    certificate: x509.Certificate = field(repr=False)

    def __bool__(self) -> bool:
        raise TypeError("a VIHF has no truth value: the certificate's path has still to be checked")


def exclusive(element: Element, prefixes: Sequence[str] = ()) -> bytes:
    """Exclusive canonical form, without comments (RFC 3741)."""
    return etree.tostring(
        element, method="c14n", exclusive=True, with_comments=False, inclusive_ns_prefixes=list(prefixes) or None
    )
