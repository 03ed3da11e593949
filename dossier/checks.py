"""Everything the record verifies before it keeps a deposit: identity, patient, metadata, documents, lot signature.

Invariants: each check raises FaultRefusal (SOAP fault) or RecordRefusal (RegistryResponse); nothing unverified leaves
`read_request`. Reasons name rules and places, never a value of the patient. Values come from signed bytes only (the VIHF)
or are compared with them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import NoReturn, Protocol

from cryptography import x509
from cryptography.x509.oid import NameOID

from dossier.model import Caller, NewEntry, NewSubmission, RecordRefusal
from dossier.store import sha1
from ihe import mtom, soap
from ihe.cda import CdaError, read_cda
from ihe.datatypes import parse_cx, parse_xcn, parse_xon, patient_id
from ihe.dsg import DsgError, verify_lot_signature
from ihe.ebrim import DocumentEntry, EbrimError, ProvideAndRegister, read_provide_and_register
from ihe.vihf import Vihf, VihfError, verify_vihf

_MODES = frozenset({"DIRECTE", "INDIRECTE"})
_MAX_ID = 200


class PathResult(Protocol):
    """A verdict on a certificate's path."""

    @property
    def trusted(self) -> bool:
        """Whether the path ends at an anchor, unrevoked, for the wanted usage."""
        ...


PathChecker = Callable[[x509.Certificate, Sequence[x509.Certificate], datetime], PathResult]
Trace = Callable[..., None]


def structure_of(certificate: x509.Certificate) -> str:
    """Struct_IdNat of an organisation certificate: its only OU of the subject (dmp.md §2), or empty."""
    units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    return str(units[0].value) if len(units) == 1 else ""


def only_itself(holder: str, structure: str) -> bool:
    """The strict rule: a certificate's structure deposits in its own name only."""
    return holder == structure


@dataclass(frozen=True, slots=True)
class Authority:
    """The record's trust decisions.

    `check_signer` judges the certificates of VIHF and lot signature, `check_peer` the TLS client's (revocation included,
    which the handshake does not see). `may_act_for(holder, structure)`: may the certificate's structure deposit for that
    Identifiant_Structure; an operator that deposits for its clients is allowed here, explicitly.
    """

    check_signer: PathChecker
    check_peer: PathChecker
    may_act_for: Callable[[str, str], bool] = only_itself


class FaultRefusal(Exception):
    """A refusal told by a SOAP fault (dmp.md §1.3)."""

    def __init__(self, fault: soap.Fault, message_id: str = "") -> None:
        super().__init__(fault.subcode or fault.code.value)
        self.fault = fault
        self.message_id = message_id


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """A request that passed every check."""

    submission: NewSubmission
    caller: Caller
    message_id: str


def read_request(
    authority: Authority,
    peer: x509.Certificate | None,
    content_type: str,
    body: bytes,
    at: datetime,
    *,
    trace: Trace,
) -> ReadRequest:
    """Read and verify one ITI-41 request. `trace` receives refusals once the VIHF told who asks.

    Raises FaultRefusal, RecordRefusal; RecordUnavailable from `trace`.
    """
    holder = _peer(authority, peer, at)
    envelope, parts = _open(content_type, body)
    message_id = envelope.message_id[:_MAX_ID]
    try:
        vihf = _vihf(authority, holder, envelope, at)
        caller = Caller(
            person=vihf.name_id[:64],
            subject=vihf.subject_name[:128],
            structure_id=vihf.structure_id[:64],
            signer_dn=vihf.certificate.subject.rfc4514_string()[:512],
            tls_dn=peer.subject.rfc4514_string()[:512] if peer is not None else "",
            software=f"{vihf.software_name} {vihf.software_version}"[:128],
        )
        patient = patient_id(vihf.patient.extension, vihf.patient.root)
        try:
            submission = _submission(authority, holder, vihf, envelope.body, parts, patient, at)
        except (FaultRefusal, RecordRefusal) as refusal:
            code = refusal.code if isinstance(refusal, RecordRefusal) else refusal.fault.subcode
            trace("ITI-41", code or "refused", caller, patient_id=patient)
            raise
    except (FaultRefusal, RecordRefusal) as refusal:
        refusal.message_id = message_id
        raise
    return ReadRequest(submission, caller, message_id)


def _sender_fault(subcode: str, reason: str) -> NoReturn:
    raise FaultRefusal(soap.Fault(soap.FaultCode.SENDER, reason, subcode))


def _peer(authority: Authority, peer: x509.Certificate | None, at: datetime) -> str:
    """The structure of the TLS client; its path is checked again here for revocation."""
    if peer is None or not authority.check_peer(peer, (), at).trusted:
        _sender_fault("FailedAuthentication", "Certificat client TLS absent ou refusé / TLS client certificate refused")
    return structure_of(peer)


def _open(content_type: str, body: bytes) -> tuple[soap.Envelope, dict[str, bytes]]:
    try:
        root, parts = mtom.parse(content_type, body)
        envelope = soap.parse_envelope(root)
    except mtom.MtomError as error:
        _sender_fault("", f"Message MTOM illisible ({error.code}) / unreadable MTOM message")
    except soap.SoapError as error:
        _sender_fault("", f"Enveloppe SOAP illisible ({error.code}) / unreadable SOAP envelope")
    if envelope.not_understood:
        fault = soap.Fault(soap.FaultCode.MUST_UNDERSTAND, "En-tête SOAP obligatoire inconnu / header not understood")
        raise FaultRefusal(fault, envelope.message_id[:_MAX_ID])
    if envelope.action != soap.PROVIDE_AND_REGISTER:
        fault = soap.Fault(soap.FaultCode.SENDER, "Action inconnue / unknown action", "ActionNotSupported")
        raise FaultRefusal(fault, envelope.message_id[:_MAX_ID])
    return envelope, parts


def _vihf(authority: Authority, holder: str, envelope: soap.Envelope, at: datetime) -> Vihf:
    """The verified assertion, its signer trusted and of the structure that opened the connection."""
    if len(envelope.assertions) != 1:
        _sender_fault("InvalidSecurity", "Un VIHF et un seul est attendu / exactly one VIHF is expected")
    try:
        vihf = verify_vihf(envelope.assertions[0], at=at)
    except VihfError as error:
        subcode = {"expired": "MessageExpired", "signature": "FailedCheck"}.get(error.code, "InvalidSecurityToken")
        _sender_fault(subcode, f"VIHF refusé : {error.french} / VIHF refused ({error.code})")
    if not authority.check_signer(vihf.certificate, (), at).trusted:
        _sender_fault(
            "DMPInvalidCertificate", "Le certificat ayant signé le VIHF est invalide / VIHF signer not trusted"
        )
    signer = structure_of(vihf.certificate)
    if not signer or signer != holder:
        _sender_fault(
            "DMPInvalidCertificate",
            "Le VIHF et la connexion TLS sont de deux structures / signer is not the TLS client",
        )
    if not authority.may_act_for(signer, vihf.structure_id):
        _sender_fault("FailedAuthentication", "Structure introuvable ou inactive / not entitled to this structure")
    if vihf.mode.upper() not in _MODES or vihf.resource_urn != "urn:dmp":
        _sender_fault(
            "FailedAuthentication", "Ce mode d'authentification ne permet pas l'alimentation / mode cannot deposit"
        )
    return vihf


def _submission(
    authority: Authority,
    holder: str,
    vihf: Vihf,
    body: bytes,
    parts: dict[str, bytes],
    patient: str,
    at: datetime,
) -> NewSubmission:
    try:
        request = read_provide_and_register(body, parts)
    except EbrimError as error:
        code = "XDSMissingDocument" if error.code == "document-part" else "XDSRepositoryMetadataError"
        raise RecordRefusal(code, f"requête illisible / unreadable request: {error.code}") from None
    named = parse_cx(request.submission.submission_set.patient_id)
    entries = request.submission.documents
    if named is None or named != vihf.patient or any(parse_cx(entry.patient_id) != vihf.patient for entry in entries):
        _sender_fault(
            "XDSPatientIdDoesNotMatch", "Le patient du VIHF n'est pas celui du lot / patient does not match the VIHF"
        )
    problems = request.submission.problems()
    if problems or not entries:
        raise RecordRefusal("XDSRepositoryMetadataError", "; ".join(problems[:5]) or "aucun document / no document")
    _documents(request)
    _signature(authority, holder, request, at)
    for entry in entries:
        if not entry.is_signature:
            _clinical(entry, request.contents[entry.entry_id], vihf)
    return NewSubmission(
        unique_id=request.submission.submission_set.unique_id,
        source_id=request.submission.submission_set.source_id,
        patient_id=patient,
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
        metadata=json.dumps(asdict(entry), ensure_ascii=False).encode(),
        replaces=request.submission.replaced_by(entry.entry_id) or "",
        is_signature=entry.is_signature,
    )
