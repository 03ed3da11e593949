"""XDS metadata as values: submission set, document entries, associations (dmp.md §3.2, §3.3, §3.7, §3.9).

Strings are kept as they travel (CX, XCN, XON, DTM in UTC); `ihe.datatypes` reads and writes them. An absent value is ""
or None or an empty tuple: reading is tolerant, and `problems()` says what a strict registry must refuse.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from ihe.datatypes import parse_cx
from ihe.values import Code, from_dtm, is_oid

STABLE_OBJECT = "urn:uuid:7edca82f-054d-47f2-a032-9b2a5b5186c1"
SIGNATURE_CLASS = "urn:oid:1.3.6.1.4.1.19376.1.2.1.1.1"

Slots = tuple[tuple[str, tuple[str, ...]], ...]


class EbrimError(Exception):
    """The bytes are not a readable ebRIM submission or response. `code` is stable; no content is quoted."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Relation(StrEnum):
    """Association types (dmp.md §1.2, §3.7, §3.9). Anything else is kept as a plain string."""

    HAS_MEMBER = "urn:oasis:names:tc:ebxml-regrep:AssociationType:HasMember"
    REPLACES = "urn:ihe:iti:2007:AssociationType:RPLC"
    TRANSFORMS = "urn:ihe:iti:2007:AssociationType:XFRM"
    APPENDS = "urn:ihe:iti:2007:AssociationType:APND"
    SIGNS = "urn:ihe:iti:2007:AssociationType:signs"
    UPDATE_STATUS = "urn:ihe:iti:2010:AssociationType:UpdateAvailabilityStatus"


@dataclass(frozen=True, slots=True)
class XdsAuthor:
    """An author as XDS writes it: XCN, XON, roles, specialities (`code^label^system`)."""

    persons: tuple[str, ...] = ()
    institutions: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    specialities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DocumentEntry:
    """XDSDocumentEntry. `creation_time`, `service_*` are DTM in UTC; `hash` is SHA-1 in lower-case hexadecimal;
    `confidentiality` starts with the code of the CDA (N), the visibility codes follow."""

    entry_id: str
    unique_id: str
    patient_id: str = field(repr=False)
    mime_type: str = "text/xml"
    object_type: str = STABLE_OBJECT
    logical_id: str = ""
    status: str = ""
    creation_time: str = ""
    language: str = ""
    title: str = field(default="", repr=False)
    comments: str = field(default="", repr=False)
    authors: tuple[XdsAuthor, ...] = field(default=(), repr=False)
    class_code: Code | None = None
    type_code: Code | None = None
    format_code: Code | None = None
    confidentiality: tuple[Code, ...] = ()
    facility_type: Code | None = None
    practice_setting: Code | None = None
    event_codes: tuple[Code, ...] = ()
    legal_authenticator: str = field(default="", repr=False)
    service_start: str = ""
    service_stop: str = ""
    source_patient_id: str = field(default="", repr=False)
    source_patient_info: tuple[str, ...] = field(default=(), repr=False)
    hash: str = ""
    size: int | None = None
    uri: str = ""
    repository_unique_id: str = ""
    reference_ids: tuple[str, ...] = ()
    extra_slots: Slots = ()

    @property
    def is_signature(self) -> bool:
        """True for the entry of a lot signature (dmp.md §3.7)."""
        return self.class_code is not None and self.class_code.code == SIGNATURE_CLASS

    def problems(self) -> tuple[str, ...]:
        """The names of the required attributes (dmp.md §3.3, "R") that are absent or badly formed."""
        required: tuple[tuple[bool, str], ...] = (
            (bool(self.entry_id), "entryUUID"),
            (is_oid(self.unique_id), "uniqueId"),
            (parse_cx(self.patient_id) is not None, "patientId"),
            (bool(self.mime_type), "mimeType"),
            (self.object_type == STABLE_OBJECT, "objectType"),
            (_is_dtm(self.creation_time), "creationTime"),
            (bool(self.language), "languageCode"),
            (bool(self.title), "title"),
            (any(author.persons for author in self.authors), "author"),
            (self.class_code is not None, "classCode"),
            (self.type_code is not None, "typeCode"),
            (self.format_code is not None, "formatCode"),
            (1 <= len(self.confidentiality) <= 4, "confidentialityCode"),
            (self.facility_type is not None, "healthcareFacilityTypeCode"),
            (self.practice_setting is not None, "practiceSettingCode"),
            (bool(self.legal_authenticator), "legalAuthenticator"),
            (_is_dtm(self.service_start), "serviceStartTime"),
            (bool(self.source_patient_id), "sourcePatientId"),
        )
        return tuple(name for present, name in required if not present)


@dataclass(frozen=True, slots=True)
class SubmissionSet:
    """XDSSubmissionSet: one lot, sent by one author (the *sender*, dmp.md §3.2). `submission_time` is a DTM in UTC."""

    entry_id: str
    unique_id: str
    source_id: str
    patient_id: str = field(repr=False)
    submission_time: str
    authors: tuple[XdsAuthor, ...] = field(default=(), repr=False)
    content_type: Code | None = None
    title: str = field(default="", repr=False)
    comments: str = field(default="", repr=False)
    status: str = ""
    intended_recipients: tuple[str, ...] = ()
    extra_slots: Slots = ()

    def problems(self) -> tuple[str, ...]:
        """The names of the required attributes (dmp.md §3.2) that are absent or badly formed."""
        required: tuple[tuple[bool, str], ...] = (
            (bool(self.entry_id), "entryUUID"),
            (is_oid(self.unique_id), "uniqueId"),
            (is_oid(self.source_id), "sourceId"),
            (parse_cx(self.patient_id) is not None, "patientId"),
            (_is_dtm(self.submission_time), "submissionTime"),
            (any(author.persons for author in self.authors), "author"),
            (self.content_type is not None, "contentTypeCode"),
        )
        return tuple(name for present, name in required if not present)


@dataclass(frozen=True, slots=True)
class Association:
    """A relation between two objects of the submission, or to an entry of the registry."""

    relation: str
    source: str
    target: str
    association_id: str = ""
    slots: Slots = ()


@dataclass(frozen=True, slots=True)
class Submission:
    """A SubmitObjectsRequest: one submission set, its entries in order, the associations in order."""

    submission_set: SubmissionSet
    documents: tuple[DocumentEntry, ...] = ()
    associations: tuple[Association, ...] = field(default=())

    def document(self, unique_id: str) -> DocumentEntry | None:
        """The entry with this uniqueId, or None."""
        return next((entry for entry in self.documents if entry.unique_id == unique_id), None)

    def replaced_by(self, entry_id: str) -> str | None:
        """The entryUUID that the entry `entry_id` replaces (RPLC), or None."""
        for association in self.associations:
            if association.relation == Relation.REPLACES and association.source == entry_id:
                return association.target
        return None

    def problems(self) -> tuple[str, ...]:
        """What a registry must refuse: `object: attribute` words, and inconsistencies of the lot (no patient data)."""
        found = [f"SubmissionSet: {name}" for name in self.submission_set.problems()]
        for position, entry in enumerate(self.documents, start=1):
            found += [f"DocumentEntry {position}: {name}" for name in entry.problems()]
            if entry.patient_id != self.submission_set.patient_id:
                found.append(f"DocumentEntry {position}: patientId differs from the submission set")
        identifiers = [self.submission_set.entry_id, *(entry.entry_id for entry in self.documents)]
        if len(set(identifiers)) != len(identifiers):
            found.append("SubmissionSet: duplicate object identifiers")
        members = {
            association.target
            for association in self.associations
            if association.relation == Relation.HAS_MEMBER and association.source == self.submission_set.entry_id
        }
        for position, entry in enumerate(self.documents, start=1):
            if entry.entry_id not in members:
                found.append(f"DocumentEntry {position}: no HasMember association")
        return tuple(found)


def _is_dtm(value: str) -> bool:
    if not (value.isascii() and value.isdigit()):
        return False
    try:
        from_dtm(value)
    except ValueError:
        return False
    return True
