"""The directory files of a card (ISO/IEC 7816-15): where its certificates, keys and data are.

Invariants: pure over the files' bytes; paths, labels and references are taken as the card gives them and checked; what
has no label or no path is left out. File identifiers of CPS certificates are not published: they are read here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from smime.cps_errors import MalformedCard
from smime.cps_tlv import Tlv, read

_SEQUENCE, _OCTETS, _UTF8, _INTEGER, _BITS = 0x30, 0x04, 0x0C, 0x02, 0x03
_PRIVATE_KEYS, _CERTIFICATES, _DATA, _PINS = 0xA0, 0xA4, 0xA7, 0xA8
_OUTER, _INNER = 0xA1, _SEQUENCE


@dataclass(frozen=True, slots=True)
class Files:
    """Paths of the directory files named by EF.OD: of private keys, certificates, data objects and PINs."""

    private_keys: tuple[bytes, ...]
    certificates: tuple[bytes, ...]
    data: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class CardObject:
    """One certificate or data object: `identifier` pairs a certificate with its key, `protected` means behind the PIN."""

    label: str
    identifier: bytes
    path: bytes
    protected: bool


@dataclass(frozen=True, slots=True)
class CardKey:
    """One private key: `reference` is what the card calls it; usage bits of ISO/IEC 7816-15 §8.5.4."""

    label: str
    identifier: bytes
    reference: int
    signs: bool
    non_repudiation: bool
    decrypts: bool


def object_directory(content: bytes) -> Files:
    """EF.OD. Raises MalformedCard."""
    found: dict[int, list[bytes]] = {_PRIVATE_KEYS: [], _CERTIFICATES: [], _DATA: [], _PINS: []}
    for entry in read(content):
        path = entry.find(_SEQUENCE, _OCTETS)
        if entry.tag in found and path is not None:
            found[entry.tag].append(_checked_path(path.value))
    return Files(tuple(found[_PRIVATE_KEYS]), tuple(found[_CERTIFICATES]), tuple(found[_DATA]))


def objects(content: bytes) -> Iterator[CardObject]:
    """A CDF or DODF. Raises MalformedCard."""
    for entry in read(content):
        parts = entry.children()
        path = entry.find(_OUTER, _INNER, _SEQUENCE, _OCTETS) or entry.find(_OUTER, _INNER, _OCTETS)
        if not parts or path is None:
            continue
        label, protected = _common(parts[0])
        yield CardObject(label, _identifier(parts), _checked_path(path.value), protected)


def private_keys(content: bytes) -> Iterator[CardKey]:
    """A PrKDF. Raises MalformedCard."""
    for entry in read(content):
        parts = entry.children()
        if len(parts) < 2:
            continue
        reference = parts[1].child(_INTEGER)
        usage = parts[1].child(_BITS)
        if reference is None or usage is None or not 1 <= len(reference.value) <= 2 or len(usage.value) < 2:
            continue
        bits = int.from_bytes(usage.value[1:3].ljust(2, b"\0"), "big")
        yield CardKey(
            _common(parts[0])[0],
            _identifier(parts),
            # Some cards write 0x81 as a negative number, others as 0x0081.
            int.from_bytes(reference.value, "big") & 0xFF,
            signs=bool(bits & 0x2000),
            non_repudiation=bool(bits & 0x0040),
            decrypts=bool(bits & 0x4000 or bits & 0x0400),
        )


def _common(part: Tlv) -> tuple[str, bool]:
    """Label and whether an authentication object guards it (commonObjectAttributes)."""
    label = part.child(_UTF8)
    if part.tag != _SEQUENCE:
        raise MalformedCard("an object without attributes")
    return (label.value.decode("utf-8", "replace")[:64] if label else ""), part.child(_OCTETS) is not None


def _identifier(parts: list[Tlv]) -> bytes:
    identifier = parts[1].child(_OCTETS) if len(parts) > 1 and parts[1].tag == _SEQUENCE else None
    return identifier.value if identifier is not None else b""


def _checked_path(path: bytes) -> bytes:
    if not 2 <= len(path) <= 16 or len(path) % 2:
        raise MalformedCard("a path of an impossible length")
    return path
