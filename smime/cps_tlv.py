"""BER-TLV as cards write it (ISO/IEC 7816-4 §5.2.2): short reads over what a card answered.

Invariants: nothing outside the given bytes is read; depth and count are bounded by the bytes and `_MOST`; every malformed
value is MalformedCard. 00 and FF between values are padding, as on a card's unused octets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from smime.cps_errors import MalformedCard

_MOST = 2000


@dataclass(frozen=True, slots=True)
class Tlv:
    """One value: `tag` with all its octets (0x9F7F), `value` its contents."""

    tag: int
    value: bytes

    def children(self) -> list[Tlv]:
        """The values inside. Raises MalformedCard."""
        return list(read(self.value))

    def child(self, tag: int) -> Tlv | None:
        """The first value inside with this tag. Raises MalformedCard."""
        return next((one for one in read(self.value) if one.tag == tag), None)

    def find(self, *tags: int) -> Tlv | None:
        """The value at the end of this path of tags. Raises MalformedCard."""
        found: Tlv | None = self
        for tag in tags:
            found = found.child(tag) if found is not None else None
        return found


def read(data: bytes) -> Iterator[Tlv]:
    """The values of `data`, in order. Raises MalformedCard."""
    position = count = 0
    while position < len(data):
        if data[position] in (0x00, 0xFF):
            position += 1
            continue
        tag, position = _tag(data, position)
        size, position = _length(data, position)
        if position + size > len(data):
            raise MalformedCard("a value is longer than what holds it")
        yield Tlv(tag, data[position : position + size])
        position += size
        count += 1
        if count > _MOST:
            raise MalformedCard("too many values")


def _tag(data: bytes, position: int) -> tuple[int, int]:
    tag = data[position]
    position += 1
    if tag & 0x1F == 0x1F:
        for _ in range(3):
            if position >= len(data):
                raise MalformedCard("a tag is cut")
            tag = tag << 8 | data[position]
            position += 1
            if not data[position - 1] & 0x80:
                return tag, position
        raise MalformedCard("a tag is too long")
    return tag, position


def _length(data: bytes, position: int) -> tuple[int, int]:
    if position >= len(data):
        raise MalformedCard("a length is missing")
    first = data[position]
    position += 1
    if first < 0x80:
        return first, position
    octets = first & 0x7F
    if not 1 <= octets <= 3 or position + octets > len(data):
        raise MalformedCard("a length is malformed")
    return int.from_bytes(data[position : position + octets], "big"), position + octets
