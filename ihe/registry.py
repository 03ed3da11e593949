"""Two registry transactions over bytes: looking a document up by uniqueId (ITI-18 GetDocuments, TD3.1b) and changing its status
(ITI-57 UpdateAvailabilityStatus, TD3.3c). Sources: dmp.md §1.2, §1.4, §3.9; IHE ITI TF-2 §3.18, §3.57.

Bounded; only EbrimError leaves. The deletion of a document asks for `urn:asip:ci-sis:2010:StatusType:Deleted`, on an entryUUID.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lxml import etree

from ihe import ebrim_write as names
from ihe.ebrim_model import Association, EbrimError, Relation, SubmissionSet
from ihe.ebrim_read import RegistryError, parse_objects, parse_response_head, read_root
from ihe.ebrim_write import objects_xml
from ihe.xml import Element, is_xml_text, text_of, to_bytes

QUERY = "urn:oasis:names:tc:ebxml-regrep:xsd:query:3.0"
STORED_QUERY = "urn:ihe:iti:2007:RegistryStoredQuery"
STORED_QUERY_RESPONSE = "urn:ihe:iti:2007:RegistryStoredQueryResponse"
UPDATE = "urn:ihe:iti:2010:UpdateDocumentSet"
UPDATE_RESPONSE = "urn:ihe:iti:2010:UpdateDocumentSetResponse"
GET_DOCUMENTS = "urn:uuid:5c4f972b-d56b-40ac-a5fc-c8ca9b40b9d4"
APPROVED = "urn:oasis:names:tc:ebxml-regrep:StatusType:Approved"
DEPRECATED = "urn:oasis:names:tc:ebxml-regrep:StatusType:Deprecated"
DELETED = "urn:asip:ci-sis:2010:StatusType:Deleted"
MAX_QUERIED = 100
_UUID = re.compile(r"urn:uuid:[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_Q = {"q": QUERY, "r": names.RIM}


def is_entry_uuid(value: str) -> bool:
    """True for `urn:uuid:` and a UUID in its canonical form."""
    return _UUID.fullmatch(value) is not None


def build_get_documents(unique_ids: tuple[str, ...]) -> bytes:
    """The body of a GetDocuments query that wants ObjectRef (TD3.1b). Raises EbrimError(`bad-text`)."""
    if not all(is_xml_text(one) and "'" not in one for one in unique_ids):
        raise EbrimError("bad-text", "a uniqueId cannot be written in a query")
    root = etree.Element(f"{{{QUERY}}}AdhocQueryRequest", nsmap={"query": QUERY, "rim": names.RIM})
    etree.SubElement(root, f"{{{QUERY}}}ResponseOption", {"returnType": "ObjectRef", "returnComposedObjects": "true"})
    query = etree.SubElement(root, f"{{{names.RIM}}}AdhocQuery", {"id": GET_DOCUMENTS})
    slot = etree.SubElement(query, f"{{{names.RIM}}}Slot", {"name": "$XDSDocumentEntryUniqueId"})
    values = etree.SubElement(slot, f"{{{names.RIM}}}ValueList")
    listed = ",".join(f"'{one}'" for one in unique_ids)
    etree.SubElement(values, f"{{{names.RIM}}}Value").text = f"({listed})"
    return to_bytes(root)


@dataclass(frozen=True, slots=True)
class StoredQuery:
    """A read query: its number, what it wants back, and its uniqueIds."""

    query_id: str
    return_type: str
    unique_ids: tuple[str, ...]


def read_stored_query(data: bytes) -> StoredQuery:
    """Reads an AdhocQueryRequest. Raises EbrimError: `xml-*`, `not-a-query`, `parameter`, `parameter-number`."""
    root = read_root(data)
    if root.tag != f"{{{QUERY}}}AdhocQueryRequest":
        raise EbrimError("not-a-query", "not an AdhocQueryRequest")
    query = root.find("r:AdhocQuery", _Q)
    option = root.find("q:ResponseOption", _Q)
    if query is None:
        raise EbrimError("not-a-query", "no AdhocQuery")
    found: list[str] = []
    for slot in query.findall("r:Slot", _Q):
        if slot.get("name") == "$XDSDocumentEntryUniqueId":
            for value in slot.findall("r:ValueList/r:Value", _Q):
                found += _listed(text_of(value))
    if not found:
        raise EbrimError("parameter", "no uniqueId is given")
    if len(found) > MAX_QUERIED:
        raise EbrimError("parameter-number", "too many uniqueIds")
    return_type = "" if option is None else option.get("returnType") or ""
    return StoredQuery(query.get("id") or "", return_type or "ObjectRef", tuple(found))


def _listed(value: str) -> list[str]:
    inner = value.strip()
    if not (inner.startswith("(") and inner.endswith(")")):
        raise EbrimError("parameter", "a list in parentheses is expected")
    pieces = [piece.strip() for piece in inner[1:-1].split(",")]
    if not all(len(piece) > 2 and piece[0] == piece[-1] == "'" for piece in pieces):
        raise EbrimError("parameter", "quoted values are expected")
    return [piece[1:-1] for piece in pieces]


def build_query_response(entry_uuids: tuple[str, ...], errors: tuple[RegistryError, ...] = ()) -> bytes:
    """An AdhocQueryResponse of ObjectRef (the registry's side)."""
    status = "Failure" if errors else "Success"
    root = etree.Element(
        f"{{{QUERY}}}AdhocQueryResponse",
        {"status": f"urn:oasis:names:tc:ebxml-regrep:ResponseStatusType:{status}"},
        nsmap={"query": QUERY, "rim": names.RIM, "rs": names.RS},
    )
    if errors:
        root.append(_error_list(errors))
    listed = etree.SubElement(root, f"{{{names.RIM}}}RegistryObjectList")
    for entry_uuid in entry_uuids:
        etree.SubElement(listed, f"{{{names.RIM}}}ObjectRef", {"id": entry_uuid})
    return to_bytes(root)


def _error_list(errors: tuple[RegistryError, ...]) -> Element:
    listed = etree.Element(f"{{{names.RS}}}RegistryErrorList")
    for error in errors:
        severity = "urn:oasis:names:tc:ebxml-regrep:ErrorSeverityType:" + ("Warning" if error.warning else "Error")
        attributes = {"errorCode": error.code, "codeContext": error.context or error.code, "severity": severity}
        etree.SubElement(listed, f"{{{names.RS}}}RegistryError", attributes)
    return listed


@dataclass(frozen=True, slots=True)
class QueryAnswer:
    """What a query gave: entryUUIDs, or errors."""

    entry_uuids: tuple[str, ...]
    errors: tuple[RegistryError, ...] = ()


def parse_query_response(data: bytes) -> QueryAnswer:
    """Reads an AdhocQueryResponse (ObjectRef, or whole entries). Raises EbrimError: `xml-*`, `not-a-response`, `status`,
    `entry-uuid`."""
    root = read_root(data)
    if root.tag != f"{{{QUERY}}}AdhocQueryResponse":
        raise EbrimError("not-a-response", "not an AdhocQueryResponse")
    success, errors = parse_response_head(root)
    objects = root.find("r:RegistryObjectList", _Q)
    found = [] if objects is None else [*objects.findall("r:ObjectRef", _Q), *objects.findall("r:ExtrinsicObject", _Q)]
    uuids = tuple(item.get("id") or "" for item in found[:MAX_QUERIED])
    if not all(is_entry_uuid(one) for one in uuids):
        raise EbrimError("entry-uuid", "an entryUUID is malformed")
    if not success and not errors:
        errors = (RegistryError("Failure"),)
    return QueryAnswer(uuids if success else (), errors)


def build_deletion(
    submission_set: SubmissionSet, entry_uuid: str, *, original: str = APPROVED, new: str = DELETED
) -> bytes:
    """The body of TD3.3c: a submission set whose one association changes the status of `entry_uuid` (ITI-57)."""
    if not is_entry_uuid(entry_uuid):
        raise EbrimError("entry-uuid", "an entryUUID is malformed")
    change = Association(
        Relation.UPDATE_STATUS,
        submission_set.entry_id,
        entry_uuid,
        "as1",
        (("OriginalStatus", (original,)), ("NewStatus", (new,))),
    )
    return objects_xml(submission_set, (change,))


@dataclass(frozen=True, slots=True)
class StatusChange:
    """A read ITI-57 request: the entry, the status it must have and the one it gets."""

    submission_set: SubmissionSet
    entry_uuid: str
    original: str
    new: str


def read_status_change(data: bytes) -> StatusChange:
    """Reads the body of an ITI-57 request with exactly one status change and no document.

    Raises EbrimError: as `parse_objects`, and `update` (anything else than one UpdateAvailabilityStatus)."""
    submission = parse_objects(data)
    changes = [one for one in submission.associations if one.relation == Relation.UPDATE_STATUS]
    if len(changes) != 1 or len(submission.associations) != 1 or submission.documents:
        raise EbrimError("update", "exactly one status change is expected")
    slots = dict(changes[0].slots)
    original, new = slots.get("OriginalStatus", ("",)), slots.get("NewStatus", ("",))
    if len(original) != 1 or len(new) != 1 or not is_entry_uuid(changes[0].target):
        raise EbrimError("update", "original status, new status and entryUUID are expected")
    return StatusChange(submission.submission_set, changes[0].target, original[0], new[0])
