"""The synthetic documents are what they claim: valid CDA, PDF/A-1b with an embedded font, national names."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from lxml import etree

from ihe import CdaLevel, Code, format_of, is_oid, read_cda
from ihe.naming import unaccented
from ihe.pdf import DEJAVU
from ihe.samples import (
    FontMissing,
    Section,
    make_crh_n1,
    make_n3,
    make_pdf_a,
    pdf_file_name,
    subject_line,
    synthetic_patient,
)
from tests.ihe.support import AT, AUTHOR, PARIS, STRUCTURE, cda_schema, report

SECTIONS = (
    Section(Code("42349-1", "2.16.840.1.113883.6.1", "Motif"), "Motif", ("Douleur & œdème < 3 jours",)),
    Section(Code("51848-0", "2.16.840.1.113883.6.1", "Evaluation"), "Conclusion", ("Évolution favorable.", "Revoir.")),
)


def consultation(seed: int = 3) -> bytes:
    return make_n3(synthetic_patient(seed), AUTHOR, STRUCTURE, at=AT.astimezone(PARIS), sections=SECTIONS)


@pytest.mark.parametrize("content", [report(), report(replaces="1.2.3"), consultation()])
def test_our_documents_validate(content: bytes) -> None:
    cda_schema().assertValid(etree.fromstring(content))
    header = read_cda(content)
    assert header.warnings == () and is_oid(header.unique_id)
    assert header.patient.check_ins().complete and header.patient.ins_oid.endswith(".4.10")
    assert header.set_id is not None and header.set_id.root != header.unique_id


def test_the_structured_report_is_level_3() -> None:
    header = read_cda(consultation())
    found = format_of(header)
    assert header.level is CdaLevel.N3 and header.type.code == "11488-4"
    assert found is not None and found.code == "urn:asipSante:modelesHorsProfils:2011"


def test_the_same_arguments_give_the_same_bytes_and_others_another_identifier() -> None:
    assert report() == report()
    assert read_cda(report(pdf=b"%PDF-a")).unique_id != read_cda(report(pdf=b"%PDF-b")).unique_id


def test_an_unknown_type_is_not_written() -> None:
    with pytest.raises(KeyError):
        make_crh_n1(synthetic_patient(1), AUTHOR, STRUCTURE, at=AT, pdf=b"%PDF", type_code="00000-0")


def test_a_version_chain() -> None:
    first = read_cda(report())
    assert first.set_id is not None
    second = make_crh_n1(
        synthetic_patient(1),
        AUTHOR,
        STRUCTURE,
        at=AT,
        pdf=b"%PDF-2",
        set_id=first.set_id.root,
        version=2,
        replaces=first.unique_id,
    )
    header = read_cda(second)
    assert (header.set_id, header.version, header.replaces) == (first.set_id, 2, first.unique_id)


@pytest.mark.skipif(not DEJAVU.is_file(), reason="DejaVuSans.ttf is not installed")
def test_the_pdf_is_marked_pdf_a_1b_embeds_its_font_and_is_reproducible(tmp_path: Path) -> None:
    data = make_pdf_a(
        "Compte rendu d’hospitalisation", ["Motif : œdème", "", "Conclusion " * 300], at=AT, author="Dr A"
    )
    assert data == make_pdf_a(
        "Compte rendu d’hospitalisation", ["Motif : œdème", "", "Conclusion " * 300], at=AT, author="Dr A"
    )
    assert data.startswith(b"%PDF-1.4")
    for mark in (
        b"<pdfaid:part>1</pdfaid:part>",
        b"<pdfaid:conformance>B</pdfaid:conformance>",
        b"GTS_PDFA1",
        b"FontFile2",
    ):
        assert mark in data
    assert b"/Encrypt" not in data and b"/JavaScript" not in data
    if shutil.which("qpdf"):
        (tmp_path / "a.pdf").write_bytes(data)
        result = subprocess.run(
            ["qpdf", "--check", str(tmp_path / "a.pdf")], capture_output=True, timeout=20, check=False
        )
        assert result.returncode == 0, result.stdout


def test_a_missing_font_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FontMissing):
        make_pdf_a("t", [], at=AT, font=tmp_path / "none.ttf")


def test_subject_and_file_name_follow_the_national_rules() -> None:
    patient = synthetic_patient(1)
    header = read_cda(report(1))
    name = f"{patient.birth_name} {patient.first_birth_given}"
    born = f"{patient.birth_date[6:]}/{patient.birth_date[4:6]}/{patient.birth_date[:4]}"
    assert subject_line([header]) == f"XDM/1.0/DDM+CR hospitalier (séjour) {name} {born}"
    assert subject_line([header, header]) == f"XDM/1.0/DDM+2 documents {name} {born}"
    expected = f"20260226_CR hospitalier (séjour)_{patient.birth_name}_{patient.first_birth_given}_42.pdf"
    assert pdf_file_name(header, "42") == expected


def test_one_message_is_one_patient() -> None:
    with pytest.raises(ValueError, match="one patient"):
        subject_line([read_cda(report(1)), read_cda(report(2))])
    with pytest.raises(ValueError, match="at least one"):
        subject_line([])


def test_names_cannot_inject_header_lines_or_paths() -> None:
    content = report().replace(b'displayName="CR hospitalier', b'displayName="../CR&#10;Bcc: x|hospitalier')
    header = read_cda(content)
    assert "\n" not in subject_line([header])
    assert not set(pdf_file_name(header)) & set("/\\\n:|")


def test_accents_are_removed() -> None:
    assert unaccented("ŒUVRÉ Ñandú Çağla") == "OEUVRE Nandu Cagla"
