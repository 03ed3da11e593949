"""What the record does for a sender that it knows: deposit (TD2.1), existence test (TD0.2), reference (TD3.1b),
deletion (TD3.3c).

One function a transaction: a Request in, the XML of the answer's body out. Each is traced under the VIHF's person and
structure, the
refusals too; a refusal is raised and becomes an answer in `dossier.app`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from dossier.asker import Authority, FaultRefusal, Request, sender_fault
from dossier.checks import read_deposit
from dossier.model import PatientState, RecordRefusal
from dossier.store import RecordStore
from ihe import hl7v3, registry, soap
from ihe.datatypes import parse_cx
from ihe.ebrim import EbrimError, RegistryError, RegistryResponse, build_registry_response

DMP_SYSTEM = hl7v3.DMP_DEVICE


@dataclass(frozen=True, slots=True)
class Place:
    """What transactions work with."""

    store: RecordStore
    authority: Authority


Act = Callable[[Place, Request, datetime], bytes]


def _oid() -> str:
    return f"2.25.{uuid.uuid4().int}"


def provide_and_register(place: Place, request: Request, at: datetime) -> bytes:
    """ITI-41."""
    place.store.save(read_deposit(place.authority, request, at), request.caller)
    return build_registry_response(RegistryResponse(True))


def existence(place: Place, request: Request, at: datetime) -> bytes:
    """TD0.2: does this patient have a record, and is it open?"""
    try:
        query = hl7v3.read_existence_test(request.envelope.body)
    except hl7v3.Hl7V3Error as error:
        sender_fault("", f"test d'existence illisible / unreadable existence test: {error.code}")
    if query.patient != request.vihf.patient:
        sender_fault("XDSPatientIdDoesNotMatch", "Le patient du VIHF n'est pas celui du test / patient does not match")
    state = place.store.tell_state(request.patient_id, request.caller, "TD0.2")
    status = {
        PatientState.ACTIVE: hl7v3.RecordStatus.ACTIVE,
        PatientState.CLOSED: hl7v3.RecordStatus.CLOSED,
        PatientState.ABSENT: hl7v3.RecordStatus.ABSENT,
    }[state]
    closed = "DMPClosed" if state is PatientState.CLOSED else ""
    answer = hl7v3.Existence(status, "VALIDE" if state is PatientState.ACTIVE else "", closed)
    return hl7v3.build_existence_answer(query, answer, message_id=_oid(), source_id=_oid(), at=at)


def stored_query(place: Place, request: Request, at: datetime) -> bytes:
    """ITI-18 GetDocuments for references only: an indirect authentication reads nothing else (dmp.md §7.1, TD3.1)."""
    try:
        query = registry.read_stored_query(request.envelope.body)
    except EbrimError as error:
        code = {"parameter": "XDSStoredQueryMissingParam", "parameter-number": "XDSStoredQueryParamNumber"}
        raise RecordRefusal(code.get(error.code, "XDSRegistryError"), error.code) from None
    if query.query_id != registry.GET_DOCUMENTS:
        raise RecordRefusal("XDSUnknownStoredQuery", "requête inconnue ici / unknown query here")
    if query.return_type != "ObjectRef":
        raise RecordRefusal("XDSRegistryError", "seules les références sont lisibles / references only (ObjectRef)")
    found = place.store.lookup(request.patient_id, query.unique_ids)
    place.store.trace("ITI-18", "Success", request.caller, patient_id=request.patient_id, unique_ids=query.unique_ids)
    return registry.build_query_response(found)


def update_status(place: Place, request: Request, at: datetime) -> bytes:
    """ITI-57: the logical deletion of one document by the structure that deposited it. Nothing else: an indirect authentication
    may neither mask nor archive (dmp.md §7.1)."""
    try:
        change = registry.read_status_change(request.envelope.body)
    except EbrimError as error:
        raise RecordRefusal("XDSMetadataUpdateError", f"requête illisible / unreadable request: {error.code}") from None
    if parse_cx(change.submission_set.patient_id) != request.vihf.patient:
        sender_fault("XDSPatientIdDoesNotMatch", "Le patient du VIHF n'est pas celui du lot / patient does not match")
    problems = change.submission_set.problems()
    if problems:
        raise RecordRefusal("XDSRegistryMetadataError", "; ".join(problems[:5]))
    if change.new != registry.DELETED:
        raise RecordRefusal("XDSMetadataUpdateOperationError", "seule la suppression est permise / deletion only")
    place.store.delete_entry(request.patient_id, change.entry_uuid, request.caller)
    return build_registry_response(RegistryResponse(True))


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction: its name in the trace, the action of its answer, what it does, and how it tells a refusal."""

    name: str
    answer: str
    act: Act
    refuse: Callable[[RecordRefusal], bytes]


def _registry_refusal(refusal: RecordRefusal) -> bytes:
    return build_registry_response(RegistryResponse(False, (RegistryError(refusal.code, refusal.reason),)))


def _query_refusal(refusal: RecordRefusal) -> bytes:
    return registry.build_query_response((), (RegistryError(refusal.code, refusal.reason),))


_DEPOSIT = Transaction("ITI-41", soap.PROVIDE_AND_REGISTER_RESPONSE, provide_and_register, _registry_refusal)
_QUERY = Transaction("ITI-18", registry.STORED_QUERY_RESPONSE, stored_query, _query_refusal)
_UPDATE = Transaction("ITI-57", registry.UPDATE_RESPONSE, update_status, _registry_refusal)
_EXISTENCE = Transaction("TD0.2", hl7v3.EXISTENCE_ANSWER, existence, _registry_refusal)

SERVICES: dict[str, dict[str, Transaction]] = {
    "repository": {soap.PROVIDE_AND_REGISTER: _DEPOSIT},
    "registry": {registry.STORED_QUERY: _QUERY, registry.UPDATE: _UPDATE},
    "patients": {hl7v3.EXISTENCE_TEST: _EXISTENCE},
}
"""Transactions by service (dmp.md §1.1) and SOAP action."""


def carry_out(place: Place, transaction: Transaction, request: Request, at: datetime) -> bytes:
    """Carry out a transaction; its refusals are traced, then raised (FaultRefusal, RecordRefusal, RecordUnavailable)."""
    try:
        return transaction.act(place, request, at)
    except (FaultRefusal, RecordRefusal) as refusal:
        refusal.message_id = request.envelope.message_id[:200]
        if not refusal.traced:
            code = refusal.code if isinstance(refusal, RecordRefusal) else refusal.fault.subcode
            place.store.trace(transaction.name, code or "refused", request.caller, patient_id=request.patient_id)
        raise
