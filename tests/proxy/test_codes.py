"""Send codes: what people type is understood, what thieves try is not, and the secret is never stored."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy import codes


def test_a_code_matches_its_own_digest_only() -> None:
    one, other = codes.new_code(), codes.new_code()
    letters = codes.normalise(one.text)
    assert letters is not None
    assert codes.matches(letters, one.digest)
    assert not codes.matches(letters, other.digest)
    assert codes.code_id(letters) == one.code_id
    assert one.text.replace("-", "").encode() not in one.digest


def test_what_people_do_to_a_code_is_undone() -> None:
    code = codes.new_code()
    plain = code.text.replace("-", "")
    for typed in (code.text.lower(), f"  {plain} ", " ".join(plain), plain.replace("1", "l").replace("0", "o")):
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


@given(st.text(max_size=200))
def test_any_text_is_answered(text: str) -> None:
    letters = codes.normalise(text)
    assert letters is None or len(letters) == 24


def test_codes_are_not_repeated() -> None:
    assert len({codes.new_code().text for _ in range(500)}) == 500
