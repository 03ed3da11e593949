"""Base64 in lines, written piece by piece; the quick proof that an entity needs no change before it is signed."""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st

import mime
from mime.sevenbit import has_long_line, is_seven_bit


@given(st.lists(st.integers(0, 130_000), max_size=6), st.integers(0, 255), st.booleans())
def test_pieces_make_the_same_lines(sizes: list[int], octet: int, known: bool) -> None:
    pieces = [bytes((octet + index) % 256 for index in range(7)) * (size // 7) + b"x" * (size % 7) for size in sizes]
    whole = b"".join(pieces)
    lines = mime.Base64Lines(b"head", len(whole) if known else 0)
    for piece in pieces:
        lines.write(memoryview(piece))
    assert lines.finish() == b"head" + base64.encodebytes(whole).replace(b"\n", b"\r\n")


LINES = st.sampled_from([b"a", b"\r", b"\n", b"\r\n", b"abc\r\n", b"x" * 100, b"\0", "é".encode()]) | st.builds(
    lambda length, count: (b"y" * length + b"\r\n") * count,
    st.sampled_from([0, 1, 20, 76, 996, 997, 998, 999, 1000]),
    st.integers(1, 300),
)


@given(st.lists(LINES, max_size=8))
def test_the_quick_proof_is_the_slow_one(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    lines = data.replace(b"\r\n", b"\n").split(b"\n")
    canonical = data.count(b"\r\n") == data.count(b"\n") == data.count(b"\r")
    short = all(len(line) <= 998 for line in lines)
    assert is_seven_bit(data) is (data.isascii() and b"\0" not in data and canonical and short)
    if canonical:
        assert has_long_line(data) is not short


def test_what_needs_no_change_is_not_copied() -> None:
    entity = mime.multipart("mixed", [mime.leaf("text/plain", b"x"), mime.leaf("application/pdf", bytes(300_000))])
    assert mime.to_seven_bit(entity) is entity
    labelled = b"Content-Type: text/plain\r\nContent-Transfer-Encoding: Binary\r\n\r\nx\r\n"
    assert mime.parse(mime.to_seven_bit(labelled)).encoding == "7bit"
    boxed = mime.multipart("mixed", [mime.leaf("text/plain", b"x")]).replace(
        b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: 8bit\r\n\r\n", 1
    )
    assert mime.parse(mime.to_seven_bit(boxed)).encoding == ""
