"""The HL7 v2 strings inside XDS metadata: XCN, XON, CX (dmp.md §3.3). Separators in names are removed, never sent."""

from __future__ import annotations

from dataclasses import dataclass

from ihe.cda_model import Author, Organisation, Patient
from ihe.ins import is_ins_oid
from ihe.values import Code, Identifier

PERSON_ROOT = "1.2.250.1.71.4.2.1"
STRUCTURE_ROOT = "1.2.250.1.71.4.2.2"

_SEPARATORS = str.maketrans(dict.fromkeys("^&~|\\", " ") | dict.fromkeys("\r\n\t", " "))


def clean(text: str) -> str:
    """`text` without HL7 separators and line ends, white space collapsed."""
    return " ".join(text.translate(_SEPARATORS).split())


def cx(identifier: Identifier, kind: str) -> str:
    """`id^^^&root&ISO^kind` (kind NH for the INS, PI for a local identifier)."""
    return f"{clean(identifier.extension)}^^^&{identifier.root}&ISO^{kind}"


def patient_id(ins: str, oid: str) -> str:
    """The patientId of a deposit: `INS^^^&OID&ISO^NH`."""
    return cx(Identifier(oid, ins), "NH")


def parse_cx(value: str) -> Identifier | None:
    """Identifier of a CX string (`id^^^&root&ISO[^...]`), or None when it has not that form."""
    fields = value.split("^")
    if len(fields) < 4 or not fields[0]:
        return None
    authority = fields[3].split("&")
    if len(authority) != 3 or authority[2] != "ISO" or not authority[1]:
        return None
    return Identifier(authority[1], fields[0])


def xcn(author: Author) -> str:
    """authorPerson / legalAuthenticator: `id^NAME^Given^^^^^^&root&ISO^D^^^IDNPS`; a patient author is marked NH."""
    identifier = author.identifier or Identifier(PERSON_ROOT)
    kind = "IDNPS" if identifier.root == PERSON_ROOT else "NH" if is_ins_oid(identifier.root) else "PI"
    family = clean(author.name.family) or clean(author.device)
    number = clean(identifier.extension)
    return f"{number}^{family}^{clean(author.name.given)}^^^^^^&{identifier.root}&ISO^D^^^{kind}"


def xon(organisation: Organisation) -> str:
    """authorInstitution: `NAME^^^^^&1.2.250.1.71.4.2.2&ISO^IDNST^^^StructIdNat`; "" when nothing is known."""
    identifier = organisation.identifier
    if identifier is None:
        return clean(organisation.name)
    kind = "IDNST" if identifier.root == STRUCTURE_ROOT else "XX"
    return f"{clean(organisation.name)}^^^^^&{identifier.root}&ISO^{kind}^^^{clean(identifier.extension)}"


def speciality(code: Code) -> str:
    """authorSpecialty: `code^label^system`."""
    return f"{clean(code.code)}^{clean(code.display)}^{code.system}"


@dataclass(frozen=True, slots=True)
class XdsPerson:
    """What an XCN string says: identifier and names."""

    identifier: str
    family: str
    given: str
    root: str


def parse_xcn(value: str) -> XdsPerson:
    """Reads an XCN string; absent components are empty."""
    fields = [*value.split("^"), *[""] * 9]
    authority = fields[8].split("&")
    return XdsPerson(fields[0], fields[1], fields[2], authority[1] if len(authority) == 3 else "")


@dataclass(frozen=True, slots=True)
class XdsOrganisation:
    """What an XON string says: name, identifier, root."""

    name: str
    identifier: str
    root: str


def parse_xon(value: str) -> XdsOrganisation:
    """Reads an XON string; absent components are empty."""
    fields = [*value.split("^"), *[""] * 10]
    authority = fields[5].split("&")
    return XdsOrganisation(fields[0], fields[9], authority[1] if len(authority) == 3 else "")


def source_patient_id(patient: Patient) -> str:
    """sourcePatientId: the first local identifier (PI), else the INS (NH); "" when there is neither."""
    if patient.local_ids:
        return cx(patient.local_ids[0], "PI")
    return patient_id(patient.ins, patient.ins_oid) if patient.ins else ""


def source_patient_info(patient: Patient) -> tuple[str, ...]:
    """sourcePatientInfo: PID-5 (birth name L, used name D), PID-7, PID-8 (dmp.md §3.3)."""
    lines: list[str] = []
    if patient.birth_name:
        lines.append(f"PID-5|{clean(patient.birth_name)}^{clean(patient.first_birth_given)}^^^^^L")
    if patient.used_name:
        given = clean(patient.used_given or patient.first_birth_given)
        lines.append(f"PID-5|{clean(patient.used_name)}^{given}^^^^^D")
    if patient.birth_date:
        lines.append(f"PID-7|{clean(patient.birth_date)[:8]}")
    if patient.sex:
        lines.append(f"PID-8|{clean(patient.sex)}")
    return tuple(lines)
