"""INS keys and traits, code tables, time arithmetic."""

from __future__ import annotations

import contextlib

import pytest
import stdnum.fr.nir
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from ihe import check_ins, class_of, document_type, is_dmp_type, is_oid, is_valid_matricule, nir_key, parse_hl7_time
from ihe.codes import tables, visibility
from ihe.samples import synthetic_patient
from tests.ihe.support import samples


@pytest.mark.parametrize(
    ("matricule", "valid"),
    [
        ("279035121518989", True),
        ("207058575627097", True),
        ("248039263001064", True),
        ("196092A00401775", True),
        ("280022B03302144", True),
        ("221042545611404", False),
        ("223042545611404", False),
        ("222127505611201", False),
        ("27903512151898", False),
        ("27903512151898９", False),
        ("", False),
    ],
)
def test_matricule_keys(matricule: str, valid: bool) -> None:
    assert is_valid_matricule(matricule) is valid


@given(st.from_regex(r"[12][0-9]{4}([0-9]{2}|2A|2B)[0-9]{6}", fullmatch=True))
def test_keys_agree_with_python_stdnum(body: str) -> None:
    assert stdnum.fr.nir.calc_check_digits(body) == nir_key(body)


@pytest.mark.parametrize("seed", range(30))
def test_synthetic_patients_are_complete_and_never_real(seed: int) -> None:
    patient = synthetic_patient(seed)
    verdict = patient.check_ins()
    assert verdict.complete and verdict.key_valid and verdict.consistent
    assert not verdict.production


def test_missing_traits_are_named() -> None:
    verdict = check_ins(
        "279035121518989",
        "1.2.250.1.213.1.4.8",
        birth_name="",
        first_given="A",
        given_names="A B",
        sex="M",
        birth_date="19790328",
        birth_place=" ",
    )
    assert [str(trait) for trait in verdict.missing] == ["birth_name", "birth_place"]
    assert verdict.production and verdict.key_valid and not verdict.consistent
    with pytest.raises(TypeError):
        bool(verdict)


def test_the_type_table_agrees_with_the_published_value_set() -> None:
    path = samples("valuesets") / "JDV_J07_XdsTypeCode_CISIS.xml"
    for concept in etree.parse(str(path)).iter("{*}Concept"):
        row = document_type(concept.get("code") or "")
        assert row is not None
        assert (row.system, row.label) == (concept.get("codeSystem"), concept.get("displayName"))


def test_types_and_classes() -> None:
    assert len([row for row in tables().types.values() if row.dmp]) == 107
    for code, expected in (
        ("34112-3", "10"),
        ("60591-5", "11"),
        ("18748-4", "31"),
        ("PRESC-BIO", "42"),
        ("REMB", "60"),
    ):
        found = class_of(code)
        assert found is not None and found.code == expected
    for negative in ("51851-4", "FEUILLE-DE-STYLE", "11526-1", "nothing"):
        assert not is_dmp_type(negative)
    # In J66 without a class in ASS_X16: accepted type, class not to be guessed (dmp.md §3.4).
    for code in ("28617-9", "34120-6", "60280-5", "78341-5", "89233-1", "101881-1"):
        assert is_dmp_type(code) and class_of(code) is None


def test_the_hl7v2_spelling_of_guardians_is_translated() -> None:
    assert visibility("INVISIBLE_REP_LEGAUX").code == "INVISIBLE_REPRESENTANTS_LEGAUX"


@pytest.mark.parametrize(
    ("value", "dtm"),
    [
        ("20260101003000+0100", "20251231233000"),
        ("20240301000000+0200", "20240229220000"),
        ("20251231210000-0400", "20260101010000"),
        ("20260101120000", "20260101120000"),
        ("202601011200+0100", "202601011100"),
        ("20260101", "20260101"),
        ("2026", "2026"),
    ],
)
def test_local_times_become_utc_by_real_arithmetic(value: str, dtm: str) -> None:
    assert parse_hl7_time(value).dtm() == dtm


@given(st.text(alphabet="0123456789+-. ", max_size=24))
def test_times_are_read_or_refused(value: str) -> None:
    with contextlib.suppress(ValueError):
        parse_hl7_time(value).dtm()


@pytest.mark.parametrize("value", ["1.02", "1", "", "3.1", "1..2", "1.2.", "1.2٣", "1." + "1" * 63, "1.2\n"])
def test_bad_oids(value: str) -> None:
    assert not is_oid(value)
