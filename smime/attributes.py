"""The signed attributes of a SignerInfo (RFC 5652 §11, RFC 5035, RFC 8551 §2.5), read and written.

Invariants: an attribute that is read comes once and with one value, or is named in `faults`; unreadable capabilities are
no fault, being advice; what comes again and again (capabilities, names of certificates) is decoded once. Nothing but
MalformedCms is raised.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from smime import asn1, ber, capabilities, codec, der
from smime.algorithms import DIGEST_OIDS
from smime.capabilities import OURS, Capabilities
from smime.errors import MalformedCms

MAX_ATTRIBUTES = 64
MAX_ESS = 16
MAX_REMEMBERED = 2048
"""Octets of the longest attribute that is remembered."""

_CONTENT_TYPE = "1.2.840.113549.1.9.3"
_MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
_SIGNING_TIME = "1.2.840.113549.1.9.5"
_CAPABILITIES = "1.2.840.113549.1.9.15"
_ESS_V1 = "1.2.840.113549.1.9.16.2.12"
_ESS_V2 = "1.2.840.113549.1.9.16.2.47"
_PROTECTION = "1.2.840.113549.1.9.52"
_READ = frozenset({_CONTENT_TYPE, _MESSAGE_DIGEST, _SIGNING_TIME, _CAPABILITIES, _ESS_V1, _ESS_V2, _PROTECTION})


UNREADABLE_TIME = "unreadable-signing-time"


class EssId(NamedTuple):
    """One ESSCertID or ESSCertIDv2: a digest of the whole signer certificate (RFC 5035 §3)."""

    digest: str
    value: bytes


class Attributes(NamedTuple):
    """What the attributes say; None or empty where they say nothing. `protection`: (digest, object identifier of the
    signature algorithm) of a CMSAlgorithmProtection (RFC 6211). `faults`: fixed words."""

    content_type: str | None = None
    message_digest: bytes | None = None
    signing_time: datetime | None = None
    ess: tuple[EssId, ...] = ()
    protection: tuple[str, str] | None = None
    capabilities: Capabilities | None = None
    faults: tuple[str, ...] = ()


def read(items: Sequence[bytes]) -> Attributes:
    """The Attributes of these encoded attributes. Raises MalformedCms."""
    values: dict[str, bytes] = {}
    faults: list[str] = []
    for item in items:
        is_new = item.startswith(_CHANGING, 2) or len(item) > MAX_REMEMBERED
        name, value = _attribute(item) if is_new else _known_attribute(item)
        if name not in _READ:
            continue
        if name in values or value is None:
            faults.append("repeated-attribute")
        else:
            values[name] = value
    content_type, message_digest = values.get(_CONTENT_TYPE), values.get(_MESSAGE_DIGEST)
    protection, stated = values.get(_PROTECTION), values.get(_CAPABILITIES)
    return Attributes(
        None if content_type is None else codec.dotted(_contents(content_type, 0x06)),
        None if message_digest is None else codec.octet_string(message_digest, ber.only(message_digest)),
        _time(values.get(_SIGNING_TIME), faults),
        _ess(values.get(_ESS_V2), values.get(_ESS_V1)),
        None if protection is None else _protection(protection),
        None if stated is None else _capabilities(stated),
        tuple(faults),
    )


def _attribute(item: bytes) -> tuple[str, bytes | None]:
    """(type, its one value, None when there are several or none) of an Attribute."""
    size = len(item)
    if (
        17 < size < 0x80
        and item[0::13][:2] == b"\x30\x31"
        and (item[1], item[14], item[16]) == (size - 2, size - 15, size - 17)
    ):
        name = _SHORT.get(item[2:13])  # message digest or signing time, which are new each time
        if name is not None:
            return name, item[15:]
    parts = ber.children(item, ber.only(item, 0x30), 2)
    if len(parts) != 2 or parts[1][0] != 0x31:
        raise MalformedCms("not an attribute")
    inner = ber.children(item, parts[1], MAX_ATTRIBUTES)
    return codec.oid(item, parts[0]), item[inner[0][1] : inner[0][3]] if len(inner) == 1 else None


_known_attribute = lru_cache(maxsize=1024)(_attribute)


def _contents(value: bytes, tag: int) -> bytes:
    return value[ber.only(value, tag)[2] :]


def _time(value: bytes | None, faults: list[str]) -> datetime | None:
    if value is None:
        return None
    try:
        return der.read_time(value[0], _contents(value, value[0]))
    except (ValueError, OverflowError):
        faults.append(UNREADABLE_TIME)
        return None


@lru_cache(maxsize=1024)
def _capabilities(value: bytes) -> Capabilities | None:
    try:
        return capabilities.read(value)
    except MalformedCms:
        return None


@lru_cache(maxsize=1024)
def _ess(second: bytes | None, first: bytes | None) -> tuple[EssId, ...]:
    """The identifier of the signer's own certificate: the first of each attribute, version 2 and 1 (RFC 5035 §5)."""
    found: list[EssId] = []
    for value, is_second in ((second, True), (first, False)):
        if value is None:
            continue
        outer = ber.children(value, ber.only(value), 2)
        certificates = ber.children(value, outer[0], MAX_ESS) if outer else []
        parts = ber.children(value, certificates[0], 3) if certificates else []
        digest = "sha256" if is_second else "sha1"
        if is_second and parts and parts[0][0] == 0x30:
            digest = digest_name(value, parts[0])
            parts = parts[1:]
        if not parts:
            raise MalformedCms("an empty signing certificate attribute")
        found.append(EssId(digest, codec.octet_string(value, parts[0])))
    return tuple(found)


@lru_cache(maxsize=256)
def _protection(value: bytes) -> tuple[str, str]:
    parts = ber.children(value, ber.only(value), 3)
    signature = next((part for part in parts[1:] if part[0] == 0xA1), None)
    implicit = ber.children(value, signature, 2) if signature is not None else []
    if not implicit:
        raise MalformedCms("algorithm protection without a signature algorithm")
    return digest_name(value, parts[0]), codec.oid(value, implicit[0])


def digest_name(data: bytes, item: ber.Element) -> str:
    """The name of a digest from its AlgorithmIdentifier, the object identifier when it is not known."""
    oid = codec.algorithm(data, item)[0]
    return DIGEST_OIDS.get(oid, oid)


# -- writing ----------------------------------------------------------------------------------------------------------


def _written(dotted: str, value: bytes) -> bytes:
    return der.sequence(der.oid(dotted), der.set_of(value))


_CONTENT_IS_DATA = _written(_CONTENT_TYPE, der.oid(codec.DATA))
_SHORT = {der.oid(oid): oid for oid in (_MESSAGE_DIGEST, _SIGNING_TIME)}
_CHANGING = tuple(_SHORT)


@lru_cache(maxsize=1024)
def _ess_attribute(certificate: bytes, digest: bytes) -> bytes:
    """signingCertificateV2 (RFC 5035 §3); its hash algorithm defaults to SHA-256, and DER leaves defaults out."""
    name = asn1.certificate_name(certificate)
    issuer = der.sequence(der.element(0xA4, name.issuer))  # GeneralNames with one directoryName
    ess = der.sequence(der.octets(digest), der.sequence(issuer, der.integer(name.serial)))
    return _written(_ESS_V2, der.sequence(der.sequence(ess)))


@lru_cache(maxsize=64)
def _capabilities_attribute(reads: Capabilities) -> bytes:
    return _written(_CAPABILITIES, capabilities.write(reads))


def write(
    content_digest: bytes, certificate: bytes, certificate_digest: bytes, at: datetime, reads: Capabilities = OURS
) -> bytes:
    """DER of the attributes to sign: content type, message digest, signing time, signingCertificateV2 (SHA-256 of the
    certificate) and the algorithms that the signer's program `reads`, best first (RFC 8551 §2.5.2)."""
    return der.set_of(
        _CONTENT_IS_DATA,
        _written(_MESSAGE_DIGEST, der.octets(content_digest)),
        _written(_SIGNING_TIME, der.time(at)),
        _capabilities_attribute(reads),
        _ess_attribute(certificate, certificate_digest),
    )


TIME_HEAD = _written(_SIGNING_TIME, der.element(0x17, bytes(13)))[:-13]
"""What stands before the octets of a signing time that is a UTCTime."""


def digest_head(size: int) -> bytes:
    """What stands before the octets of a message digest of this size."""
    return _written(_MESSAGE_DIGEST, der.octets(bytes(size)))[:-size]
