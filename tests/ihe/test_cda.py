"""Reading CDA headers: every public sample, the three wrappings, what must be refused."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ihe import CdaError, CdaForm, CdaLevel, Trait, class_of, entry_from_cda, format_of, read_cda
from ihe.samples import synthetic_patient
from tests.ihe.support import PDF, report, samples

# What each public sample must give: level, type, version, replaced identifier, formatCode, valid key of the INS,
# PDF copy inside. It is also the documentation of the real-data surprises (dmp.md §4.7).
OUTCOMES: dict[str, tuple[str, str, int | None, str | None, str, bool, bool]] = {
    "DRIMBOX_DOC00002.xml": ("N1", "18748-4", None, None, "urn:ihe:iti:xds-sd:pdf:2008", True, False),
    "IMG_CR_IMG_2024.01_CDA-R2-Niveau-1.xml": (
        "N1",
        "18748-4",
        2,
        "90E1C8EC-F951-4B26-A305-A34848818DD6",
        "urn:ihe:iti:xds-sd:pdf:2008",
        True,
        False,
    ),
    "AVC-PAVC_2022.01.xml": ("N3", "11488-4", 1, None, "urn:asip:ci-sis:pavc:2016", True, False),
    "BIO-CR-BIO_2021.01_Microbiologie_V1.xml": ("N3", "11502-2", 1, None, "urn:ihe:lab:xd-lab:2008", True, False),
    "BIO-CR-BIO_2021.01_Microbiologie_V2.xml": (
        "N3",
        "11502-2",
        2,
        "1.2.250.1.213.1.1.1.55.12345.8",
        "urn:ihe:lab:xd-lab:2008",
        True,
        False,
    ),
    "BIO-CR-BIO_2024.01_TSH_1.xml": ("N3", "11502-2", 1, None, "urn:ihe:lab:xd-lab:2008", True, True),
    "BIO-TROD_2024.01_Cystite.xml": ("N3", "96173-0", 1, None, "urn:asipSante:modelesHorsProfils:2011", True, False),
    "CANCER-FRCP_2022.01_Appareil.xml": ("N3", "34794-8", 1, None, "urn:asip:ci-sis:frcp:2011", True, False),
    "CNAM-HR_2021.01_sans-info.xml": ("N3", "REMB", 2, "1.2.250.1.213.1.1.9", "urn:asip:ci-sis:hr:2019", True, False),
    "CSE-MDE_2023.01.xml": ("N3", "29274-8", 4, None, "urn:ans:ci-sis:cse-mde:2023", False, False),
    "DLU-EHPAD-FLUDT_2022.01.xml": ("N3", "74207-2", 1, None, "urn:asip:ci-sis:fludt:2017", True, False),
    "LDL-SES_2022.01.xml": ("N3", "11490-0", 1, None, "urn:asip:ci-sis:ldl-ses:2017", True, False),
    "OBP-SCM_2024.01.xml": ("N3", "89235-6", 1, None, "urn:asip:ci-sis:obp-scm:2023", True, False),
    "VAC-NOTE_2023.01.xml": ("N3", "87273-9", 1, None, "urn:asip:ci-sis:vac-note:2021", True, False),
    "VSM_1.4_2022.01.xml": ("N3", "SYNTH", 1, None, "urn:asip:ci-sis:vsm:2012", True, False),
    "eDISP-MED_2024.01.xml": ("N3", "60593-1", 1, None, "urn:ihe:pharm:dis:2010", True, False),
}


def test_every_public_sample_has_a_known_outcome() -> None:
    folder = samples("ansforge")
    assert {path.name for path in folder.glob("cda-*/*.xml")} == set(OUTCOMES)


@pytest.mark.parametrize("name", OUTCOMES)
def test_public_samples(name: str) -> None:
    (path,) = samples("ansforge").glob(f"cda-*/{name}")
    content = path.read_bytes()
    header = read_cda(content)
    level, kind, version, replaces, format_code, key_valid, pdf_copy = OUTCOMES[name]
    assert (header.level, header.type.code, header.version, header.replaces) == (level, kind, version, replaces)
    assert header.patient.check_ins().key_valid is key_valid
    found_format, found_class = format_of(header), class_of(kind)
    assert found_format is not None and found_format.code == format_code
    assert found_class is not None
    assert header.effective_time.utcoffset() is not None
    assert (header.pdf_copy is not None and header.pdf_copy.content().startswith(b"%PDF")) is pdf_copy
    if header.level is CdaLevel.N1:
        assert header.body is not None and header.body.content().startswith(b"%PDF")
    # Every sample but one announces a separate style sheet, which the DMP does not accept (dmp.md §3.1).
    assert ("separate-style-sheet" in header.warnings) is (name != "DRIMBOX_DOC00002.xml")
    missing = {Trait.BIRTH_NAME, Trait.FIRST_GIVEN, Trait.BIRTH_PLACE} if name.startswith("DRIMBOX") else set()
    assert set(header.patient.check_ins().missing) == missing
    assert entry_from_cda(header, content).problems() == ()


def test_the_header_of_our_own_report() -> None:
    patient = synthetic_patient(1)
    header = read_cda(report(1, replaces="1.2.3.4"))
    assert header.patient == patient
    assert header.warnings == ()
    assert header.body is not None and header.body.content() == PDF
    assert header.replaces == "1.2.3.4"
    assert header.effective_time.utcoffset() == timedelta(hours=1)
    author = header.authors[0]
    assert author.identifier is not None and author.identifier.extension == "899900000019"
    assert author.organisation.name == header.custodian.name == "HOPITAL DE TEST"
    assert header.practice_setting is not None and header.practice_setting.code == "ETABLISSEMENT"
    assert header.facility_type is not None and header.facility_type.code == "SA01"


def _bare(content: bytes) -> bytes:
    return content[content.index(b"?>") + 2 :]


def test_a_signed_document_is_read_inside_its_signature() -> None:
    bare = _bare(report())
    wrapped = b'<Signature xmlns="http://www.w3.org/2000/09/xmldsig#"><Object>' + bare + b"</Object></Signature>"
    header = read_cda(wrapped)
    assert header.form is CdaForm.SIGNED
    assert header.unique_id == read_cda(report()).unique_id


def test_a_self_presenting_document_is_read_and_its_style_sheet_left_alone() -> None:
    sheet = (
        b'<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform" xmlns:d="urn:asip-sante:ci-sis">'
        b'<xsl:template match="/"><xsl:value-of select="document(\'file:///etc/passwd\')"/></xsl:template>'
        b"<d:Contenu>" + _bare(report()) + b"</d:Contenu></xsl:stylesheet>"
    )
    header = read_cda(sheet)
    assert header.form is CdaForm.SELF_PRESENTING
    assert entry_from_cda(header, sheet).mime_type == "application/xslt+xml"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ((b"<ClinicalDocument", b"<ClinicalDokument"), "xml-syntax"),
        ((b"urn:hl7-org:v3", b"urn:other"), "not-a-cda"),
        ((b'<code code="34112-3"', b'<code nullFlavor="UNK"'), "no-type"),
        ((b"<effectiveTime value=", b"<effectiveTime nothing="), "no-time"),
        ((b'<id root="1.2.250.1.999.1.1.20001.3.', b'<id root="1.02.'), "bad-id"),
        ((b'<id root="1.2.250.1.999.1.1.20001.3.', b'<id other="1.02.'), "no-id"),
    ],
)
def test_precise_refusals(change: tuple[bytes, bytes], code: str) -> None:
    with pytest.raises(CdaError) as error:
        read_cda(report().replace(*change))
    assert error.value.code == code
    assert error.value.french and error.value.english


def test_two_documents_in_one_signature_are_refused() -> None:
    bare = _bare(report())
    with pytest.raises(CdaError) as error:
        read_cda(b'<Signature xmlns="http://www.w3.org/2000/09/xmldsig#">' + bare + bare + b"</Signature>")
    assert error.value.code == "several-cda"


def test_an_id_with_an_extension_is_told() -> None:
    content = report().replace(
        b'<id root="1.2.250.1.999.1.1.20001.3.', b'<id extension="x" root="1.2.250.1.999.1.1.20001.3.', 1
    )
    assert "id-extension" in read_cda(content).warnings


def test_a_broken_body_is_a_typed_error() -> None:
    header = read_cda(report())
    assert header.body is not None
    with pytest.raises(CdaError):
        dataclasses.replace(header.body, encoded="not base64 !").content()


def test_the_identity_is_not_in_the_repr() -> None:
    patient = synthetic_patient(1)
    text = repr(read_cda(report()))
    assert patient.ins not in text and patient.birth_name not in text and "hospitalisation" not in text


_REPORT = report()


@settings(max_examples=150)
@given(st.integers(0, len(_REPORT) - 1), st.integers(0, 60), st.binary(max_size=20))
def test_damaged_documents_are_read_or_refused(start: int, length: int, patch: bytes) -> None:
    try:
        header = read_cda(_REPORT[:start] + patch + _REPORT[start + length :])
    except CdaError as error:
        assert error.code
    else:
        entry_from_cda(header, _REPORT)
