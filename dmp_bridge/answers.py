"""What a record's answer means: deposited, to be tried again, or for a person (table of dmp.md §1.3).

Invariants: only an answer that is understood counts as success; "already there with this hash" is success; what is not listed as
passing is for a person. Reasons hold codes and fixed sentences, nothing of the remote text that could quote a patient.
"""

from __future__ import annotations

from collections.abc import Sequence

from dmp_bridge.exchange import MAX_RESPONSE, Answer
from dmp_bridge.outlet import Outcome, attention, done, retry
from ihe import hl7v3, mtom, registry, soap
from ihe.ebrim import EbrimError, RegistryError, parse_registry_response
from ihe.values import Identifier

PASSING = frozenset(
    {
        "XDSRegistryBusy",
        "XDSRepositoryBusy",
        "XDSRegistryOutOfResources",
        "XDSRepositoryOutOfResources",
        "XDSRegistryNotAvailable",
    }
)
_ALREADY_THERE = "XDSDuplicateUniqueIdInRegistry"
_SENTENCES = {
    "XDSUnknownPatientId": "patient inconnu du DMP, ou DMP fermé / patient unknown to the record",
    "XDSPatientIdDoesNotMatch": "le patient du VIHF n'est pas celui du document / VIHF and document name different patients",
    "XDSNonIdenticalHash": "cet identifiant désigne déjà un autre contenu / this identifier already names other content",
    "XDSRegistryDeprecatedDocumentError": "le document à remplacer l'est déjà / the document to replace is replaced already",
    "XDSMetadataUpdateError": "document inconnu, ou d'une autre structure / unknown document, or another structure's",
    "XDSMetadataUpdateOperationError": "opération non permise à la structure / operation not open to the structure",
    "XDSRegistryMetadataError": "métadonnées refusées / metadata refused",
    "XDSRepositoryMetadataError": "métadonnées refusées / metadata refused",
    "XDSMissingDocument": "document annoncé mais absent / announced document is missing",
    "XDSMissingDocumentMetadata": "document sans métadonnées / document without metadata",
    "DMPInvalidCertificate": "certificat de signature refusé / signature certificate refused",
    "DMPClosed": "DMP fermé / record closed",
    "no-record": "ce patient n'a pas de DMP / this patient has no record",
}
_REFUSED = "le DMP a refusé le dépôt / the record refused the deposit"
_UNAVAILABLE = "le DMP est momentanément indisponible / the record is not available now"
_UNREADABLE = "réponse du DMP incompréhensible / the record's answer cannot be understood"
NO_RECORD = frozenset({"DMPClosed", "no-record", "XDSUnknownPatientId"})


def sentence(code: str) -> str:
    """The fixed text of a code."""
    return _SENTENCES.get(code, _REFUSED)


def word(code: str) -> str:
    """A remote code as a word fit for a reason: letters, digits and dashes only, bounded."""
    return "".join(char for char in code if char.isascii() and (char.isalnum() or char in "-_."))[:64]


def _opened(answer: Answer) -> soap.Envelope | Outcome:
    """The SOAP envelope of a usable answer, or what the answer means without one."""
    envelope = None
    try:
        root, _ = mtom.parse(answer.content_type, answer.body, max_size=MAX_RESPONSE)
        envelope = soap.parse_envelope(root, max_size=MAX_RESPONSE)
    except (mtom.MtomError, soap.SoapError):
        envelope = None
    if envelope is not None and envelope.fault is not None:
        return _fault(envelope.fault, answer.status)
    if answer.status >= 500 or answer.status in (408, 425, 429):
        return retry(f"http-{answer.status}", "serveur indisponible / server unavailable")
    if answer.status != 200:
        return attention(f"http-{answer.status}", "le DMP a refusé la requête / the record refused the request")
    return attention("answer", _UNREADABLE) if envelope is None else envelope


def _fault(fault: soap.Fault, status: int) -> Outcome:
    code = word(fault.subcode) or fault.code.value
    if code in PASSING or (not fault.subcode and fault.code is soap.FaultCode.RECEIVER and status >= 500):
        return retry(code, _UNAVAILABLE)
    return attention(code, sentence(code))


def of_deposit(answer: Answer) -> Outcome:
    """What the answer to an ITI-41 means."""
    opened = _opened(answer)
    if isinstance(opened, Outcome):
        return opened
    try:
        response = parse_registry_response(opened.body)
    except EbrimError:
        return attention("answer", _UNREADABLE)
    if response.success:
        return done("Success", "déposé / deposited")
    codes = _codes(response.errors)
    if codes and all(code == _ALREADY_THERE for code in codes):
        return done(_ALREADY_THERE, "déjà présent, mêmes octets / already there, same bytes")
    return _failure(codes)


def of_deletion(answer: Answer) -> Outcome:
    """What the answer to an ITI-57 deletion means."""
    opened = _opened(answer)
    if isinstance(opened, Outcome):
        return opened
    try:
        response = parse_registry_response(opened.body)
    except EbrimError:
        return attention("answer", _UNREADABLE)
    return done("Deleted", "supprimé / deleted") if response.success else _failure(_codes(response.errors))


def of_lookup(answer: Answer) -> tuple[str, ...] | Outcome:
    """The entryUUIDs that a TD3.1b gave, or what its failure means."""
    opened = _opened(answer)
    if isinstance(opened, Outcome):
        return opened
    try:
        response = registry.parse_query_response(opened.body)
    except EbrimError:
        return attention("answer", _UNREADABLE)
    return _failure(_codes(response.errors)) if response.errors else response.entry_uuids


def of_existence(answer: Answer, patient: Identifier) -> Outcome | None:
    """None when the patient has an open record, else what its absence means (dmp.md §3.1, rule 2)."""
    opened = _opened(answer)
    if isinstance(opened, Outcome):
        return opened
    try:
        existence = hl7v3.parse_existence_answer(opened.body, patient)
    except hl7v3.Hl7V3Error:
        return attention("answer", _UNREADABLE)
    if existence.status is hl7v3.RecordStatus.ACTIVE:
        return None
    if existence.status is hl7v3.RecordStatus.UNKNOWN:
        code = word(existence.error) or "record-status"
        return retry(code, _UNAVAILABLE) if code in PASSING else attention(code, sentence(code))
    code = "DMPClosed" if existence.status is hl7v3.RecordStatus.CLOSED else "no-record"
    return attention(code, sentence(code))


def _codes(errors: Sequence[RegistryError]) -> list[str]:
    return [word(error.code) for error in errors if not error.warning]


def _failure(codes: list[str]) -> Outcome:
    if codes and all(code in PASSING for code in codes):
        return retry(codes[0], _UNAVAILABLE)
    telling = next((code for code in codes if code not in PASSING and code != _ALREADY_THERE), "Failure")
    return attention(telling, sentence(telling))


def interpret(status: int, content_type: str, body: bytes) -> Outcome:
    """What an HTTP answer means for a deposit."""
    return of_deposit(Answer(status, content_type, body))
