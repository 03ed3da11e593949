"""EnvelopedData (RFC 5652 §6) and AuthEnvelopedData (RFC 5083) to and from plain values.

Invariants: the ciphertext is given as places in the caller's octets, never copied; counts are bounded; recipients of a
kind that is not read are passed over; what is written is DER, whose length is known before the content is encrypted.
Nothing but MalformedCms and UnsupportedCms is raised.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from smime import asn1, ber, codec, der
from smime.algorithms import (
    CIPHER_OIDS,
    DERIVATIONS,
    EC_PUBLIC_KEY,
    RSA,
    RSAES_OAEP,
    WRAP_OIDS,
    X25519,
    ContentCipher,
    KeyDerivation,
    cipher_oid,
    oaep_identifier,
)
from smime.asn1 import CertificateName
from smime.codec import Kind
from smime.errors import MalformedCms, UnsupportedCms

MAX_RECIPIENTS = 1000
MAX_ATTRIBUTES = 64
TAG_LENGTH = 16
_RSA_IDENTIFIER = der.sequence(der.oid(RSA), der.NULL)


class TransportRecord(NamedTuple):
    """A key-transport recipient. `oaep` is (hash, mask hash) for RSAES-OAEP, None for PKCS#1 v1.5."""

    rid: CertificateName | bytes
    oaep: tuple[str, str] | None
    encrypted_key: bytes


class AgreementRecord(NamedTuple):
    """A key-agreement recipient: the sender's ephemeral public key, and what the key-encryption key is derived from.
    `wrap` is the AlgorithmIdentifier of the key wrap exactly as it came, `wrap_length` octets its key."""

    rid: CertificateName | bytes
    public: bytes
    derivation: KeyDerivation
    wrap: bytes
    wrap_length: int
    ukm: bytes | None
    encrypted_key: bytes


RecipientRecord = TransportRecord | AgreementRecord


class EnvelopedRecord(NamedTuple):
    """An envelope. `iv` is the initialisation vector, or GCM's nonce; `ciphertext` are pieces of the octets read; `mac`
    and `attributes` (DER of the SET OF authenticated attributes, b"" without) are GCM's."""

    recipients: tuple[RecipientRecord, ...]
    cipher: ContentCipher
    iv: bytes
    ciphertext: tuple[memoryview, ...]
    mac: bytes = b""
    attributes: bytes = b""


def read_enveloped(data: bytes) -> EnvelopedRecord:
    """An EnvelopedData or AuthEnvelopedData from BER or DER. Raises MalformedCms, UnsupportedCms."""
    return read_plain(data) or ber.reading(data, read_any)


_VERSION_0 = b"\x02\x01\x00"
_ENVELOPED_OID, _DATA_OID = der.oid(codec.ENVELOPED_DATA), der.oid(codec.DATA)
_CBC_HEADS = {
    der.sequence(cipher_oid(cipher), der.octets(bytes(16)))[:15]: cipher
    for cipher in (ContentCipher.AES256_CBC, ContentCipher.AES128_CBC)
}
MAX_PLAIN_NAME = 512


def read_plain(data: bytes) -> EnvelopedRecord | None:
    """What nearly every program writes, read in one go: definite lengths, key transport alone, AES-CBC in one piece.
    None for anything else, which `read_enveloped` then reads with more care; never another answer than its."""
    try:
        start, end = _enter(data, 0, 0x30)
        if end != len(data) or not data.startswith(_ENVELOPED_OID, start):
            return None
        start, stop = _enter(data, start + len(_ENVELOPED_OID), 0xA0)
        start, last = _enter(data, start, 0x30)
        if stop != end or last != end or not data.startswith(_VERSION_0, start):
            return None
        start, stop = _enter(data, start + 3, 0x31)
        recipients: list[RecipientRecord] = []
        while start < stop and len(recipients) < MAX_RECIPIENTS:
            recipient, start = _plain_recipient(data, start)
            recipients.append(recipient)
        place, last = _enter(data, stop, 0x30)
        if start != stop or last != end or not data.startswith(_DATA_OID, place):
            return None
        place += len(_DATA_OID)
        cipher = _CBC_HEADS.get(data[place : place + 15])
        start, stop = _enter(data, place + 31, 0x80)
        if cipher is None or stop != end:
            return None
    except (IndexError, _Unusual):
        return None
    return EnvelopedRecord(tuple(recipients), cipher, data[place + 15 : place + 31], (memoryview(data)[start:stop],))


class _Unusual(Exception):
    """Not the plain form."""


def _enter(data: bytes, place: int, tag: int) -> tuple[int, int]:
    """(place of the contents, place after them) of the element at `place`. Raises IndexError, _Unusual."""
    octet = data[place + 1]
    if data[place] != tag or octet in (0x80, 0xFF) or octet > 0x86:
        raise _Unusual
    if octet < 0x80:
        return place + 2, place + 2 + octet
    start = place + 2 + (octet & 0x7F)
    return start, start + int.from_bytes(data[place + 2 : start], "big")


def _plain_recipient(data: bytes, place: int) -> tuple[TransportRecord, int]:
    """(recipient, place after it)."""
    place, end = _enter(data, place, 0x30)
    _, stop = _enter(data, place + 3, 0x30)
    _, after = _enter(data, stop, 0x30)
    start, last = _enter(data, after, 0x04)
    known = _plain_transport(data[place : min(after, place + MAX_PLAIN_NAME)])
    if last != end or known is None:
        raise _Unusual
    return TransportRecord(*known, data[start:last]), end


@lru_cache(maxsize=1024)
def _plain_transport(head: bytes) -> tuple[CertificateName | bytes, tuple[str, str] | None] | None:
    """(name, OAEP hashes) from what stands before the encrypted key, which is the same in every message to one
    certificate."""
    try:
        found = ber.reading(der.sequence(head, der.octets(b"")), lambda data: _transport(data, ber.only(data, 0x30)))
    except (MalformedCms, UnsupportedCms):
        return None
    return (found[0].rid, found[0].oaep) if found and head.startswith(_VERSION_0) else None


def read_any(data: bytes) -> EnvelopedRecord:
    """`read_enveloped` of definite lengths only, in the general way. Raises ber.IndefiniteLength too."""
    kind, sequence = codec.content(data, (Kind.ENVELOPED, Kind.AUTH_ENVELOPED))
    parts = ber.children(data, sequence, 7)
    parts = parts[1:] if parts and parts[0][0] == 0x02 else []
    if parts and parts[0][0] == 0xA0:  # originatorInfo: certificates that prove nothing here
        parts = parts[1:]
    if len(parts) < 2 or parts[0][0] != 0x31 or parts[1][0] != 0x30:
        raise MalformedCms("not an EnvelopedData")
    attributes, mac = _authentication(data, parts[2:]) if kind is Kind.AUTH_ENVELOPED else (b"", b"")
    cipher, iv, ciphertext = _encrypted(data, parts[1], len(mac))
    if cipher.authenticated is not (kind is Kind.AUTH_ENVELOPED):
        raise UnsupportedCms("a cipher of the other kind of envelope")
    recipients: list[RecipientRecord] = []
    for item in ber.children(data, parts[0], MAX_RECIPIENTS):
        if item[0] == 0x30:
            recipients += _transport(data, item)
        elif item[0] == 0xA1:
            recipients += _agreement(data, item)
        if len(recipients) > MAX_RECIPIENTS:
            raise MalformedCms("too many recipients")
    return EnvelopedRecord(tuple(recipients), cipher, iv, ciphertext, mac, attributes)


def _authentication(data: bytes, parts: Sequence[ber.Element]) -> tuple[bytes, bytes]:
    """(authenticated attributes as they are authenticated, tag) of an AuthEnvelopedData (RFC 5083 §2.1, §2.2)."""
    attributes = b""
    if parts and parts[0][0] == 0xA1:
        ber.children(data, parts[0], MAX_ATTRIBUTES)
        attributes = b"\x31" + data[parts[0][1] + 1 : parts[0][3]]
        parts = parts[1:]
    if not parts:
        raise MalformedCms("no authentication tag")
    return attributes, codec.octet_string(data, parts[0])


def _encrypted(data: bytes, item: ber.Element, mac_length: int) -> tuple[ContentCipher, bytes, tuple[memoryview, ...]]:
    parts = ber.children(data, item, 3)
    if len(parts) != 3 or parts[2][0] not in (0x80, 0xA0):
        raise MalformedCms("no encrypted content")
    if codec.oid(data, parts[0]) != codec.DATA:
        raise UnsupportedCms("the encrypted content is not data")
    oid, parameters = codec.algorithm(data, parts[1])
    cipher = CIPHER_OIDS.get(oid)
    if cipher is None:
        raise UnsupportedCms("content encryption algorithm")
    iv = _nonce(parameters, mac_length) if cipher.authenticated else _vector(parameters, cipher.block)
    view = memoryview(data)
    return cipher, iv, tuple(view[start:stop] for start, stop in ber.octet_pieces(data, parts[2]))


def _vector(parameters: bytes, size: int) -> bytes:
    if not parameters:
        raise MalformedCms("no initialisation vector")
    iv = ber.octets(parameters, ber.only(parameters, 0x04))
    if len(iv) != size:
        raise MalformedCms("an initialisation vector of another length")
    return iv


def _nonce(parameters: bytes, mac_length: int) -> bytes:
    """GCMParameters (RFC 5084 §3.2): the nonce; the tag must be as long as they say, 12 to 16 octets."""
    parts = ber.children(parameters, ber.only(parameters, 0x30), 2) if parameters else []
    if not parts:
        raise MalformedCms("no nonce")
    length = codec.integer(parameters, parts[1]) if len(parts) == 2 else 12
    nonce = codec.octet_string(parameters, parts[0])
    if not 12 <= length <= TAG_LENGTH or length != mac_length or not 8 <= len(nonce) <= 64:
        raise MalformedCms("a nonce or tag of another length")
    return nonce


def _transport(data: bytes, item: ber.Element) -> list[TransportRecord]:
    parts = ber.children(data, item, 4)
    if len(parts) != 4:
        raise MalformedCms("not a KeyTransRecipientInfo")
    oid, parameters = codec.algorithm(data, parts[2])
    oaep: tuple[str, str] | None = None
    if oid == RSAES_OAEP:
        oaep = asn1.oaep_parameters(parameters) if parameters else ("sha1", "sha1")
    elif oid != RSA:
        return []
    return [TransportRecord(codec.name(data, parts[1]), oaep, codec.octet_string(data, parts[3]))]


def _agreement(data: bytes, item: ber.Element) -> list[RecipientRecord]:
    """KeyAgreeRecipientInfo (RFC 5652 §6.2.2) with an ephemeral sender's key; other forms are passed over."""
    parts = ber.children(data, item, 5)
    if len(parts) < 4 or parts[1][0] != 0xA0:
        raise MalformedCms("not a KeyAgreeRecipientInfo")
    ukm: bytes | None = None
    if len(parts) == 5:
        inner = ber.children(data, parts[2], 1)
        if parts[2][0] != 0xA1 or not inner:
            raise MalformedCms("not a KeyAgreeRecipientInfo")
        ukm = codec.octet_string(data, inner[0])
    public = _originator_key(data, parts[1])
    oid, wrap = codec.algorithm(data, parts[-2])
    if public is None or oid not in DERIVATIONS or not wrap:
        return []
    wrap_oid, _ = codec.algorithm(wrap, ber.only(wrap, 0x30))
    if wrap_oid not in WRAP_OIDS:
        return []
    found: list[RecipientRecord] = []
    for one in ber.children(data, parts[-1], MAX_RECIPIENTS):
        pair = ber.children(data, one, 2)
        if len(pair) != 2:
            raise MalformedCms("not a RecipientEncryptedKey")
        rid = _agreement_name(data, pair[0])
        encrypted_key = codec.octet_string(data, pair[1])
        found.append(AgreementRecord(rid, public, DERIVATIONS[oid], wrap, WRAP_OIDS[wrap_oid], ukm, encrypted_key))
    return found


def _agreement_name(data: bytes, item: ber.Element) -> CertificateName | bytes:
    if item[0] != 0xA0:
        return codec.name(data, item)
    identifier = ber.children(data, item, 3)  # RecipientKeyIdentifier
    if not identifier:
        raise MalformedCms("not a RecipientKeyIdentifier")
    return codec.octet_string(data, identifier[0])


def _originator_key(data: bytes, item: ber.Element) -> bytes | None:
    """The public key of an OriginatorPublicKey; None for an originator named by a certificate."""
    inner = ber.children(data, item, 1)
    if not inner:
        raise MalformedCms("no originator")
    if inner[0][0] != 0xA1:
        return None
    parts = ber.children(data, inner[0], 2)
    if len(parts) != 2 or parts[1][0] != 0x03 or parts[1][3] - parts[1][2] < 2 or data[parts[1][2]] != 0:
        raise MalformedCms("not an originator's key")
    oid, _ = codec.algorithm(data, parts[0])
    return data[parts[1][2] + 1 : parts[1][3]] if oid in (EC_PUBLIC_KEY, X25519) else None


# -- writing ----------------------------------------------------------------------------------------------------------


def transport_info(certificate: bytes, encrypted_key: bytes, oaep: str | None) -> bytes:
    """DER of a KeyTransRecipientInfo; `oaep` is the hash, None for PKCS#1 v1.5."""
    algorithm = _RSA_IDENTIFIER if oaep is None else oaep_identifier(oaep)
    return der.sequence(der.integer(0), codec.issuer_and_serial(certificate), algorithm, der.octets(encrypted_key))


def agreement_info(
    certificate: bytes, public: bytes, derivation: KeyDerivation, wrap: bytes, encrypted_key: bytes, *, x25519: bool
) -> bytes:
    """DER of a KeyAgreeRecipientInfo for one recipient (RFC 5753 §3.1.1)."""
    algorithm = der.sequence(der.oid(X25519 if x25519 else EC_PUBLIC_KEY))  # parameters: absent (RFC 5753 §7.1.2)
    originator = der.element(0xA0, der.element(0xA1, algorithm, der.element(0x03, b"\0" + public)))
    recipient = der.sequence(codec.issuer_and_serial(certificate), der.octets(encrypted_key))
    return der.element(
        0xA1,
        der.integer(3),
        originator,
        der.sequence(der.oid(derivation.oid), wrap),
        der.sequence(recipient),
    )


def write_enveloped(recipients: Sequence[bytes], *, cipher: ContentCipher, iv: bytes, size: int) -> tuple[bytes, int]:
    """(DER before the ciphertext, octets after it) of an envelope of `size` octets of ciphertext. After GCM's ciphertext
    come `mac_element(tag)`, that many octets; after CBC's nothing."""
    tail = TAG_LENGTH + 2 if cipher.authenticated else 0
    before, after = _algorithm_round(cipher, len(iv))
    content = b"".join((before, iv, after, der.header(0x80, size)))
    # RFC 5652 §6.1: version 2 when a recipient's own version is not 0, as with key agreement; RFC 5083 §2.1: 0.
    version = 2 if not cipher.authenticated and any(info[0] == 0xA1 for info in recipients) else 0
    everybody = der.set_of(*recipients)
    inner = b"".join((_VERSIONS[version], everybody, der.header(0x30, len(content) + size), content))
    oid = codec.AUTH_ENVELOPED_DATA if cipher.authenticated else codec.ENVELOPED_DATA
    return b"".join(codec.content_info(oid, [der.header(0x30, len(inner) + size + tail), inner], size + tail)), tail


_VERSIONS = {version: der.integer(version) for version in (0, 2)}


@lru_cache(maxsize=32)
def _algorithm_round(cipher: ContentCipher, iv_length: int) -> tuple[bytes, bytes]:
    """What stands before and after the vector in an EncryptedContentInfo, from its content type to its algorithm's end."""
    vector = der.octets(b"\xff" * iv_length)
    parameters = der.sequence(vector, der.integer(TAG_LENGTH)) if cipher.authenticated else vector
    whole = _DATA_OID + der.sequence(cipher_oid(cipher), parameters)
    before, _, after = whole.partition(b"\xff" * iv_length)
    return before, after


def mac_element(tag: bytes) -> bytes:
    """DER of the authentication tag."""
    return der.octets(tag)
