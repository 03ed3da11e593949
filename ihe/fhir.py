"""A deposit as FHIR R4: the MHD / PDSm transaction bundle of one submission (ITI-65), and what the answer says (dmp.md §9).

Values in, JSON bytes out; nothing is sent here. The French profiles (PDSm) are published, the DMP's own FHIR interface
is a draft: names
of profiles are those of PDSm's canonical addresses, and what no profile fixes follows the table of §9.
"""

from __future__ import annotations

import base64
import json
import uuid
from dataclasses import dataclass
from typing import Any

from ihe.datatypes import parse_cx, parse_xcn, parse_xon
from ihe.ebrim_model import DocumentEntry, Submission, XdsAuthor
from ihe.values import Code, from_dtm, is_oid

PDSM = "https://interop.esante.gouv.fr/ig/fhir/pdsm/StructureDefinition"
MHD = "https://profiles.ihe.net/ITI/MHD/StructureDefinition"
MAX_ANSWER_DEPTH = 64


class FhirError(Exception):
    """The bytes are not a readable answer. `code` is stable; nothing is quoted."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


def system(value: str) -> str:
    """An OID or URN as a FHIR system."""
    return f"urn:oid:{value}" if is_oid(value) else value


def _concept(code: Code | None) -> dict[str, Any]:
    if code is None:
        return {}
    coding = {"system": system(code.system), "code": code.code} | ({"display": code.display} if code.display else {})
    return {"coding": [coding]}


def _identifier(cx: str) -> dict[str, Any]:
    found = parse_cx(cx)
    return {} if found is None else {"system": system(found.root), "value": found.extension}


def _instant(dtm: str) -> str:
    """A DTM in UTC as a FHIR instant."""
    return from_dtm(dtm).strftime("%Y-%m-%dT%H:%M:%SZ")


def _date(dtm: str) -> str:
    """A DTM of any precision as a FHIR dateTime."""
    if len(dtm) >= 10:
        return _instant(dtm)
    return "-".join(piece for piece in (dtm[:4], dtm[4:6], dtm[6:8]) if piece)


def _person(xcn: str, xon: str = "") -> dict[str, Any]:
    """A logical reference to a professional, with the name for readers."""
    person = parse_xcn(xcn)
    shown = f"{person.given} {person.family}".strip()
    if xon:
        shown += f" ({parse_xon(xon).name})"
    return {
        "type": "Practitioner",
        "identifier": {"system": system(person.root), "value": person.identifier},
        "display": shown,
    }


def _authors(authors: tuple[XdsAuthor, ...]) -> list[dict[str, Any]]:
    return [
        _person(author.persons[0], author.institutions[0] if author.institutions else "")
        for author in authors
        if author.persons
    ]


def document_reference(entry: DocumentEntry, *, binary: str, replaces: str = "", full_url: str = "") -> dict[str, Any]:
    """A DocumentReference (PDSm comprehensive). `binary` is the fullUrl of its Binary; `replaces` the id of a
    DocumentReference."""
    attachment = {
        "contentType": entry.mime_type,
        "language": entry.language,
        "url": binary,
        "size": entry.size,
        # FHIR wants the digest's bytes in base64, XDS their hexadecimal form (dmp.md §9).
        "hash": base64.b64encode(bytes.fromhex(entry.hash)).decode("ascii"),
        "title": entry.title,
        "creation": _date(entry.creation_time),
    }
    context: dict[str, Any] = {
        "event": [_concept(code) for code in entry.event_codes],
        "period": {"start": _date(entry.service_start)} if entry.service_start else {},
        "facilityType": _concept(entry.facility_type),
        "practiceSetting": _concept(entry.practice_setting),
        "sourcePatientInfo": {"identifier": _identifier(entry.source_patient_id)},
    }
    if entry.service_stop:
        context["period"]["end"] = _date(entry.service_stop)
    coded = entry.format_code
    form = {"system": system(coded.system), "code": coded.code, "display": coded.display} if coded else None
    resource = {
        "resourceType": "DocumentReference",
        "meta": {"profile": [f"{PDSM}/pdsm-comprehensive-document-reference"]},
        "masterIdentifier": {"system": "urn:ietf:rfc:3986", "value": f"urn:oid:{entry.unique_id}"},
        "status": "current",
        "type": _concept(entry.type_code),
        "category": [_concept(entry.class_code)],
        "subject": {"type": "Patient", "identifier": _identifier(entry.patient_id)},
        "date": _date(entry.creation_time),
        "author": _authors(entry.authors),
        "authenticator": _person(entry.legal_authenticator) if entry.legal_authenticator else None,
        "relatesTo": [{"code": "replaces", "target": {"reference": replaces}}] if replaces else None,
        "description": entry.comments or None,
        "securityLabel": [_concept(code) for code in entry.confidentiality],
        "content": [{"attachment": attachment, "format": form}],
        "context": {name: value for name, value in context.items() if value and value != {"identifier": {}}},
    }
    return {name: value for name, value in resource.items() if value}


def transaction(submission: Submission, contents: dict[str, bytes], *, replaces: dict[str, str] | None = None) -> bytes:
    """The ITI-65 bundle: a List (the lot), a DocumentReference and a Binary for each document. `contents` by entry id;
    `replaces` maps
    an entry id to the DocumentReference it replaces. POSTs are conditional, so that a repetition makes nothing new."""
    replaced = replaces or {}
    lot = submission.submission_set
    entries: list[dict[str, Any]] = []
    references = []
    for entry in submission.documents:
        binary, reference = (
            f"urn:uuid:{_stable(lot.unique_id, entry, 'binary')}",
            f"urn:uuid:{_stable(lot.unique_id, entry, 'ref')}",
        )
        references.append(reference)
        resource = document_reference(entry, binary=binary, replaces=replaced.get(entry.entry_id, ""))
        condition = f"identifier=urn:ietf:rfc:3986|urn:oid:{entry.unique_id}"
        entries.append(_post(reference, resource, condition))
        data = base64.b64encode(contents[entry.entry_id]).decode("ascii")
        entries.append(_post(binary, {"resourceType": "Binary", "contentType": entry.mime_type, "data": data}, ""))
    listing = {
        "resourceType": "List",
        "meta": {"profile": [f"{PDSM}/pdsm-submissionset-comprehensive"]},
        "extension": [
            {
                "url": f"{MHD}/ihe-sourceId",
                "valueIdentifier": {"value": f"urn:oid:{lot.source_id}"},
            },
            {"url": f"{MHD}/ihe-designationType", "valueCodeableConcept": _concept(lot.content_type)},
        ],
        "identifier": [{"use": "official", "system": "urn:ietf:rfc:3986", "value": f"urn:oid:{lot.unique_id}"}],
        "status": "current",
        "mode": "working",
        "title": lot.title or None,
        "code": {
            "coding": [{"system": "https://profiles.ihe.net/ITI/MHD/CodeSystem/MHDlistTypes", "code": "submissionset"}]
        },
        "subject": {"type": "Patient", "identifier": _identifier(lot.patient_id)},
        "date": _instant(lot.submission_time),
        "source": _authors(lot.authors)[0] if lot.authors else None,
        "entry": [{"item": {"reference": reference}} for reference in references],
    }
    made = {name: value for name, value in listing.items() if value}
    condition = f"identifier=urn:ietf:rfc:3986|urn:oid:{lot.unique_id}"
    entries.insert(0, _post(f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, lot.unique_id)}", made, condition))
    bundle = {
        "resourceType": "Bundle",
        "meta": {"profile": [f"{MHD}/IHE.MHD.Comprehensive.ProvideBundle"]},
        "type": "transaction",
        "entry": entries,
    }
    return json.dumps(bundle, ensure_ascii=False, separators=(",", ":")).encode()


def _stable(lot: str, entry: DocumentEntry, kind: str) -> uuid.UUID:
    """The same document of the same lot has the same address at each attempt."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f"{lot}/{entry.unique_id}/{kind}")


def _post(full_url: str, resource: dict[str, Any], condition: str) -> dict[str, Any]:
    request = {"method": "POST", "url": resource["resourceType"]} | ({"ifNoneExist": condition} if condition else {})
    return {"fullUrl": full_url, "resource": resource, "request": request}


def _json(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise FhirError("json", "not readable JSON") from None
    if not isinstance(value, dict):
        raise FhirError("json", "a resource is expected")
    return value


@dataclass(frozen=True, slots=True)
class Found:
    """A DocumentReference that a search gave: its address, status, and the SHA-1 of its document (hexadecimal, "" when
    unsaid)."""

    reference: str
    status: str
    hash: str


def read_found(data: bytes) -> tuple[Found, ...]:
    """The DocumentReferences of a searchset. Raises FhirError."""
    bundle = _json(data)
    if bundle.get("resourceType") != "Bundle":
        raise FhirError("answer", "a Bundle is expected")
    found = []
    entries = bundle.get("entry", [])
    for item in entries if isinstance(entries, list) else []:
        resource = item.get("resource", {}) if isinstance(item, dict) else {}
        if not isinstance(resource, dict) or resource.get("resourceType") != "DocumentReference":
            continue
        try:
            digest = base64.b64decode(resource["content"][0]["attachment"]["hash"]).hex()
        except (KeyError, IndexError, TypeError, ValueError):
            digest = ""
        found.append(Found(f"DocumentReference/{resource.get('id', '')}", str(resource.get("status", "")), digest))
    return tuple(found)


def read_patients(data: bytes) -> tuple[bool, ...]:
    """The `active` of each Patient of a searchset (True when unsaid). Raises FhirError."""
    bundle = _json(data)
    if bundle.get("resourceType") != "Bundle":
        raise FhirError("answer", "a Bundle is expected")
    entries = bundle.get("entry", [])
    found = (
        [item.get("resource", {}) for item in entries if isinstance(item, dict)] if isinstance(entries, list) else []
    )
    return tuple(one.get("active", True) is not False for one in found if one.get("resourceType") == "Patient")


def read_transaction(data: bytes) -> tuple[str, ...]:
    """The statuses of a transaction-response, such as `201 Created`. Raises FhirError."""
    bundle = _json(data)
    if bundle.get("resourceType") != "Bundle" or bundle.get("type") != "transaction-response":
        raise FhirError("answer", "a transaction-response is expected")
    entries = bundle.get("entry", [])
    if not isinstance(entries, list):
        raise FhirError("answer", "entries are expected")
    return tuple(str(item.get("response", {}).get("status", "")) for item in entries if isinstance(item, dict))


def status_patch(status: str) -> bytes:
    """FHIRPath Patch of a DocumentReference's status (dmp.md §9)."""
    parts = [
        {"name": "type", "valueCode": "replace"},
        {"name": "path", "valueString": "DocumentReference.status"},
        {"name": "value", "valueCode": status},
    ]
    return json.dumps({"resourceType": "Parameters", "parameter": [{"name": "operation", "part": parts}]}).encode()
