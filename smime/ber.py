"""Untrusted BER (X.690) read in place: places in the octets, never an object tree.

Invariants: no recursion; every element lies inside its parent; depth, pieces and elements are bounded; nothing is copied
until a caller slices it. The readers below see definite lengths only: `definite` first rewrites, in linear time, what
streaming writers emit with indefinite lengths (§8.1.3.6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from smime.der import length_octets
from smime.errors import MalformedCms

MAX_DEPTH = 48
MAX_ELEMENTS = 400_000
MAX_PIECES = 400_000
T = TypeVar("T")
Element = tuple[int, int, int, int]
"""(tag octet, place of the tag, place of the contents, place after the contents)."""


class IndefiniteLength(MalformedCms):
    """The element must first pass through `definite`."""


def element(data: bytes, position: int, limit: int) -> Element:
    """The definite-length element at `position`. Raises MalformedCms; IndefiniteLength where `definite` would help."""
    if position + 2 > limit:
        raise MalformedCms("cut short")
    tag, octet = data[position], data[position + 1]
    if tag & 0x1F == 0x1F or not tag:
        raise MalformedCms("long tag or stray end of contents")  # CMS has none
    start = position + 2
    if octet >= 0x80:
        if octet == 0x80:
            raise IndefiniteLength("indefinite length")
        count = octet & 0x7F
        if count > 6 or start + count > limit:
            raise MalformedCms("length of a length")
        octet = int.from_bytes(data[start : start + count], "big")
        start += count
    stop = start + octet
    if stop > limit:
        raise MalformedCms("a length exceeds its parent")
    return tag, position, start, stop


def only(data: bytes, tag: int | None = None) -> Element:
    """The one element that `data` is, of this tag when one is given."""
    found = element(data, 0, len(data))
    if found[3] != len(data):
        raise MalformedCms("octets after the end")
    if tag is not None and found[0] != tag:
        raise MalformedCms("another type")
    return found


def children(data: bytes, parent: Element, most: int) -> list[Element]:
    """The elements inside `parent`, at most `most` of them."""
    if not parent[0] & 0x20:
        raise MalformedCms("not constructed")
    found: list[Element] = []
    position, stop = parent[2], parent[3]
    while position < stop:
        if len(found) >= most:
            raise MalformedCms("too many elements")
        tag, size = data[position], data[position + 1] if position + 1 < stop else 0xFF
        start = position + 2
        if size < 0x80 and start + size <= stop and tag and tag & 0x1F != 0x1F:
            item = (tag, position, start, start + size)  # the short form, met most, without the cost of a call
        else:
            item = element(data, position, stop)
        found.append(item)
        position = item[3]
    return found


def octet_pieces(data: bytes, string: Element) -> list[tuple[int, int]]:
    """Where the octets of an OCTET STRING are, in one piece or in nested pieces (§8.7.3); linear. `string` may have
    another (implicit) tag; its pieces may not."""
    if not string[0] & 0x20:
        return [(string[2], string[3])]
    pieces: list[tuple[int, int]] = []
    ends: list[int] = []
    position, stop, seen = string[2], string[3], 0
    while position < stop:
        while ends and position >= ends[-1]:
            ends.pop()
        tag, _, start, end = element(data, position, ends[-1] if ends else stop)
        seen += 1
        if tag == 0x04:
            pieces.append((start, end))
            position = end
        elif tag == 0x24:
            ends.append(end)
            position = start
        else:
            raise MalformedCms("a piece of another type")
        if seen > MAX_PIECES or len(ends) > MAX_DEPTH:
            raise MalformedCms("too many pieces")
    return pieces


def octets(data: bytes, string: Element) -> bytes:
    """The octets of an OCTET STRING, joined."""
    if not string[0] & 0x20:
        return data[string[2] : string[3]]
    return b"".join(data[start:stop] for start, stop in octet_pieces(data, string))


def reading(data: bytes, read: Callable[[bytes], T]) -> T:
    """`read(data)`, a second time on the definite form when it met an indefinite length."""
    try:
        return read(data)
    except IndefiniteLength:
        return read(definite(data))


def check(data: bytes, *, max_depth: int = MAX_DEPTH, max_elements: int = MAX_ELEMENTS) -> None:
    """Raises MalformedCms unless `data` is exactly one well-nested BER element within the bounds, so that a recursive
    decoder behind it is safe. Indefinite lengths pass."""
    for _ in _events(data, max_depth, max_elements):
        pass


def definite(data: bytes) -> bytes:
    """`data`, one BER element, with every indefinite length made definite; all other octets as they are. Linear."""
    events = list(_events(data, MAX_DEPTH, MAX_ELEMENTS))
    sizes: dict[int, int] = {}
    _measure(events, sizes)
    out: list[bytes | memoryview] = []
    view = memoryview(data)
    for index, (kind, start, stop) in enumerate(events):
        if kind == _LEAF:
            out.append(view[start:stop])
        elif kind == _OPEN:
            out.append(view[start : start + 1])
            out.append(length_octets(sizes[index]))
    return b"".join(out)


_LEAF, _OPEN, _CLOSE = 0, 1, 2
_Event = tuple[int, int, int]


def _measure(events: list[_Event], sizes: dict[int, int]) -> None:
    """The content size of each opened element, by its place in `events`."""
    stack: list[int] = []
    totals: list[int] = [0]
    for index, (kind, start, stop) in enumerate(events):
        if kind == _LEAF:
            totals[-1] += stop - start
        elif kind == _OPEN:
            stack.append(index)
            totals.append(0)
        else:
            size = totals.pop()
            sizes[stack.pop()] = size
            totals[-1] += size + 1 + len(length_octets(size))


def _events(data: bytes, max_depth: int, max_elements: int) -> Iterable[_Event]:
    """The walk: leaves (primitives), openings and closings of constructed elements."""
    ends: list[int] = []  # where the open elements end, -1 when that is not known yet
    position, elements, size = 0, 0, len(data)
    while True:
        while ends and position == ends[-1]:
            ends.pop()
            yield _CLOSE, position, position
        if elements and not ends:
            break
        if ends and ends[-1] < 0 and data[position : position + 2] == b"\0\0":
            ends.pop()
            position += 2
            yield _CLOSE, position, position
            continue
        elements += 1
        if elements > max_elements:
            raise MalformedCms("too many elements")
        limit = next((end for end in reversed(ends) if end >= 0), size)
        constructed, start, end = _header(data, position, limit)
        if not constructed:
            yield _LEAF, position, end
            position = end
            continue
        if len(ends) >= max_depth:
            raise MalformedCms("nested too deeply")
        ends.append(end)
        yield _OPEN, position, start
        position = start
    if position != size:
        raise MalformedCms("octets after the end")


def _header(data: bytes, position: int, limit: int) -> tuple[bool, int, int]:
    """(constructed?, place of the contents, place after them or -1 for an indefinite length)."""
    if position + 2 <= limit and data[position + 1] == 0x80:
        if not data[position] & 0x20 or data[position] & 0x1F == 0x1F:
            raise MalformedCms("a primitive of indefinite length")
        return True, position + 2, -1
    tag, _, start, stop = element(data, position, limit)
    return bool(tag & 0x20), start, stop
