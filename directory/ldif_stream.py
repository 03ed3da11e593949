"""LDIF (RFC 2849) as streams of records: what slapcat writes is read, what slapadd reads is written, entry by entry.

Made for millions of lines that our own tools exchange; LDIF from outside goes through python-ldap's parser, which
refuses more (`entry.from_ldif`). Invariants: a piece of what is read in memory at a time; a record
past its bound is an error.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import re
from collections.abc import Iterator
from typing import Final, Protocol

from directory.entry import Attributes
from directory.errors import DirectoryError

MAX_RECORD: Final = 16 * 1024 * 1024
_PIECE: Final = 1 << 20
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


class Readable(Protocol):
    """A binary file, or a pipe."""

    def read(self, size: int, /) -> bytes: ...


def read_ldif(source: Readable) -> Iterator[tuple[str, Attributes]]:
    """(dn, attributes) of each record. Raises DirectoryError on what is not LDIF.

    Values given by URL are refused, never fetched. `version:` lines and comments are passed over.
    """
    rest = b""
    while piece := source.read(_PIECE):
        *blocks, rest = (rest + piece).replace(b"\r\n", b"\n").split(b"\n\n")
        for block in blocks:
            yield from _record(block)
        if len(rest) > MAX_RECORD:
            raise DirectoryError("LDIF : fiche trop grande / LDIF: entry too large")
    yield from _record(rest)


def _record(block: bytes) -> Iterator[tuple[str, Attributes]]:
    if b"\n " in block:
        block = block.replace(b"\n ", b"")  # folded lines
    block = block.strip(b"\r\n")
    lines = block.split(b"\n")
    if b"\n#" in block or block[:1] == b"#":
        lines = [line for line in lines if line[:1] != b"#"]
    if lines and lines[0][:8].lower() == b"version:":
        del lines[0]
    if not lines or lines == [b""]:
        return
    try:
        key, value = _read_line(lines[0])
        if key.lower() != "dn":
            raise DirectoryError("LDIF : fiche sans dn / LDIF: entry without dn")
        yield value.decode(), _attributes(lines, b":  " in block)
    except (binascii.Error, UnicodeDecodeError) as error:
        raise DirectoryError("LDIF illisible / unreadable LDIF") from error


_NAMES: Final[dict[bytes, str]] = {}
"""Names met in lines `name: value`, which nearly all are: an import reads tens of millions of them."""
_MOST_NAMES: Final = 1000


def _attributes(lines: list[bytes], closely: bool) -> Attributes:
    """The attributes of the lines after the first; `closely` when a line may have more than one space before its value."""
    found: dict[bytes, list[bytes]] = {}
    for line in itertools.islice(lines, 1, None):
        name, _, value = line.partition(b": ")
        if closely or name not in _NAMES:
            text, value = _read_line(line)
            name = text.encode()
            if len(_NAMES) < _MOST_NAMES:
                _NAMES[name] = text
        values = found.get(name)
        if values is None:
            found[name] = [value]
        else:
            values.append(value)
    return {_NAMES.get(name) or name.decode(): values for name, values in found.items()}


def _read_line(line: bytes) -> tuple[str, bytes]:
    key, colon, rest = line.partition(b":")
    if not colon or rest[:1] == b"<":
        raise DirectoryError("LDIF illisible / unreadable LDIF")
    return key.decode("ascii"), (
        base64.b64decode(rest[1:].strip(), validate=True) if rest[:1] == b":" else rest.lstrip(b" ")
    )
