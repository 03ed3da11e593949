"""Synthetic documents for the demonstration and the tests: a patient who does not exist, reports that are complete.

Every header follows dmp.md §4.2 to the letter, and validates against the CDA schema. The INS is always under the *test*
object identifier (…4.10). The same arguments give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from lxml import etree

from ihe.cda import HL7_V3, N1_TEMPLATE
from ihe.cda_model import Author, Organisation, Patient, PersonName
from ihe.codes import document_type
from ihe.datatypes import PERSON_ROOT, STRUCTURE_ROOT
from ihe.ins import INS_TEST, nir_key
from ihe.naming import pdf_file_name, subject_line
from ihe.pdf import FontMissing, make_pdf_a
from ihe.values import Code, Identifier
from ihe.xml import XSI, Element, new_element, to_bytes

MEDICAL_DOCUMENT_TEMPLATE = "1.3.6.1.4.1.19376.1.5.3.1.1.1"
"""IHE PCC medical document: a structured document that claims no CI-SIS model (formatCode "out of profile")."""

OID_ROOT = "1.2.250.1.999.1.1.20001"
"""Arc of the synthetic documents (1.2.250.1.999 is the documentation's own, no organisation holds it here)."""

GENERAL_PRACTICE = Code("G15_10/SM54", "1.2.250.1.213.1.1.4.5", "Médecin - Médecine générale (SM)")
CONFIDENTIALITY_N = Code("N", "2.16.840.1.113883.5.25", "Normal")
HOSPITAL = Code("SA01", "1.2.250.1.71.4.2.4", "Etablissement public de santé")
HOSPITAL_PRACTICE = Code("ETABLISSEMENT", "1.2.250.1.213.1.1.4.9", "Etablissement de santé")

_FAMILIES = ("ESSAI", "EXEMPLE", "FICTIF", "SPECIMEN", "DEMONSTRATION", "MODELE", "EPREUVE", "PATRON")
_WOMEN = ("ALICE", "JEANNE", "CLAIRE", "MARIE", "SOPHIE", "ELODIE", "NADIA", "LUCIE")
_MEN = ("PAUL", "JEAN", "LOUIS", "KARIM", "HUGO", "BENOIT", "MARC", "ANDRE")
_TOWNS = ("75056", "69123", "13055", "31555", "44109", "2A004", "2B033", "35238", "67482", "59350")


def synthetic_patient(seed: int) -> Patient:
    """A patient invented from `seed`: complete traits, valid key, INS under the test OID, one local identifier."""
    digest = hashlib.sha256(f"caducee patient {seed}".encode()).digest()
    woman = digest[0] % 2 == 0
    given = (_WOMEN if woman else _MEN)[digest[1] % 8]
    second = (_WOMEN if woman else _MEN)[digest[2] % 8]
    year, month, day = 1930 + digest[3] % 70, 1 + digest[4] % 12, 1 + digest[5] % 28
    town = _TOWNS[digest[6] % len(_TOWNS)]
    order = 1 + int.from_bytes(digest[7:9], "big") % 998
    body = f"{2 if woman else 1}{year % 100:02d}{month:02d}{town}{order:03d}"
    family = _FAMILIES[digest[9] % len(_FAMILIES)]
    return Patient(
        ins=body + nir_key(body),
        ins_oid=INS_TEST,
        local_ids=(Identifier(f"{OID_ROOT}.2", f"{seed % 10**9:09d}"),),
        birth_name=family,
        first_birth_given=given,
        birth_givens=given if given == second else f"{given} {second}",
        used_name=family,
        used_given=given,
        sex="F" if woman else "M",
        birth_date=f"{year:04d}{month:02d}{day:02d}",
        birth_place=town,
    )


def synthetic_author(
    national_id: str, family: str, given: str, speciality: Code = GENERAL_PRACTICE, title: str = "DR"
) -> Author:
    """A professional author; `national_id` is PS_IdNat (`8` + RPPS)."""
    return Author(Identifier(PERSON_ROOT, national_id), PersonName(family, given, "M", title), speciality)


def synthetic_structure(structure_id: str, name: str) -> Organisation:
    """A structure; `structure_id` is Struct_IdNat (`1` + FINESS, `3` + SIRET)."""
    return Organisation(Identifier(STRUCTURE_ROOT, structure_id), name)


@dataclass(frozen=True, slots=True)
class Section:
    """A section of a structured body: LOINC code, title, paragraphs of narrative."""

    code: Code
    title: str
    paragraphs: tuple[str, ...]


def document_oid(*parts: str, root: str = OID_ROOT) -> str:
    """An OID made from `parts`: the same parts give the same OID; ≤ 64 characters."""
    number = int.from_bytes(hashlib.sha256("\0".join(parts).encode("utf-8")).digest()[:12], "big")
    return f"{root}.3.{number}"


def _el(parent: Element, name: str, text: str = "", **attributes: str) -> Element:
    node = etree.SubElement(parent, f"{{{HL7_V3}}}{name}", attributes)
    if text:
        node.text = text
    return node


def _coded(parent: Element, name: str, code: Code) -> Element:
    attributes = {"code": code.code, "codeSystem": code.system} | (
        {"displayName": code.display} if code.display else {}
    )
    return _el(parent, name, **attributes)


def _ts(moment: datetime) -> str:
    """`AAAAMMJJhhmmss±ZZzz` (dmp.md §4.2)."""
    if moment.tzinfo is None:
        raise ValueError("an aware datetime is needed")
    return moment.strftime("%Y%m%d%H%M%S%z")


def _record_target(root: Element, patient: Patient) -> None:
    role = _el(_el(root, "recordTarget"), "patientRole")
    _el(role, "id", root=patient.ins_oid, extension=patient.ins)
    for identifier in patient.local_ids:
        _el(role, "id", root=identifier.root, extension=identifier.extension)
    _el(role, "addr", nullFlavor="UNK")
    _el(role, "telecom", value=f"mailto:{patient.ins}@patient.mssante.fr")
    person = _el(role, "patient")
    name = _el(person, "name")
    _el(name, "given", patient.birth_givens)
    _el(name, "given", patient.first_birth_given, qualifier="BR")
    _el(name, "family", patient.birth_name, qualifier="BR")
    if patient.used_name:
        _el(name, "family", patient.used_name, qualifier="CL")
    if patient.used_given:
        _el(name, "given", patient.used_given, qualifier="CL")
    label = {"F": "Féminin", "M": "Masculin"}.get(patient.sex, "")
    _coded(person, "administrativeGenderCode", Code(patient.sex, "2.16.840.1.113883.5.1", label))
    _el(person, "birthTime", value=patient.birth_date)
    place = _el(_el(_el(person, "birthplace"), "place"), "addr")
    _el(place, "county", patient.birth_place)


def _assigned(parent: Element, name: str, author: Author, structure: Organisation) -> Element:
    node = _el(parent, name)
    if author.identifier is not None:
        _el(node, "id", root=author.identifier.root, extension=author.identifier.extension)
    if author.speciality is not None:
        _coded(node, "code", author.speciality)
    _el(node, "addr", nullFlavor="UNK")
    _el(node, "telecom", nullFlavor="UNK")
    person = _el(_el(node, "assignedPerson"), "name")
    for part in ("prefix", "given", "family", "suffix"):
        if value := getattr(author.name, part):
            _el(person, part, value)
    _organisation(node, "representedOrganization", structure)
    return node


def _organisation(parent: Element, name: str, structure: Organisation, practice: Code | None = None) -> Element:
    node = _el(parent, name)
    if structure.identifier is not None:
        _el(node, "id", root=structure.identifier.root, extension=structure.identifier.extension)
    _el(node, "name", structure.name)
    _el(node, "telecom", nullFlavor="UNK")
    _el(node, "addr", nullFlavor="UNK")
    if practice is not None:
        _coded(node, "standardIndustryClassCode", practice)
    return node


@dataclass(frozen=True, slots=True)
class _Document:
    """What the header is made of."""

    patient: Patient
    author: Author
    structure: Organisation
    at: datetime
    type: Code
    title: str
    templates: tuple[str, ...]
    unique_id: str
    set_id: str
    version: int
    replaces: str
    encounter: Code
    facility: Code
    practice: Code
    service_start: datetime
    service_stop: datetime


def _opening(document: _Document) -> Element:
    root = new_element(f"{{{HL7_V3}}}ClinicalDocument", {}, {None: HL7_V3, "xsi": XSI})
    _el(root, "realmCode", code="FR")
    _el(root, "typeId", root="2.16.840.1.113883.1.3", extension="POCD_HD000040")
    for template in ("2.16.840.1.113883.2.8.2.1", "1.2.250.1.213.1.1.1.1", *document.templates):
        _el(root, "templateId", root=template)
    _el(root, "id", root=document.unique_id)
    _coded(root, "code", document.type)
    _el(root, "title", document.title)
    _el(root, "effectiveTime", value=_ts(document.at))
    _coded(root, "confidentialityCode", CONFIDENTIALITY_N)
    _el(root, "languageCode", code="fr-FR")
    _el(root, "setId", root=document.set_id)
    _el(root, "versionNumber", value=str(document.version))
    return root


def _header(document: _Document) -> Element:
    """The header in the order of the schema (dmp.md §4.2)."""
    root = _opening(document)
    _record_target(root, document.patient)
    author = _el(root, "author")
    _el(author, "time", value=_ts(document.at))
    _assigned(author, "assignedAuthor", document.author, document.structure)
    custodian = _el(_el(root, "custodian"), "assignedCustodian")
    _organisation(custodian, "representedCustodianOrganization", document.structure)
    legal = _el(root, "legalAuthenticator")
    _el(legal, "time", value=_ts(document.at))
    _el(legal, "signatureCode", code="S")
    _assigned(legal, "assignedEntity", document.author, document.structure)
    event = _el(_el(root, "documentationOf"), "serviceEvent")
    _period(event, document.service_start, document.service_stop)
    performer = _el(event, "performer", typeCode="PRF")
    entity = _assigned(performer, "assignedEntity", document.author, document.structure)
    organisation = entity[-1]
    _coded(organisation, "standardIndustryClassCode", document.practice)
    if document.replaces:
        parent = _el(_el(root, "relatedDocument", typeCode="RPLC"), "parentDocument")
        _el(parent, "id", root=document.replaces)
    encounter = _el(_el(root, "componentOf"), "encompassingEncounter")
    _coded(encounter, "code", document.encounter)
    _period(encounter, document.service_start, document.service_stop)
    facility = _el(_el(encounter, "location"), "healthCareFacility")
    _coded(facility, "code", document.facility)
    return root


def _period(parent: Element, start: datetime, stop: datetime) -> None:
    period = _el(parent, "effectiveTime")
    _el(period, "low", value=_ts(start))
    _el(period, "high", value=_ts(stop))


def _type(code: str) -> Code:
    row = document_type(code)
    if row is None:
        raise KeyError("unknown document type")
    return Code(row.code, row.system, row.label)


def make_crh_n1(
    patient: Patient,
    author: Author,
    structure: Organisation,
    *,
    at: datetime,
    pdf: bytes,
    title: str = "Compte rendu d'hospitalisation",
    type_code: str = "34112-3",
    unique_id: str = "",
    set_id: str = "",
    version: int = 1,
    replaces: str = "",
    media_type: str = "application/pdf",
    stay: timedelta = timedelta(days=3),
) -> bytes:
    """A level 1 report (default: hospital stay, LOINC 34112-3) around `pdf`. `at`, aware, keeps its UTC offset.

    Without `unique_id` an OID is made from the content; `set_id` defaults to an OID made from the identifier. For a new
    version, give `set_id`, `version` and `replaces` (the previous identifier). KeyError for an unknown `type_code`.
    """
    made = unique_id or document_oid(patient.ins, at.isoformat(), title, hashlib.sha256(pdf).hexdigest(), str(version))
    document = _Document(
        patient=patient,
        author=author,
        structure=structure,
        at=at,
        type=_type(type_code),
        title=title,
        templates=(N1_TEMPLATE,),
        unique_id=made,
        set_id=set_id or document_oid("set", made),
        version=version,
        replaces=replaces,
        encounter=Code("IMP", "2.16.840.1.113883.5.4", "Hospitalisation"),
        facility=HOSPITAL,
        practice=HOSPITAL_PRACTICE,
        service_start=at - stay,
        service_stop=at,
    )
    root = _header(document)
    body = _el(_el(root, "component"), "nonXMLBody")
    _el(body, "text", base64.b64encode(pdf).decode("ascii"), mediaType=media_type, representation="B64")
    return to_bytes(root, declaration=True)


def make_n3(
    patient: Patient,
    author: Author,
    structure: Organisation,
    *,
    at: datetime,
    sections: Sequence[Section],
    title: str = "Compte rendu de consultation",
    type_code: str = "11488-4",
    templates: Sequence[str] = (MEDICAL_DOCUMENT_TEMPLATE,),
    unique_id: str = "",
    set_id: str = "",
    version: int = 1,
    replaces: str = "",
    facility: Code = HOSPITAL,
    practice: Code = HOSPITAL_PRACTICE,
) -> bytes:
    """A structured report (default: consultation, LOINC 11488-4) whose sections carry narrative text only.

    Same conventions as `make_crh_n1`. The content model of the template (entries) is not built: header, sections and
    narrative are what the bridge and the record read.
    """
    text = "\0".join(part for section in sections for part in (section.title, *section.paragraphs))
    made = unique_id or document_oid(patient.ins, at.isoformat(), title, text, str(version))
    document = _Document(
        patient=patient,
        author=author,
        structure=structure,
        at=at,
        type=_type(type_code),
        title=title,
        templates=tuple(templates),
        unique_id=made,
        set_id=set_id or document_oid("set", made),
        version=version,
        replaces=replaces,
        encounter=Code("AMB", "2.16.840.1.113883.5.4", "Ambulatoire"),
        facility=facility,
        practice=practice,
        service_start=at - timedelta(minutes=30),
        service_stop=at,
    )
    root = _header(document)
    body = _el(_el(root, "component"), "structuredBody")
    for section in sections:
        node = _el(_el(body, "component"), "section")
        _coded(node, "code", section.code)
        _el(node, "title", section.title)
        narrative = _el(node, "text")
        for paragraph in section.paragraphs:
            _el(narrative, "paragraph", paragraph)
    return to_bytes(root, declaration=True)


__all__ = [
    "CONFIDENTIALITY_N",
    "GENERAL_PRACTICE",
    "HOSPITAL",
    "HOSPITAL_PRACTICE",
    "MEDICAL_DOCUMENT_TEMPLATE",
    "OID_ROOT",
    "FontMissing",
    "Section",
    "document_oid",
    "make_crh_n1",
    "make_n3",
    "make_pdf_a",
    "pdf_file_name",
    "subject_line",
    "synthetic_author",
    "synthetic_patient",
    "synthetic_structure",
]
