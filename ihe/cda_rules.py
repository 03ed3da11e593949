"""The rules of CI-SIS "structuration minimale" that a header can be held against without any schema (dmp.md §4).

Pure: a document that was opened in, findings out. A finding has a stable code, a place, and no value of the document.
These rules do
not stand for the national schematrons, which an operator may install beside them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache
from importlib import resources

from ihe.cda import HL7_V3, N1_TEMPLATE, OpenCda
from ihe.cda_model import CdaHeader, CdaLevel
from ihe.codes import document_type
from ihe.xml import Element

_H = {"h": HL7_V3}
_NULL_ALLOWED = frozenset({"UNK", "NASK", "ASKU", "NAV", "MSK"})
# dmp.md §4.2: elements that must say something, by path from ClinicalDocument.
_NEVER_NULL = (
    "id",
    "code",
    "title",
    "effectiveTime",
    "confidentialityCode",
    "languageCode",
    "setId",
    "versionNumber",
    "recordTarget",
    "recordTarget/patientRole",
    "recordTarget/patientRole/id",
    "recordTarget/patientRole/patient",
    "recordTarget/patientRole/patient/name",
    "author",
    "author/assignedAuthor",
    "author/assignedAuthor/id",
    "custodian",
    "legalAuthenticator",
    "legalAuthenticator/assignedEntity",
    "legalAuthenticator/assignedEntity/id",
    "documentationOf/serviceEvent",
    "relatedDocument/parentDocument",
    "relatedDocument/parentDocument/id",
    "componentOf",
    "componentOf/encompassingEncounter",
    "componentOf/encompassingEncounter/location",
    "componentOf/encompassingEncounter/location/healthCareFacility",
    "componentOf/encompassingEncounter/location/healthCareFacility/code",
)
_FORBIDDEN = ("religiousAffiliationCode", "raceCode", "ethnicGroupCode")
_FUTURE = timedelta(hours=1)


class Severity(StrEnum):
    """ERROR: the document does not follow the rule. WARNING: allowed, seen in real documents, or only advised."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. `source` is the rule book: `CI-SIS`, `XSD`, or the name of a schematron; `place` an element
    path or a line."""

    code: str
    severity: Severity
    french: str
    english: str
    place: str = ""
    source: str = "CI-SIS"

    def text(self) -> str:
        """The finding as it is kept and shown: code, place, French, English."""
        place = f" [{self.place}]" if self.place else ""
        return f"{self.code}{place}: {self.french} / {self.english}"


@dataclass(frozen=True, slots=True)
class ValueSet:
    """A set of codes with its identity: `codes` maps a code to the OID of its system."""

    name: str
    oid: str
    version: str
    codes: Mapping[str, str]


@cache
def value_sets() -> Mapping[str, ValueSet]:
    """The sets shipped with the package (`value_sets.toml`), read once: facility, practice, confidentiality, function."""
    raw = tomllib.loads(resources.files("ihe").joinpath("value_sets.toml").read_text(encoding="utf-8"))
    return {name: ValueSet(row["name"], row["id"], row["version"], row["codes"]) for name, row in raw.items()}


def _error(code: str, french: str, english: str, place: str = "") -> Finding:
    return Finding(code, Severity.ERROR, french, english, place)


def _warning(code: str, french: str, english: str, place: str = "") -> Finding:
    return Finding(code, Severity.WARNING, french, english, place)


def check_structure(opened: OpenCda, *, at: datetime | None) -> tuple[Finding, ...]:
    """Every departure from the rules of dmp.md §4.2 and §4.3, in the order of the document. `at` is the present, for
    future dates."""
    findings = [*_frame(opened), *_nulls(opened.document), *_sets(opened.header), *_relations(opened.header)]
    findings += _times(opened.header, at)
    return tuple(dict.fromkeys(findings))


def _frame(opened: OpenCda) -> Iterator[Finding]:
    header, document = opened.header, opened.document
    realm = document.find("h:realmCode", _H)
    if realm is None or realm.get("code") != "FR":
        yield _error("realm", "realmCode FR est attendu", "realmCode FR is expected", "realmCode")
    templates = set(header.template_ids)
    if not {"2.16.840.1.113883.2.8.2.1", "1.2.250.1.213.1.1.1.1"} <= templates or len(templates) < 3:
        yield _error("templates", "conformités CI-SIS non déclarées", "CI-SIS templates are not declared", "templateId")
    if header.level is CdaLevel.N1 and N1_TEMPLATE not in templates:
        yield _error(
            "template-n1", "le modèle des corps non structurés manque", "the N1 template is missing", "templateId"
        )
    if len(header.title) > 128:
        yield _error("title-long", "titre de plus de 128 caractères", "title over 128 characters", "title")
    if header.language != "fr-FR":
        yield _error("language", "languageCode fr-FR est attendu", "languageCode fr-FR is expected", "languageCode")
    if header.set_id is None:
        yield _error("set-id", "setId manque", "setId is missing", "setId")
    if header.version is None:
        yield _error(
            "version", "versionNumber manque ou n'est pas un entier", "versionNumber is missing or bad", "versionNumber"
        )
    if header.style_sheet:
        yield _warning("style-sheet", "le document désigne une feuille de style", "a style sheet is referenced")
    for name in _FORBIDDEN:
        if document.find(f"h:recordTarget/h:patientRole/h:patient/h:{name}", _H) is not None:
            yield _error("forbidden", "donnée interdite du patient", "a forbidden item about the patient", name)


def _nulls(document: Element) -> Iterator[Finding]:
    for path in _NEVER_NULL:
        for item in document.iterfind("/".join(f"h:{step}" for step in path.split("/")), _H):
            if item.get("nullFlavor") is not None:
                yield _error("null-flavor", "nullFlavor interdit ici", "nullFlavor is forbidden here", path)
    for item in document.iterfind("h:*//*[@nullFlavor]", _H):
        if item.get("nullFlavor") not in _NULL_ALLOWED:
            yield _warning("null-flavor-value", "nullFlavor hors de la liste", "a nullFlavor outside the list")
            return


def _sets(header: CdaHeader) -> Iterator[Finding]:
    known = document_type(header.type.code)
    if known is None:
        yield _error("type-unknown", "type de document inconnu (JDV_J07)", "unknown document type", "code")
    elif header.type.system and header.type.system != known.system:
        yield _error("type-system", "le type n'est pas de ce système de codes", "the type is of another system", "code")
    for name, code, place in (
        ("facility", header.facility_type, "healthCareFacility/code"),
        ("practice", header.practice_setting, "standardIndustryClassCode"),
        ("confidentiality", header.confidentiality, "confidentialityCode"),
    ):
        values = value_sets()[name]
        if code is None:
            yield _error(f"{name}-missing", f"code absent ({values.name})", "a code is missing", place)
        elif values.codes.get(code.code) != code.system:
            yield _error(f"{name}-unknown", f"code hors de {values.name}", f"a code outside {values.name}", place)
    for author in header.authors:
        if author.role is not None and author.role.code not in value_sets()["function"].codes:
            yield _warning(
                "function-unknown", "rôle de l'auteur hors de JDV_J47", "author's role outside J47", "author"
            )


def _relations(header: CdaHeader) -> Iterator[Finding]:
    for relation in header.related:
        if relation.relation not in ("RPLC", "XFRM"):
            yield _error(
                "relation", "relation autre que RPLC ou XFRM", "relation other than RPLC, XFRM", "relatedDocument"
            )
    if len(header.related) > 1:
        yield _error("relations", "plusieurs documents liés", "several related documents", "relatedDocument")
    if header.version is not None and header.version > 1 and header.replaces is None:
        yield _warning(
            "version-alone", "version sans document remplacé", "a version that replaces nothing", "versionNumber"
        )
    if header.version == 1 and header.replaces is not None:
        yield _warning("version-one", "première version qui remplace", "a first version that replaces", "versionNumber")


def _times(header: CdaHeader, at: datetime | None) -> Iterator[Finding]:
    if header.effective.digits < 14 or not header.effective.offset_known:
        yield _error(
            "time-precision", "à la seconde, avec son fuseau", "to the second, with its offset", "effectiveTime"
        )
    if "time-unreadable" in header.warnings:
        yield _warning("time-unreadable", "une date est illisible", "a time cannot be read")
    if at is None:
        return
    if header.effective.moment > at + _FUTURE:
        yield _error(
            "future-date", "le document est daté du futur", "the document is dated in the future", "effectiveTime"
        )
    birth = header.patient.birth_date[:8]
    if len(birth) == 8 and birth.isascii() and birth.isdigit() and birth > (at + timedelta(days=1)).strftime("%Y%m%d"):
        yield _error("birth-date", "date de naissance future", "birth date in the future", "birthTime")
