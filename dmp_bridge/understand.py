"""Understanding a document before anything is decided about it: read, checked against rules, schema and schematrons.

Invariants
* A verdict holds every finding, never "invalid" alone; it has no truth value.
* A check that could not be made is a finding of its own: an unreadable schema is never a pass in silence.
* Style sheets of a document are never executed; schemas and schematrons come from the operator's folder only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol, cast

from lxml import etree

from ihe.cda import CdaError, CdaHeader, OpenCda, open_cda
from ihe.cda_rules import Finding, Severity, check_structure

MAX_FINDINGS = 200
_SCHEMA = "CDA_extended.xsd"


class Check(Protocol):
    """One more check of a document that was read."""

    def findings(self, content: bytes, opened: OpenCda) -> Sequence[Finding]:
        """What is to be said about the document."""
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of a document. `header` is None exactly when it could not be read, which is then the first finding."""

    header: CdaHeader | None = field(repr=False)
    findings: tuple[Finding, ...] = ()

    def __bool__(self) -> bool:
        raise TypeError("a verdict has no truth value: read its findings")

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that are errors."""
        return tuple(one for one in self.findings if one.severity is Severity.ERROR)


class SchemaUnusable(Exception):
    """The operator's schema folder cannot be used; the text names it."""


class Schema:
    """The CDA schema of the operator's folder, compiled once."""

    def __init__(self, folder: Path) -> None:
        """Raises SchemaUnusable."""
        path = folder / _SCHEMA if folder.is_dir() else folder
        parser = etree.XMLParser(no_network=True, resolve_entities=False, load_dtd=False)
        try:
            self._schema = etree.XMLSchema(etree.parse(str(path), parser))
        except (etree.LxmlError, OSError) as error:
            raise SchemaUnusable(f"{path}: schéma inutilisable / unusable schema ({type(error).__name__})") from None

    def findings(self, content: bytes, opened: OpenCda) -> Sequence[Finding]:
        """One finding for each place that the schema refuses; libxml2's messages quote values, its error types do not."""
        # Schema errors are kept in the schema object: one validator a call keeps threads apart.
        schema = self._schema
        log = _validate(schema, opened)
        return [
            Finding(
                f"xsd-{entry.type_name.lower().removeprefix('schemav_').replace('_', '-')}",
                Severity.ERROR,
                "le document ne suit pas le schéma CDA",
                "the document does not follow the CDA schema",
                f"ligne {entry.line}",
                "XSD",
            )
            for entry in log[:MAX_FINDINGS]
        ]


def _validate(schema: etree.XMLSchema, opened: OpenCda) -> list[etree._LogEntry]:
    document = opened.document
    if document is not opened.root:
        # Signed and self-presenting forms: only the ClinicalDocument is a CDA (dmp.md §4.1).
        document = etree.fromstring(etree.tostring(document, with_tail=False), etree.XMLParser(huge_tree=True))
    if schema.validate(document):
        return []
    return list(cast("Iterable[etree._LogEntry]", schema.error_log))


def understand(content: bytes, *, at: datetime | None, checks: Sequence[Check] = ()) -> Verdict:
    """The verdict on the bytes of a document. Never raises: what cannot be read is a finding."""
    try:
        opened = open_cda(content)
    except CdaError as error:
        return Verdict(None, (Finding(f"cda-{error.code}", Severity.ERROR, error.french, error.english),))
    except Exception as error:
        name = type(error).__name__
        return Verdict(
            None, (Finding("cda-unreadable", Severity.ERROR, f"CDA illisible ({name})", f"unreadable ({name})"),)
        )
    return judge(content, opened, at=at, checks=checks)


def judge(content: bytes, opened: OpenCda, *, at: datetime | None, checks: Sequence[Check] = ()) -> Verdict:
    """As `understand`, for a document that is open already."""
    findings = list(check_structure(opened, at=at))
    for check in checks:
        try:
            findings += check.findings(content, opened)
        except Exception as error:
            name = type(error).__name__
            findings.append(
                Finding(
                    "check-failed",
                    Severity.ERROR,
                    f"un contrôle n'a pas pu être fait ({name})",
                    f"a check could not be made ({name})",
                    source=type(check).__name__,
                )
            )
    return Verdict(opened.header, tuple(findings[:MAX_FINDINGS]))
