"""National identifiers: valid values pass, one changed digit does not, and no error repeats the value."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from directory.errors import InvalidIdentifier
from directory.identifiers import (
    Ins,
    NationalForm,
    PersonId,
    PersonIdType,
    StructureId,
    StructureIdType,
    ins_key,
    is_adeli,
    is_finess,
    is_ins,
    is_person_id,
    is_rpps,
    is_siren,
    is_siret,
    is_structure_id,
    parse_adeli,
    parse_finess,
    parse_ins,
    parse_person_id,
    parse_rpps,
    parse_siren,
    parse_siret,
    parse_structure_id,
    read_person_form,
    read_structure_form,
    with_luhn,
)

# mssante.md §5.3 and cps-card.md §3.8: public test-card value and synthetic values with their check digits.
GOOD: list[tuple[Callable[[str], bool], str]] = [
    (is_rpps, "10999000010"),
    (is_rpps, "10999000028"),
    (is_rpps, "99700366240"),
    (is_rpps, "99700735741"),
    (is_adeli, "999990013"),
    (is_finess, "990000010"),
    (is_finess, "990000028"),
    (is_finess, "2A0000154"),
    (is_finess, "2A0000204"),
    (is_siren, "999000011"),
    (is_siren, "187512751"),
    (is_siret, "99900001100018"),
    (is_person_id, "810999000010"),
    (is_person_id, "0999990013"),
    (is_structure_id, "1990000010"),
    (is_structure_id, "2999000011"),
    (is_structure_id, "399900001100018"),
    (is_ins, "255069999999934"),
    (is_ins, "295109912611193"),
]
PARSERS: list[Callable[[str], object]] = [
    parse_rpps, parse_adeli, parse_finess, parse_siren, parse_siret, parse_ins, parse_person_id, parse_structure_id,
]  # fmt: skip


@pytest.mark.parametrize(("check", "value"), GOOD)
def test_valid_values(check: Callable[[str], bool], value: str) -> None:
    assert check(value)


@pytest.mark.parametrize(("check", "value"), GOOD)
def test_every_single_digit_error_is_seen(check: Callable[[str], bool], value: str) -> None:
    for place in range(len(value)):
        if (check in (is_person_id, is_structure_id) and place == 0) or value[place].isalpha():
            continue  # a type prefix chooses another register; a Corsican letter counts as a digit
        for digit in "0123456789":
            if digit != value[place]:
                assert not check(value[:place] + digit + value[place + 1 :])


def test_the_prefix_is_not_part_of_the_check() -> None:
    assert not is_rpps("10134567823")  # a documentation sample, not a valid number
    assert not is_rpps("810999000010")
    assert not is_person_id("10999000010")


@pytest.mark.parametrize(
    "value", ["", " ", "1099900001", "10999000010 ", "10 999 000 010", "٣٠٩٩٩٠٠٠٠١٠", "²0999000010"]
)
def test_other_forms_are_refused(value: str) -> None:
    for check in (is_rpps, is_adeli, is_finess, is_siren, is_siret, is_ins, is_person_id, is_structure_id):
        assert not check(value)


def test_la_poste_establishments_have_their_own_rule() -> None:
    assert is_siret("35600000000048")
    assert is_siret("35600000049837")
    assert not is_siret("35600000049838")


def test_typed_values() -> None:
    assert parse_person_id("810999000010") == PersonId(PersonIdType.RPPS, "10999000010")
    assert str(parse_structure_id("399900001100018")) == "399900001100018"
    assert parse_structure_id("1990000010") == StructureId(StructureIdType.FINESS, "990000010")


def test_ins_keys() -> None:
    # The same rule written out again here: 2A counts as 19, 2B as 18.
    assert ins_key("2950799000000") == f"{97 - 2950799000000 % 97:02d}"
    assert ins_key("185022A004036") == f"{97 - 1850219004036 % 97:02d}"
    assert ins_key("185022B004036") == f"{97 - 1850218004036 % 97:02d}"
    ins = parse_ins("255069999999934")
    assert (ins.matricule, ins.key, ins.full) == ("2550699999999", "34", "255069999999934")


def test_an_ins_does_not_print() -> None:
    ins = Ins("2550699999999", "34")
    assert "2550699" not in f"{ins} {ins!r}"


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize("value", ["255069999999935", "10999000011", "990000011", "99900001100019", "810999000011"])
def test_errors_are_bilingual_value_errors_without_the_value(parse: Callable[[str], object], value: str) -> None:
    with pytest.raises(InvalidIdentifier) as caught:
        parse(value)
    assert isinstance(caught.value, ValueError)
    assert " / " in str(caught.value)
    assert value not in str(caught.value)


@given(st.text(max_size=20))
def test_any_text_gives_a_value_or_our_error(value: str) -> None:
    for parse in PARSERS:
        try:
            parse(value)
        except InvalidIdentifier:
            continue


@given(st.integers(min_value=0, max_value=10**10 - 1))
def test_with_luhn_makes_valid_numbers(stem: int) -> None:
    assert is_rpps(with_luhn(f"{stem:010d}"))


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("810999000010", ("8", "10999000010", "")),
        ("0999990013", ("0", "999990013", "")),
        ("3990000010/D42", ("3", "990000010", "D42")),
        ("599900001100018/7", ("5", "99900001100018", "7")),
        ("610999000010/x", ("6", "10999000010", "x")),
    ],
)
def test_every_national_form_of_a_person(value: str, parts: tuple[str, str, str]) -> None:
    assert read_person_form(value) == NationalForm(*parts)


@pytest.mark.parametrize(
    "value", ["3990000011/D42", "3990000010", "3990000010/", "3990000010/a/b", "7990000010/x", "", "9"]
)
def test_other_forms_of_a_person_are_refused(value: str) -> None:
    with pytest.raises(InvalidIdentifier):
        read_person_form(value)


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("1990000010", ("1", "990000010", "")),
        ("0999990013", ("0", "999990013", "")),
        ("4109990000100001", ("4", "10999000010", "0001")),
    ],
)
def test_every_national_form_of_a_structure(value: str, parts: tuple[str, str, str]) -> None:
    assert read_structure_form(value) == NationalForm(*parts)
    with pytest.raises(InvalidIdentifier):
        read_structure_form("5" + value[1:])
