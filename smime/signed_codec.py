"""SignedData (RFC 5652 §5) to and from plain values.

Invariants: signed attributes and certificates keep the exact octets they came in; the content is given as places in the
caller's octets, never copied; counts are bounded; what is written is DER. Nothing but MalformedCms and UnsupportedCms is
raised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from smime import asn1, attributes, ber, codec, der
from smime.algorithms import SIGNATURE_IDENTIFIERS, SIGNATURE_OIDS, Mechanism, digest_identifier
from smime.asn1 import MAX_CERTIFICATE_SIZE, CertificateName
from smime.attributes import Attributes, digest_name
from smime.codec import Kind
from smime.errors import MalformedCms

MAX_SIGNERS = 16
MAX_CERTIFICATES = 64


@dataclass(frozen=True, slots=True)
class SignatureAlgorithm:
    """`family` is `rsa`, `pss`, `ecdsa`, `ed25519`, `dsa` or `unknown`; `digest` the one it names, None when none. `pss`
    is (hash, mask hash, salt length)."""

    oid: str
    family: str
    digest: str | None
    pss: tuple[str, str, int] | None = None


class SignerRecord(NamedTuple):
    """One SignerInfo. `signed` is the DER that is signed, as received, None without signed attributes; `sorted_` the same in
    the order DER wants when that is another one; `attributes`: what they say. `places`: where the signed attributes and
    the octets of the signature begin, None without attributes or with a signature in pieces."""

    sid: CertificateName | bytes
    digest: str
    algorithm: SignatureAlgorithm
    signature: bytes
    signed: bytes | None = None
    sorted_: bytes | None = None
    attributes: Attributes = Attributes()
    places: tuple[int, int] | None = None


class SignedRecord(NamedTuple):
    """A SignedData. `content` are pieces of the octets read, None when detached; `certificates` are exact DER, in order."""

    content_type: str
    content: tuple[memoryview, ...] | None
    digests: frozenset[str]
    certificates: tuple[bytes, ...]
    signers: tuple[SignerRecord, ...]


def read_signed(data: bytes) -> SignedRecord:
    """A SignedData from BER or DER. Raises MalformedCms, UnsupportedCms for another content type."""
    return ber.reading(data, read_definite)


def read_content(data: bytes) -> tuple[memoryview, ...] | None:
    """The content alone of an opaque SignedData, in pieces; None when detached. Raises as `read_signed`."""
    return ber.reading(data, lambda whole: _encapsulated(whole, _fields(whole)[2])[1])


def _fields(data: bytes) -> list[ber.Element]:
    _, sequence = codec.content(data, (Kind.SIGNED,))
    parts = ber.children(data, sequence, 6)
    if len(parts) < 4 or [parts[0][0], parts[1][0], parts[2][0], parts[-1][0]] != [0x02, 0x31, 0x30, 0x31]:
        raise MalformedCms("not a SignedData")
    return parts


def read_definite(data: bytes) -> SignedRecord:
    """`read_signed` of definite lengths only. Raises ber.IndefiniteLength too."""
    parts = _fields(data)
    content_type, content = _encapsulated(data, parts[2])
    certificates: tuple[bytes, ...] = ()
    for part in parts[3:-1]:
        if part[0] == 0xA0:
            certificates = _certificates(data, part)
        elif part[0] != 0xA1:
            raise MalformedCms("not a SignedData")
    digests = ber.children(data, parts[1], MAX_SIGNERS)
    return SignedRecord(
        content_type=content_type,
        content=content,
        digests=frozenset(digest_name(data, item) for item in digests),
        certificates=certificates,
        signers=tuple(_signer(data, item) for item in ber.children(data, parts[-1], MAX_SIGNERS)),
    )


def _encapsulated(data: bytes, item: ber.Element) -> tuple[str, tuple[memoryview, ...] | None]:
    parts = ber.children(data, item, 2)
    if not parts:
        raise MalformedCms("no content type")
    content_type = codec.oid(data, parts[0])
    if len(parts) == 1:
        return content_type, None
    inner = ber.children(data, parts[1], 1)
    if parts[1][0] != 0xA0 or not inner or inner[0][0] not in (0x04, 0x24):
        raise MalformedCms("the content is not an octet string")
    view = memoryview(data)
    return content_type, tuple(view[start:stop] for start, stop in ber.octet_pieces(data, inner[0]))


def _certificates(data: bytes, item: ber.Element) -> tuple[bytes, ...]:
    found: list[bytes] = []
    for part in ber.children(data, item, MAX_CERTIFICATES):
        if part[3] - part[1] > MAX_CERTIFICATE_SIZE:
            raise MalformedCms("a certificate is too long")
        if part[0] == 0x30:  # other tags: attribute certificates and the like
            found.append(data[part[1] : part[3]])
    return tuple(found)


@lru_cache(maxsize=256)
def _signature_algorithm(oid: str, parameters: bytes) -> SignatureAlgorithm:
    family, digest = SIGNATURE_OIDS.get(oid, ("unknown", None))
    if family != "pss":
        return SignatureAlgorithm(oid, family, digest)
    pss = asn1.pss_parameters(parameters) if parameters else ("sha1", "sha1", 20)
    return SignatureAlgorithm(oid, family, pss[0] if pss[0] == pss[1] else "disagreeing", pss)


def _signer(data: bytes, item: ber.Element) -> SignerRecord:
    parts = ber.children(data, item, 7)
    if item[0] != 0x30 or len(parts) < 5:
        raise MalformedCms("not a SignerInfo")
    signed = parts[3] if parts[3][0] == 0xA0 else None
    rest = parts[4:] if signed else parts[3:]
    if len(rest) < 2 or len(rest) > 3 or (len(rest) == 3 and rest[2][0] != 0xA1):
        raise MalformedCms("not a SignerInfo")
    sid, digest = codec.name(data, parts[1]), digest_name(data, parts[2])
    algorithm = _signature_algorithm(*codec.algorithm(data, rest[0]))
    signature = codec.octet_string(data, rest[1])
    if signed is None:
        return SignerRecord(sid, digest, algorithm, signature)
    items = [data[one[1] : one[3]] for one in ber.children(data, signed, attributes.MAX_ATTRIBUTES)]
    # What is signed has the SET OF tag in place of [0] (RFC 5652 §5.4).
    as_sent = b"\x31" + data[signed[1] + 1 : signed[3]]
    in_order = der.set_of(*items)
    sorted_ = None if in_order == as_sent else in_order
    places = (signed[1], rest[1][2]) if rest[1][0] == 0x04 else None
    return SignerRecord(sid, digest, algorithm, signature, as_sent, sorted_, attributes.read(items), places)


# -- writing ----------------------------------------------------------------------------------------------------------


_DATA_OID = der.oid(codec.DATA)


def signer_info(certificate: bytes, mechanism: Mechanism, signed: bytes | None, signature: bytes) -> bytes:
    """DER of one SignerInfo; `signed` as `attributes.write` gives it."""
    return der.sequence(
        der.integer(1),
        codec.issuer_and_serial(certificate),
        digest_identifier(mechanism.digest),
        b"" if signed is None else b"\xa0" + signed[1:],
        SIGNATURE_IDENTIFIERS[mechanism],
        der.octets(signature),
    )


def write_signed(
    *,
    certificates: Sequence[bytes],
    digests: Sequence[str],
    signers: Sequence[bytes],
    content: Sequence[bytes | memoryview] | None = None,
) -> list[bytes | memoryview]:
    """DER, in segments to be joined, of a ContentInfo with a SignedData; detached without `content`, whose pieces become
    segments, not copied. `signers` as `signer_info` gives them."""
    before = [der.integer(1), der.set_of(*(digest_identifier(name) for name in dict.fromkeys(digests)))]
    after = [der.element(0xA0, *sorted(certificates)), der.set_of(*signers)]
    encapsulated: list[bytes | memoryview] = [_DATA_OID]
    if content is not None:
        string = der.header(0x04, _size(content))
        encapsulated += [der.header(0xA0, len(string) + _size(content)), string, *content]
    encapsulated.insert(0, der.header(0x30, _size(encapsulated)))
    signed: list[bytes | memoryview] = [*before, *encapsulated, *after]
    signed.insert(0, der.header(0x30, _size(signed)))
    return codec.content_info(codec.SIGNED_DATA, signed)


def _size(segments: Sequence[bytes | memoryview]) -> int:
    return sum(map(len, segments))
