"""One attempt to deposit one document in the DMP: metadata, lot signature, VIHF, ITI-41 over mutual TLS, and what the answer means.

Invariants
* The bytes sent are the bytes received; metadata are made from them, they are never re-serialised (dmp.md §3.10).
* An exact retry keeps the submission set's uniqueId (DepositJob); only the signature file, whose content depends on the time, gets
  a new identifier at each attempt.
* Only an answer that is understood counts as success. A lost answer is a retry, and "already there with this hash" is success.
* Reasons hold codes and fixed sentences; nothing of the remote text that could quote a patient.
"""

from __future__ import annotations

import asyncio
import ssl
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from dmp_bridge.context import DepositContext
from ihe import mtom, soap
from ihe.cda import Author, CdaError, CdaHeader, Organisation, PersonName, read_cda
from ihe.datatypes import PERSON_ROOT, STRUCTURE_ROOT
from ihe.dsg import DsgError, build_lot_signature
from ihe.ebrim import (
    EbrimError,
    RegistryResponse,
    Submission,
    XdsAuthor,
    entry_from_cda,
    lot,
    parse_registry_response,
    to_provide_and_register,
    with_signature,
    xds_author,
)
from ihe.values import Code, Identifier
from ihe.vihf import VihfContent, VihfError, VihfSettings, build_vihf
from mailstore.model import DepositJob, DepositState

MAX_RESPONSE = 1024 * 1024
_PROFESSIONS = "1.2.250.1.71.1.2.7"
_SPECIALTIES = "1.2.250.1.71.4.2.5"
_AUTOMATON = Code("AUTOMATE", "1.2.250.1.213.1.1.4.6", "Automate")


@dataclass(frozen=True, slots=True)
class DmpOutlet:
    """The way to one DMP. `url` is the repository service; `tls` holds our authentication certificate and the DMP's anchors;
    `key` and `chain` are the *signature* certificate of the structure (dmp.md §1.1: two distinct certificates).
    `source_id` is the OID of this system; `timeout` in seconds bounds the whole exchange."""

    url: str
    tls: ssl.SSLContext = field(repr=False)
    key: rsa.RSAPrivateKey = field(repr=False)
    chain: Sequence[x509.Certificate] = field(repr=False)
    source_id: str
    software: VihfSettings = field(default_factory=VihfSettings)
    timeout: float = 20.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: DEPOSITED, RETRY or NEEDS_ATTENTION, the code that says why, and the sentence kept in the row."""

    state: DepositState
    code: str
    reason: str


def new_submission_set_id() -> str:
    """A fresh OID for a submission set: the UUID arc (ITU-T X.667, 2.25), so that no counter has to survive a crash."""
    return f"2.25.{uuid.uuid4().int}"


def deposit(job: DepositJob, outlet: DmpOutlet, at: datetime) -> Outcome:
    """Deposit the job's document once; `at` is the time written in the lot, the signature and the VIHF.

    Never raises for what a document or a server may do; the caller turns RETRY into a time. Runs an event loop of its own, so
    that one time-out covers the whole exchange: call it from a thread that has none.
    """
    try:
        context = DepositContext.from_json(job.context)
        header = read_cda(job.content)
        content_type, body = _request(job, context, header, outlet, at)
    except (ValueError, TypeError) as error:
        return _attention(
            "context", f"contexte de dépôt illisible / unreadable deposit context ({type(error).__name__})"
        )
    except (CdaError, VihfError) as error:
        return _attention(error.code, f"{error.french} / {error.english}")
    except (EbrimError, DsgError, mtom.MtomError, soap.SoapError) as error:
        return _attention(error.code, f"dépôt impossible à composer / the deposit cannot be built: {error.message}")
    try:
        status, answer_type, answer = asyncio.run(_post(outlet, content_type, body))
    except (httpx.HTTPError, ssl.SSLError, TimeoutError) as error:
        return _retry("transport", type(error).__name__)
    return interpret(status, answer_type, answer)


def _request(
    job: DepositJob, context: DepositContext, header: CdaHeader, outlet: DmpOutlet, at: datetime
) -> tuple[str, bytes]:
    """The MTOM message: content type and body."""
    submission, contents = _lot(job, context, header, outlet, at)
    cids = {entry_id: f"{entry_id}@caducee" for entry_id in contents}
    request = soap.build_request(
        to_provide_and_register(submission, cids),
        action=soap.PROVIDE_AND_REGISTER,
        message_id=f"urn:uuid:{uuid.uuid4()}",
        to=outlet.url,
        assertion=_vihf(context, header, outlet, at),
    )
    parts = [mtom.MtomPart(cids[entry_id], content) for entry_id, content in contents.items()]
    return mtom.build(request, parts, action=soap.PROVIDE_AND_REGISTER)


def _lot(
    job: DepositJob, context: DepositContext, header: CdaHeader, outlet: DmpOutlet, at: datetime
) -> tuple[Submission, dict[str, bytes]]:
    set_id = job.deposit.submission_set_id
    author = _sender(context)
    entry = entry_from_cda(header, job.content)
    submission = lot(
        header, (entry,), unique_id=set_id, source_id=outlet.source_id, author=author, at=at, title=entry.title
    )
    signature = build_lot_signature(
        [(entry.unique_id, job.content)], submission_set_id=set_id, key=outlet.key, chain=outlet.chain, at=at
    )
    submission = with_signature(
        submission,
        signature,
        unique_id=new_submission_set_id(),
        author=author,
        legal_authenticator=author.persons[0],
        at=at,
    )
    missing = submission.problems()
    if missing:
        raise EbrimError("metadata", ", ".join(missing[:5]))
    return submission, {entry.entry_id: job.content, "Signature01": signature}


def _sender(context: DepositContext) -> XdsAuthor:
    """The author of the lot is the sender (dmp.md §3.2): the person answerable for the mailbox, else the structure itself."""
    return xds_author(
        Author(
            identifier=Identifier(PERSON_ROOT, _responsible(context)),
            name=PersonName(context.responsible_surname or context.structure_name, context.responsible_given_name),
            organisation=Organisation(Identifier(STRUCTURE_ROOT, context.structure_id), context.structure_name),
        )
    )


def _responsible(context: DepositContext) -> str:
    return context.responsible_id or context.structure_id


def _vihf(context: DepositContext, header: CdaHeader, outlet: DmpOutlet, at: datetime) -> bytes:
    """The assertion of an indirect authentication, or of an automaton when no person answers for the mailbox (dmp.md §2)."""
    roles: tuple[Code, ...] = (_AUTOMATON,)
    name = f"{outlet.software.software_name} {outlet.software.software_version}"
    if context.responsible_id and context.profession:
        roles = (Code(context.profession, _PROFESSIONS),)
        if context.specialty:
            roles += (Code(context.specialty, _SPECIALTIES),)
        name = f"{context.responsible_given_name} {context.responsible_surname}".strip() or name
    content = VihfContent(
        name_id=_responsible(context),
        subject_name=name,
        roles=roles,
        structure_id=context.structure_id,
        sector=context.sector,
        ins=header.patient.ins,
        ins_oid=header.patient.ins_oid,
        authenticated_at=at,
    )
    return build_vihf(
        content,
        key=outlet.key,
        chain=outlet.chain,
        assertion_id=f"_{uuid.uuid4()}",
        at=at,
        settings=outlet.software,
    )


async def _post(outlet: DmpOutlet, content_type: str, body: bytes) -> tuple[int, str, bytes]:
    """Send and read a bounded answer within the outlet's time, whatever the pace of the server (httpx's own time-outs start again
    at every byte). Raises httpx.HTTPError, ssl.SSLError, TimeoutError."""
    # The answer is read as it comes: an encoded one could expand without bound.
    headers = {
        "Content-Type": content_type,
        "Accept": "multipart/related, application/soap+xml",
        "Accept-Encoding": "identity",
    }
    async with (
        asyncio.timeout(outlet.timeout),
        httpx.AsyncClient(verify=outlet.tls, timeout=outlet.timeout, trust_env=False, follow_redirects=False) as client,
        client.stream("POST", outlet.url, content=body, headers=headers) as response,
    ):
        pieces: list[bytes] = []
        size = 0
        async for piece in response.aiter_raw():
            size += len(piece)
            if size > MAX_RESPONSE:
                raise httpx.ReadError("answer too large")
            pieces.append(piece)
        return response.status_code, response.headers.get("content-type", ""), b"".join(pieces)


# dmp.md §1.3. What may pass by itself is retried; what is not listed is for a person.
_PASSING = frozenset(
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
    "DMPInvalidCertificate": "certificat de signature refusé / signature certificate refused",
    "DMPClosed": "DMP fermé / record closed",
}


def interpret(status: int, content_type: str, body: bytes) -> Outcome:
    """What an HTTP answer means for the deposit (table of dmp.md §1.3)."""
    envelope = None
    try:
        root, _ = mtom.parse(content_type, body, max_size=MAX_RESPONSE)
        envelope = soap.parse_envelope(root, max_size=MAX_RESPONSE)
        response = None if envelope.fault else parse_registry_response(envelope.body)
    except (mtom.MtomError, soap.SoapError, EbrimError):
        response = None
    if envelope is not None and envelope.fault is not None:
        return _fault(envelope.fault, status)
    if status >= 500 or status in (408, 425, 429):
        return _retry(f"http-{status}", "serveur indisponible / server unavailable")
    if status != 200:
        return _attention(f"http-{status}", "le DMP a refusé la requête / the record refused the request")
    if response is None:
        return _attention("answer", "réponse du DMP incompréhensible / the record's answer cannot be understood")
    return _registry(response)


def _fault(fault: soap.Fault, status: int) -> Outcome:
    code = _word(fault.subcode) or fault.code.value
    if code in _PASSING or (not fault.subcode and fault.code is soap.FaultCode.RECEIVER and status >= 500):
        return _retry(code, "le DMP est momentanément indisponible / the record is not available now")
    return _attention(code, _SENTENCES.get(code, "le DMP a refusé le dépôt / the record refused the deposit"))


def _registry(response: RegistryResponse) -> Outcome:
    if response.success:
        return Outcome(DepositState.DEPOSITED, "Success", "déposé / deposited")
    codes = [_word(error.code) for error in response.errors if not error.warning]
    if codes and all(code == _ALREADY_THERE for code in codes):
        return Outcome(DepositState.DEPOSITED, _ALREADY_THERE, "déjà présent, mêmes octets / already there, same bytes")
    if codes and all(code in _PASSING for code in codes):
        return _retry(codes[0], "le DMP est momentanément indisponible / the record is not available now")
    telling = next((code for code in codes if code not in _PASSING and code != _ALREADY_THERE), "Failure")
    return _attention(telling, _SENTENCES.get(telling, "le DMP a refusé le dépôt / the record refused the deposit"))


def _word(code: str) -> str:
    """A remote code as a word fit for a reason: letters, digits and dashes only, bounded."""
    return "".join(char for char in code if char.isascii() and (char.isalnum() or char in "-_."))[:64]


def _retry(code: str, text: str) -> Outcome:
    return Outcome(DepositState.RETRY, code, f"{code}: {text}")


def _attention(code: str, text: str) -> Outcome:
    return Outcome(DepositState.NEEDS_ATTENTION, code, f"{code}: {text}")
