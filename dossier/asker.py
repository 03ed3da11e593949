"""Who knocks at the record: the TLS peer, the SOAP envelope and the VIHF, the same for every transaction (dmp.md §1.1, §2).

Invariants: nothing is answered unless the TLS peer and the VIHF's signer are trusted, of one structure, and that
structure may act for
the VIHF's Identifiant_Structure. Values come from signed bytes only. Reasons name rules and places, never a value of the patient.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import NoReturn, Protocol

from cryptography import x509
from cryptography.x509.oid import NameOID

from dossier.model import Caller
from ihe import mtom, soap
from ihe.certificates import subject_of
from ihe.datatypes import patient_id
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


@lru_cache(maxsize=256)
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
        self.traced = False


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose sender is known. `holder` is the structure of the TLS peer, `patient_id` the VIHF's patient as CX."""

    holder: str
    vihf: Vihf
    caller: Caller
    patient_id: str = field(repr=False)
    envelope: soap.Envelope = field(repr=False)
    parts: dict[str, bytes] = field(repr=False)


def remember(checker: PathChecker, *, seconds: float = 60.0, size: int = 1000) -> PathChecker:
    """`checker`, whose *favourable* verdicts on a certificate shown alone hold for `seconds`: a structure deposits a
    hundred documents
    in a row under one certificate. A revocation is thus seen within `seconds`; a refusal is never remembered."""
    kept: dict[x509.Certificate, tuple[datetime, PathResult]] = {}
    lock = threading.Lock()

    def check(certificate: x509.Certificate, supplied: Sequence[x509.Certificate], at: datetime) -> PathResult:
        if supplied:
            return checker(certificate, supplied, at)
        with lock:
            known = kept.get(certificate)
        if known is not None and timedelta(0) <= at - known[0] < timedelta(seconds=seconds):
            return known[1]
        verdict = checker(certificate, supplied, at)
        with lock:
            if verdict.trusted:
                if len(kept) >= size:
                    kept.clear()
                kept[certificate] = (at, verdict)
            else:
                kept.pop(certificate, None)
        return verdict

    return check


def identify(
    authority: Authority,
    peer: x509.Certificate | None,
    content_type: str,
    body: bytes,
    at: datetime,
    *,
    actions: frozenset[str],
) -> Request:
    """Read the envelope of a request for one of `actions` and verify who sends it. Raises FaultRefusal, with the
    message's id once read."""
    holder = _peer(authority, peer, at)
    envelope, parts = _open(content_type, body, actions)
    try:
        vihf = _vihf(authority, holder, envelope, at)
    except FaultRefusal as refusal:
        refusal.message_id = envelope.message_id[:_MAX_ID]
        raise
    caller = Caller(
        person=vihf.name_id[:64],
        subject=vihf.subject_name[:128],
        structure_id=vihf.structure_id[:64],
        signer_dn=subject_of(vihf.certificate)[:512],
        tls_dn=subject_of(peer)[:512] if peer is not None else "",
        software=f"{vihf.software_name} {vihf.software_version}"[:128],
    )
    return Request(holder, vihf, caller, patient_id(vihf.patient.extension, vihf.patient.root), envelope, parts)


def sender_fault(subcode: str, reason: str) -> NoReturn:
    """Refuse with a SOAP fault of the sender's making."""
    raise FaultRefusal(soap.Fault(soap.FaultCode.SENDER, reason, subcode))


def _peer(authority: Authority, peer: x509.Certificate | None, at: datetime) -> str:
    """The structure of the TLS client; its path is checked again here for revocation."""
    if peer is None or not authority.check_peer(peer, (), at).trusted:
        sender_fault("FailedAuthentication", "Certificat client TLS absent ou refusé / TLS client certificate refused")
    return structure_of(peer)


def _open(content_type: str, body: bytes, actions: frozenset[str]) -> tuple[soap.Envelope, dict[str, bytes]]:
    try:
        root, parts = mtom.parse(content_type, body)
        envelope = soap.parse_envelope(root)
    except mtom.MtomError as error:
        sender_fault("", f"Message MTOM illisible ({error.code}) / unreadable MTOM message")
    except soap.SoapError as error:
        sender_fault("", f"Enveloppe SOAP illisible ({error.code}) / unreadable SOAP envelope")
    if envelope.not_understood:
        fault = soap.Fault(soap.FaultCode.MUST_UNDERSTAND, "En-tête SOAP obligatoire inconnu / header not understood")
        raise FaultRefusal(fault, envelope.message_id[:_MAX_ID])
    if envelope.action not in actions:
        fault = soap.Fault(soap.FaultCode.SENDER, "Action inconnue / unknown action", "ActionNotSupported")
        raise FaultRefusal(fault, envelope.message_id[:_MAX_ID])
    return envelope, parts


def _vihf(authority: Authority, holder: str, envelope: soap.Envelope, at: datetime) -> Vihf:
    """The verified assertion, its signer trusted and of the structure that opened the connection."""
    if len(envelope.assertions) != 1:
        sender_fault("InvalidSecurity", "Un VIHF et un seul est attendu / exactly one VIHF is expected")
    try:
        vihf = verify_vihf(envelope.assertions[0], at=at)
    except VihfError as error:
        subcode = {"expired": "MessageExpired", "signature": "FailedCheck"}.get(error.code, "InvalidSecurityToken")
        sender_fault(subcode, f"VIHF refusé : {error.french} / VIHF refused ({error.code})")
    if not authority.check_signer(vihf.certificate, (), at).trusted:
        sender_fault(
            "DMPInvalidCertificate", "Le certificat ayant signé le VIHF est invalide / VIHF signer not trusted"
        )
    signer = structure_of(vihf.certificate)
    if not signer or signer != holder:
        sender_fault(
            "DMPInvalidCertificate",
            "Le VIHF et la connexion TLS sont de deux structures / signer is not the TLS client",
        )
    if not authority.may_act_for(signer, vihf.structure_id):
        sender_fault("FailedAuthentication", "Structure introuvable ou inactive / not entitled to this structure")
    if vihf.mode.upper() not in _MODES or vihf.resource_urn != "urn:dmp":
        sender_fault(
            "FailedAuthentication", "Ce mode d'authentification ne permet pas l'alimentation / mode cannot deposit"
        )
    return vihf
