"""The PROXY protocol, versions 1 and 2: whose connection a load balancer passes on.

Invariants: read only from balancers that the operator named; what is not exactly a header is an error, never a guess; an
unknown origin (UNKNOWN, LOCAL) leaves the balancer's own address.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from smtp.wire import Wire

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LONGEST = 4096
"""Octets of a header: the addresses, and what balancers add about TLS (certificates' names)."""
_PORT = rb"(?:6553[0-5]|655[0-2]\d|65[0-4]\d\d|6[0-4]\d{3}|[1-5]\d{4}|[1-9]\d{0,3}|0)"
_LINE = re.compile(
    rb"PROXY (?:UNKNOWN[^\r\n]*|TCP(?P<family>[46]) (?P<source>[0-9A-Fa-f.:]+) [0-9A-Fa-f.:]+ %b %b)\r\n"
    % (_PORT, _PORT)
)


class ProxyError(ValueError):
    """Not a PROXY header."""


def read(data: bytes) -> tuple[str, int] | None:
    """(source address or "" when not told, octets of the header); None when more octets are needed. Raises ProxyError."""
    if data[:12] == SIGNATURE[: len(data[:12])] and len(data) > 0 and data[0] == 13:
        return _binary(data) if len(data) >= 16 else None
    if not b"PROXY "[: len(data)] == data[:6]:
        raise ProxyError("not a PROXY header")
    end = data.find(b"\r\n", 0, 107)
    if end < 0:
        if len(data) >= 107:
            raise ProxyError("header line too long")
        return None
    match = _LINE.fullmatch(data[: end + 2])
    if match is None:
        raise ProxyError("malformed header line")
    source = _address(match["source"].decode("ascii"), int(match["family"])) if match["family"] else ""
    return source, end + 2


def _binary(data: bytes) -> tuple[str, int] | None:
    version, family, length = data[12], data[13], int.from_bytes(data[14:16], "big")
    if version not in (0x20, 0x21) or length > LONGEST - 16:
        raise ProxyError("unknown version or command")
    if len(data) < 16 + length:
        return None
    size = {0x11: 4, 0x21: 16}.get(family)
    if version == 0x20 or size is None:
        return "", 16 + length
    if length < 2 * size + 4:
        raise ProxyError("addresses cut")
    return str(ipaddress.ip_address(data[16 : 16 + size])), 16 + length


def _address(text: str, family: int) -> str:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        raise ProxyError("malformed address") from None
    if found.version != family:
        raise ProxyError("address of another family")
    return str(found)


def is_balancer(peer: str, balancers: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    """Whether an address is one of those that are believed."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    return any(address in network for network in balancers)


async def origin(wire: Wire) -> str:
    """Read the header that a balancer sends first; answers the client's address, "" when it says none. Raises ProxyError,
    ConnectionEnded."""
    data = b""
    while True:
        data += await wire.some(LONGEST)
        found = read(data)
        if found is not None:
            source, length = found
            wire.push_back(data[length:])
            return source
