"""XDS metadata: from a CDA to a lot ready to be deposited or packed. The public face of the ebRIM codec.

`entry_from_cda` and `lot` make values; `to_metadata_xml`, `to_provide_and_register` write them; `from_xml` and
`read_provide_and_register` read them back: `from_xml(to_metadata_xml(x)) == x`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from ihe.cda_model import Author, CdaForm, CdaHeader
from ihe.codes import CONFIDENTIALITY_SCHEME, class_of, content_type_of, format_of, visibility
from ihe.datatypes import patient_id, source_patient_id, source_patient_info, speciality, xcn, xon
from ihe.ebrim_model import (
    SIGNATURE_CLASS,
    Association,
    DocumentEntry,
    EbrimError,
    Relation,
    Submission,
    SubmissionSet,
    XdsAuthor,
)
from ihe.ebrim_read import (
    ProvideAndRegister,
    RegistryError,
    RegistryResponse,
    build_registry_response,
    from_xml,
    parse_registry_response,
    read_provide_and_register,
)
from ihe.ebrim_write import has_member, to_metadata_xml, to_provide_and_register
from ihe.values import Code, to_dtm

EXTRA_METADATA = "urn:action:extraMetadataSlot"


def xds_author(author: Author) -> XdsAuthor:
    """A CDA author as XDS metadata (dmp.md §3.3)."""
    institution = xon(author.organisation)
    return XdsAuthor(
        persons=(xcn(author),),
        institutions=(institution,) if institution else (),
        roles=(author.role.display or author.role.code,) if author.role else (),
        specialities=(speciality(author.speciality),) if author.speciality else (),
    )


def entry_from_cda(
    header: CdaHeader, content: bytes, *, entry_id: str = "Document01", visibility_codes: Sequence[str] = ()
) -> DocumentEntry:
    """The metadata of a document after its header (dmp.md §3.3). `content` are the exact bytes that will be sent.

    `visibility_codes`: MASQUE_PS, INVISIBLE_PATIENT, INVISIBLE_REPRESENTANTS_LEGAUX (KeyError for another).
    What the header does not say is absent from the entry: `DocumentEntry.problems()` tells what is missing.
    """
    label = header.confidentiality or Code("N", CONFIDENTIALITY_SCHEME, "Normal")
    if not label.display:
        label = replace(label, display={"N": "Normal", "R": "Restreint", "V": "Très restreint"}.get(label.code, ""))
    patient = header.patient
    return DocumentEntry(
        entry_id=entry_id,
        unique_id=header.unique_id,
        patient_id=patient_id(patient.ins, patient.ins_oid) if patient.ins else "",
        mime_type="application/xslt+xml" if header.form is CdaForm.SELF_PRESENTING else "text/xml",
        creation_time=header.effective.dtm(),
        language=header.language,
        title=" ".join(header.title.split())[:128],
        authors=tuple(xds_author(author) for author in header.authors),
        class_code=class_of(header.type.code),
        type_code=header.type,
        format_code=format_of(header),
        confidentiality=(label, *(visibility(code) for code in visibility_codes)),
        facility_type=header.facility_type,
        practice_setting=header.practice_setting,
        event_codes=header.event_codes,
        legal_authenticator="" if header.legal_authenticator is None else xcn(header.legal_authenticator),
        service_start="" if header.service_start is None else header.service_start.dtm(),
        service_stop="" if header.service_stop is None else header.service_stop.dtm(),
        source_patient_id=source_patient_id(patient),
        source_patient_info=source_patient_info(patient),
        hash=sha1_of(content),
        size=len(content),
    )


def sha1_of(content: bytes) -> str:
    """The XDS hash of a document: SHA-1, lower-case hexadecimal (an integrity mark of the profile, not a protection)."""
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def lot(
    header: CdaHeader,
    entries: Sequence[DocumentEntry],
    *,
    unique_id: str,
    source_id: str,
    author: XdsAuthor,
    at: datetime,
    title: str = "",
    content_type: Code | None = None,
    replaces: Mapping[str, str] | None = None,
) -> Submission:
    """A lot around `entries` (dmp.md §3.2): the sender is `author`, `header` gives the activity when `content_type` is
    None, `replaces` maps an entry id to the entryUUID that it replaces (RPLC).
    """
    submission_set = SubmissionSet(
        entry_id="SubmissionSet01",
        unique_id=unique_id,
        source_id=source_id,
        patient_id=entries[0].patient_id if entries else "",
        submission_time=to_dtm(at),
        authors=(author,),
        content_type=content_type or content_type_of(header),
        title=title,
    )
    associations = [
        has_member(submission_set.entry_id, entry.entry_id, f"as{number}") for number, entry in enumerate(entries, 1)
    ]
    for entry_id, target in (replaces or {}).items():
        associations.append(Association(Relation.REPLACES, entry_id, target, f"as{len(associations) + 1}"))
    return Submission(submission_set, tuple(entries), tuple(associations))


def with_signature(
    submission: Submission,
    signature: bytes,
    *,
    unique_id: str,
    author: XdsAuthor,
    legal_authenticator: str,
    at: datetime,
) -> Submission:
    """Adds the entry of the lot signature, its HasMember and `signs` associations (dmp.md §3.7).

    `legal_authenticator` is an XCN; facility, practice setting and act date are those of the first document.
    """
    first = submission.documents[0]
    entry = DocumentEntry(
        entry_id="Signature01",
        unique_id=unique_id,
        patient_id=submission.submission_set.patient_id,
        creation_time=to_dtm(at),
        language="art",
        title="Source",
        authors=(author,),
        class_code=Code(SIGNATURE_CLASS, "URN", "Digital Signature"),
        type_code=Code("E1762", "ASTM", "Full Document"),
        format_code=Code("http://www.w3.org/2000/09/xmldsig#", "URN", "Default Signature Style"),
        confidentiality=(
            Code("N", CONFIDENTIALITY_SCHEME, "Normal"),
            visibility("MASQUE_PS"),
            visibility("INVISIBLE_PATIENT"),
        ),
        facility_type=first.facility_type,
        practice_setting=first.practice_setting,
        event_codes=(Code("1.2.840.10065.1.12.1.14", "1.2.840.10065.1.12", "Source"),),
        legal_authenticator=legal_authenticator,
        service_start=first.service_start,
        service_stop=first.service_stop,
        source_patient_id=first.source_patient_id,
        source_patient_info=first.source_patient_info,
        hash=sha1_of(signature),
        size=len(signature),
    )
    lot_id = submission.submission_set.entry_id
    number = len(submission.associations)
    added = (
        has_member(lot_id, entry.entry_id, f"as{number + 1}"),
        Association(Relation.SIGNS, entry.entry_id, lot_id, f"as{number + 2}"),
    )
    return replace(
        submission, documents=(*submission.documents, entry), associations=(*submission.associations, *added)
    )


__all__ = [
    "EXTRA_METADATA",
    "Association",
    "DocumentEntry",
    "EbrimError",
    "ProvideAndRegister",
    "RegistryError",
    "RegistryResponse",
    "Relation",
    "Submission",
    "SubmissionSet",
    "XdsAuthor",
    "build_registry_response",
    "entry_from_cda",
    "from_xml",
    "has_member",
    "lot",
    "parse_registry_response",
    "read_provide_and_register",
    "sha1_of",
    "to_metadata_xml",
    "to_provide_and_register",
    "with_signature",
    "xds_author",
]
