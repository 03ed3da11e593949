"""Reading ebRIM 3.0 metadata back into values: METADATA.XML, ITI-41 bodies, registry responses.

Tolerant about what is missing or unknown (real producers leave much out), strict about structure and quantity.
Only EbrimError leaves this module.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from lxml import etree

from ihe import ebrim_write as names
from ihe.ebrim_model import Association, DocumentEntry, EbrimError, Slots, Submission, SubmissionSet, XdsAuthor
from ihe.values import Code
from ihe.xml import Element, XmlError, XmlLimits, parse_xml, text_of, to_bytes

_R = {"r": names.RIM}
MAX_OBJECTS = 1000
_LIMITS = XmlLimits(size=8 * 1024 * 1024, depth=64, elements=200_000)

_DOCUMENT_SLOTS = frozenset(
    {
        "creationTime",
        "hash",
        "languageCode",
        "legalAuthenticator",
        "repositoryUniqueId",
        "serviceStartTime",
        "serviceStopTime",
        "size",
        "sourcePatientId",
        "sourcePatientInfo",
        "URI",
        names.REFERENCE_IDS,
    }
)
_SUBMISSION_SLOTS = frozenset({"submissionTime", "intendedRecipient"})


def _slots(element: Element) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for slot in element.findall("r:Slot", _R):
        values = tuple(text_of(value) for value in slot.findall("r:ValueList/r:Value", _R))
        found[slot.get("name") or ""] = values
    return found


def _first(slots: Mapping[str, tuple[str, ...]], name: str) -> str:
    values = slots.get(name, ())
    return values[0] if values else ""


def _others(slots: Mapping[str, tuple[str, ...]], known: frozenset[str]) -> Slots:
    return tuple((name, values) for name, values in slots.items() if name not in known)


def _label(element: Element, name: str) -> str:
    localized = element.find(f"r:{name}/r:LocalizedString", _R)
    return "" if localized is None else localized.get("value") or ""


def _classifications(element: Element, scheme: str) -> list[Element]:
    return [
        item for item in element.findall("r:Classification", _R) if (item.get("classificationScheme") or "") == scheme
    ]


def _codes(element: Element, scheme: str) -> tuple[Code, ...]:
    found = []
    for item in _classifications(element, scheme):
        code = item.get("nodeRepresentation") or ""
        if code:
            found.append(Code(code, _first(_slots(item), "codingScheme"), _label(item, "Name")))
    return tuple(found)


def _code(element: Element, scheme: str) -> Code | None:
    codes = _codes(element, scheme)
    return codes[0] if codes else None


def _authors(element: Element, scheme: str) -> tuple[XdsAuthor, ...]:
    found = []
    for item in _classifications(element, scheme):
        slots = _slots(item)
        author = XdsAuthor(
            slots.get("authorPerson", ()),
            slots.get("authorInstitution", ()),
            slots.get("authorRole", ()),
            slots.get("authorSpecialty", ()),
        )
        found.append(author)
    return tuple(found)


def _identifier(element: Element, scheme: str) -> str:
    for item in element.findall("r:ExternalIdentifier", _R):
        if item.get("identificationScheme") == scheme:
            return item.get("value") or ""
    return ""


def _submission_set(element: Element) -> SubmissionSet:
    slots = _slots(element)
    return SubmissionSet(
        entry_id=element.get("id") or "",
        unique_id=_identifier(element, names.SUBMISSION_UNIQUE),
        source_id=_identifier(element, names.SUBMISSION_SOURCE),
        patient_id=_identifier(element, names.SUBMISSION_PATIENT),
        submission_time=_first(slots, "submissionTime"),
        authors=_authors(element, names.SUBMISSION_AUTHOR),
        content_type=_code(element, names.CONTENT_TYPE),
        title=_label(element, "Name"),
        comments=_label(element, "Description"),
        status=element.get("status") or "",
        intended_recipients=slots.get("intendedRecipient", ()),
        extra_slots=_others(slots, _SUBMISSION_SLOTS),
    )


def _size(value: str) -> int | None:
    return int(value) if value.isascii() and value.isdigit() and len(value) <= 12 else None


def _document(element: Element) -> DocumentEntry:
    slots = _slots(element)
    return DocumentEntry(
        entry_id=element.get("id") or "",
        unique_id=_identifier(element, names.DOCUMENT_UNIQUE),
        patient_id=_identifier(element, names.DOCUMENT_PATIENT),
        mime_type=element.get("mimeType") or "",
        object_type=element.get("objectType") or "",
        logical_id=element.get("lid") or "",
        status=element.get("status") or "",
        creation_time=_first(slots, "creationTime"),
        language=_first(slots, "languageCode"),
        title=_label(element, "Name"),
        comments=_label(element, "Description"),
        authors=_authors(element, names.DOCUMENT_AUTHOR),
        class_code=_code(element, names.CLASS_CODE),
        type_code=_code(element, names.TYPE_CODE),
        format_code=_code(element, names.FORMAT_CODE),
        confidentiality=_codes(element, names.CONFIDENTIALITY),
        facility_type=_code(element, names.FACILITY_TYPE),
        practice_setting=_code(element, names.PRACTICE_SETTING),
        event_codes=_codes(element, names.EVENT_CODE),
        legal_authenticator=_first(slots, "legalAuthenticator"),
        service_start=_first(slots, "serviceStartTime"),
        service_stop=_first(slots, "serviceStopTime"),
        source_patient_id=_first(slots, "sourcePatientId"),
        source_patient_info=slots.get("sourcePatientInfo", ()),
        hash=_first(slots, "hash"),
        size=_size(_first(slots, "size")),
        uri=_first(slots, "URI"),
        repository_unique_id=_first(slots, "repositoryUniqueId"),
        reference_ids=slots.get(names.REFERENCE_IDS, ()),
        extra_slots=_others(slots, _DOCUMENT_SLOTS),
    )


def _association(element: Element) -> Association:
    slots = tuple((name, values) for name, values in _slots(element).items())
    return Association(
        relation=element.get("associationType") or "",
        source=element.get("sourceObject") or "",
        target=element.get("targetObject") or "",
        association_id=element.get("id") or "",
        slots=slots,
    )


def _submission(request: Element) -> Submission:
    objects = request.find("r:RegistryObjectList", _R)
    if objects is None:
        raise EbrimError("no-objects", "no RegistryObjectList")
    if len(objects) > MAX_OBJECTS:
        raise EbrimError("too-many-objects", "too many registry objects")
    packages = objects.findall("r:RegistryPackage", _R)
    if len(packages) != 1:
        raise EbrimError("submission-set", "exactly one submission set is expected")
    return Submission(
        _submission_set(packages[0]),
        tuple(_document(item) for item in objects.findall("r:ExtrinsicObject", _R)),
        tuple(_association(item) for item in objects.findall("r:Association", _R)),
    )


def read_root(data: bytes) -> Element:
    """The root element of registry XML, within this codec's bounds. Raises EbrimError(`xml-*`)."""
    try:
        return parse_xml(data, _LIMITS)
    except XmlError as error:
        raise EbrimError(error.code, error.message) from None


def from_xml(data: bytes) -> Submission:
    """Reads a SubmitObjectsRequest (METADATA.XML), or the one inside an ITI-41 body.

    Raises EbrimError: `xml-*`, `not-a-submission`, `no-objects`, `too-many-objects`, `submission-set`.
    """
    return parse_objects(data)


def parse_objects(data: bytes) -> Submission:
    """As `from_xml`: the objects of any SubmitObjectsRequest, an ITI-57 one included."""
    root = read_root(data)
    request = (
        root
        if root.tag == f"{{{names.LCM}}}SubmitObjectsRequest"
        else root.find(f"{{{names.LCM}}}SubmitObjectsRequest")
    )
    if request is None:
        raise EbrimError("not-a-submission", "no SubmitObjectsRequest")
    return _submission(request)


@dataclass(frozen=True, slots=True)
class ProvideAndRegister:
    """An ITI-41 request: the metadata and the bytes of each document, by entry id."""

    submission: Submission
    contents: Mapping[str, bytes] = field(repr=False)


def read_provide_and_register(body: bytes, parts: Mapping[str, bytes]) -> ProvideAndRegister:
    """Reads the body of an ITI-41 request; `parts` are the MIME parts by Content-ID (see `ihe.mtom.parse`).

    Raises EbrimError: as `from_xml`, and `not-iti-41`, `document-id` (duplicate or unnamed), `document-part` (no such
    part, or one that served already), `document-base64`. An entry without document, or the
    reverse, is left for the caller to judge.
    """
    root = read_root(body)
    if root.tag != f"{{{names.XDSB}}}ProvideAndRegisterDocumentSetRequest":
        raise EbrimError("not-iti-41", "not a ProvideAndRegisterDocumentSetRequest")
    request = root.find(f"{{{names.LCM}}}SubmitObjectsRequest")
    if request is None:
        raise EbrimError("not-a-submission", "no SubmitObjectsRequest")
    contents: dict[str, bytes] = {}
    # A part serves once: a thousand documents made of one large part would each be hashed, read and stored.
    unused = dict(parts)
    for document in root.findall(f"{{{names.XDSB}}}Document"):
        name = document.get("id") or ""
        if not name or name in contents:
            raise EbrimError("document-id", "a document is unnamed or given twice")
        contents[name] = _content(document, unused)
    return ProvideAndRegister(_submission(request), contents)


def _content(document: Element, unused: dict[str, bytes]) -> bytes:
    include = document.find(f"{{{names.XOP}}}Include")
    if include is None:
        try:
            return base64.b64decode("".join(text_of(document).split()), validate=True)
        except (binascii.Error, ValueError):
            raise EbrimError("document-base64", "an inline document is not base64") from None
    href = include.get("href") or ""
    cid = unquote(href[4:]) if href.startswith("cid:") else ""
    if cid not in unused:
        raise EbrimError("document-part", "a document refers to a part that is not there, or that served already")
    return unused.pop(cid)


_SUCCESS = "urn:oasis:names:tc:ebxml-regrep:ResponseStatusType:Success"
_FAILURE = "urn:oasis:names:tc:ebxml-regrep:ResponseStatusType:Failure"
_SEVERITY = "urn:oasis:names:tc:ebxml-regrep:ErrorSeverityType:"


@dataclass(frozen=True, slots=True)
class RegistryError:
    """One error of a registry response (dmp.md §1.3)."""

    code: str
    context: str = ""
    warning: bool = False


@dataclass(frozen=True, slots=True)
class RegistryResponse:
    """`rs:RegistryResponse`. Success may carry warnings."""

    success: bool
    errors: tuple[RegistryError, ...] = ()


def build_registry_response(response: RegistryResponse) -> bytes:
    """The XML of a registry response (dmp.md §1.3)."""
    status = _SUCCESS if response.success else _FAILURE
    root = etree.Element(f"{{{names.RS}}}RegistryResponse", {"status": status}, nsmap={"rs": names.RS})
    if response.errors:
        listed = etree.SubElement(root, f"{{{names.RS}}}RegistryErrorList")
        for error in response.errors:
            attributes = {
                "errorCode": error.code,
                "codeContext": error.context or error.code,
                "severity": _SEVERITY + ("Warning" if error.warning else "Error"),
            }
            etree.SubElement(listed, f"{{{names.RS}}}RegistryError", attributes)
    return to_bytes(root)


def parse_registry_response(data: bytes) -> RegistryResponse:
    """Reads a registry response. Raises EbrimError(`xml-*`, `not-a-response`, `status`)."""
    root = read_root(data)
    if root.tag != f"{{{names.RS}}}RegistryResponse":
        raise EbrimError("not-a-response", "not a RegistryResponse")
    success, errors = parse_response_head(root)
    return RegistryResponse(success, errors)


def parse_response_head(root: Element) -> tuple[bool, tuple[RegistryError, ...]]:
    """Success or not, and the errors, of any registry response. Raises EbrimError(`status`)."""
    status = root.get("status") or ""
    if status not in (_SUCCESS, _FAILURE):
        # PartialSuccess belongs to retrievals (ITI-43): for a deposit it is not an answer one may rely on.
        raise EbrimError("status", "unknown response status")
    errors = tuple(
        RegistryError(
            item.get("errorCode") or "",
            item.get("codeContext") or "",
            (item.get("severity") or "").endswith(":Warning"),
        )
        for item in root.iterfind(f"{{{names.RS}}}RegistryErrorList/{{{names.RS}}}RegistryError")
    )
    return status == _SUCCESS, errors
