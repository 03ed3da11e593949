"""The CI-SIS schematrons, when the operator installed them and the `saxonche` extra (dmp.md §12). Nothing national is shipped.

A folder holds `*.xsl` compiled beside their `*.sch` (their value sets are read by relative name).
`compile_schematrons` makes them, in the
three steps of the XSLT 2 skeleton that stands in `moteur/`; it takes minutes and is an operator's command, never done
while serving.

Invariants: one processor a thread, compiled programs kept; the document is data; messages of a schematron may quote
the document, so
that only the rule's own identity (its test's place and role) is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lxml import etree

from ihe.cda import OpenCda
from ihe.cda_rules import Finding, Severity
from ihe.xml import to_bytes

SVRL = "{http://purl.oclc.org/dsdl/svrl}"
_STEPS = ("iso_dsdl_include.xsl", "iso_abstract_expand.xsl", "iso_svrl_for_xslt2.xsl")
_MILD = frozenset({"warning", "warn", "information", "info"})


class SchematronUnusable(Exception):
    """The extra is not installed, or the folder cannot be used; the text says which."""


def _processor() -> Any:
    try:
        from saxonche import PySaxonProcessor  # type: ignore[import-not-found,unused-ignore]  # an extra
    except ImportError:
        raise SchematronUnusable("saxonche n'est pas installé / is not installed: pip install saxonche") from None
    return PySaxonProcessor(license=False)


class Schematrons:
    """The compiled schematrons of a folder, run on each document."""

    def __init__(self, folder: Path) -> None:
        """Raises SchematronUnusable when there is none, or no saxonche."""
        self._paths = sorted(path for path in folder.glob("*.xsl") if path.name not in _STEPS)
        if not self._paths:
            raise SchematronUnusable(f"{folder}: aucun schématron compilé (.xsl) / no compiled schematron")
        self._local = threading.local()
        self._programs()

    def _programs(self) -> list[tuple[str, Any]]:
        """The programs of this thread: Saxon's objects are not shared between threads."""
        if not hasattr(self._local, "programs"):
            processor = _processor()
            compiler = processor.new_xslt30_processor()
            programs = []
            for path in self._paths:
                try:
                    programs.append((path.stem, compiler.compile_stylesheet(stylesheet_file=str(path))))
                except Exception:
                    raise SchematronUnusable(f"{path}: illisible / unreadable") from None
            self._local.processor, self._local.programs = processor, programs
        found: list[tuple[str, Any]] = self._local.programs
        return found

    def findings(self, content: bytes, opened: OpenCda) -> Sequence[Finding]:
        """One finding for each assertion that failed and each report that succeeded."""
        programs = self._programs()
        text = to_bytes(opened.document).decode("utf-8")
        node = self._local.processor.parse_xml(xml_text=text)
        found: list[Finding] = []
        for name, program in programs:
            found += _read(name, program.transform_to_string(xdm_node=node))
        return found


def _read(name: str, report: str | None) -> list[Finding]:
    if not report:
        raise ValueError("no report")
    root = etree.fromstring(
        report.encode("utf-8"), etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True)
    )
    found = []
    for item in (*root.iter(f"{SVRL}failed-assert"), *root.iter(f"{SVRL}successful-report")):
        mild = (item.get("role") or item.get("flag") or "").lower() in _MILD
        place = item.get("id") or _path_only(item.get("location") or "")
        severity = Severity.WARNING if mild else Severity.ERROR
        found.append(Finding("schematron", severity, "assertion non satisfaite", "a failed assertion", place, name))
    return found


def _path_only(location: str) -> str:
    """The element names of an SVRL location, without predicates that could quote values."""
    steps = [step.split("[")[0].rpartition(":")[2].strip("*") for step in location.split("/")]
    return "/".join(step for step in steps if step)[-200:]


def compile_schematrons(folder: Path, engine: Path) -> list[Path]:
    """Compile every `*.sch` of `folder` with the skeleton in `engine`; returns the programs, written beside their sources.

    Raises SchematronUnusable naming the file and the step.
    """
    sources = sorted(folder.glob("*.sch"))
    if not sources:
        raise SchematronUnusable(f"{folder}: aucun .sch / no .sch file")
    for step in _STEPS:
        if not (engine / step).is_file():
            raise SchematronUnusable(f"{engine / step}: absent / missing")
    compiler = _processor().new_xslt30_processor()
    steps = [compiler.compile_stylesheet(stylesheet_file=str(engine / step)) for step in _STEPS]
    made = []
    for source in sources:
        current = source
        for number, step in enumerate(steps, start=1):
            target = source.with_suffix(".xsl.partial" if number == len(steps) else f".{number}.partial")
            try:
                step.transform_to_file(source_file=str(current), output_file=str(target))
            except Exception:
                raise SchematronUnusable(f"{source}: étape {number} impossible / step {number} failed") from None
            if number > 1:
                current.unlink()
            current = target
        made.append(current.replace(source.with_suffix(".xsl")))
    return made
