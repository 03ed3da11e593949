"""A document handed over by a hospital's software in HL7 v2: MDM_T02/T04/T10 and ORU_R01 of the CI-SIS volet (dmp.md
§8.1 to §8.3).

Bytes in, values out. What the volet requires is checked here and raised as Hl7Error with its place; what belongs to a policy (the
MSSanté combination matrix, the identity's qualification) is told by words in `HandOver.warnings` and fields.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from enum import StrEnum

from ihe.hl7v2 import Hl7Error, Message, Segment, parse
from ihe.ins import is_ins_oid
from ihe.values import Identifier

_EVENTS = {("MDM", "T02"), ("MDM", "T10"), ("MDM", "T04"), ("ORU", "R01")}
_PERSON_ROOT = "1.2.250.1.71.4.2.1"
_STRUCTURE_ROOT = "1.2.250.1.71.4.2.2"
META = "MetaDMPMSS"
MAX_DOCUMENTS = 2


class Order(StrEnum):
    """What is asked: ORC-1, OBX-11 and the event say it together (§8.1)."""

    NEW = "new"
    REPLACE = "replace"
    DELETE = "delete"


_BY_EVENT = {"T02": Order.NEW, "T10": Order.REPLACE, "T04": Order.DELETE}
_BY_CONTROL = {"NW": Order.NEW, "RO": Order.REPLACE, "CA": Order.DELETE}
_BY_STATUS = {"F": Order.NEW, "C": Order.REPLACE, "D": Order.DELETE}

FLAGS = (
    "MASQUE_PS",
    "INVISIBLE_PATIENT",
    "INVISIBLE_REP_LEGAUX",
    "CONNEXION_SECRETE",
    "MODIF_CONF_CODE",
    "DESTDMP",
    "DESTMSSANTEPS",
    "DESTMSSANTEPAT",
    "ACK_RECEPTION",
    "ACK_LECTURE_MSS",
)


@dataclass(frozen=True, slots=True)
class Party:
    """A person or organisation of a PRT segment: names, identifiers, mail address."""

    person_id: str = ""
    family: str = ""
    given: str = ""
    structure_id: str = ""
    structure_name: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class HandOver:
    """What one message hands over. `documents` are the exact bytes; `flags` the Y/N of §8.3 (absent ones are not in it);
    `identity_status` is PID-32, `VALI` for a qualified identity; `document_id` TXA-12 and `replaced_id` TXA-13."""

    order: Order
    control_id: str
    sending: tuple[str, str]
    receiving: tuple[str, str]
    documents: tuple[bytes, ...] = field(repr=False)
    type_code: str
    identity_status: str
    patient: Identifier | None = field(repr=False)
    sender: Party | None
    recipients: tuple[Party, ...]
    reply_to: str
    flags: dict[str, bool]
    body_professional: str = field(repr=False, default="")
    body_patient: str = field(repr=False, default="")
    patient_may_not_reply: bool = False
    document_id: str = ""
    replaced_id: str = ""
    warnings: tuple[str, ...] = ()

    def flag(self, name: str) -> bool:
        """A flag, False when it was not sent."""
        return self.flags.get(name, False)

    @property
    def visibility(self) -> tuple[str, ...]:
        """The confidentiality codes of dmp.md §3.8 that the flags ask for, in the metadata's spelling (§13)."""
        names = {"INVISIBLE_REP_LEGAUX": "INVISIBLE_REPRESENTANTS_LEGAUX"}
        wanted = ("MASQUE_PS", "INVISIBLE_PATIENT", "INVISIBLE_REP_LEGAUX")
        return tuple(names.get(name, name) for name in wanted if self.flag(name))


def combination_allowed(flags: dict[str, bool]) -> bool:
    """The printed matrix of MSSanté combinations (§8.3). Real samples depart from it: whether that refuses is a setting."""
    masked, invisible, guardians = (flags.get(name, False) for name in FLAGS[:3])
    secret, dmp = flags.get("CONNEXION_SECRETE", False), flags.get("DESTDMP", False)
    professionals, patient = flags.get("DESTMSSANTEPS", False), flags.get("DESTMSSANTEPAT", False)
    if not professionals and not patient:
        return True
    if professionals and patient:
        return not (masked or invisible or guardians)
    if professionals:
        return not masked and invisible and not guardians
    return not invisible and not secret and not dmp


def read_hand_over(data: bytes) -> HandOver:
    """Reads a hand-over. Raises Hl7Error with the table 0357 code and the place of what is wrong."""
    return of_message(parse(data))


def of_message(message: Message) -> HandOver:
    """As `read_hand_over`, of a message already read."""
    code, event = message.kind
    if code not in ("MDM", "ORU"):
        raise Hl7Error("200", "MSH-9", "MDM or ORU is expected")
    if (code, event) not in _EVENTS:
        raise Hl7Error("201", "MSH-9", "T02, T04, T10 or R01 is expected")
    for number in (3, 4, 5, 6, 7, 10):
        if not message.header.get(number):
            raise Hl7Error("101", f"MSH-{number}", "a required field is missing")
    if message.header.get(12) not in ("2.5", "2.6"):
        raise Hl7Error("203", "MSH-12", "version 2.5 or 2.6 is expected")
    pid = message.first("PID")
    if pid is None:
        raise Hl7Error("100", "PID", "PID is missing")
    warnings: list[str] = []
    order = _order(message, code, event, warnings)
    documents = tuple(_document(segment) for segment in message.all("OBX") if _is_document(segment))
    if not documents:
        raise Hl7Error("101", "OBX-5", "no document")
    if len(documents) > (1 if code == "MDM" else MAX_DOCUMENTS):
        raise Hl7Error("198", "OBX", "too many documents")
    header, txa = message.header, message.first("TXA")
    flags = _flags(message, warnings)
    parties = _parties(message)
    if not combination_allowed(flags):
        warnings.append("combination")
    order_segment = message.first("OBR")
    return HandOver(
        order=order,
        control_id=message.control_id,
        sending=(header.get(3), header.get(4)),
        receiving=(header.get(5), header.get(6)),
        documents=documents,
        type_code=(txa.get(2) if txa is not None else "") or (order_segment.get(4) if order_segment else ""),
        identity_status=pid.get(32),
        patient=_patient(pid),
        sender=next((party for role, party in parties if role == "SB"), None),
        recipients=tuple(party for role, party in parties if role == "RCT"),
        reply_to=next((party.address for role, party in parties if role == "REPLY"), ""),
        flags=flags,
        body_professional=_body(message, "CORPSMAIL_PS"),
        body_patient=_body(message, "CORPSMAIL_PATIENT"),
        patient_may_not_reply=any(segment.get(4) == "FIN" for segment in message.all("NTE")),
        document_id=_document_id(txa, 12),
        replaced_id=_document_id(txa, 13),
        warnings=tuple(warnings),
    )


def _order(message: Message, code: str, event: str, warnings: list[str]) -> Order:
    """The event, ORC-1 and OBX-11 agree, or the message is rejected (§8.1). The v2.0 samples have no ORC in MDM."""
    said: list[Order] = []
    if code == "MDM":
        said.append(_BY_EVENT[event])
    orc = message.first("ORC")
    if orc is not None:
        control = _BY_CONTROL.get(orc.get(1))
        if control is None:
            raise Hl7Error("103", "ORC-1", "NW, RO or CA is expected")
        said.append(control)
    elif code == "ORU":
        raise Hl7Error("100", "ORC", "ORC is missing")
    else:
        warnings.append("no-orc")
    for segment in message.all("OBX"):
        if _is_document(segment):
            status = _BY_STATUS.get(segment.get(11))
            if status is None:
                raise Hl7Error("103", "OBX-11", "F, C or D is expected")
            said.append(status)
    if len(set(said)) != 1:
        raise Hl7Error("207", "ORC-1", "the event, ORC-1 and OBX-11 do not agree")
    return said[0]


def _is_document(segment: Segment) -> bool:
    return (
        segment.name == "OBX"
        and segment.get(2) == "ED"
        and segment.get(3, 3) != META
        and segment.get(5, 3).upper() == "XML"
    )


def _document(segment: Segment) -> bytes:
    if segment.get(5, 4).lower() != "base64":
        raise Hl7Error("103", "OBX-5.4", "Base64 is expected")
    return _base64(segment.get(5, 5), "OBX-5.5")


def _base64(text: str, location: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Hl7Error("102", location, "not base64") from None


def _flags(message: Message, warnings: list[str]) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for segment in message.all("OBX"):
        if segment.get(3, 3) != META or segment.get(2) not in ("CWE", "CE"):
            continue
        name, value = segment.get(3, 1), segment.get(5, 1)
        if name not in FLAGS:
            warnings.append("unknown-flag")
        elif name in found:
            raise Hl7Error("198", "OBX-3", "a flag is given twice")
        elif value not in ("Y", "N"):
            # A masking flag that cannot be read must not be taken for "not masked".
            raise Hl7Error("103", "OBX-5", "Y or N is expected")
        else:
            found[name] = value == "Y"
    return found


def _body(message: Message, name: str) -> str:
    for segment in message.all("OBX"):
        if segment.get(3, 3) == META and segment.get(3, 1) == name and segment.get(2) == "ED":
            return _base64(segment.get(5, 5), "OBX-5.5").decode("utf-8", "replace")
    return ""


def _parties(message: Message) -> list[tuple[str, Party]]:
    found = []
    for segment in message.all("PRT"):
        device_or_structure = segment.get(8, 10) if _STRUCTURE_ROOT in segment.raw(8) else ""
        kind = segment.get(8, 7)
        prefix = "1" if kind in ("FINEG", "FINEJ") and len(device_or_structure) == 9 else ""
        party = Party(
            person_id=segment.get(5, 1) if _PERSON_ROOT in segment.raw(5) else "",
            family=segment.get(5, 2),
            given=segment.get(5, 3),
            structure_id=prefix + device_or_structure,
            structure_name=segment.get(8, 1),
            address=(segment.get(15, 4) or "").strip().lower(),
        )
        found.append((segment.get(4, 1), party))
    return found


def _patient(pid: Segment) -> Identifier | None:
    """The INS of PID-3, or None."""
    for value in pid.repetitions(3):
        root = pid.component(value, 4, 2)
        if is_ins_oid(root):
            return Identifier(root, pid.component(value, 1))
    return None


def _document_id(txa: Segment | None, number: int) -> str:
    """TXA-12 and TXA-13: an OID, or an extension with its OID in the third component (§8.2)."""
    if txa is None:
        return ""
    first, third = txa.get(number, 1), txa.get(number, 3)
    return f"{third}^{first}" if third else first
