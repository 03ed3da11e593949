"""The FHIR outlet: PDSm / MHD behind the same contract as SOAP (dmp.md §9). Off by default: no national endpoint is known.

One attempt: is the patient's record there (GET Patient), is the document there already (ITI-67, by its identifier:
same hash, success;
other hash, for a person), then the transaction bundle (ITI-65), preceded by the look-up of what it replaces, whose
status then becomes
`superseded`; or, for a deletion, the look-up and the patch to `entered-in-error`.

Invariants: those of the SOAP outlet. Authentication is the TLS certificate: the draft fixes no other.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote

from dmp_bridge.answers import sentence
from dmp_bridge.context import DELETE, DepositContext
from dmp_bridge.deposit import sender_author
from dmp_bridge.exchange import Answer, Exchange, ExchangeFailed
from dmp_bridge.outlet import Outcome, attention, done, retry
from ihe import fhir
from ihe.cda import CdaError, CdaHeader, read_cda
from ihe.ebrim import EbrimError, entry_from_cda, lot, sha1_of
from mailstore.model import DepositJob

_JSON = "application/fhir+json"


@dataclass(frozen=True, slots=True)
class FhirOutlet:
    """The way to one FHIR server: `url` is its base, without a slash at the end."""

    url: str
    tls: ssl.SSLContext = field(repr=False)
    source_id: str
    timeout: float = 20.0
    deposit_unknown_target: bool = False
    exchange: Exchange | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.exchange is None:
            object.__setattr__(self, "exchange", Exchange(self.tls))

    def carry_out(self, job: DepositJob, at: datetime) -> Outcome:
        """Try once; never raises for what a document or a server may do."""
        try:
            context = DepositContext.from_json(job.context)
            return _Attempt(self, job, context, read_cda(job.content), at).run()
        except (ValueError, TypeError) as error:
            return attention("context", f"contexte illisible / unreadable context ({type(error).__name__})")
        except CdaError as error:
            return attention(error.code, f"{error.french} / {error.english}")
        except EbrimError as error:
            return attention(error.code, f"dépôt impossible à composer / cannot be built: {error.message}")
        except fhir.FhirError:
            return attention("answer", "réponse du DMP incompréhensible / the record's answer cannot be understood")
        except ExchangeFailed as error:
            return retry("transport", str(error))
        except _Refused as refused:
            return refused.outcome


class _Refused(Exception):
    """An HTTP status that ends the attempt."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.code)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class _Attempt:
    outlet: FhirOutlet
    job: DepositJob
    context: DepositContext
    header: CdaHeader
    at: datetime

    def run(self) -> Outcome:
        patient = self.header.patient
        identifier = quote(f"{fhir.system(patient.ins_oid)}|{patient.ins}", safe="")
        known = fhir.read_patients(self._call("GET", f"Patient?identifier={identifier}").body)
        if not known:
            return attention("no-record", sentence("no-record"))
        if not any(known):
            return attention("DMPClosed", sentence("DMPClosed"))
        return self._delete() if self.context.action == DELETE else self._deposit()

    def _search(self, unique_id: str) -> tuple[fhir.Found, ...]:
        """ITI-67 by the document's identifier."""
        identifier = quote(f"urn:ietf:rfc:3986|urn:oid:{unique_id}", safe="")
        return fhir.read_found(self._call("GET", f"DocumentReference?identifier={identifier}").body)

    def _delete(self) -> Outcome:
        living = [one for one in self._search(self.header.unique_id) if one.status != "entered-in-error"]
        if not living:
            if self.job.deposit.attempts:
                return done("Deleted", "plus rien à supprimer / nothing left to delete")
            return attention("delete-unknown", "document à supprimer inconnu du DMP / unknown document to delete")
        self._call("PATCH", living[0].reference, fhir.status_patch("entered-in-error"))
        return done("Deleted", "supprimé / deleted")

    def _deposit(self) -> Outcome:
        there = self._search(self.header.unique_id)
        digest = sha1_of(self.job.content)
        if any(one.hash and one.hash != digest for one in there):
            return attention("XDSNonIdenticalHash", sentence("XDSNonIdenticalHash"))
        target = ""
        if self.header.replaces is not None:
            found = self._search(self.header.replaces)
            if not found and not self.outlet.deposit_unknown_target:
                return attention("replacement-unknown", "document à remplacer inconnu / unknown document to replace")
            target = found[0].reference if found else ""
            if found and found[0].status != "current" and not there:
                code = "XDSRegistryDeprecatedDocumentError"
                return attention(code, sentence(code))
        if not there:
            statuses = fhir.read_transaction(self._call("POST", "", self._bundle(target)).body)
            if not statuses or not all(status[:3] in ("200", "201") for status in statuses):
                return attention("answer", "dépôt incomplet / incomplete deposit")
        if target:
            self._call("PATCH", target, fhir.status_patch("superseded"))
        if there:
            return done("already-there", "déjà présent, mêmes octets / already there, same bytes")
        return done("Success", "déposé / deposited")

    def _bundle(self, target: str) -> bytes:
        entry = entry_from_cda(self.header, self.job.content, visibility_codes=self.context.visibility)
        submission = lot(
            self.header,
            (entry,),
            unique_id=self.job.deposit.submission_set_id,
            source_id=self.outlet.source_id,
            author=sender_author(self.context),
            at=self.at,
            title=entry.title,
        )
        missing = submission.problems()
        if missing:
            raise EbrimError("metadata", ", ".join(missing[:5]))
        contents = {entry.entry_id: self.job.content}
        return fhir.transaction(submission, contents, replaces={entry.entry_id: target} if target else None)

    def _call(self, method: str, path: str, content: bytes = b"") -> Answer:
        exchange = self.outlet.exchange
        if exchange is None:
            raise ExchangeFailed("no exchange")
        headers = {"Accept": _JSON} | ({"Content-Type": _JSON} if content else {})
        url = f"{self.outlet.url}/{path}" if path else self.outlet.url
        answer = exchange.request(method, url, headers=headers, content=content, seconds=self.outlet.timeout)
        if answer.status >= 500 or answer.status in (408, 425, 429):
            raise _Refused(retry(f"http-{answer.status}", "serveur indisponible / server unavailable"))
        if answer.status not in (200, 201):
            raise _Refused(attention(f"http-{answer.status}", "le DMP a refusé / the record refused"))
        return answer
