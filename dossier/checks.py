"""Everything the record verifies before it keeps a deposit: patient, metadata, documents, lot signature.

Invariants: each check raises FaultRefusal (SOAP fault) or RecordRefusal (RegistryResponse); nothing unverified leaves
`read_deposit`. Reasons name rules and places, never a value of the patient. Values come from signed bytes only (the VIHF)
or are compared with them.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from dossier.asker import Authority, Request, sender_fault, structure_of
from dossier.model import NewEntry, NewSubmission, RecordRefusal
from dossier.store import sha1
from ihe.cda import CdaError, read_cda
from ihe.datatypes import parse_cx, parse_xcn, parse_xon
from ihe.dsg import DsgError, verify_lot_signature
from ihe.ebrim import DocumentEntry, EbrimError, ProvideAndRegister, read_provide_and_register
from ihe.vihf import Vihf


def read_deposit(authority: Authority, request: Request, at: datetime) -> NewSubmission:
    """Verify the ITI-41 request of a known sender. Raises FaultRefusal, RecordRefusal."""
    return _submission(authority, request, at)


def _submission(authority: Authority, asked: Request, at: datetime) -> NewSubmission:
    vihf = asked.vihf
    try:
        request = read_provide_and_register(asked.envelope.body, asked.parts)
    except EbrimError as error:
        code = "XDSMissingDocument" if error.code == "document-part" else "XDSRepositoryMetadataError"
        raise RecordRefusal(code, f"requête illisible / unreadable request: {error.code}") from None
    named = parse_cx(request.submission.submission_set.patient_id)
    entries = request.submission.documents
    if named is None or named != vihf.patient or any(parse_cx(entry.patient_id) != vihf.patient for entry in entries):
        sender_fault(
            "XDSPatientIdDoesNotMatch", "Le patient du VIHF n'est pas celui du lot / patient does not match the VIHF"
        )
    problems = request.submission.problems()
    if problems or not entries:
        raise RecordRefusal("XDSRepositoryMetadataError", "; ".join(problems[:5]) or "aucun document / no document")
    _documents(request)
    _signature(authority, asked.holder, request, at)
    for entry in entries:
        if not entry.is_signature:
            _clinical(entry, request.contents[entry.entry_id], vihf)
    return NewSubmission(
        unique_id=request.submission.submission_set.unique_id,
        source_id=request.submission.submission_set.source_id,
        patient_id=asked.patient_id,
        depositor=vihf.structure_id,
        entries=tuple(_new_entry(request, entry) for entry in entries),
    )


def _documents(request: ProvideAndRegister) -> None:
    """Every entry has its bytes and the reverse; announced hash and size are true (dmp.md §1.3, §3.3)."""
    entries = {entry.entry_id: entry for entry in request.submission.documents}
    if entries.keys() - request.contents.keys():
        raise RecordRefusal("XDSMissingDocument", "métadonnées sans document / metadata without document")
    if request.contents.keys() - entries.keys():
        raise RecordRefusal("XDSMissingDocumentMetadata", "document sans métadonnées / document without metadata")
    for entry_id, entry in entries.items():
        content = request.contents[entry_id]
        if entry.hash and entry.hash.lower() != sha1(content):
            raise RecordRefusal("XDSRepositoryMetadataError", "hash: empreinte fausse / wrong hash")
        if entry.size is not None and entry.size != len(content):
            raise RecordRefusal("XDSRepositoryMetadataError", "size: taille fausse / wrong size")


def _signature(authority: Authority, holder: str, request: ProvideAndRegister, at: datetime) -> None:
    """One lot signature, over every document, by a trusted certificate of the depositing structure (dmp.md §3.1-8, §3.7)."""
    signatures = [entry for entry in request.submission.documents if entry.is_signature]
    if len(signatures) != 1:
        raise RecordRefusal(
            "XDSRepositoryMetadataError", "une signature de lot est attendue / one lot signature is expected"
        )
    documents = {
        entry.unique_id: request.contents[entry.entry_id]
        for entry in request.submission.documents
        if not entry.is_signature
    }
    try:
        signed = verify_lot_signature(
            request.contents[signatures[0].entry_id],
            documents,
            submission_set_id=request.submission.submission_set.unique_id,
        )
    except DsgError as error:
        raise RecordRefusal(
            "XDSRepositoryError", f"signature de lot refusée / lot signature refused: {error.code}"
        ) from None
    if not authority.check_signer(signed.certificate, (), at).trusted or structure_of(signed.certificate) != holder:
        raise RecordRefusal("XDSRepositoryError", "signataire du lot refusé / lot signer refused")


def _clinical(entry: DocumentEntry, content: bytes, vihf: Vihf) -> None:
    """The document itself must be what its metadata say: a readable CDA, of this identifier, of this patient."""
    try:
        header = read_cda(content)
    except CdaError as error:
        raise RecordRefusal("XDSRepositoryMetadataError", f"CDA illisible / unreadable CDA: {error.code}") from None
    if header.unique_id != entry.unique_id or header.document_id.extension:
        raise RecordRefusal("XDSRepositoryMetadataError", "uniqueId: n'est pas celui du CDA / not the CDA's id")
    patient = header.patient
    if "several-patients" in header.warnings or (patient.ins_oid, patient.ins) != (
        vihf.patient.root,
        vihf.patient.extension,
    ):
        raise RecordRefusal("XDSRepositoryMetadataError", "patientId: n'est pas celui du CDA / not the CDA's patient")


def _fields(value: Any) -> dict[str, Any]:
    """The attributes of a value class, for JSON; `dataclasses.asdict` would copy every one of them first."""
    return {name: getattr(value, name) for name in value.__slots__}


def _new_entry(request: ProvideAndRegister, entry: DocumentEntry) -> NewEntry:
    author = next((item for item in entry.authors if item.persons), None)
    person = parse_xcn(author.persons[0]) if author is not None else None
    institution = parse_xon(author.institutions[0]) if author is not None and author.institutions else None
    return NewEntry(
        symbol=entry.entry_id,
        unique_id=entry.unique_id,
        title=entry.title,
        type_code=entry.type_code.code if entry.type_code is not None else "",
        class_code=entry.class_code.code if entry.class_code is not None else "",
        mime_type=entry.mime_type,
        author=f"{person.given} {person.family} ({person.identifier})".strip() if person is not None else "",
        author_structure=f"{institution.name} ({institution.identifier})" if institution is not None else "",
        created=entry.creation_time,
        content=request.contents[entry.entry_id],
        metadata=json.dumps(_fields(entry), default=_fields, ensure_ascii=False).encode(),
        replaces=request.submission.replaced_by(entry.entry_id) or "",
        is_signature=entry.is_signature,
        visibility=tuple(code.code for code in entry.confidentiality[1:]),
    )
