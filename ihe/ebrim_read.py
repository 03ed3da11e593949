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


_SLOT, _VALUES, _VALUE = f"{{{names.RIM}}}Slot", f"{{{names.RIM}}}ValueList", f"{{{names.RIM}}}Value"
_CLASSIFICATION, _IDENTIFIER = f"{{{names.RIM}}}Classification", f"{{{names.RIM}}}ExternalIdentifier"
_LOCALIZED = f"{{{names.RIM}}}LocalizedString"
_LABELS = {f"{{{names.RIM}}}Name": "Name", f"{{{names.RIM}}}Description": "Description"}


class _Object:
    """The parts of a registry object, found in one walk over its children."""

    def __init__(self, element: Element) -> None:
        self.element = element
        self.slots: dict[str, tuple[str, ...]] = {}
        self.labels: dict[str, str] = {}
        self._classifications: dict[str, list[Element]] = {}
        self._identifiers: dict[str, str] = {}
        for child in element:
            tag = child.tag
            if tag == _SLOT:
                self.slots[child.get("name") or ""] = _values(child)
            elif tag == _CLASSIFICATION:
                self._classifications.setdefault(child.get("classificationScheme") or "", []).append(child)
            elif tag == _IDENTIFIER:
                self._identifiers.setdefault(child.get("identificationScheme") or "", child.get("value") or "")
            elif isinstance(tag, str) and tag in _LABELS:
                localized = child.find(_LOCALIZED)
                text = "" if localized is None else localized.get("value") or ""
                self.labels[_LABELS[tag]] = self.labels.get(_LABELS[tag]) or text

    def get(self, name: str) -> str:
        """An attribute, "" when absent."""
        return self.element.get(name) or ""

    def first(self, name: str) -> str:
        """The first value of a slot."""
        values = self.slots.get(name, ())
        return values[0] if values else ""

    def others(self, known: frozenset[str]) -> Slots:
        """The slots that are not in `known`."""
        return tuple((name, values) for name, values in self.slots.items() if name not in known)

    def label(self, name: str) -> str:
        """Name or Description."""
        return self.labels.get(name, "")

    def codes(self, scheme: str) -> tuple[Code, ...]:
        """The coded values of a classification scheme."""
        found = []
        for item in self._classifications.get(scheme, ()):
            code = item.get("nodeRepresentation") or ""
            if code:
                part = _Object(item)
                found.append(Code(code, part.first("codingScheme"), part.label("Name")))
        return tuple(found)

    def code(self, scheme: str) -> Code | None:
        """The first of them."""
        codes = self.codes(scheme)
        return codes[0] if codes else None

    def authors(self, scheme: str) -> tuple[XdsAuthor, ...]:
        """The authors of a classification scheme."""
        found = []
        for item in self._classifications.get(scheme, ()):
            slots = _Object(item).slots
            author = XdsAuthor(
                slots.get("authorPerson", ()),
                slots.get("authorInstitution", ()),
                slots.get("authorRole", ()),
                slots.get("authorSpecialty", ()),
            )
            found.append(author)
        return tuple(found)

    def identifier(self, scheme: str) -> str:
        """The value of an external identifier, the first one."""
        return self._identifiers.get(scheme, "")


def _values(slot: Element) -> tuple[str, ...]:
    return tuple(text_of(value) for holder in slot.iterchildren(_VALUES) for value in holder.iterchildren(_VALUE))


def _submission_set(element: Element) -> SubmissionSet:
    read = _Object(element)
    return SubmissionSet(
        entry_id=read.get("id"),
        unique_id=read.identifier(names.SUBMISSION_UNIQUE),
        source_id=read.identifier(names.SUBMISSION_SOURCE),
        patient_id=read.identifier(names.SUBMISSION_PATIENT),
        submission_time=read.first("submissionTime"),
        authors=read.authors(names.SUBMISSION_AUTHOR),
        content_type=read.code(names.CONTENT_TYPE),
        title=read.label("Name"),
        comments=read.label("Description"),
        status=read.get("status"),
        intended_recipients=read.slots.get("intendedRecipient", ()),
        extra_slots=read.others(_SUBMISSION_SLOTS),
    )


def _size(value: str) -> int | None:
    return int(value) if value.isascii() and value.isdigit() and len(value) <= 12 else None


def _document(element: Element) -> DocumentEntry:
    read = _Object(element)
    return DocumentEntry(
        entry_id=read.get("id"),
        unique_id=read.identifier(names.DOCUMENT_UNIQUE),
        patient_id=read.identifier(names.DOCUMENT_PATIENT),
        mime_type=read.get("mimeType"),
        object_type=read.get("objectType"),
        logical_id=read.get("lid"),
        status=read.get("status"),
        creation_time=read.first("creationTime"),
        language=read.first("languageCode"),
        title=read.label("Name"),
        comments=read.label("Description"),
        authors=read.authors(names.DOCUMENT_AUTHOR),
        class_code=read.code(names.CLASS_CODE),
        type_code=read.code(names.TYPE_CODE),
        format_code=read.code(names.FORMAT_CODE),
        confidentiality=read.codes(names.CONFIDENTIALITY),
        facility_type=read.code(names.FACILITY_TYPE),
        practice_setting=read.code(names.PRACTICE_SETTING),
        event_codes=read.codes(names.EVENT_CODE),
        legal_authenticator=read.first("legalAuthenticator"),
        service_start=read.first("serviceStartTime"),
        service_stop=read.first("serviceStopTime"),
        source_patient_id=read.first("sourcePatientId"),
        source_patient_info=read.slots.get("sourcePatientInfo", ()),
        hash=read.first("hash"),
        size=_size(read.first("size")),
        uri=read.first("URI"),
        repository_unique_id=read.first("repositoryUniqueId"),
        reference_ids=read.slots.get(names.REFERENCE_IDS, ()),
        extra_slots=read.others(_DOCUMENT_SLOTS),
    )


def _association(element: Element) -> Association:
    read = _Object(element)
    return Association(
        relation=read.get("associationType"),
        source=read.get("sourceObject"),
        target=read.get("targetObject"),
        association_id=read.get("id"),
        slots=tuple(read.slots.items()),
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
