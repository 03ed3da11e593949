"""SignedData (RFC 5652 §5) to and from plain values.

Invariants: signed attributes and certificates keep the exact octets they came in; the content is given as places in the
caller's octets, never copied; counts are bounded; what is written is DER. Nothing but MalformedCms and UnsupportedCms is
raised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from smime import asn1, ber, capabilities, codec, der
from smime.algorithms import DIGEST_OIDS, SIGNATURE_IDENTIFIERS, SIGNATURE_OIDS, Mechanism, digest_identifier
from smime.asn1 import MAX_CERTIFICATE_SIZE, CertificateName
from smime.capabilities import Capabilities
from smime.codec import Kind
from smime.errors import MalformedCms

MAX_SIGNERS = 16
MAX_CERTIFICATES = 64
MAX_ATTRIBUTES = 64
MAX_ESS = 16

_CONTENT_TYPE = "1.2.840.113549.1.9.3"
_MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
_SIGNING_TIME = "1.2.840.113549.1.9.5"
_CAPABILITIES = "1.2.840.113549.1.9.15"
_ESS_V1 = "1.2.840.113549.1.9.16.2.12"
_ESS_V2 = "1.2.840.113549.1.9.16.2.47"
_PROTECTION = "1.2.840.113549.1.9.52"
_READ = frozenset({_CONTENT_TYPE, _MESSAGE_DIGEST, _SIGNING_TIME, _CAPABILITIES, _ESS_V1, _ESS_V2, _PROTECTION})


@dataclass(frozen=True, slots=True)
class EssId:
    """One ESSCertID or ESSCertIDv2: a digest of the whole signer certificate (RFC 5035 §3)."""

    digest: str
    value: bytes


@dataclass(frozen=True, slots=True)
class SignatureAlgorithm:
    """`family` is `rsa`, `pss`, `ecdsa`, `ed25519`, `dsa` or `unknown`; `digest` the one it names, None when none. `pss`
    is (hash, mask hash, salt length)."""

    oid: str
    family: str
    digest: str | None
    pss: tuple[str, str, int] | None = None


@dataclass(frozen=True, slots=True)
class SignerRecord:
    """One SignerInfo. `attributes` is the DER that is signed, as received, None without signed attributes; `sorted_` the
    same in the order DER wants when that is another one. Values that are missing, repeated or unreadable are named in
    `faults`."""

    sid: CertificateName | bytes
    digest: str
    algorithm: SignatureAlgorithm
    signature: bytes
    attributes: bytes | None = None
    sorted_: bytes | None = None
    content_type: str | None = None
    message_digest: bytes | None = None
    signing_time: datetime | None = None
    ess: tuple[EssId, ...] = ()
    protection: tuple[str, str] | None = None
    capabilities: Capabilities | None = None
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SignedRecord:
    """A SignedData. `content` are pieces of the octets read, None when detached; `certificates` are exact DER, in order."""

    content_type: str
    content: tuple[memoryview, ...] | None
    digests: frozenset[str]
    certificates: tuple[bytes, ...]
    signers: tuple[SignerRecord, ...]


def read_signed(data: bytes) -> SignedRecord:
    """A SignedData from BER or DER. Raises MalformedCms, UnsupportedCms for another content type."""
    return ber.reading(data, _read_signed)


def read_content(data: bytes) -> tuple[memoryview, ...] | None:
    """The content alone of an opaque SignedData, in pieces; None when detached. Raises as `read_signed`."""
    return ber.reading(data, lambda whole: _encapsulated(whole, _fields(whole)[2])[1])


def _fields(data: bytes) -> list[ber.Element]:
    _, sequence = codec.content(data, (Kind.SIGNED,))
    parts = ber.children(data, sequence, 6)
    if len(parts) < 4 or [parts[0][0], parts[1][0], parts[2][0], parts[-1][0]] != [0x02, 0x31, 0x30, 0x31]:
        raise MalformedCms("not a SignedData")
    return parts


def _read_signed(data: bytes) -> SignedRecord:
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
        digests=frozenset(_digest(data, item) for item in digests),
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


def _digest(data: bytes, item: ber.Element) -> str:
    oid = codec.algorithm(data, item)[0]
    return DIGEST_OIDS.get(oid, oid)


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
    sid, digest = codec.name(data, parts[1]), _digest(data, parts[2])
    algorithm = _signature_algorithm(*codec.algorithm(data, rest[0]))
    signature = codec.octet_string(data, rest[1])
    if signed is None:
        return SignerRecord(sid, digest, algorithm, signature)
    faults: list[str] = []
    items = ber.children(data, signed, MAX_ATTRIBUTES)
    values = _attributes(data, items, faults)
    # What is signed has the SET OF tag in place of [0] (RFC 5652 §5.4).
    attributes = b"\x31" + data[signed[1] + 1 : signed[3]]
    in_order = der.set_of(*[data[one[1] : one[3]] for one in items])
    content_type = values.get(_CONTENT_TYPE)
    message_digest = values.get(_MESSAGE_DIGEST)
    return SignerRecord(
        sid=sid,
        digest=digest,
        algorithm=algorithm,
        signature=signature,
        attributes=attributes,
        sorted_=None if in_order == attributes else in_order,
        content_type=codec.oid(data, content_type) if content_type else None,
        message_digest=codec.octet_string(data, message_digest) if message_digest else None,
        signing_time=_time(data, values.get(_SIGNING_TIME), faults),
        ess=_ess(data, values),
        protection=_protection(data, values.get(_PROTECTION)),
        capabilities=_capabilities(data, values.get(_CAPABILITIES), faults),
        faults=tuple(faults),
    )


def _attributes(data: bytes, items: Sequence[ber.Element], faults: list[str]) -> dict[str, ber.Element]:
    """The attributes this module reads, each of which must come once with one value (RFC 5652 §11)."""
    values: dict[str, ber.Element] = {}
    for item in items:
        parts = ber.children(data, item, 2)
        if item[0] != 0x30 or len(parts) != 2 or parts[1][0] != 0x31:
            raise MalformedCms("not an attribute")
        name = codec.oid(data, parts[0])
        if name not in _READ:
            continue
        inner = ber.children(data, parts[1], MAX_ATTRIBUTES)
        if name in values or len(inner) != 1:
            faults.append("repeated-attribute")
        else:
            values[name] = inner[0]
    return values


def _time(data: bytes, item: ber.Element | None, faults: list[str]) -> datetime | None:
    if item is None:
        return None
    try:
        return der.read_time(item[0], data[item[2] : item[3]])
    except (ValueError, OverflowError):
        faults.append("unreadable-signing-time")
        return None


def _capabilities(data: bytes, item: ber.Element | None, faults: list[str]) -> Capabilities | None:
    """Advice only: unreadable capabilities are no fault of the signature."""
    if item is None:
        return None
    try:
        return capabilities.read(data[item[1] : item[3]])
    except MalformedCms:
        return None


def _ess(data: bytes, values: dict[str, ber.Element]) -> tuple[EssId, ...]:
    """The identifier of the signer's own certificate: the first of each attribute (RFC 5035 §5)."""
    found: list[EssId] = []
    for name in (_ESS_V2, _ESS_V1):
        if name not in values:
            continue
        outer = ber.children(data, values[name], 2)
        certificates = ber.children(data, outer[0], MAX_ESS) if outer else []
        first = ber.children(data, certificates[0], 3) if certificates else []
        digest = "sha1" if name == _ESS_V1 else "sha256"
        if name == _ESS_V2 and first and first[0][0] == 0x30:
            digest = _digest(data, first[0])
            first = first[1:]
        if not first:
            raise MalformedCms("an empty signing certificate attribute")
        found.append(EssId(digest, codec.octet_string(data, first[0])))
    return tuple(found)


def _protection(data: bytes, item: ber.Element | None) -> tuple[str, str] | None:
    """(digest, signature algorithm's object identifier) of a CMSAlgorithmProtection attribute (RFC 6211)."""
    if item is None:
        return None
    parts = ber.children(data, item, 3)
    signature = next((part for part in parts[1:] if part[0] == 0xA1), None)
    if not parts or signature is None:
        raise MalformedCms("algorithm protection without a signature algorithm")
    implicit = ber.children(data, signature, 2)
    if not implicit:
        raise MalformedCms("algorithm protection without a signature algorithm")
    return _digest(data, parts[0]), codec.oid(data, implicit[0])


# -- writing ----------------------------------------------------------------------------------------------------------


def _attribute(dotted: str, value: bytes) -> bytes:
    return der.sequence(der.oid(dotted), der.set_of(value))


_DATA_OID = der.oid(codec.DATA)
_WRITTEN_CONTENT_TYPE = _attribute(_CONTENT_TYPE, _DATA_OID)
_WRITTEN_CAPABILITIES = _attribute(_CAPABILITIES, capabilities.OURS_DER)
_DIGEST_HEAD = der.oid(_MESSAGE_DIGEST)
_TIME_HEAD = der.oid(_SIGNING_TIME)


@lru_cache(maxsize=1024)
def _ess_attribute(certificate: bytes, digest: bytes) -> bytes:
    """signingCertificateV2 (RFC 5035 §3); its hash algorithm defaults to SHA-256, and DER leaves defaults out."""
    name = asn1.certificate_name(certificate)
    issuer = der.sequence(der.element(0xA4, name.issuer))  # GeneralNames with one directoryName
    ess = der.sequence(der.octets(digest), der.sequence(issuer, der.integer(name.serial)))
    return _attribute(_ESS_V2, der.sequence(der.sequence(ess)))


def signed_attributes(content_digest: bytes, certificate: bytes, certificate_digest: bytes, at: datetime) -> bytes:
    """DER of the attributes to sign: content type, message digest, signing time, signingCertificateV2 (SHA-256 of the
    certificate) and the algorithms we read, best first (RFC 8551 §2.5.2)."""
    return der.set_of(
        _WRITTEN_CONTENT_TYPE,
        der.sequence(_DIGEST_HEAD, der.element(0x31, der.octets(content_digest))),
        der.sequence(_TIME_HEAD, der.element(0x31, der.time(at))),
        _WRITTEN_CAPABILITIES,
        _ess_attribute(certificate, certificate_digest),
    )


def signer_info(certificate: bytes, mechanism: Mechanism, attributes: bytes | None, signature: bytes) -> bytes:
    """DER of one SignerInfo; `attributes` as `signed_attributes` gives them."""
    return der.sequence(
        der.integer(1),
        codec.issuer_and_serial(certificate),
        digest_identifier(mechanism.digest),
        b"" if attributes is None else b"\xa0" + attributes[1:],
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
