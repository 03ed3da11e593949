"""Publication of mailboxes to the national directory: the draft FHIR API (mssante.md §4.5).

`PATCH [base]/Practitioner|Organization?identifier=<system>|<value>` with a FHIR `Parameters` of operations on
`telecom`. The draft says `insert`, `replace` and `delete` on `telecom.where(value='…')`; how an operation is spelt follows
FHIRPath Patch (FHIR R4). CHOICE, until an official text: one operation a request; a mailbox on the red list or suspended is
deleted there, so that nothing depends on the other side hiding it. The network is a shell around pure requests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx

from directory.entry import Entry, MailboxKind
from directory.errors import DirectoryError
from directory.identifiers import PERSON_OID

_EMAIL_TYPE: Final = "https://hl7.fr/ig/fhir/core/StructureDefinition/fr-core-contact-point-email-type"
_METADATA: Final = "https://interop.esante.gouv.fr/ig/fhir/annuaire/StructureDefinition/as-ext-mailbox-mss-metadata"
_MESSAGING: Final = "https://mos.esante.gouv.fr/NOS/TRE_R256-TypeMessagerie/FHIR/TRE-R256-TypeMessagerie"
_MAILBOX_TYPE: Final = "https://mos.esante.gouv.fr/NOS/TRE_R257-TypeBAL/FHIR/TRE-R257-TypeBAL"
_FINESS: Final = "https://finess.esante.gouv.fr"
_STRUCTURE: Final = "urn:oid:1.2.250.1.71.4.2.2"
_LARGEST_ANSWER: Final = 1 << 20


class Operation(StrEnum):
    """What is done to a mailbox in the national directory."""

    INSERT = "insert"
    REPLACE = "replace"
    DELETE = "delete"


class Answer(StrEnum):
    """What came of it. LATER: worth trying again; the others need somebody."""

    DONE = "done"
    UNKNOWN_HOLDER = "unknown holder"
    SEVERAL_HOLDERS = "several holders"
    REFUSED = "refused"
    LATER = "later"


@dataclass(frozen=True, slots=True)
class PublicationRequest:
    """One PATCH: `path` is relative to the API's base."""

    path: str
    body: Mapping[str, Any]

    def json(self) -> bytes:
        """The body as JSON (UTF-8)."""
        return json.dumps(self.body, ensure_ascii=False).encode()


def request(entry: Entry, operation: Operation, *, rank: int = 1) -> PublicationRequest:
    """The request that makes `operation` on the mailbox `entry`. Raises DirectoryError when nobody holds it.

    `rank` is the holder's preference, 1 the highest. A mailbox that must not be published is only ever deleted.
    """
    hidden = entry.red_list or entry.suspended
    resource, identifier = _holder(entry)
    actual = Operation.DELETE if hidden else operation
    parts: list[dict[str, Any]] = [{"name": "type", "valueCode": actual.value}]
    if actual is Operation.INSERT:
        parts += [{"name": "path", "valueString": f"{resource}.telecom"}, {"name": "index", "valueInteger": 0}]
    else:
        address = entry.mail.replace("\\", "\\\\").replace("'", "\\'")  # FHIRPath string literal
        parts.append({"name": "path", "valueString": f"{resource}.telecom.where(value='{address}')"})
    if actual is not Operation.DELETE:
        parts.append({"name": "value", "valueContactPoint": telecom(entry, rank)})
    body = {"resourceType": "Parameters", "parameter": [{"name": "operation", "part": parts}]}
    return PublicationRequest(f"{resource}?identifier={quote(identifier, safe=':/|')}", body)


def _holder(entry: Entry) -> tuple[str, str]:
    """(resource, system|value) of who holds a mailbox."""
    if entry.kind in (MailboxKind.PER, MailboxKind.CAB) and entry.national_id:
        return "Practitioner", f"urn:oid:{PERSON_OID}|{entry.national_id}"
    if entry.structure_id.startswith("1"):
        return "Organization", f"{_FINESS}|{entry.structure_id[1:]}"
    if entry.structure_id:
        return "Organization", f"{_STRUCTURE}|{entry.structure_id}"
    raise DirectoryError("BAL sans titulaire identifié, non publiable / mailbox without an identified holder")


def telecom(entry: Entry, rank: int = 1) -> dict[str, Any]:
    """The FHIR ContactPoint of a mailbox (mssante.md §4.5). The person in charge is not published."""
    metadata: list[dict[str, Any]] = [
        {
            "url": "type",
            "valueCodeableConcept": {"coding": [{"system": _MAILBOX_TYPE, "code": entry.kind.value}]},
        },
        {"url": "listeRouge", "valueBoolean": entry.red_list},
    ]
    if entry.kind not in (MailboxKind.PER,) and entry.description:
        metadata.append({"url": "description", "valueString": entry.description})
    if entry.kind in (MailboxKind.ORG, MailboxKind.APP) and entry.service:
        metadata.append({"url": "service", "valueString": entry.service})
    return {
        "system": "email",
        "value": entry.mail,
        "rank": rank,
        "extension": [
            {"url": _EMAIL_TYPE, "valueCoding": {"system": _MESSAGING, "code": "MSSANTE"}},
            {"url": _METADATA, "extension": metadata},
        ],
    }


class NationalPublisher:
    """Sends requests to the API at `base` with `client` (which holds TLS, key and time-outs)."""

    def __init__(self, client: httpx.Client, base: str) -> None:
        parts = urlsplit(base)
        if parts.scheme != "https" and (parts.scheme, parts.hostname) not in (("http", "127.0.0.1"), ("http", "::1")):
            raise DirectoryError("directory.national_url : https:// attendu / https:// expected")
        self._client = client
        self._base = base.rstrip("/")

    def send(self, wanted: PublicationRequest) -> Answer:
        """Send one request. Never raises for what the other side does: the answer says it."""
        headers = {"Content-Type": "application/fhir+json", "Accept": "application/fhir+json"}
        try:
            with self._client.stream(
                "PATCH", f"{self._base}/{wanted.path}", content=wanted.json(), headers=headers
            ) as response:
                size = 0
                for chunk in response.iter_raw():
                    size += len(chunk)
                    if size > _LARGEST_ANSWER:
                        return Answer.REFUSED
                status = response.status_code
        except httpx.HTTPError:
            return Answer.LATER
        if status in (429, 502, 503, 504) or status >= 500:
            return Answer.LATER
        return {200: Answer.DONE, 204: Answer.DONE, 404: Answer.UNKNOWN_HOLDER, 412: Answer.SEVERAL_HOLDERS}.get(
            status, Answer.REFUSED
        )
