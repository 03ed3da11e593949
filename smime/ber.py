"""A look at untrusted BER before any decoder sees it.

Invariants: time is linear, no recursion; what passes has every length inside its parent, a bounded depth and a bounded
number of elements, so that a recursive decoder behind it is safe. Indefinite lengths (X.690 §8.1.3.6), which streaming
writers use, pass.
"""

from __future__ import annotations

from smime.errors import MalformedCms

MAX_DEPTH = 48
MAX_ELEMENTS = 400_000


def check(data: bytes, *, max_depth: int = MAX_DEPTH, max_elements: int = MAX_ELEMENTS) -> None:
    """Raises MalformedCms unless `data` is exactly one well-nested BER element within the bounds."""
    open_ends: list[tuple[int, bool]] = []  # (limit of the content, indefinite length?)
    position, limit, elements = 0, len(data), 0
    while True:
        while open_ends and not open_ends[-1][1] and position == open_ends[-1][0]:
            open_ends.pop()
        if elements and not open_ends:
            break
        limit = open_ends[-1][0] if open_ends else len(data)
        if open_ends and open_ends[-1][1] and data[position : position + 2] == b"\0\0":
            open_ends.pop()
            position += 2
            continue
        elements += 1
        if elements > max_elements:
            raise MalformedCms("too many elements")
        constructed, position, length = _header(data, position, limit)
        end = limit if length is None else position + length
        if end > limit:
            raise MalformedCms("a length exceeds its parent")
        if constructed:
            if len(open_ends) >= max_depth:
                raise MalformedCms("nested too deeply")
            open_ends.append((end, length is None))
        else:
            position = end
    if position != len(data):
        raise MalformedCms("octets after the end")


def join_octets(contents: bytes) -> bytes:
    """The octets of a constructed OCTET STRING (X.690 §8.7.3) from its contents, which `check` has passed; linear, while
    asn1crypto copies all that came before at every piece. Raises MalformedCms for a piece that is no OCTET STRING."""
    pieces: list[bytes] = []
    position = 0
    while position < len(contents):
        if contents[position : position + 2] == b"\0\0":
            position += 2
            continue
        if contents[position] not in (0x04, 0x24):
            raise MalformedCms("a piece of another type")
        constructed, position, length = _header(contents, position, len(contents))
        if not constructed and length is not None:
            pieces.append(contents[position : position + length])
            position += length
    return b"".join(pieces)


def _header(data: bytes, position: int, limit: int) -> tuple[bool, int, int | None]:
    """(constructed?, start of content, content length or None when indefinite) of the element at `position`."""
    if position + 2 > limit:
        raise MalformedCms("cut short")
    first = data[position]
    position += 1
    if first == 0:
        raise MalformedCms("end of contents without a beginning")
    if first & 0x1F == 0x1F:
        raise MalformedCms("long tag")  # CMS has none
    octet = data[position]
    position += 1
    if octet < 0x80:
        return bool(first & 0x20), position, octet
    if octet == 0x80:
        if not first & 0x20:
            raise MalformedCms("a primitive of indefinite length")
        return True, position, None
    count = octet & 0x7F
    if count > 6 or position + count > limit:
        raise MalformedCms("length of a length")
    return bool(first & 0x20), position + count, int.from_bytes(data[position : position + count], "big")
