"""The SOAP outlet: the DMP's own transactions over mutual TLS (dmp.md §1 to §3).

One attempt is: existence test (TD0.2), then a deposit (TD2.1: metadata, lot signature, VIHF, ITI-41), preceded by the
look-up of the
entry it replaces (TD3.1b), or a deletion (TD3.1b, TD3.3c).

Invariants
* The bytes sent are the bytes received; metadata are made from them, they are never re-serialised (dmp.md §3.10).
* An exact retry keeps the submission set's uniqueId (DepositJob); only the signature file, whose content depends on
the time, gets
  a new identifier at each attempt.
* A lost answer is a retry: the record recognises the same document, and a deletion that finds nothing left is done.
"""

from __future__ import annotations

import ssl
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from dmp_bridge import answers
from dmp_bridge.context import DELETE, DepositContext
from dmp_bridge.exchange import Answer, Exchange, ExchangeFailed
from dmp_bridge.outlet import Outcome, attention, done, new_submission_set_id, retry
from ihe import hl7v3, mtom, registry, soap
from ihe.cda import Author, CdaError, CdaHeader, Organisation, PersonName, read_cda
from ihe.codes import content_type_of
from ihe.datatypes import PERSON_ROOT, STRUCTURE_ROOT, patient_id
from ihe.dsg import DsgError, build_lot_signature
from ihe.ebrim import (
    EbrimError,
    Submission,
    SubmissionSet,
    XdsAuthor,
    entry_from_cda,
    lot,
    to_provide_and_register,
    with_signature,
    xds_author,
)
from ihe.values import Code, Identifier, to_dtm
from ihe.vihf import VihfContent, VihfError, VihfSettings, build_vihf
from mailstore.model import DepositJob

_PROFESSIONS = "1.2.250.1.71.1.2.7"
_SPECIALTIES = "1.2.250.1.71.4.2.5"
_AUTOMATON = Code("AUTOMATE", "1.2.250.1.213.1.1.4.6", "Automate")
_ACCEPT = "multipart/related, application/soap+xml"


@dataclass(frozen=True, slots=True)
class DmpOutlet:
    """The way to one DMP. `url` is the repository service, beside which stand `registry` and `patients`; `tls` holds our
    authentication certificate and the DMP's anchors; `key` and `chain` are the *signature* certificate of the structure (dmp.md
    §1.1: two distinct certificates). `source_id` is the OID of this system; `timeout` in seconds bounds each exchange.

    `existence_test`: ask TD0.2 first; a favourable answer holds for `existence_seconds`. `deposit_unknown_target`: a
    document that
    replaces one the record does not know is deposited as new, instead of being left to a person (dmp.md §4.7).
    """

    url: str
    tls: ssl.SSLContext = field(repr=False)
    key: rsa.RSAPrivateKey = field(repr=False)
    chain: Sequence[x509.Certificate] = field(repr=False)
    source_id: str
    software: VihfSettings = field(default_factory=VihfSettings)
    timeout: float = 20.0
    existence_test: bool = True
    existence_seconds: float = 300.0
    deposit_unknown_target: bool = False
    exchange: Exchange | None = field(default=None, repr=False)
    _open_records: _Recent = field(default_factory=lambda: _Recent(), repr=False)

    def __post_init__(self) -> None:
        if self.exchange is None:
            object.__setattr__(self, "exchange", Exchange(self.tls))

    def carry_out(self, job: DepositJob, at: datetime) -> Outcome:
        """Try once; `at` is the time written in the lot, the signature and the VIHF. Never raises for what a document or a
        server may do; call it from a thread, not from an event loop."""
        try:
            context = DepositContext.from_json(job.context)
            header = read_cda(job.content)
            attempt = _Attempt(self, job, context, header, at, _vihf(context, header, self, at))
            return attempt.run()
        except (ValueError, TypeError) as error:
            return attention(
                "context", f"contexte de dépôt illisible / unreadable deposit context ({type(error).__name__})"
            )
        except (CdaError, VihfError) as error:
            return attention(error.code, f"{error.french} / {error.english}")
        except (EbrimError, DsgError, mtom.MtomError, soap.SoapError, hl7v3.Hl7V3Error) as error:
            text = f"dépôt impossible à composer / the deposit cannot be built: {error.message}"
            return attention(error.code, text)
        except ExchangeFailed as error:
            return retry("transport", str(error))

    def service(self, name: str) -> str:
        """The URL of a service beside the repository (dmp.md §1.1)."""
        return f"{self.url.rpartition('/')[0]}/{name}"


class _Recent:
    """Patients whose record was open a moment ago. In memory only."""

    def __init__(self, size: int = 10_000) -> None:
        self._until: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()
        self._size = size

    def holds(self, patient: Identifier) -> bool:
        """True while the last favourable answer is fresh."""
        with self._lock:
            return self._until.get((patient.root, patient.extension), 0.0) > time.monotonic()

    def add(self, patient: Identifier, seconds: float) -> None:
        """Remember a favourable answer."""
        with self._lock:
            if len(self._until) >= self._size:
                self._until.clear()
            self._until[patient.root, patient.extension] = time.monotonic() + seconds

    def forget(self, patient: Identifier) -> None:
        """The record was closed meanwhile."""
        with self._lock:
            self._until.pop((patient.root, patient.extension), None)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One attempt of one job, with the one assertion that all its exchanges carry."""

    outlet: DmpOutlet
    job: DepositJob
    context: DepositContext
    header: CdaHeader
    at: datetime
    vihf: bytes = field(repr=False)

    def run(self) -> Outcome:
        """Existence, then what is asked."""
        closed = self._existence()
        if closed is not None:
            return closed
        outcome = self._delete() if self.context.action == DELETE else self._deposit()
        if outcome.code in answers.NO_RECORD:
            self.outlet._open_records.forget(self._patient)
        return outcome

    @property
    def _patient(self) -> Identifier:
        return Identifier(self.header.patient.ins_oid, self.header.patient.ins)

    def _existence(self) -> Outcome | None:
        """TD0.2; None when the way is free."""
        outlet, patient = self.outlet, self._patient
        if not outlet.existence_test or outlet._open_records.holds(patient):
            return None
        body = hl7v3.build_existence_test(
            patient, message_id=new_submission_set_id(), source_id=outlet.source_id, at=self.at
        )
        refused = answers.of_existence(self._soap("patients", hl7v3.EXISTENCE_TEST, body), patient)
        if refused is None:
            outlet._open_records.add(patient, outlet.existence_seconds)
        return refused

    def _lookup(self, unique_id: str) -> str | Outcome:
        """TD3.1b: the entryUUID of a document, "" when the record does not know it."""
        body = registry.build_get_documents((unique_id,))
        found = answers.of_lookup(self._soap("registry", registry.STORED_QUERY, body))
        if isinstance(found, Outcome):
            return found
        return found[0] if found else ""

    def _delete(self) -> Outcome:
        """TD3.3c. After a first attempt, a reference that is gone means that it was carried out and its answer lost."""
        found = self._lookup(self.header.unique_id)
        if isinstance(found, Outcome):
            return found
        if not found:
            if self.job.deposit.attempts:
                return done("Deleted", "plus rien à supprimer / nothing left to delete")
            return attention("delete-unknown", "document à supprimer inconnu du DMP / unknown document to delete")
        patient = self._patient
        lot_of_change = SubmissionSet(
            entry_id="SubmissionSet01",
            unique_id=self.job.deposit.submission_set_id,
            source_id=self.outlet.source_id,
            patient_id=patient_id(patient.extension, patient.root),
            submission_time=to_dtm(self.at),
            authors=(sender_author(self.context),),
            content_type=content_type_of(self.header),
        )
        body = registry.build_deletion(lot_of_change, found)
        return answers.of_deletion(self._soap("registry", registry.UPDATE, body))

    def _deposit(self) -> Outcome:
        """TD2.1, preceded by the look-up of what is replaced."""
        target = ""
        if self.header.replaces is not None:
            found = self._lookup(self.header.replaces)
            if isinstance(found, Outcome):
                return found
            if not found and not self.outlet.deposit_unknown_target:
                return attention(
                    "replacement-unknown", "document à remplacer inconnu du DMP / document to replace is unknown"
                )
            target = found
        content_type, body = self._lot_message(target)
        return answers.of_deposit(self._post("repository", content_type, body))

    def _lot_message(self, target: str) -> tuple[str, bytes]:
        """The MTOM message of an ITI-41: content type and body."""
        submission, contents = self._lot(target)
        cids = {entry_id: f"{entry_id}@caducee" for entry_id in contents}
        request = self._request(
            to_provide_and_register(submission, cids), soap.PROVIDE_AND_REGISTER, self.outlet.service("repository")
        )
        parts = [mtom.MtomPart(cids[entry_id], content) for entry_id, content in contents.items()]
        return mtom.build(request, parts, action=soap.PROVIDE_AND_REGISTER)

    def _lot(self, target: str) -> tuple[Submission, dict[str, bytes]]:
        set_id, content, outlet = self.job.deposit.submission_set_id, self.job.content, self.outlet
        author = sender_author(self.context)
        entry = entry_from_cda(self.header, content, visibility_codes=self.context.visibility)
        submission = lot(
            self.header,
            (entry,),
            unique_id=set_id,
            source_id=outlet.source_id,
            author=author,
            at=self.at,
            title=entry.title,
            replaces={entry.entry_id: target} if target else None,
        )
        signature = build_lot_signature(
            [(entry.unique_id, content)], submission_set_id=set_id, key=outlet.key, chain=outlet.chain, at=self.at
        )
        submission = with_signature(
            submission,
            signature,
            unique_id=new_submission_set_id(),
            author=author,
            legal_authenticator=author.persons[0],
            at=self.at,
        )
        missing = submission.problems()
        if missing:
            raise EbrimError("metadata", ", ".join(missing[:5]))
        return submission, {entry.entry_id: content, "Signature01": signature}

    def _request(self, body: bytes, action: str, to: str) -> bytes:
        message_id = f"urn:uuid:{uuid.uuid4()}"
        return soap.build_request(body, action=action, message_id=message_id, to=to, assertion=self.vihf)

    def _soap(self, service: str, action: str, body: bytes) -> Answer:
        """A plain SOAP exchange with a service."""
        request = self._request(body, action, self.outlet.service(service))
        return self._post(service, f'application/soap+xml; charset=UTF-8; action="{action}"', request)

    def _post(self, service: str, content_type: str, body: bytes) -> Answer:
        exchange = self.outlet.exchange
        if exchange is None:
            raise ExchangeFailed("no exchange")
        url = self.outlet.url if service == "repository" else self.outlet.service(service)
        headers = {"Content-Type": content_type, "Accept": _ACCEPT}
        return exchange.request("POST", url, headers=headers, content=body, seconds=self.outlet.timeout)


def sender_author(context: DepositContext) -> XdsAuthor:
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
        invisible_to_guardians=context.secret_connection,
    )
    return build_vihf(
        content,
        key=outlet.key,
        chain=outlet.chain,
        assertion_id=f"_{uuid.uuid4()}",
        at=at,
        settings=outlet.software,
    )
