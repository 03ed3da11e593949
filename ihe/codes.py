"""The national code tables of a deposit: type → class, template → format, activity, visibility (dmp.md §3.4 to §3.8).

The tables are data (`codes.toml`, with its version); a code that is not there is unknown, and nobody guesses.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from ihe.cda_model import CdaHeader, CdaLevel
from ihe.values import Code

LOINC = "2.16.840.1.113883.6.1"
CLASS_SCHEME = "1.2.250.1.213.1.1.4.1"
IHE_FORMAT_SCHEME = "1.3.6.1.4.1.19376.1.2.3"
CI_SIS_FORMAT_SCHEME = "1.2.250.1.213.1.1.4.2.282"
CONTENT_TYPE_SCHEME = "1.2.250.1.213.2.2"
CONFIDENTIALITY_SCHEME = "2.16.840.1.113883.5.25"
VISIBILITY_SCHEME = "1.2.250.1.213.1.1.4.13"
FACILITY_SCHEME = "1.2.250.1.71.4.2.4"
PRACTICE_SCHEME = "1.2.250.1.213.1.1.4.9"
OUT_OF_PROFILE_FORMAT = "urn:asipSante:modelesHorsProfils:2011"


@dataclass(frozen=True, slots=True)
class DocumentType:
    """A document type: code, OID of its system, class ("" when no table gives one), accepted by the DMP or not."""

    code: str
    system: str
    label: str
    class_code: str
    dmp: bool


@dataclass(frozen=True, slots=True)
class CodeTables:
    """The loaded tables."""

    version: str
    classes: Mapping[str, str]
    types: Mapping[str, DocumentType]
    formats: Mapping[str, str]
    n1_formats: Mapping[str, str]
    format_labels: Mapping[str, str]
    content_types: Mapping[str, str]
    encounter_content_types: Mapping[str, str]
    visibility: Mapping[str, str]


@cache
def tables() -> CodeTables:
    """The tables shipped with the package, read once."""
    raw = tomllib.loads(resources.files("ihe").joinpath("codes.toml").read_text(encoding="utf-8"))
    systems = raw["systems"]
    types = {
        code: DocumentType(code, systems.get(row["system"], row["system"]), row["label"], row["class"], row["dmp"])
        for code, row in raw["types"].items()
    }
    plain = {
        name: raw[name]
        for name in (
            "classes",
            "formats",
            "n1_formats",
            "format_labels",
            "content_types",
            "encounter_content_types",
            "visibility",
        )
    }
    return CodeTables(version=raw["version"], types=types, **plain)


def document_type(code: str) -> DocumentType | None:
    """The row of a type code, or None when the tables do not know it."""
    return tables().types.get(code)


def is_dmp_type(code: str) -> bool:
    """True when JDV_J66 lists the code: the DMP accepts this type of document (dmp.md §3.5)."""
    row = document_type(code)
    return row is not None and row.dmp


def class_of(type_code: str) -> Code | None:
    """classCode of a type (ASS_X16), or None: six J66 types have no class, and are not to be guessed (dmp.md §3.4)."""
    row = document_type(type_code)
    if row is None or not row.class_code:
        return None
    return Code(row.class_code, CLASS_SCHEME, tables().classes[row.class_code])


def format_of(header: CdaHeader) -> Code | None:
    """formatCode of a document (ASS_A11, dmp.md §3.6).

    N1: by media type of the body, None when it is not in the table. N3: by the last known document template; the
    "out of profile" code when no template is known. None without a body.
    """
    known = tables()
    if header.level is CdaLevel.N1:
        code = "" if header.body is None else known.n1_formats.get(header.body.media_type, "")
        return _format(code) if code else None
    if header.level is CdaLevel.NONE:
        return None
    for template in reversed(header.template_ids):
        if template in known.formats:
            return _format(known.formats[template])
    return _format(OUT_OF_PROFILE_FORMAT)


def _format(code: str) -> Code:
    scheme = IHE_FORMAT_SCHEME if code.startswith("urn:ihe:") and ":iti-fr:" not in code else CI_SIS_FORMAT_SCHEME
    return Code(code, scheme, tables().format_labels.get(code, code))


def content_type_of(header: CdaHeader) -> Code:
    """contentTypeCode (JDV_J59) after the encounter of the document; "97" (undifferentiated) when it says nothing."""
    encounter = header.encounter.code if header.encounter is not None else ""
    return content_type(tables().encounter_content_types.get(encounter, "97"))


def content_type(code: str) -> Code:
    """A contentTypeCode of the table. Raises KeyError for another code."""
    return Code(code, CONTENT_TYPE_SCHEME, tables().content_types[code])


def visibility(code: str) -> Code:
    """A visibility code (MASQUE_PS, INVISIBLE_PATIENT, INVISIBLE_REPRESENTANTS_LEGAUX; dmp.md §3.8).

    The HL7 v2 spelling INVISIBLE_REP_LEGAUX is translated (dmp.md §13). Raises KeyError for another code.
    """
    code = {"INVISIBLE_REP_LEGAUX": "INVISIBLE_REPRESENTANTS_LEGAUX"}.get(code, code)
    return Code(code, VISIBILITY_SCHEME, tables().visibility[code])
