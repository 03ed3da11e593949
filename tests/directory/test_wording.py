"""Words as people type them, identifiers' Luhn beside python-stdnum, names that entries show."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stdnum import luhn

from directory.identifiers import luhn_holds
from directory.naming import Facts, derived, display_name, title
from directory.nomenclature import department_of
from directory.wording import MAX_WORD, MAX_WORDS, plain, within_one_letter, words


def test_plain_words() -> None:
    assert plain("Lefèvre-Œuvrard, D'ARTOIS") == "lefevre oeuvrard d artois"
    assert words("Dr Marie de la TOUR", "CH de Lyon") == ("marie", "tour", "ch", "lyon")


@given(st.text(max_size=200))
def test_words_are_always_harmless_and_bounded(text: str) -> None:
    found = words(text)
    assert len(found) <= MAX_WORDS
    assert all(word.isascii() and word.isalnum() and word == word.lower() and len(word) <= MAX_WORD for word in found)


def _edits(word: str, other: str) -> bool:
    """The definition, written plainly."""
    letters = set(other)
    near = {word}
    for place in range(len(word) + 1):
        near |= {word[:place] + one + word[place:] for one in letters}
        near |= {word[:place] + one + word[place + 1 :] for one in letters}
        near.add(word[:place] + word[place + 1 :])
        near.add(word[:place] + word[place : place + 2][::-1] + word[place + 2 :])
    return other in near


@given(st.text("abc", min_size=1, max_size=6), st.text("abc", min_size=1, max_size=6))
def test_within_one_letter_is_the_definition(one: str, other: str) -> None:
    assert within_one_letter(one, other) == (_edits(one, other) or _edits(other, one))


@given(st.text("0123456789", min_size=1, max_size=16))
def test_our_luhn_is_stdnums(digits: str) -> None:
    assert luhn_holds(digits) == luhn.is_valid(digits)


@pytest.mark.parametrize(
    ("code", "department"),
    [("69003", "69"), ("20090", "2A"), ("20200", "2B"), ("97400", "974"), ("", ""), ("6900", ""), ("٦٩٠٠٣", "")],
)
def test_departments(code: str, department: str) -> None:
    assert department_of(code) == department


def test_shown_and_searched_values() -> None:
    facts = Facts(
        given_name="Hélène",
        surname="Lefèvre",
        profession="10",
        specialities=("SM04",),
        city="Lyon",
        postal_code="69003",
    )
    assert display_name(facts) == "Hélène LEFÈVRE"
    assert title(facts) == "Médecin, Cardiologie et Maladies vasculaires"
    values = derived(facts)
    assert values["cn"] == [
        "Hélène LEFÈVRE",
        "lefevre helene lyon",
        "cardiologie maladies vasculaires lyon",
    ]
    assert display_name(Facts(organisation="CHU", service="Cardiologie")) == "CHU – Cardiologie"
    assert display_name(Facts(mail="a@b.fr")) == "a@b.fr"
