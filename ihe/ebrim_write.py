"""Writing XDS metadata as ebRIM 3.0: METADATA.XML of an XDM package, body of an ITI-41 request (dmp.md §3.11, §5.2).

The order of slots, names, classifications and identifiers is fixed, so the same values always give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lxml import etree

from ihe.ebrim_model import Association, DocumentEntry, EbrimError, Relation, Submission, SubmissionSet, XdsAuthor
from ihe.mtom import cid_href
from ihe.values import Code
from ihe.xml import Element, is_xml_text, new_element, to_bytes

RIM = "urn:oasis:names:tc:ebxml-regrep:xsd:rim:3.0"
LCM = "urn:oasis:names:tc:ebxml-regrep:xsd:lcm:3.0"
RS = "urn:oasis:names:tc:ebxml-regrep:xsd:rs:3.0"
XDSB = "urn:ihe:iti:xds-b:2007"
XOP = "http://www.w3.org/2004/08/xop/include"
XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"

SUBMISSION_AUTHOR = "urn:uuid:a7058bb9-b4e4-4307-ba5b-e3f0ab85e12d"
CONTENT_TYPE = "urn:uuid:aa543740-bdda-424e-8c96-df4873be8500"
SUBMISSION_NODE = "urn:uuid:a54d6aa5-d40d-43f9-88c5-b4633d873bdd"
SUBMISSION_PATIENT = "urn:uuid:6b5aea1a-874d-4603-a4bc-96a0a7b38446"
SUBMISSION_SOURCE = "urn:uuid:554ac39e-e3fe-47fe-b233-965d2a147832"
SUBMISSION_UNIQUE = "urn:uuid:96fdda7c-d067-4183-912e-bf5ee74998a8"
DOCUMENT_AUTHOR = "urn:uuid:93606bcf-9494-43ec-9b4e-a7748d1a838d"
CLASS_CODE = "urn:uuid:41a5887f-8865-4c09-adf7-e362475b143a"
TYPE_CODE = "urn:uuid:f0306f51-975f-434e-a61c-c59651d33983"
FORMAT_CODE = "urn:uuid:a09d5840-386c-46f2-b5ad-9c3699a4309d"
CONFIDENTIALITY = "urn:uuid:f4f85eac-e6cb-4883-b524-f2705394840f"
FACILITY_TYPE = "urn:uuid:f33fb8ac-18af-42cc-ae0e-ed0b0bdb91e1"
PRACTICE_SETTING = "urn:uuid:cccf5598-8b07-4b77-a05e-ae952c785ead"
EVENT_CODE = "urn:uuid:2c6b8cb7-8b2a-4051-b291-b1ae6a575ef4"
DOCUMENT_PATIENT = "urn:uuid:58a6f841-87b3-4a3e-92fd-a8ffeff98427"
DOCUMENT_UNIQUE = "urn:uuid:2e82c1f6-a085-4c72-9da3-8640a32e42ab"
REFERENCE_IDS = "urn:ihe:iti:xds:2013:referenceIdList"


class _Writer:
    """Builds the objects; `_number` gives every classification and identifier an id of its own."""

    def __init__(self) -> None:
        self._number = 0

    def _next(self, prefix: str) -> str:
        self._number += 1
        return f"{prefix}{self._number}"

    @staticmethod
    def sub(parent: Element, name: str, /, **attributes: str) -> Element:
        for value in attributes.values():
            _check_text(value)
        return etree.SubElement(parent, f"{{{RIM}}}{name}", attributes)

    def slot(self, parent: Element, name: str, values: Iterable[str]) -> None:
        kept = [value for value in values if value]
        if not kept:
            return
        holder = self.sub(self.sub(parent, "Slot", name=name), "ValueList")
        for value in kept:
            _check_text(value)
            self.sub(holder, "Value").text = value

    def label(self, parent: Element, name: str, value: str) -> None:
        if value:
            _check_text(value)
            localized = self.sub(self.sub(parent, name), "LocalizedString", charset="UTF8", value=value)
            localized.set(XML_LANG, "FR")

    def author(self, parent: Element, scheme: str, owner: str, author: XdsAuthor) -> None:
        node = self.sub(
            parent,
            "Classification",
            classificationScheme=scheme,
            classifiedObject=owner,
            id=self._next("cla"),
            nodeRepresentation="",
        )
        self.slot(node, "authorPerson", author.persons)
        self.slot(node, "authorInstitution", author.institutions)
        self.slot(node, "authorRole", author.roles)
        self.slot(node, "authorSpecialty", author.specialities)

    def code(self, parent: Element, scheme: str, owner: str, code: Code | None) -> None:
        if code is None:
            return
        node = self.sub(
            parent,
            "Classification",
            classificationScheme=scheme,
            classifiedObject=owner,
            id=self._next("cla"),
            nodeRepresentation=code.code,
        )
        self.slot(node, "codingScheme", (code.system,))
        self.label(node, "Name", code.display)

    def identifier(self, parent: Element, scheme: str, owner: str, name: str, value: str) -> None:
        if not value:
            return
        node = self.sub(
            parent,
            "ExternalIdentifier",
            id=self._next("ei"),
            identificationScheme=scheme,
            registryObject=owner,
            value=value,
        )
        self.sub(self.sub(node, "Name"), "LocalizedString", value=name)

    def submission_set(self, parent: Element, lot: SubmissionSet) -> None:
        package = self.sub(parent, "RegistryPackage", **_present(id=lot.entry_id, status=lot.status))
        self.slot(package, "submissionTime", (lot.submission_time,))
        self.slot(package, "intendedRecipient", lot.intended_recipients)
        for name, values in lot.extra_slots:
            self.slot(package, name, values)
        self.label(package, "Name", lot.title)
        self.label(package, "Description", lot.comments)
        for author in lot.authors:
            self.author(package, SUBMISSION_AUTHOR, lot.entry_id, author)
        self.code(package, CONTENT_TYPE, lot.entry_id, lot.content_type)
        self.sub(
            package,
            "Classification",
            classificationNode=SUBMISSION_NODE,
            classifiedObject=lot.entry_id,
            id=self._next("cla"),
        )
        self.identifier(package, SUBMISSION_PATIENT, lot.entry_id, "XDSSubmissionSet.patientId", lot.patient_id)
        self.identifier(package, SUBMISSION_SOURCE, lot.entry_id, "XDSSubmissionSet.sourceId", lot.source_id)
        self.identifier(package, SUBMISSION_UNIQUE, lot.entry_id, "XDSSubmissionSet.uniqueId", lot.unique_id)

    def document(self, parent: Element, entry: DocumentEntry) -> None:
        present = _present(
            id=entry.entry_id,
            lid=entry.logical_id,
            mimeType=entry.mime_type,
            objectType=entry.object_type,
            status=entry.status,
        )
        node = self.sub(parent, "ExtrinsicObject", **present)
        self._document_slots(node, entry)
        self.label(node, "Name", entry.title)
        self.label(node, "Description", entry.comments)
        for author in entry.authors:
            self.author(node, DOCUMENT_AUTHOR, entry.entry_id, author)
        coded: list[tuple[str, Code | None]] = [(CLASS_CODE, entry.class_code), (TYPE_CODE, entry.type_code)]
        coded += [(CONFIDENTIALITY, code) for code in entry.confidentiality]
        coded += [(FORMAT_CODE, entry.format_code), (FACILITY_TYPE, entry.facility_type)]
        coded += [(PRACTICE_SETTING, entry.practice_setting)]
        coded += [(EVENT_CODE, code) for code in entry.event_codes]
        for scheme, code in coded:
            self.code(node, scheme, entry.entry_id, code)
        self.identifier(node, DOCUMENT_PATIENT, entry.entry_id, "XDSDocumentEntry.patientId", entry.patient_id)
        self.identifier(node, DOCUMENT_UNIQUE, entry.entry_id, "XDSDocumentEntry.uniqueId", entry.unique_id)

    def _document_slots(self, node: Element, entry: DocumentEntry) -> None:
        self.slot(node, "creationTime", (entry.creation_time,))
        self.slot(node, "hash", (entry.hash,))
        self.slot(node, "languageCode", (entry.language,))
        self.slot(node, "legalAuthenticator", (entry.legal_authenticator,))
        self.slot(node, "repositoryUniqueId", (entry.repository_unique_id,))
        self.slot(node, "serviceStartTime", (entry.service_start,))
        self.slot(node, "serviceStopTime", (entry.service_stop,))
        self.slot(node, "size", () if entry.size is None else (str(entry.size),))
        self.slot(node, "sourcePatientId", (entry.source_patient_id,))
        self.slot(node, "sourcePatientInfo", entry.source_patient_info)
        self.slot(node, "URI", (entry.uri,))
        self.slot(node, REFERENCE_IDS, entry.reference_ids)
        for name, values in entry.extra_slots:
            self.slot(node, name, values)

    def association(self, parent: Element, item: Association) -> None:
        node = self.sub(
            parent,
            "Association",
            id=item.association_id or self._next("as"),
            associationType=item.relation,
            sourceObject=item.source,
            targetObject=item.target,
        )
        for name, values in item.slots:
            self.slot(node, name, values)


def _present(**attributes: str) -> dict[str, str]:
    return {name: value for name, value in attributes.items() if value}


def _check_text(value: str) -> None:
    if not is_xml_text(value):
        raise EbrimError("bad-text", "a value holds characters that XML cannot carry")


def has_member(submission_set: str, entry: str, association_id: str = "") -> Association:
    """The association that puts an entry in the lot, with its `SubmissionSetStatus` Original."""
    slots = (("SubmissionSetStatus", ("Original",)),)
    return Association(Relation.HAS_MEMBER, submission_set, entry, association_id, slots)


def submit_objects(submission: Submission) -> Element:
    """`lcm:SubmitObjectsRequest` of a submission. Raises EbrimError(`bad-text`)."""
    request = new_element(f"{{{LCM}}}SubmitObjectsRequest", {}, {"lcm": LCM, None: RIM})
    objects = etree.SubElement(request, f"{{{RIM}}}RegistryObjectList")
    writer = _Writer()
    writer.submission_set(objects, submission.submission_set)
    for entry in submission.documents:
        writer.document(objects, entry)
    for association in submission.associations:
        writer.association(objects, association)
    return request


def objects_xml(submission_set: SubmissionSet, associations: Iterable[Association]) -> bytes:
    """A SubmitObjectsRequest without documents (ITI-57). Raises EbrimError(`bad-text`)."""
    return to_bytes(submit_objects(Submission(submission_set, (), tuple(associations))))


def to_metadata_xml(submission: Submission) -> bytes:
    """METADATA.XML of an XDM package (dmp.md §5.2).

    Raises EbrimError: `xdm-incomplete` when an entry has no hash, size or URI; `bad-text`.
    """
    if any(not (entry.hash and entry.uri) or entry.size is None for entry in submission.documents):
        raise EbrimError("xdm-incomplete", "hash, size and URI are mandatory in an XDM package")
    return to_bytes(submit_objects(submission), declaration=True)


def to_provide_and_register(submission: Submission, contents: Mapping[str, str]) -> bytes:
    """The body of an ITI-41 request (dmp.md §3.11). `contents`: entry id → Content-ID (no brackets) of its MIME part.

    Raises EbrimError: `documents` when the entries and the contents are not the same; `bad-text`.
    """
    if set(contents) != {entry.entry_id for entry in submission.documents}:
        raise EbrimError("documents", "every entry needs one document, and the reverse")
    request = etree.Element(f"{{{XDSB}}}ProvideAndRegisterDocumentSetRequest", nsmap={"xdsb": XDSB})
    request.append(submit_objects(submission))
    for entry in submission.documents:
        document = etree.SubElement(request, f"{{{XDSB}}}Document", id=entry.entry_id)
        include = etree.SubElement(document, f"{{{XOP}}}Include", nsmap={"xop": XOP})
        include.set("href", cid_href(contents[entry.entry_id]))
    return to_bytes(request)
