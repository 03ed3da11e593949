"""DER (X.690 §10) of the few primitive forms CMS needs: a hundred times faster than building an object tree.

Invariant: what is written is DER; SET OF is sorted. The readers take the contents of one element.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache


def length_octets(size: int) -> bytes:
    """The octets of a definite length, as short as can be."""
    return header(0, size)[1:]


def header(tag: int, size: int) -> bytes:
    """Tag and length, as short as can be, of an element whose `size` octets of contents follow elsewhere."""
    if size < 0x80:
        return bytes((tag, size))
    count = (size.bit_length() + 7) // 8
    return bytes((tag, 0x80 | count)) + size.to_bytes(count, "big")


def element(tag: int, *contents: bytes) -> bytes:
    """Tag, definite length, contents one after the other."""
    joined = b"".join(contents)
    return header(tag, len(joined)) + joined


def sequence(*contents: bytes) -> bytes:
    return element(0x30, *contents)


def set_of(*contents: bytes) -> bytes:
    return element(0x31, *sorted(contents))


def octets(value: bytes) -> bytes:
    return element(0x04, value)


def integer(value: int) -> bytes:
    bits = (value if value >= 0 else -value - 1).bit_length()
    return element(0x02, value.to_bytes(bits // 8 + 1, "big", signed=True))


@lru_cache(maxsize=512)
def oid(dotted: str) -> bytes:
    first, second, *rest = (int(part) for part in dotted.split("."))
    out = bytearray()
    for number in (first * 40 + second, *rest):
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.append(number & 0x7F | 0x80)
        out += bytes(reversed(groups))
    return element(0x06, bytes(out))


def time(moment: datetime) -> bytes:
    """UTCTime through 2049, GeneralizedTime afterwards (RFC 5652 §11.3); whole seconds, UTC."""
    utc = moment.astimezone(UTC)
    if 1950 <= utc.year < 2050:
        return element(0x17, utc.strftime("%y%m%d%H%M%SZ").encode("ascii"))
    return element(0x18, utc.strftime("%Y%m%d%H%M%SZ").encode("ascii"))


def read_oid(contents: bytes) -> str:
    """The dotted form of an OBJECT IDENTIFIER's contents. Raises ValueError for an empty, cut or overlong one."""
    if not contents or contents[-1] & 0x80 or len(contents) > 64:
        raise ValueError("not an object identifier")
    numbers: list[int] = []
    number = 0
    for octet in contents:
        number = number << 7 | octet & 0x7F
        if not octet & 0x80:
            numbers.append(number)
            number = 0
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, (first, numbers[0] - 40 * first, *numbers[1:])))


_TIME = re.compile(rb"(\d{12})(\d{2})?(Z|[+-]\d{4})\Z")


def read_time(tag: int, contents: bytes) -> datetime:
    """UTCTime (tag 0x17; years 1950-2049) or GeneralizedTime (0x18) in UTC. Raises ValueError."""
    if tag == 0x17:
        year = b"20" if contents[:2] < b"50" else b"19"
        contents = year + contents
    elif tag != 0x18:
        raise ValueError("not a time")
    match = _TIME.match(contents)
    if match is None:
        raise ValueError("not a time")
    digits, zone = match[1], match[3]
    month, day, hour, minute = (int(digits[at : at + 2]) for at in (4, 6, 8, 10))
    moment = datetime(int(digits[:4]), month, day, hour, minute, int(match[2] or 0), tzinfo=UTC)
    if zone == b"Z":
        return moment
    offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[3:]))
    return moment + offset if zone[:1] == b"-" else moment - offset


NULL = b"\x05\x00"
