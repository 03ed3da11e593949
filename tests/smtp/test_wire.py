"""The wire: whatever the chunks, the same lines and the same block."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtp import replies
from smtp.replies import SmtpRefusal
from smtp.shell import check_lines
from smtp.wire import BadLine, ConnectionEnded, Wire


def _block(chunks: list[bytes], limit: int = 10_000) -> tuple[bytes, bool, bytes]:
    async def run() -> tuple[bytes, bool, bytes]:
        wire = Wire()
        task = asyncio.create_task(wire.block(limit, limit * 4))
        for chunk in chunks:
            wire.feed(chunk)
            await asyncio.sleep(0)
        wire.end()
        block = await task
        return block.content, block.too_big, wire._take(wire.pending)

    return asyncio.run(run())


def _cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[start:stop] for start, stop in zip([0, *places], [*places, len(data)], strict=True)]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([b"", b".", b"..", b"abc", b".x", b"\n", b"\r", b"x\n.", b"\r.\n"])),
    st.lists(st.integers(0, 99)),
)
def test_any_content_survives_any_chunks(lines: list[bytes], cuts: list[int]) -> None:
    content = b"".join(line + b"\r\n" for line in lines)
    stuffed = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]
    sent = stuffed + b".\r\nMAIL FROM:<>\r\n"
    assert _block(_cut(sent, cuts)) == (content, False, b"MAIL FROM:<>\r\n")


@pytest.mark.parametrize("ending", [b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\n", b"\r\n.\r", b"\r.\r\n", b"\r\n\0.\r\n"])
def test_no_other_ending_ends_a_message(ending: bytes) -> None:
    content, _, rest = _block([b"a" + ending + b"MAIL FROM:<evil>\r\n.\r\nQUIT\r\n"])
    assert b"evil" in content
    assert rest == b"QUIT\r\n"
    with pytest.raises(SmtpRefusal) as refusal:
        check_lines(content)
    assert refusal.value.reply is replies.BAD_LINE_ENDS


def test_too_big_is_read_to_its_end_and_dropped() -> None:
    assert _block([b"x" * 700 + b"\r\n"] * 20 + [b".\r\nNOOP\r\n"], 5000) == (b"", True, b"NOOP\r\n")


def test_endless_data_is_cut() -> None:
    with pytest.raises(ConnectionEnded):
        _block([b"x" * 1000] * 50, 1000)


def test_size_is_exact() -> None:
    assert _block([b"12345678\r\n.\r\n"], 10)[1] is False
    assert _block([b"123456789\r\n.\r\n"], 10)[1] is True


@pytest.mark.parametrize("line", [b"NOOP\n", b"NO\rOP\r\n", b"NO\0OP\r\n", b"NOOP\r\r\n"])
async def test_a_command_ends_with_crlf_only(line: bytes) -> None:
    wire = Wire()
    wire.feed(line + b"NEXT\r\n")
    with pytest.raises(BadLine):
        await wire.line(100)
    assert await wire.line(100) == b"NEXT"


async def test_an_endless_command_is_bounded() -> None:
    wire = Wire()
    task = asyncio.create_task(wire.line(100))
    for _ in range(50):
        wire.feed(b"x" * 90)
        await asyncio.sleep(0)
        assert wire.pending <= 200
    wire.feed(b"\r\nNEXT\r\n")
    with pytest.raises(BadLine) as bad:
        await task
    assert bad.value.too_long
    assert await wire.line(100) == b"NEXT"


def test_lines_up_to_998_octets() -> None:
    check_lines(b"x" * 998 + b"\r\n" + b"\r\n" * 3 + b"y" * 998 + b"\r\n")
    with pytest.raises(SmtpRefusal):
        check_lines(b"a\r\n" + b"x" * 999 + b"\r\n")
