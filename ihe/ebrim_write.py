"""Writing XDS metadata as ebRIM 3.0: METADATA.XML of an XDM package, body of an ITI-41 request (dmp.md §3.11, §5.2).

The order of slots, names, classifications and identifiers is fixed, so the same values always give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ihe.ebrim_model import Association, DocumentEntry, EbrimError, Relation, Submission, SubmissionSet, XdsAuthor
from ihe.mtom import cid_href
from ihe.values import Code
from ihe.xml import XmlError, escaped, escaped_attribute

RIM = "urn:oasis:names:tc:ebxml-regrep:xsd:rim:3.0"
LCM = "urn:oasis:names:tc:ebxml-regrep:xsd:lcm:3.0"
RS = "urn:oasis:names:tc:ebxml-regrep:xsd:rs:3.0"
XDSB = "urn:ihe:iti:xds-b:2007"
XOP = "http://www.w3.org/2004/08/xop/include"

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
    """Writes the objects as text, in order; `_number` gives every classification and identifier an id of its own.

    Text is written at once: a tree of some two hundred elements, built to be written out, cost three times as much. Everything
    that is not a name of ours goes through `escaped` or `escaped_attribute`."""

    def __init__(self) -> None:
        self._number = 0
        self._pieces: list[str] = []

    def text(self) -> str:
        """What was written."""
        return "".join(self._pieces)

    def _next(self, prefix: str) -> str:
        self._number += 1
        return f"{prefix}{self._number}"

    def open(self, name: str, /, **attributes: str) -> None:
        """A start tag."""
        given = "".join([f' {key}="{escaped_attribute(value)}"' for key, value in attributes.items()])
        self._pieces.append(f"<{name}{given}>")

    def close(self, name: str) -> None:
        """An end tag."""
        self._pieces.append(f"</{name}>")

    def slot(self, name: str, values: Iterable[str]) -> None:
        kept = "".join([f"<Value>{escaped(value)}</Value>" for value in values if value])
        if kept:
            self._pieces.append(f'<Slot name="{escaped_attribute(name)}"><ValueList>{kept}</ValueList></Slot>')

    def label(self, name: str, value: str) -> None:
        if value:
            text = escaped_attribute(value)
            self._pieces.append(f'<{name}><LocalizedString charset="UTF8" value="{text}" xml:lang="FR"/></{name}>')

    def author(self, scheme: str, owner: str, author: XdsAuthor) -> None:
        self.open(
            "Classification",
            classificationScheme=scheme,
            classifiedObject=owner,
            id=self._next("cla"),
            nodeRepresentation="",
        )
        self.slot("authorPerson", author.persons)
        self.slot("authorInstitution", author.institutions)
        self.slot("authorRole", author.roles)
        self.slot("authorSpecialty", author.specialities)
        self.close("Classification")

    def code(self, scheme: str, owner: str, code: Code | None) -> None:
        if code is None:
            return
        self.open(
            "Classification",
            classificationScheme=scheme,
            classifiedObject=owner,
            id=self._next("cla"),
            nodeRepresentation=code.code,
        )
        self.slot("codingScheme", (code.system,))
        self.label("Name", code.display)
        self.close("Classification")

    def identifier(self, scheme: str, owner: str, name: str, value: str) -> None:
        if not value:
            return
        self.open(
            "ExternalIdentifier",
            id=self._next("ei"),
            identificationScheme=scheme,
            registryObject=owner,
            value=value,
        )
        self._pieces.append(f'<Name><LocalizedString value="{name}"/></Name></ExternalIdentifier>')

    def submission_set(self, lot: SubmissionSet) -> None:
        self.open("RegistryPackage", **_present(id=lot.entry_id, status=lot.status))
        self.slot("submissionTime", (lot.submission_time,))
        self.slot("intendedRecipient", lot.intended_recipients)
        for name, values in lot.extra_slots:
            self.slot(name, values)
        self.label("Name", lot.title)
        self.label("Description", lot.comments)
        for author in lot.authors:
            self.author(SUBMISSION_AUTHOR, lot.entry_id, author)
        self.code(CONTENT_TYPE, lot.entry_id, lot.content_type)
        self.open(
            "Classification",
            classificationNode=SUBMISSION_NODE,
            classifiedObject=lot.entry_id,
            id=self._next("cla"),
        )
        self.close("Classification")
        self.identifier(SUBMISSION_PATIENT, lot.entry_id, "XDSSubmissionSet.patientId", lot.patient_id)
        self.identifier(SUBMISSION_SOURCE, lot.entry_id, "XDSSubmissionSet.sourceId", lot.source_id)
        self.identifier(SUBMISSION_UNIQUE, lot.entry_id, "XDSSubmissionSet.uniqueId", lot.unique_id)
        self.close("RegistryPackage")

    def document(self, entry: DocumentEntry) -> None:
        present = _present(
            id=entry.entry_id,
            lid=entry.logical_id,
            mimeType=entry.mime_type,
            objectType=entry.object_type,
            status=entry.status,
        )
        self.open("ExtrinsicObject", **present)
        self._document_slots(entry)
        self.label("Name", entry.title)
        self.label("Description", entry.comments)
        for author in entry.authors:
            self.author(DOCUMENT_AUTHOR, entry.entry_id, author)
        coded: list[tuple[str, Code | None]] = [(CLASS_CODE, entry.class_code), (TYPE_CODE, entry.type_code)]
        coded += [(CONFIDENTIALITY, code) for code in entry.confidentiality]
        coded += [(FORMAT_CODE, entry.format_code), (FACILITY_TYPE, entry.facility_type)]
        coded += [(PRACTICE_SETTING, entry.practice_setting)]
        coded += [(EVENT_CODE, code) for code in entry.event_codes]
        for scheme, code in coded:
            self.code(scheme, entry.entry_id, code)
        self.identifier(DOCUMENT_PATIENT, entry.entry_id, "XDSDocumentEntry.patientId", entry.patient_id)
        self.identifier(DOCUMENT_UNIQUE, entry.entry_id, "XDSDocumentEntry.uniqueId", entry.unique_id)
        self.close("ExtrinsicObject")

    def _document_slots(self, entry: DocumentEntry) -> None:
        self.slot("creationTime", (entry.creation_time,))
        self.slot("hash", (entry.hash,))
        self.slot("languageCode", (entry.language,))
        self.slot("legalAuthenticator", (entry.legal_authenticator,))
        self.slot("repositoryUniqueId", (entry.repository_unique_id,))
        self.slot("serviceStartTime", (entry.service_start,))
        self.slot("serviceStopTime", (entry.service_stop,))
        self.slot("size", () if entry.size is None else (str(entry.size),))
        self.slot("sourcePatientId", (entry.source_patient_id,))
        self.slot("sourcePatientInfo", entry.source_patient_info)
        self.slot("URI", (entry.uri,))
        self.slot(REFERENCE_IDS, entry.reference_ids)
        for name, values in entry.extra_slots:
            self.slot(name, values)

    def association(self, item: Association) -> None:
        self.open(
            "Association",
            id=item.association_id or self._next("as"),
            associationType=item.relation,
            sourceObject=item.source,
            targetObject=item.target,
        )
        for name, values in item.slots:
            self.slot(name, values)
        self.close("Association")


def _present(**attributes: str) -> dict[str, str]:
    return {name: value for name, value in attributes.items() if value}


def has_member(submission_set: str, entry: str, association_id: str = "") -> Association:
    """The association that puts an entry in the lot, with its `SubmissionSetStatus` Original."""
    slots = (("SubmissionSetStatus", ("Original",)),)
    return Association(Relation.HAS_MEMBER, submission_set, entry, association_id, slots)


def _submit_objects(submission: Submission) -> str:
    """`lcm:SubmitObjectsRequest` of a submission. Raises EbrimError(`bad-text`)."""
    writer = _Writer()
    try:
        writer.submission_set(submission.submission_set)
        for entry in submission.documents:
            writer.document(entry)
        for association in submission.associations:
            writer.association(association)
    except XmlError:
        raise EbrimError("bad-text", "a value holds characters that XML cannot carry") from None
    return (
        f'<lcm:SubmitObjectsRequest xmlns:lcm="{LCM}" xmlns="{RIM}"><RegistryObjectList>{writer.text()}'
        "</RegistryObjectList></lcm:SubmitObjectsRequest>"
    )


def objects_xml(submission_set: SubmissionSet, associations: Iterable[Association]) -> bytes:
    """A SubmitObjectsRequest without documents (ITI-57). Raises EbrimError(`bad-text`)."""
    return _submit_objects(Submission(submission_set, (), tuple(associations))).encode()


def to_metadata_xml(submission: Submission) -> bytes:
    """METADATA.XML of an XDM package (dmp.md §5.2).

    Raises EbrimError: `xdm-incomplete` when an entry has no hash, size or URI; `bad-text`.
    """
    if any(not (entry.hash and entry.uri) or entry.size is None for entry in submission.documents):
        raise EbrimError("xdm-incomplete", "hash, size and URI are mandatory in an XDM package")
    return f"<?xml version='1.0' encoding='UTF-8'?>\n{_submit_objects(submission)}".encode()


def to_provide_and_register(submission: Submission, contents: Mapping[str, str]) -> bytes:
    """The body of an ITI-41 request (dmp.md §3.11). `contents`: entry id → Content-ID (no brackets) of its MIME part.

    Raises EbrimError: `documents` when the entries and the contents are not the same; `bad-text`.
    """
    if set(contents) != {entry.entry_id for entry in submission.documents}:
        raise EbrimError("documents", "every entry needs one document, and the reverse")
    documents = "".join(
        f'<xdsb:Document id="{escaped_attribute(entry.entry_id)}"><xop:Include xmlns:xop="{XOP}" '
        f'href="{escaped_attribute(cid_href(contents[entry.entry_id]))}"/></xdsb:Document>'
        for entry in submission.documents
    )
    return (
        f'<xdsb:ProvideAndRegisterDocumentSetRequest xmlns:xdsb="{XDSB}">{_submit_objects(submission)}{documents}'
        "</xdsb:ProvideAndRegisterDocumentSetRequest>"
    ).encode()
