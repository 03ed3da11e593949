"""What every CMS structure shares (RFC 5652): the ContentInfo round it, names of certificates, algorithm identifiers.

Invariant: readers raise MalformedCms only; what they give are places in the caller's octets, or short copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache

from smime import asn1, ber, der
from smime.asn1 import CertificateName
from smime.errors import MalformedCms, UnsupportedCms

DATA = "1.2.840.113549.1.7.1"
SIGNED_DATA = "1.2.840.113549.1.7.2"
ENVELOPED_DATA = "1.2.840.113549.1.7.3"
AUTH_ENVELOPED_DATA = "1.2.840.113549.1.9.16.1.23"
MAX_IDENTIFIER = 4096


class Kind(StrEnum):
    """The content types of CMS that S/MIME uses."""

    SIGNED = "signed-data"
    ENVELOPED = "enveloped-data"
    AUTH_ENVELOPED = "authEnveloped-data"
    OTHER = "other"


_KINDS = {SIGNED_DATA: Kind.SIGNED, ENVELOPED_DATA: Kind.ENVELOPED, AUTH_ENVELOPED_DATA: Kind.AUTH_ENVELOPED}
_USUAL = {der.oid(oid): kind for oid, kind in _KINDS.items() if kind is not Kind.AUTH_ENVELOPED}


def kind(data: bytes) -> Kind:
    """What a CMS ContentInfo holds, from its first octets. Raises MalformedCms."""
    if len(data) < 4 or data[0] != 0x30:
        raise MalformedCms("not a ContentInfo")
    # Only the object identifier is looked at: whatever the length form of the outer sequence.
    start = 2 if data[1] <= 0x80 else 2 + (data[1] & 0x7F)
    usual = _USUAL.get(data[start : start + 11])
    return usual or _KINDS.get(oid(data, ber.element(data, start, len(data))), Kind.OTHER)


def content(data: bytes, expected: tuple[Kind, ...]) -> tuple[Kind, ber.Element]:
    """The SEQUENCE inside a ContentInfo of an expected kind. Raises MalformedCms, UnsupportedCms."""
    outer = ber.only(data, 0x30)
    parts = ber.children(data, outer, 2)
    if len(parts) != 2 or parts[1][0] != 0xA0:
        raise MalformedCms("not a ContentInfo")
    found = _KINDS.get(oid(data, parts[0]), Kind.OTHER)
    if found not in expected:
        raise UnsupportedCms(f"{found.value} where {expected[0].value} is wanted")
    inner = ber.children(data, parts[1], 1)
    if not inner or inner[0][0] != 0x30:
        raise MalformedCms("no content")
    return found, inner[0]


def content_info(oid_value: str, inner: Sequence[bytes | memoryview], more: int = 0) -> list[bytes | memoryview]:
    """DER of a ContentInfo in segments; `more` octets of the content follow after the segments."""
    explicit = der.header(0xA0, sum(map(len, inner)) + more)
    identifier = der.oid(oid_value)
    size = len(identifier) + len(explicit) + sum(map(len, inner)) + more
    return [der.header(0x30, size), identifier, explicit, *inner]


def oid(data: bytes, item: ber.Element) -> str:
    """The dotted form of an OBJECT IDENTIFIER element."""
    if item[0] != 0x06:
        raise MalformedCms("not an object identifier")
    return dotted(data[item[2] : item[3]])


@lru_cache(maxsize=512)
def dotted(contents: bytes) -> str:
    """See `der.read_oid`. Raises MalformedCms."""
    try:
        return der.read_oid(contents)
    except ValueError as error:
        raise MalformedCms("not an object identifier") from error


def integer(data: bytes, item: ber.Element) -> int:
    """An INTEGER of at most 64 octets."""
    if item[0] != 0x02 or not 0 < item[3] - item[2] <= 64:
        raise MalformedCms("not an integer")
    return int.from_bytes(data[item[2] : item[3]], "big", signed=True)


def octet_string(data: bytes, item: ber.Element) -> bytes:
    """The octets of an OCTET STRING element, pieces joined."""
    if item[0] not in (0x04, 0x24):
        raise MalformedCms("not an octet string")
    return ber.octets(data, item)


def algorithm(data: bytes, item: ber.Element) -> tuple[str, bytes]:
    """(object identifier, exact octets of the parameters, b"" when absent) of an AlgorithmIdentifier."""
    if item[0] != 0x30 or item[3] - item[2] > MAX_IDENTIFIER:
        raise MalformedCms("not an algorithm identifier")
    parts = ber.children(data, item, 2)
    if not parts:
        raise MalformedCms("not an algorithm identifier")
    return oid(data, parts[0]), b"" if len(parts) < 2 else data[parts[1][1] : parts[1][3]]


def name(data: bytes, item: ber.Element) -> CertificateName | bytes:
    """A SignerIdentifier or RecipientIdentifier: issuer and serial number, or a key identifier in [0]."""
    if item[0] in (0x80, 0xA0):
        return ber.octets(data, item)
    parts = ber.children(data, item, 2)
    if item[0] != 0x30 or len(parts) != 2 or parts[0][0] != 0x30:
        raise MalformedCms("not a name of a certificate")
    return CertificateName(data[parts[0][1] : parts[0][3]], integer(data, parts[1]), None)


@lru_cache(maxsize=1024)
def issuer_and_serial(certificate: bytes) -> bytes:
    """DER of the IssuerAndSerialNumber of a DER certificate. Raises MalformedCms."""
    found = asn1.certificate_name(certificate)
    return der.sequence(found.issuer, der.integer(found.serial))


def is_named(wanted: CertificateName | bytes, found: CertificateName) -> bool:
    """Whether `wanted`, of a message, names the certificate `found`."""
    if isinstance(wanted, bytes):
        return wanted == found.key_identifier
    return wanted.serial == found.serial and wanted.issuer == found.issuer
