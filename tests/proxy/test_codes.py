"""Send codes: what people type is understood, what thieves try is not, and the secret is never stored."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy import codes


def test_a_code_matches_its_own_digest_only() -> None:
    one, other = codes.new_code(), codes.new_code()
    letters = codes.normalise(one.text)
    assert letters is not None
    assert codes.digest(letters) == one.digest != other.digest
    assert codes.code_id(letters) == one.code_id
    assert one.text.replace("-", "").encode() not in one.digest


def test_what_people_do_to_a_code_is_undone() -> None:
    code = codes.new_code()
    plain = code.text.replace("-", "")
    full_width = plain.translate({ord(c): ord(c) + 0xFEE0 for c in plain})
    typographic = code.text.replace("-", "\N{NON-BREAKING HYPHEN}") + "\N{ZERO WIDTH SPACE}\N{NO-BREAK SPACE}"
    lower = plain.replace("1", "l").replace("0", "o")
    for typed in (code.text.lower(), f"  {plain} ", " ".join(plain), lower, full_width, typographic, f"[{plain}]"):
        assert codes.normalise(typed) == plain


def test_what_cannot_be_a_code_is_none() -> None:
    code = codes.new_code().text
    for typed in (
        "",
        code[:-1],
        code + "0",
        code.replace("-", "_"),
        code[:-1] + "U",
        code[:-1] + "\N{CYRILLIC SMALL LETTER A}",
        "-" * 1000 + code,
    ):
        assert codes.normalise(typed) is None


def test_an_attempt_at_a_code_is_told_from_words() -> None:
    code = codes.new_code().text
    foreign = code[:-1] + "\N{CYRILLIC CAPITAL LETTER A}"
    for attempt in (code, code.replace("-", ""), code.replace("-", " "), code[:-1], code + "7", foreign, code.lower()):
        assert codes.is_attempt(attempt), attempt
    for words in (
        "URGENT",
        "2026-11-21",
        "Compte rendu du 21/11/2026",
        "CHU-CARDIO-2026-11-21",
        "",
        "A" * 24,
        "-" * 500,
    ):
        assert not codes.is_attempt(words), words


@given(st.text(max_size=200))
def test_any_text_is_answered(text: str) -> None:
    letters = codes.normalise(text)
    assert letters is None or len(letters) == 24


def test_codes_are_not_repeated() -> None:
    assert len({codes.new_code().text for _ in range(500)}) == 500
