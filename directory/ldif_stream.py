"""LDIF (RFC 2849) as streams of records: what slapcat writes is read, what slapadd reads is written, entry by entry.

Made for millions of lines that our own tools exchange; LDIF from outside goes through python-ldap's parser, which
refuses more (`entry.from_ldif`). Invariants: one record in memory at a time; a line or record past its bound is an error.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from typing import Final

from directory.entry import Attributes
from directory.errors import DirectoryError

MAX_RECORD: Final = 16 * 1024 * 1024
# RFC 2849 SAFE-STRING, without a final space: what needs no base64.
_SAFE: Final = re.compile(rb"(?![ :<])[\x01-\x09\x0b\x0c\x0e-\x7f]*(?<! )")


def record_bytes(dn: str, attributes: Attributes) -> bytes:
    """One LDIF record, with the empty line that ends it."""
    lines = [_line(b"dn", dn.encode())]
    for name, values in attributes.items():
        key = name.encode()
        lines += [_line(key, value) for value in values]
    lines.append(b"\n")
    return b"".join(lines)


def _line(key: bytes, value: bytes) -> bytes:
    if _SAFE.fullmatch(value):
        return key + b": " + value + b"\n"
    return key + b":: " + base64.b64encode(value) + b"\n"


def read_ldif(lines: Iterable[bytes]) -> Iterator[tuple[str, Attributes]]:
    """(dn, attributes) of each record of unfolded or folded LDIF lines. Raises DirectoryError on what is not LDIF.

    Values given by URL are refused, never fetched. `version:` lines and comments are passed over.
    """
    block: list[bytes] = []
    size = 0
    for line in lines:
        if line[:1] == b"#":
            continue
        size += len(line)
        if size > MAX_RECORD:
            raise DirectoryError("LDIF : fiche trop grande / LDIF: entry too large")
        if line[:1] == b" " and block:
            block[-1] += line[1:].rstrip(b"\r\n")
        elif bare := line.rstrip(b"\r\n"):
            block.append(bare)
        elif block:
            yield from _record(block)
            block, size = [], 0
    if block:
        yield from _record(block)


def _record(block: list[bytes]) -> Iterator[tuple[str, Attributes]]:
    if block[0].lower().startswith(b"version:"):
        block = block[1:]
        if not block:
            return
    dn = ""
    attributes: Attributes = {}
    for line in block:
        key, colon, rest = line.partition(b":")
        if not colon or rest[:1] == b"<":
            raise DirectoryError("LDIF illisible / unreadable LDIF")
        try:
            value = base64.b64decode(rest[1:].strip(), validate=True) if rest[:1] == b":" else rest.lstrip(b" ")
            if not dn:
                if key.lower() != b"dn":
                    raise DirectoryError("LDIF : fiche sans dn / LDIF: entry without dn")
                dn = value.decode()
            else:
                attributes.setdefault(key.decode("ascii"), []).append(value)
        except (binascii.Error, UnicodeDecodeError) as error:
            raise DirectoryError("LDIF illisible / unreadable LDIF") from error
    yield dn, attributes
