"""Document messages made from CDA: valid metadata, PDF/A copies, subject, fields; verdict, schema and schematrons."""

from __future__ import annotations

import io
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from lxml import etree

import mime
from dmp_bridge import find_documents
from dmp_bridge.package import PackageRefused, Sender, make_message, make_package
from dmp_bridge.schematron import Schematrons, SchematronUnusable, compile_schematrons
from dmp_bridge.understand import Schema, SchemaUnusable, understand
from ihe.samples import synthetic_patient
from tests.dossier.house import make_cda
from tests.ihe.support import report, samples, xds_schema

AT = datetime(2026, 3, 1, 10, tzinfo=UTC)
WHO = Sender("1990000011", "HOPITAL DE TEST", "899900000019", "EXEMPLE", "Alice")
PATIENT = synthetic_patient(1)


@pytest.mark.parametrize("action", ["", "C", "D"])
def test_what_is_made_is_valid_and_found_again(action: str) -> None:
    contents = [make_cda(PATIENT, text="%PDF-1.4 a"), make_cda(PATIENT, text="%PDF-1.4 b")]
    made = make_package(contents, sender=WHO, source_id="1.2.3", at=AT, action=action, visibility=("MASQUE_PS",))
    with zipfile.ZipFile(io.BytesIO(made.archive)) as archive:
        names = archive.namelist()
        metadata = archive.read("IHE_XDM/SUBSET01/METADATA.XML")
    assert {"INDEX.HTM", "README.TXT", "IHE_XDM/SUBSET01/DOC00001.XML", "IHE_XDM/SUBSET01/DOC00002.PDF"} <= set(names)
    assert all(len(step) <= 12 and step == step.upper() for name in names for step in name.split("/"))
    xds_schema().assertValid(etree.fromstring(metadata))
    raw = make_message(made, sender="a@b.fr", recipients=["c@d.fr"], text="Bonjour", message_id="<m@b.fr>", at=AT)
    findings = find_documents(raw)
    assert [one.content for one in findings.documents] == contents and findings.alone == ()
    assert all(one.action == action and one.visibility == ("MASQUE_PS",) for one in findings.documents)
    # In the archive and beside it.
    assert [len(one.copies) for one in findings.documents] == [2, 2]
    root = mime.parse(raw)
    subject = root.get("Subject") or ""
    assert subject.startswith(
        "[Annule et remplace] XDM/1.0/DDM+2 documents " if action == "C" else "XDM/1.0/DDM+2 documents "
    )
    assert (root.get("X-MSS-CODECDA"), root.get("X-MSS-INS")) == ("34112-3", "O")


def test_a_structured_document_gets_a_pdf_a_of_its_narrative() -> None:
    content = (samples("ansforge") / "cda-n3" / "LDL-SES_2022.01.xml").read_bytes()
    made = make_package([content], sender=WHO, source_id="1.2.3", at=AT)
    [(name, pdf)] = made.pdfs
    assert (
        name.startswith("20191029_")
        and pdf.startswith(b"%PDF-1.")
        and b"pdfaid:part" in pdf.replace(b"pdfaid:part=", b"pdfaid:part")
    )


def test_two_patients_or_no_metadata_make_no_message() -> None:
    with pytest.raises(PackageRefused, match="several-patients"):
        make_package([make_cda(PATIENT), make_cda(synthetic_patient(2))], sender=WHO, source_id="1.2.3", at=AT)
    with pytest.raises(PackageRefused, match="cda-not-a-cda"):
        make_package([b"<x/>"], sender=WHO, source_id="1.2.3", at=AT)


def test_the_schema_gives_every_error_with_its_line_and_no_value() -> None:
    schema = Schema(samples("schemas") / "cda")
    good = report()
    assert [one for one in understand(good, at=None, checks=[schema]).findings if one.source == "XSD"] == []
    spoilt = good.replace(b"<realmCode", b"<patientSecret>DUPONT</patientSecret><realmCode")
    found = [one for one in understand(spoilt, at=None, checks=[schema]).findings if one.source == "XSD"]
    assert found and all("DUPONT" not in one.text() and one.place.startswith("ligne") for one in found)
    with pytest.raises(SchemaUnusable):
        Schema(Path("/nowhere"))


SVRL = """<xsl:stylesheet version="3.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform" xmlns:h="urn:hl7-org:v3"
 xmlns:svrl="http://purl.oclc.org/dsdl/svrl"><xsl:template match="/"><svrl:schematron-output>
 <xsl:if test="not(/h:ClinicalDocument/h:title = 'Parfait')"><svrl:failed-assert id="titre" location="/h:ClinicalDocument[1]">
 <svrl:text><xsl:value-of select="/h:ClinicalDocument/h:title"/></svrl:text></svrl:failed-assert></xsl:if>
 <svrl:successful-report role="warning" location="/*:ClinicalDocument[namespace-uri()='x'][1]/*:title[1]"/>
 </svrl:schematron-output></xsl:template></xsl:stylesheet>"""
IDENTITY = """<xsl:stylesheet version="2.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform"><xsl:template match="/">
 <xsl:copy-of select="."/></xsl:template></xsl:stylesheet>"""


def test_an_installed_schematron_is_compiled_and_run(tmp_path: Path) -> None:
    engine = tmp_path / "moteur"
    engine.mkdir()
    for name in ("iso_dsdl_include.xsl", "iso_abstract_expand.xsl", "iso_svrl_for_xslt2.xsl"):
        (engine / name).write_text(IDENTITY)
    (tmp_path / "titre.sch").write_text(SVRL)
    assert [path.name for path in compile_schematrons(tmp_path, engine)] == ["titre.xsl"]
    assert sorted(path.name for path in tmp_path.glob("*.partial")) == []
    verdict = understand(report(), at=None, checks=[Schematrons(tmp_path)])
    found = [(one.severity.value, one.place, one.source) for one in verdict.findings if one.code == "schematron"]
    assert found == [("error", "titre", "titre"), ("warning", "ClinicalDocument/title", "titre")]
    with pytest.raises(TypeError):
        bool(verdict)
    with pytest.raises(SchematronUnusable):
        Schematrons(engine / "nothing")
