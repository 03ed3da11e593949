"""The wire: whatever the chunks, the same lines and the same block."""

from __future__ import annotations

import asyncio
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtp.intake import DotDecoder, Scan
from smtp.wire import BadLine, Wire


def _block(chunks: list[bytes], limit: int = 10_000) -> tuple[bytes, bool, bytes]:
    decoder, scan, out = DotDecoder(), Scan(), b""
    for number, chunk in enumerate(chunks):
        piece = decoder.feed(chunk)
        scan.feed(piece)
        out += piece
        if decoder.done:
            return out, scan.size > limit, decoder.rest + b"".join(chunks[number + 1 :])
    raise AssertionError("no end")


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


class _Network(asyncio.Transport):
    """Notes what is set on its socket."""

    def __init__(self) -> None:
        super().__init__({"socket": self})
        self.set: list[tuple[int, int, int]] = []

    def setsockopt(self, *option: int) -> None:
        self.set.append((option[0], option[1], option[2]))


async def test_the_rest_of_a_message_is_hastened_and_nothing_else() -> None:
    """smtplib sends records of 16 KiB: its system keeps the last until our ACK (Nagle), and ours kept the ACK 40 ms."""
    network, wire = _Network(), Wire()
    wire.attach(network)
    asyncio.get_running_loop().call_soon(wire.feed, b"EHLO x\r\n")
    assert await wire.line(100, 5) == b"EHLO x"
    asyncio.get_running_loop().call_soon(wire.feed, b"the beginning")
    assert await wire.some() == b"the beginning"
    assert network.set == []
    asyncio.get_running_loop().call_soon(wire.feed, b"the rest")
    assert await wire.some(begun=True) == b"the rest"
    assert network.set == [(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)]


@pytest.mark.parametrize("ending", [b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\n", b"\r\n.\r", b"\r.\r\n", b"\r\n\0.\r\n"])
def test_no_other_ending_ends_a_message(ending: bytes) -> None:
    content, _, rest = _block([b"a" + ending + b"MAIL FROM:<evil>\r\n.\r\nQUIT\r\n"])
    assert b"evil" in content
    assert rest == b"QUIT\r\n"
    scan = _scanned([content])
    assert scan.bare or scan.null


def _scanned(chunks: list[bytes]) -> Scan:
    scan = Scan()
    for chunk in chunks:
        scan.feed(chunk)
    scan.finish()
    return scan


def _plainly(content: bytes) -> tuple[bool, bool, bool]:
    """(bare, null, long line) of a content, without any cleverness."""
    rest = content.replace(b"\r\n", b"")
    lines = content.split(b"\n")
    long = any(len(line.removesuffix(b"\r")) > 998 for line in lines)
    return b"\r" in rest or b"\n" in rest, b"\0" in content, long


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"\0", b"x" * 500, b"y" * 498, b"a", b"\xe9"])),
    st.lists(st.integers(0, 5000)),
)
def test_a_scan_sees_the_same_whatever_the_chunks(parts: list[bytes], cuts: list[int]) -> None:
    content = b"".join(parts)
    scan = _scanned(_cut(content, cuts))
    bare, null, long = _plainly(content)
    assert (scan.bare, scan.null, scan.size, scan.eight_bit) == (bare, null, len(content), not content.isascii())
    assert scan.long_line == long or bare


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 99)))
def test_the_header_is_found_whatever_the_chunks(cuts: list[int]) -> None:
    assert _scanned(_cut(b"A: b\r\nC: d\r\n\r\nbody: x\r\n\r\n", cuts)).header == b"A: b\r\nC: d\r\n"
    assert _scanned(_cut(b"\r\nbody\r\n\r\n", cuts)).header == b""
    assert _scanned(_cut(b"A: b\r\n", cuts)).header == b"A: b\r\n"


def test_size_is_exact() -> None:
    assert _block([b"12345678\r\n.\r\n"], 10)[1] is False
    assert _block([b"123456789\r\n.\r\n"], 10)[1] is True


@pytest.mark.parametrize("line", [b"NOOP\n", b"NO\rOP\r\n", b"NO\0OP\r\n", b"NOOP\r\r\n"])
async def test_a_command_ends_with_crlf_only(line: bytes) -> None:
    wire = Wire()
    wire.feed(line + b"NEXT\r\n")
    with pytest.raises(BadLine):
        await wire.line(100, 5)
    assert await wire.line(100, 5) == b"NEXT"


async def test_an_endless_command_is_bounded() -> None:
    wire = Wire()
    task = asyncio.create_task(wire.line(100, 5))
    for _ in range(50):
        wire.feed(b"x" * 90)
        await asyncio.sleep(0)
        assert wire.pending <= 200
    wire.feed(b"\r\nNEXT\r\n")
    with pytest.raises(BadLine) as bad:
        await task
    assert bad.value.too_long
    assert await wire.line(100, 5) == b"NEXT"


def test_lines_up_to_998_octets() -> None:
    assert not _scanned([b"x" * 998 + b"\r\n" + b"\r\n" * 3 + b"y" * 998 + b"\r\n"]).long_line
    assert _scanned([b"a\r\n" + b"x" * 999 + b"\r\n"]).long_line
