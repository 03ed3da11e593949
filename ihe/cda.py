"""Reading the header of a CDA R2 document, from bytes.

Invariants
* `read_cda` returns a CdaHeader or raises CdaError; no other exception leaves, whatever the bytes are;
* the document is never changed, never rendered: embedded or referenced style sheets are seen and left alone;
* elements outside the model are ignored (dmp.md §4.1), what is missing is empty, what is odd is a word in `warnings`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ihe.cda_model import (
    Author,
    CdaError,
    CdaForm,
    CdaHeader,
    CdaLevel,
    EmbeddedBody,
    Organisation,
    Patient,
    PersonName,
    RelatedDocument,
)
from ihe.ins import is_ins_oid
from ihe.values import Code, Hl7Time, Identifier, is_oid, parse_hl7_time
from ihe.xml import Element, XmlError, XmlLimits, local_name, parse_xml, text_of

HL7_V3 = "urn:hl7-org:v3"
XMLDSIG = "http://www.w3.org/2000/09/xmldsig#"
XSLT = "http://www.w3.org/1999/XSL/Transform"
PDF_COPY_TEMPLATE = "1.2.250.1.213.1.1.2.243"
N1_TEMPLATE = "1.3.6.1.4.1.19376.1.2.20"

_H = {"h": HL7_V3}
_ROOT = f"{{{HL7_V3}}}ClinicalDocument"

_XML_FRENCH = {
    "xml-size": "le document dépasse la taille admise",
    "xml-encoding": "le document n'est pas en UTF-8",
    "xml-doctype": "une déclaration de type de document (DOCTYPE) n'est pas admise",
    "xml-depth": "les éléments sont trop imbriqués",
    "xml-elements": "le document contient trop d'éléments",
    "xml-attributes": "un élément porte trop d'attributs",
    "xml-namespaces": "trop d'espaces de noms sont déclarés",
    "xml-syntax": "le document n'est pas du XML bien formé",
}


def _find(element: Element | None, path: str) -> Element | None:
    return None if element is None else element.find(path, _H)


def _all(element: Element | None, path: str) -> list[Element]:
    return [] if element is None else element.findall(path, _H)


def _attribute(element: Element | None, name: str) -> str:
    return "" if element is None else (element.get(name) or "").strip()


def _code(element: Element | None) -> Code | None:
    code = _attribute(element, "code")
    if not code:
        return None
    return Code(code, _attribute(element, "codeSystem"), _attribute(element, "displayName"))


def _identifier(element: Element | None) -> Identifier | None:
    root = _attribute(element, "root")
    return Identifier(root, _attribute(element, "extension")) if root else None


def _time(element: Element | None, warnings: list[str]) -> Hl7Time | None:
    value = _attribute(element, "value")
    if not value:
        return None
    try:
        time = parse_hl7_time(value)
    except ValueError:
        warnings.append("time-unreadable")
        return None
    if time.digits > 8 and not time.offset_known:
        warnings.append("time-without-offset")
    return time


def _name(element: Element | None) -> PersonName:
    return PersonName(
        family=text_of(_find(element, "h:family")),
        given=text_of(_find(element, "h:given")),
        prefix=text_of(_find(element, "h:prefix")),
        suffix=text_of(_find(element, "h:suffix")),
    )


def _organisation(element: Element | None) -> Organisation:
    return Organisation(_identifier(_find(element, "h:id")), text_of(_find(element, "h:name")))


def _person(holder: Element, role: str, warnings: list[str]) -> Author:
    """An author or a legal authenticator; `role` is the name of the assigned element."""
    assigned = _find(holder, f"h:{role}")
    return Author(
        identifier=_identifier(_find(assigned, "h:id")),
        name=_name(_find(assigned, "h:assignedPerson/h:name")),
        speciality=_code(_find(assigned, "h:code")),
        role=_code(_find(holder, "h:functionCode")),
        organisation=_organisation(_find(assigned, "h:representedOrganization")),
        device=text_of(_find(assigned, "h:assignedAuthoringDevice/h:softwareName"))
        or text_of(_find(assigned, "h:assignedAuthoringDevice/h:manufacturerModelName")),
        time=_time(_find(holder, "h:time"), warnings),
    )


def _patient(document: Element, warnings: list[str]) -> Patient:
    role = _find(document, "h:recordTarget/h:patientRole")
    identifiers = [found for found in (_identifier(item) for item in _all(role, "h:id")) if found is not None]
    national = [found for found in identifiers if is_ins_oid(found.root)]
    if len(national) > 1:
        warnings.append("several-ins")
    if len(_all(document, "h:recordTarget")) > 1:
        warnings.append("several-patients")
    ins = national[0] if national else Identifier("", "")
    person = _find(role, "h:patient")
    name = _find(person, "h:name")
    qualified: dict[tuple[str, str], str] = {}
    for part in [] if name is None else name:
        qualified.setdefault((local_name(part), _attribute(part, "qualifier")), text_of(part))
    return Patient(
        ins=ins.extension,
        ins_oid=ins.root,
        local_ids=tuple(found for found in identifiers if not is_ins_oid(found.root)),
        birth_name=qualified.get(("family", "BR"), ""),
        first_birth_given=qualified.get(("given", "BR"), ""),
        birth_givens=qualified.get(("given", ""), ""),
        used_name=qualified.get(("family", "CL"), "") or qualified.get(("family", ""), ""),
        used_given=qualified.get(("given", "CL"), ""),
        sex=_attribute(_find(person, "h:administrativeGenderCode"), "code"),
        birth_date=_attribute(_find(person, "h:birthTime"), "value"),
        birth_place=text_of(_find(person, "h:birthplace/h:place/h:addr/h:county")),
    )


def _embedded(element: Element | None) -> EmbeddedBody | None:
    if element is None or _attribute(element, "representation") != "B64":
        return None
    return EmbeddedBody(_attribute(element, "mediaType"), text_of(element))


def _pdf_copy(document: Element) -> EmbeddedBody | None:
    for section in document.iterfind(".//h:section", _H):
        if any(_attribute(item, "root") == PDF_COPY_TEMPLATE for item in _all(section, "h:templateId")):
            return _embedded(_find(section, ".//h:observationMedia/h:value"))
    return None


def _level(document: Element) -> tuple[CdaLevel, EmbeddedBody | None]:
    if _find(document, "h:component/h:structuredBody") is not None:
        return CdaLevel.N3, None
    body = _find(document, "h:component/h:nonXMLBody")
    return (CdaLevel.NONE, None) if body is None else (CdaLevel.N1, _embedded(_find(body, "h:text")))


def _main_event(document: Element) -> Element | None:
    """The main act: the first documentationOf (dmp.md §4.2)."""
    return _find(document, "h:documentationOf/h:serviceEvent")


def _locate(root: Element) -> tuple[Element, CdaForm]:
    """The ClinicalDocument, wherever the accepted forms put it (dmp.md §4.1)."""
    if root.tag == _ROOT:
        return root, CdaForm.PLAIN
    form = {f"{{{XMLDSIG}}}Signature": CdaForm.SIGNED}.get(str(root.tag))
    if root.tag in (f"{{{XSLT}}}stylesheet", f"{{{XSLT}}}transform"):
        form = CdaForm.SELF_PRESENTING
    found = [] if form is None else list(root.iter(_ROOT))
    if form is None or not found:
        raise CdaError("not-a-cda", "ce document XML n'est pas un CDA R2", "this XML is not a CDA R2 document")
    if len(found) > 1:
        raise CdaError(
            "several-cda", "le fichier contient plusieurs documents CDA", "several CDA documents in one file"
        )
    return found[0], form


def _style_sheet(root: Element) -> bool:
    """True when an xml-stylesheet instruction stands before the root (a *separate* style sheet, refused by the DMP)."""
    sibling = root.getprevious()
    while sibling is not None:
        if getattr(sibling, "target", "") == "xml-stylesheet":
            return True
        sibling = sibling.getprevious()
    return False


def _identity(document: Element, warnings: list[str]) -> tuple[Identifier, Code, Hl7Time]:
    """What a document cannot do without: id, code, effectiveTime."""
    identifier = _identifier(_find(document, "h:id"))
    if identifier is None:
        raise CdaError("no-id", "le document n'a pas d'identifiant (id)", "the document has no id")
    if not is_oid(identifier.root):
        raise CdaError("bad-id", "l'identifiant du document n'est pas un OID", "the document id is not an OID")
    if identifier.extension:
        warnings.append("id-extension")
    kind = _code(_find(document, "h:code"))
    if kind is None:
        raise CdaError("no-type", "le document n'a pas de type (code)", "the document has no type code")
    effective = _time(_find(document, "h:effectiveTime"), warnings)
    if effective is None:
        raise CdaError(
            "no-time", "la date de création (effectiveTime) est absente ou illisible", "effectiveTime is missing or bad"
        )
    return identifier, kind, effective


def _version(document: Element, warnings: list[str]) -> int | None:
    value = _attribute(_find(document, "h:versionNumber"), "value")
    if value.isascii() and value.isdigit() and 0 < len(value) < 10 and int(value) > 0:
        return int(value)
    warnings.append("no-version" if not value else "bad-version")
    return None


def _related(document: Element) -> tuple[RelatedDocument, ...]:
    found = []
    for item in _all(document, "h:relatedDocument"):
        parent = _identifier(_find(item, "h:parentDocument/h:id"))
        if parent is not None:
            found.append(RelatedDocument(_attribute(item, "typeCode"), parent))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class OpenCda:
    """A document that was read: its header, its ClinicalDocument element, and the root of the file around it. The tree
    is for checks
    that need more than the header; it is never written back."""

    header: CdaHeader
    document: Element = field(repr=False)
    root: Element = field(repr=False)


def read_cda(data: bytes, *, max_size: int = 32 * 1024 * 1024) -> CdaHeader:
    """Reads the header of a CDA R2 document; see `open_cda`."""
    return open_cda(data, max_size=max_size).header


def open_cda(data: bytes, *, max_size: int = 32 * 1024 * 1024) -> OpenCda:
    """Reads a CDA R2 document (plain, signed or self-presenting). Rules: dmp.md §4.

    Raises CdaError: XML refused (`xml-*`), `not-a-cda`, `several-cda`, `no-id`, `bad-id`, `no-type`, `no-time`.
    `max_size` in bytes.
    """
    try:
        root = parse_xml(data, XmlLimits(size=max_size))
    except XmlError as error:
        french = _XML_FRENCH.get(error.code, "le document n'est pas lisible")
        raise CdaError(error.code, french, error.message) from None
    document, form = _locate(root)
    return OpenCda(_header(document, form, _style_sheet(root)), document, root)


def _header(document: Element, form: CdaForm, style_sheet: bool) -> CdaHeader:
    warnings: list[str] = []
    identifier, kind, effective = _identity(document, warnings)
    event = _main_event(document)
    level, body = _level(document)
    authenticator = _find(document, "h:legalAuthenticator")
    set_id = _identifier(_find(document, "h:setId"))
    if set_id is None:
        warnings.append("no-set-id")
    codes = (_code(_find(item, "h:code")) for item in _all(document, "h:documentationOf/h:serviceEvent"))
    industry = "h:performer/h:assignedEntity/h:representedOrganization/h:standardIndustryClassCode"
    encounter = _find(document, "h:componentOf/h:encompassingEncounter")
    header = CdaHeader(
        form=form,
        document_id=identifier,
        set_id=set_id,
        version=_version(document, warnings),
        type=kind,
        title=text_of(_find(document, "h:title")),
        effective_time=effective.moment,
        effective=effective,
        confidentiality=_code(_find(document, "h:confidentialityCode")),
        language=_attribute(_find(document, "h:languageCode"), "code"),
        template_ids=tuple(_attribute(item, "root") for item in _all(document, "h:templateId")),
        patient=_patient(document, warnings),
        authors=tuple(_person(item, "assignedAuthor", warnings) for item in _all(document, "h:author")),
        custodian=_organisation(_find(document, "h:custodian/h:assignedCustodian/h:representedCustodianOrganization")),
        legal_authenticator=None if authenticator is None else _person(authenticator, "assignedEntity", warnings),
        service_start=_time(_find(event, "h:effectiveTime/h:low"), warnings)
        or _time(_find(event, "h:effectiveTime"), warnings),
        service_stop=_time(_find(event, "h:effectiveTime/h:high"), warnings),
        event_codes=tuple(code for code in codes if code is not None),
        practice_setting=_code(_find(event, industry)),
        facility_type=_code(_find(encounter, "h:location/h:healthCareFacility/h:code")),
        encounter=_code(_find(encounter, "h:code")),
        related=_related(document),
        level=level,
        body=body,
        pdf_copy=_pdf_copy(document),
        style_sheet=style_sheet,
        warnings=(),
    )
    return _with_warnings(header, warnings)


def _with_warnings(header: CdaHeader, warnings: list[str]) -> CdaHeader:
    checks = (
        (header.title == "", "no-title"),
        (header.confidentiality is None, "no-confidentiality"),
        (header.language == "", "no-language"),
        (not header.authors, "no-author"),
        (header.legal_authenticator is None, "no-legal-authenticator"),
        (header.service_start is None, "no-service-start"),
        (header.practice_setting is None, "no-practice-setting"),
        (header.facility_type is None, "no-facility-type"),
        (header.patient.ins == "", "no-ins"),
        (header.level is CdaLevel.NONE, "no-body"),
        (header.level is CdaLevel.N1 and header.body is None, "no-embedded-body"),
        (header.style_sheet, "separate-style-sheet"),
    )
    found = [*warnings, *(word for condition, word in checks if condition)]
    return replace(header, warnings=tuple(dict.fromkeys(found)))


__all__ = [
    "Author",
    "CdaError",
    "CdaForm",
    "CdaHeader",
    "CdaLevel",
    "EmbeddedBody",
    "OpenCda",
    "Organisation",
    "Patient",
    "PersonName",
    "RelatedDocument",
    "open_cda",
    "read_cda",
]
