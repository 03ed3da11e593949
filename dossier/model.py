"""The words of the embedded record: what its store takes and gives back. Values only, no behaviour.

Every `datetime` is aware and in UTC. Patient identifiers are CX values without time stamp, `INS^^^&OID&ISO^NH` (dmp.md §3.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class Status(StrEnum):
    """Availability of an entry; the record writes these three (dmp.md §3.3, availabilityStatus; §3.9)."""

    APPROVED = "Approved"
    DEPRECATED = "Deprecated"
    DELETED = "Deleted"


class PatientState(StrEnum):
    """Where a patient's record stands. ABSENT: nobody created it, and creation is not automatic here."""

    ACTIVE = "active"
    CLOSED = "terminated"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who knocked: the VIHF's identity and the certificates behind it. Names only, no secret."""

    person: str = ""
    subject: str = ""
    structure_id: str = ""
    signer_dn: str = ""
    tls_dn: str = ""
    software: str = ""


@dataclass(frozen=True, slots=True)
class NewEntry:
    """One document to keep. `symbol` is the id used inside the submission, `replaces` an entryUUID or empty;
    `metadata` is the submitted ExtrinsicObject, kept sealed."""

    symbol: str
    unique_id: str
    title: str
    type_code: str
    class_code: str
    mime_type: str
    author: str
    author_structure: str
    created: str
    content: bytes
    metadata: bytes
    replaces: str = ""
    is_signature: bool = False
    visibility: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NewSubmission:
    """A whole submission set: kept entirely or not at all. `depositor` is the VIHF's structure, which alone may delete."""

    unique_id: str
    source_id: str
    patient_id: str
    entries: tuple[NewEntry, ...]
    depositor: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A kept document as the record shows it. `sha1` is lower-case hexadecimal, `size` in bytes."""

    entry_uuid: str
    unique_id: str
    patient_id: str
    submission_id: str
    title: str
    type_code: str
    class_code: str
    mime_type: str
    author: str
    author_structure: str
    created: str
    stored_at: datetime
    sha1: str
    size: int
    status: Status
    is_signature: bool
    visibility: tuple[str, ...] = ()
    depositor: str = ""


@dataclass(frozen=True, slots=True)
class Access:
    """One line of the access trace: who did what, when, with which result (dmp.md §7.7: all accesses traced)."""

    at: datetime
    action: str
    outcome: str
    unique_ids: tuple[str, ...]
    caller: Caller
    detail: Mapping[str, str] = field(default_factory=dict)


class RecordRefusal(Exception):
    """The record refuses a submission. `code` is an XDS error code; the text holds identifiers of documents, no patient data."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
        self.message_id = ""
        self.traced = False


class RecordUnavailable(Exception):
    """The database did not answer in time: nothing was written, the caller may try again (XDSRepositoryBusy)."""
