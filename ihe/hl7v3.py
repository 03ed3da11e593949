"""The existence test of a record, TD0.2: HL7 v3 `PRPA_IN201307UV02` and its answer `PRPA_IN201308UV02` (dmp.md §1.2).

Invariants: what is read is bounded and only Hl7V3Error leaves; a status that is neither `active` nor `terminated` is
UNKNOWN, which is
no permission to deposit. The guide's own schema is not public: elements follow HL7 v3's query interaction and the
published facts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from lxml import etree

from ihe.cda import HL7_V3
from ihe.values import Identifier, to_dtm
from ihe.xml import Element, XmlError, XmlLimits, is_xml_text, new_element, parse_xml, text_of, to_bytes

EXISTENCE_TEST = "urn:hl7-org:v3:PRPA_IN201307UV02"
EXISTENCE_ANSWER = "urn:hl7-org:v3:PRPA_IN201308UV02"
DMP_DEVICE = "1.2.250.1.213.4.1.1.1"
AUTHORISATION = "1.2.250.1.213.4.1.2.6.1"
AUTHORISATION_VALUES = "1.2.250.1.213.4.1.2.6.2"
_REASONS = "1.2.250.1.213.1.1.4.11"
_INTERACTIONS = "2.16.840.1.113883.1.6"
_H = {"h": HL7_V3}
_LIMITS = XmlLimits(size=256 * 1024, depth=48, elements=5000)


class Hl7V3Error(Exception):
    """The bytes are not a readable existence test or answer. `code` is stable; nothing is quoted."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class RecordStatus(StrEnum):
    """What TD0.2 says of a patient's record."""

    ACTIVE = "active"
    CLOSED = "terminated"
    ABSENT = "absent"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Existence:
    """The answer. `authorisation` is the value of AUTORISATION (VALIDE…), "" when the record gives none;
    `error` is the code of an acknowledgementDetail such as `DMPClosed`."""

    status: RecordStatus
    authorisation: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class ExistenceQuery:
    """A read test: whose record is asked about. `query_id` is the message's own identifier."""

    patient: Identifier = field(repr=False)
    query_id: str


def _el(parent: Element, name: str, text: str = "", **attributes: str) -> Element:
    if not all(is_xml_text(value) for value in (text, *attributes.values())):
        raise Hl7V3Error("bad-text", "a value holds characters that XML cannot carry")
    node = etree.SubElement(parent, f"{{{HL7_V3}}}{name}", attributes)
    if text:
        node.text = text
    return node


def _device(root: Element, role: str, oid: str, name: str) -> None:
    holder = _el(root, role, typeCode="RCV" if role == "receiver" else "SND")
    device = _el(holder, "device", classCode="DEV", determinerCode="INSTANCE")
    _el(device, "id", root=oid)
    _el(device, "name", name)


def _interaction(name: str, message_id: str, at: datetime) -> Element:
    root = new_element(f"{{{HL7_V3}}}{name}", {"ITSVersion": "XML_1.0"}, {None: HL7_V3})
    _el(root, "id", root=message_id)
    _el(root, "creationTime", value=to_dtm(at))
    _el(root, "interactionId", root=_INTERACTIONS, extension=name)
    _el(root, "processingCode", code="P")
    _el(root, "processingModeCode", code="T")
    _el(root, "acceptAckCode", code="NE")
    return root


def build_existence_test(patient: Identifier, *, message_id: str, source_id: str, at: datetime) -> bytes:
    """The body of a TD0.2 request. `patient` is the INS (OID, matricule); `message_id` and `source_id` are OIDs."""
    root = _interaction("PRPA_IN201307UV02", message_id, at)
    _device(root, "receiver", DMP_DEVICE, "DMP")
    _device(root, "sender", source_id, "Caducee")
    control = _el(root, "controlActProcess", classCode="CACT", moodCode="EVN")
    _el(control, "code", code="PRPA_TE201307UV02", codeSystem=_INTERACTIONS)
    _el(control, "reasonCode", code="TEST_EXST", codeSystem=_REASONS)
    query = _el(control, "queryByParameter")
    _el(query, "queryId", root=message_id)
    _el(query, "statusCode", code="new")
    parameters = _el(query, "parameterList")
    named = _el(parameters, "patientIdentifier")
    _el(named, "value", root=patient.root, extension=patient.extension)
    _el(named, "semanticsText", "Patient.id")
    return to_bytes(root)


def _parse(data: bytes, name: str) -> Element:
    try:
        root = parse_xml(data, _LIMITS)
    except XmlError as error:
        raise Hl7V3Error(error.code, error.message) from None
    if root.tag != f"{{{HL7_V3}}}{name}":
        raise Hl7V3Error("not-existence", "another interaction is expected")
    return root


def read_existence_test(data: bytes) -> ExistenceQuery:
    """Reads a TD0.2 request. Raises Hl7V3Error: `xml-*`, `not-existence`, `reason`, `patient`."""
    root = _parse(data, "PRPA_IN201307UV02")
    reason = root.find("h:controlActProcess/h:reasonCode", _H)
    if reason is None or reason.get("code") != "TEST_EXST":
        raise Hl7V3Error("reason", "reasonCode TEST_EXST is expected")
    values = root.findall("h:controlActProcess/h:queryByParameter/h:parameterList/h:patientIdentifier/h:value", _H)
    if len(values) != 1 or not values[0].get("root") or not values[0].get("extension"):
        raise Hl7V3Error("patient", "exactly one patient is expected")
    message = root.find("h:id", _H)
    return ExistenceQuery(
        Identifier(values[0].get("root") or "", values[0].get("extension") or ""),
        "" if message is None else message.get("root") or "",
    )


def build_existence_answer(
    query: ExistenceQuery, answer: Existence, *, message_id: str, source_id: str, at: datetime
) -> bytes:
    """The body of a TD0.2 answer (the record's side)."""
    root = _interaction("PRPA_IN201308UV02", message_id, at)
    _device(root, "receiver", source_id, "LPS")
    _device(root, "sender", DMP_DEVICE, "DMP")
    if answer.authorisation:
        line = _el(root, "attentionLine")
        _el(line, "keyWordText", code="AUTORISATION", codeSystem=AUTHORISATION)
        _el(line, "value", code=answer.authorisation, codeSystem=AUTHORISATION_VALUES)
    acknowledgement = _el(root, "acknowledgement")
    _el(acknowledgement, "typeCode", code="AA" if not answer.error else "AE")
    if answer.error:
        _el(_el(acknowledgement, "acknowledgementDetail", typeCode="E"), "code", code=answer.error)
    control = _el(root, "controlActProcess", classCode="CACT", moodCode="EVN")
    if answer.status in (RecordStatus.ACTIVE, RecordStatus.CLOSED):
        event = _el(_el(control, "subject"), "registrationEvent")
        patient = _el(_el(event, "subject1"), "patient")
        _el(patient, "id", root=query.patient.root, extension=query.patient.extension)
        _el(patient, "statusCode", code=answer.status.value)
    found = "OK" if answer.status in (RecordStatus.ACTIVE, RecordStatus.CLOSED) else "NF"
    said = _el(control, "queryAck")
    _el(said, "queryId", root=query.query_id or message_id)
    _el(said, "queryResponseCode", code=found)
    return to_bytes(root)


def parse_existence_answer(data: bytes, patient: Identifier) -> Existence:
    """What a TD0.2 answer says of `patient`. Raises Hl7V3Error: `xml-*`, `not-existence`, `patient` (the answer is about
    somebody else)."""
    root = _parse(data, "PRPA_IN201308UV02")
    detail = root.find("h:acknowledgement/h:acknowledgementDetail/h:code", _H)
    error = "" if detail is None else (detail.get("code") or "")[:64]
    response = root.find("h:controlActProcess/h:queryAck/h:queryResponseCode", _H)
    code = "" if response is None else response.get("code") or ""
    values = root.findall("h:attentionLine", _H)
    authorisation = ""
    for line in values:
        word, value = line.find("h:keyWordText", _H), line.find("h:value", _H)
        if word is not None and value is not None and word.get("code") == "AUTORISATION":
            authorisation = (value.get("code") or text_of(value))[:64]
    if code == "NF":
        return Existence(RecordStatus.ABSENT, authorisation, error)
    found = root.findall("h:controlActProcess/h:subject/h:registrationEvent/h:subject1/h:patient", _H)
    if error == "DMPClosed":
        return Existence(RecordStatus.CLOSED, authorisation, error)
    if len(found) != 1:
        return Existence(RecordStatus.UNKNOWN, authorisation, error)
    named = {(item.get("root"), item.get("extension")) for item in found[0].findall("h:id", _H)}
    if (patient.root, patient.extension) not in named:
        raise Hl7V3Error("patient", "the answer is about another patient")
    status = found[0].find("h:statusCode", _H)
    word_found = "" if status is None else status.get("code") or ""
    known = {"active": RecordStatus.ACTIVE, "terminated": RecordStatus.CLOSED}
    return Existence(known.get(word_found, RecordStatus.UNKNOWN), authorisation, error)
