"""What is read from the header of a CDA R2 document (CI-SIS "structuration minimale", dmp.md §4). Values only."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from ihe.ins import InsCheck, check_ins
from ihe.values import Code, Hl7Time, Identifier


class CdaError(Exception):
    """The document cannot be read as a CDA. `code` is stable, the two texts carry no data of the patient."""

    def __init__(self, code: str, french: str, english: str) -> None:
        super().__init__(f"{code}: {english}")
        self.code = code
        self.french = french
        self.english = english


class CdaForm(StrEnum):
    """How the ClinicalDocument is wrapped (dmp.md §4.1)."""

    PLAIN = "plain"
    SIGNED = "signed"
    SELF_PRESENTING = "self-presenting"


class CdaLevel(StrEnum):
    """N1: a non-XML body. N3: a structured body. NONE: no body was found."""

    N1 = "N1"
    N3 = "N3"
    NONE = ""


@dataclass(frozen=True, slots=True)
class PersonName:
    """A professional's name; `prefix` is the civility (J245), `suffix` the title (J246)."""

    family: str = ""
    given: str = ""
    prefix: str = ""
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class Organisation:
    """A structure: identifier (root 1.2.250.1.71.4.2.2, extension Struct_IdNat) and name."""

    identifier: Identifier | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Author:
    """An author: professional, patient or device. `speciality` is assignedAuthor/code, `role` is functionCode."""

    identifier: Identifier | None = None
    name: PersonName = PersonName()
    speciality: Code | None = None
    role: Code | None = None
    organisation: Organisation = Organisation()
    device: str = ""
    time: Hl7Time | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Patient:
    """recordTarget. `birth_date` keeps the digits of the document (4, 6 or 8, or more when an hour is given);
    `birth_givens` is the full list of given names in one string, as the document writes it; `birth_place` is the COG code.
    """

    ins: str = ""
    ins_oid: str = ""
    local_ids: tuple[Identifier, ...] = ()
    birth_name: str = ""
    first_birth_given: str = ""
    birth_givens: str = ""
    used_name: str = ""
    used_given: str = ""
    sex: str = ""
    birth_date: str = ""
    birth_place: str = ""

    def __repr__(self) -> str:
        # A repr ends up in logs and tracebacks: the identity never does.
        return "Patient(...)"

    def check_ins(self) -> InsCheck:
        """The verdict on the INS and the completeness of its traits (dmp.md §4.3, §6.4)."""
        return check_ins(
            self.ins,
            self.ins_oid,
            birth_name=self.birth_name,
            first_given=self.first_birth_given,
            given_names=self.birth_givens,
            sex=self.sex,
            birth_date=self.birth_date,
            birth_place=self.birth_place,
        )


@dataclass(frozen=True, slots=True)
class EmbeddedBody:
    """A base64 body (N1) or PDF copy (N3): media type and the encoded text as found."""

    media_type: str
    encoded: str = field(repr=False)

    def content(self) -> bytes:
        """The decoded bytes. Raises CdaError(`body-base64`)."""
        try:
            return base64.b64decode("".join(self.encoded.split()), validate=True)
        except (binascii.Error, ValueError):
            raise CdaError(
                "body-base64", "le corps du document n'est pas du base64 valide", "the body is not valid base64"
            ) from None


@dataclass(frozen=True, slots=True)
class RelatedDocument:
    """relatedDocument: relation (RPLC or XFRM) and identifier of the parent document."""

    relation: str
    parent: Identifier


@dataclass(frozen=True, slots=True)
class CdaHeader:
    """The header of a document.

    Guaranteed: `document_id.root`, `type` and `effective_time` are there. Everything else may be empty: what a rule
    requires is the caller's to decide, with the help of `warnings` (stable words, no data of the patient).
    """

    form: CdaForm
    document_id: Identifier
    set_id: Identifier | None
    version: int | None
    type: Code
    title: str = field(repr=False)
    effective_time: datetime
    effective: Hl7Time
    confidentiality: Code | None
    language: str
    template_ids: tuple[str, ...]
    patient: Patient
    authors: tuple[Author, ...] = field(repr=False)
    custodian: Organisation
    legal_authenticator: Author | None = field(repr=False)
    service_start: Hl7Time | None
    service_stop: Hl7Time | None
    event_codes: tuple[Code, ...]
    practice_setting: Code | None
    facility_type: Code | None
    encounter: Code | None
    related: tuple[RelatedDocument, ...]
    level: CdaLevel
    body: EmbeddedBody | None
    pdf_copy: EmbeddedBody | None
    style_sheet: bool
    warnings: tuple[str, ...]

    @property
    def unique_id(self) -> str:
        """The XDS uniqueId: the OID alone. A document with `@extension` says so in `warnings` (`id-extension`)."""
        return self.document_id.root

    @property
    def replaces(self) -> str | None:
        """The identifier of the document that this one replaces (relatedDocument RPLC), or None."""
        for relation in self.related:
            if relation.relation == "RPLC":
                return relation.parent.root
        return None

    @property
    def ins(self) -> str:
        """The matricule INS, or ""."""
        return self.patient.ins
