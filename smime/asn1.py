"""CMS structures (RFC 5652) to and from plain values. The only module that imports asn1crypto.

Invariants: every reader first passes `ber.check`, takes all it needs at once, and raises nothing but MalformedCms or
UnsupportedCms; signed attributes and certificates keep the exact octets they came in; counts are bounded. What is
written is DER.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache

from asn1crypto import cms, core
from asn1crypto import tsp as _tsp  # noqa: F401 - its import makes cms read the signing-certificate attributes
from asn1crypto import x509 as asn1_x509

from smime import ber, der
from smime.errors import MalformedCms, UnsupportedCms

MAX_SIGNERS = 16
MAX_RECIPIENTS = 1000
MAX_CERTIFICATES = 64
MAX_ATTRIBUTES = 64
MAX_CERTIFICATE_SIZE = 64 * 1024
"""Octets. Real ones have a few thousand; names of certificates are remembered, hence the bound."""


class Kind(StrEnum):
    """The content types of CMS that S/MIME uses."""

    SIGNED = "signed_data"
    ENVELOPED = "enveloped_data"
    AUTH_ENVELOPED = "authenticated_enveloped_data"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class CertificateName:
    """How CMS names a certificate: issuer (exact DER) and serial number, or subject key identifier."""

    issuer: bytes
    serial: int
    key_identifier: bytes | None


@dataclass(frozen=True, slots=True)
class EssId:
    """One ESSCertID or ESSCertIDv2: a digest of the whole signer certificate (RFC 5035 §3)."""

    digest: str
    value: bytes


@dataclass(frozen=True, slots=True)
class SignerRecord:
    """One SignerInfo. `sid` is (issuer, serial) or a key identifier. `attributes` is the DER that is signed, None without
    signed attributes. Algorithm names are asn1crypto's. Attribute values that are missing, repeated or of a wrong form
    are named in `faults`."""

    sid: CertificateName | bytes
    digest: str
    signature_algorithm: str
    pss: tuple[str, str, int] | None
    signature: bytes
    attributes: bytes | None
    content_type: str | None
    message_digest: bytes | None
    signing_time: datetime | None
    ess: tuple[EssId, ...]
    protection: tuple[str, str] | None
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SignedRecord:
    """A SignedData. `content` is None when detached; `certificates` are exact DER, in order."""

    content_type: str
    content: bytes | None
    digests: frozenset[str]
    certificates: tuple[bytes, ...]
    signers: tuple[SignerRecord, ...]


@dataclass(frozen=True, slots=True)
class RecipientRecord:
    """One key-transport recipient. `oaep` is (hash, mask hash) for RSAES-OAEP, None for PKCS#1 v1.5."""

    rid: CertificateName | bytes
    oaep: tuple[str, str] | None
    encrypted_key: bytes


@dataclass(frozen=True, slots=True)
class EnvelopedRecord:
    """An EnvelopedData with AES-CBC. `key_length` in octets."""

    recipients: tuple[RecipientRecord, ...]
    key_length: int
    iv: bytes
    ciphertext: bytes


@contextmanager
def _decoding() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise MalformedCms("not the structure it claims to be") from error


def kind(data: bytes) -> Kind:
    """What a CMS ContentInfo holds. Raises MalformedCms."""
    ber.check(data)
    with _decoding():
        name = str(cms.ContentInfo.load(data)["content_type"].native)
    return Kind(name) if name in Kind._value2member_map_ else Kind.OTHER


@lru_cache(maxsize=1024)
def certificate_name(encoded: bytes) -> CertificateName:
    """Issuer, serial and key identifier of a DER certificate. Raises MalformedCms."""
    with _decoding():
        certificate = asn1_x509.Certificate.load(encoded)
        body = certificate["tbs_certificate"]
        try:
            identifier = certificate.key_identifier
        except ValueError:  # an unreadable extension elsewhere in the certificate
            identifier = None
        return CertificateName(body["issuer"].dump(), int(body["serial_number"].native), identifier)


# -- reading signed data ----------------------------------------------------------------------------------------------


def read_signed(data: bytes) -> SignedRecord:
    """A SignedData from BER or DER. Raises MalformedCms, UnsupportedCms for another content type."""
    ber.check(data)
    with _decoding():
        signed = _content(data, Kind.SIGNED)
        encapsulated = signed["encap_content_info"]
        content = encapsulated["content"]
        signers, certificates = signed["signer_infos"], signed["certificates"]
        if len(signed["digest_algorithms"]) > MAX_SIGNERS:
            raise MalformedCms("too many digest algorithms")
        if len(signers) > MAX_SIGNERS:
            raise MalformedCms("too many signers")
        if not isinstance(certificates, core.Void) and len(certificates) > MAX_CERTIFICATES:
            raise MalformedCms("too many certificates")
        return SignedRecord(
            content_type=str(encapsulated["content_type"].native),
            content=None if isinstance(content, core.Void) or content.contents is None else _octets(content),
            digests=frozenset(str(item["algorithm"].native) for item in signed["digest_algorithms"]),
            certificates=()
            if isinstance(certificates, core.Void)
            else tuple(_certificate(choice.chosen) for choice in certificates if choice.name == "certificate"),
            signers=tuple(_signer(signer) for signer in signers),
        )


def _certificate(certificate: asn1_x509.Certificate) -> bytes:
    encoded = bytes(certificate.dump())
    if len(encoded) > MAX_CERTIFICATE_SIZE:
        raise MalformedCms("a certificate is too long")
    return encoded


def _content(data: bytes, expected: Kind) -> core.Sequence:
    info = cms.ContentInfo.load(data)
    if info["content_type"].native != expected.value:
        raise UnsupportedCms(f"not {expected.value}")
    return info["content"]


def _octets(value: core.OctetString) -> bytes:
    """The octets of a string that may be in pieces, nested ones too."""
    return bytes(ber.join_octets(value.contents) if value.method == 1 else value)


def _name(choice: core.Choice) -> CertificateName | bytes:
    """SignerIdentifier or RecipientIdentifier."""
    if choice.name == "issuer_and_serial_number":
        return CertificateName(choice.chosen["issuer"].dump(), int(choice.chosen["serial_number"].native), None)
    return _octets(choice.chosen)


def _signer(signer: cms.SignerInfo) -> SignerRecord:
    signed = signer["signed_attrs"]
    values: dict[str, core.Asn1Value] = {}
    faults: list[str] = []
    attributes: bytes | None = None
    if not isinstance(signed, core.Void):
        dumped = signed.dump()
        # What is signed has the SET OF tag in place of [0] (RFC 5652 §5.4); an indefinite length is made definite.
        attributes = b"\x31" + (dumped if dumped[1] != 0x80 else signed.dump(force=True))[1:]
        values = _attributes(signed, faults)
    algorithm = signer["signature_algorithm"]
    algorithm_name = str(algorithm["algorithm"].native)
    return SignerRecord(
        sid=_name(signer["sid"]),
        digest=str(signer["digest_algorithm"]["algorithm"].native),
        signature_algorithm=algorithm_name,
        pss=_pss(algorithm["parameters"]) if algorithm_name == "rsassa_pss" else None,
        signature=_octets(signer["signature"]),
        attributes=attributes,
        content_type=str(values["content_type"].native) if "content_type" in values else None,
        message_digest=_octets(values["message_digest"]) if "message_digest" in values else None,
        signing_time=_time(values, faults),
        ess=_ess(values),
        protection=_protection(values),
        faults=tuple(faults),
    )


_READ = frozenset(
    {
        "content_type",
        "message_digest",
        "signing_time",
        "signing_certificate",
        "signing_certificate_v2",
        "cms_algorithm_protection",
    }
)


def _attributes(signed: cms.CMSAttributes, faults: list[str]) -> dict[str, core.Asn1Value]:
    """The attributes this module reads, each of which must come once with one value (RFC 5652 §11)."""
    if len(signed) > MAX_ATTRIBUTES:
        raise MalformedCms("too many attributes")
    values: dict[str, core.Asn1Value] = {}
    for attribute in signed:
        name = str(attribute["type"].native)
        if name not in _READ:
            continue
        if name in values or len(attribute["values"]) != 1:
            faults.append("repeated-attribute")
        else:
            values[name] = attribute["values"][0]
    return values


def _time(values: dict[str, core.Asn1Value], faults: list[str]) -> datetime | None:
    if "signing_time" not in values:
        return None
    try:
        moment = values["signing_time"].native
    except ValueError:
        moment = None
    if not isinstance(moment, datetime):
        faults.append("unreadable-signing-time")
        return None
    return moment.astimezone(UTC)


def _ess(values: dict[str, core.Asn1Value]) -> tuple[EssId, ...]:
    """The identifier of the signer's own certificate: the first of each attribute (RFC 5035 §5)."""
    found: list[EssId] = []
    if "signing_certificate_v2" in values:
        first = values["signing_certificate_v2"]["certs"][0]
        found.append(EssId(str(first["hash_algorithm"]["algorithm"].native), _octets(first["cert_hash"])))
    if "signing_certificate" in values:
        found.append(EssId("sha1", _octets(values["signing_certificate"]["certs"][0]["cert_hash"])))
    return tuple(found)


def _protection(values: dict[str, core.Asn1Value]) -> tuple[str, str] | None:
    """(digest, signature algorithm) of a CMSAlgorithmProtection attribute (RFC 6211)."""
    if "cms_algorithm_protection" not in values:
        return None
    value = values["cms_algorithm_protection"]
    signature = value["signature_algorithm"]
    if isinstance(signature, core.Void):
        raise MalformedCms("algorithm protection without a signature algorithm")
    return str(value["digest_algorithm"]["algorithm"].native), str(signature["algorithm"].native)


def _pss(parameters: core.Asn1Value) -> tuple[str, str, int]:
    """(hash, mask hash, salt length) of RSASSA-PSS parameters (RFC 4055 §3.1)."""
    if isinstance(parameters, core.Void):
        return "sha1", "sha1", 20
    mask = parameters["mask_gen_algorithm"]
    return (
        str(parameters["hash_algorithm"]["algorithm"].native),
        str(mask["parameters"]["algorithm"].native) if mask["algorithm"].native == "mgf1" else "unknown",
        int(parameters["salt_length"].native),
    )


# -- reading enveloped data -------------------------------------------------------------------------------------------


def read_enveloped(data: bytes) -> EnvelopedRecord:
    """An EnvelopedData from BER or DER, constructed octet strings joined. Raises MalformedCms, UnsupportedCms."""
    ber.check(data)
    with _decoding():
        enveloped = _content(data, Kind.ENVELOPED)
        infos = enveloped["recipient_infos"]
        if len(infos) > MAX_RECIPIENTS:
            raise MalformedCms("too many recipients")
        encrypted = enveloped["encrypted_content_info"]
        if encrypted["content_type"].native != "data":
            raise UnsupportedCms("the encrypted content is not data")
        algorithm = encrypted["content_encryption_algorithm"]
        name = str(algorithm["algorithm"].native)
        if name not in ("aes128_cbc", "aes192_cbc", "aes256_cbc"):
            raise UnsupportedCms("content encryption algorithm")
        content, iv = encrypted["encrypted_content"], _octets(algorithm["parameters"])
        if isinstance(content, core.Void) or len(iv) != 16:
            raise MalformedCms("no encrypted content or initialisation vector")
        recipients = [_recipient(info.chosen) for info in infos if info.name == "ktri"]
        return EnvelopedRecord(
            recipients=tuple(recipient for recipient in recipients if recipient is not None),
            key_length=int(name[3:6]) // 8,
            iv=iv,
            ciphertext=_octets(content),
        )


def _recipient(info: cms.KeyTransRecipientInfo) -> RecipientRecord | None:
    algorithm = info["key_encryption_algorithm"]
    name = algorithm["algorithm"].native
    oaep: tuple[str, str] | None = None
    if name == "rsaes_oaep":
        parameters = algorithm["parameters"]
        oaep = ("sha1", "sha1")
        if not isinstance(parameters, core.Void):
            mask, source = parameters["mask_gen_algorithm"], parameters["p_source_algorithm"]
            if mask["algorithm"].native != "mgf1" or _octets(source["parameters"]):
                return None
            digest = str(parameters["hash_algorithm"]["algorithm"].native)
            oaep = (digest, str(mask["parameters"]["algorithm"].native))
    elif name != "rsaes_pkcs1v15":
        return None
    return RecipientRecord(_name(info["rid"]), oaep, _octets(info["encrypted_key"]))


# -- writing ----------------------------------------------------------------------------------------------------------

_DATA = der.oid("1.2.840.113549.1.7.1")
_SIGNED_DATA = der.oid("1.2.840.113549.1.7.2")
_ENVELOPED_DATA = der.oid("1.2.840.113549.1.7.3")
_AES256_CBC = der.oid("2.16.840.1.101.3.4.1.42")
_AES128_CBC = der.oid("2.16.840.1.101.3.4.1.2")
_MGF1 = der.oid("1.2.840.113549.1.1.8")
_RSAES_OAEP = der.oid("1.2.840.113549.1.1.7")
_RSA = der.sequence(der.oid("1.2.840.113549.1.1.1"), der.NULL)
_DIGESTS = {
    "sha1": der.oid("1.3.14.3.2.26"),
    "sha256": der.oid("2.16.840.1.101.3.4.2.1"),
    "sha384": der.oid("2.16.840.1.101.3.4.2.2"),
    "sha512": der.oid("2.16.840.1.101.3.4.2.3"),
    "md5": der.oid("1.2.840.113549.2.5"),
}
# rsaEncryption rather than sha256WithRSAEncryption: both are right (RFC 5754 §3.2), the first is read everywhere.
_SIGNATURES = {
    "rsassa_pkcs1v15": _RSA,
    "sha256_ecdsa": der.sequence(der.oid("1.2.840.10045.4.3.2")),
    "sha384_ecdsa": der.sequence(der.oid("1.2.840.10045.4.3.3")),
}


def _attribute(dotted: str, value: bytes) -> bytes:
    return der.sequence(der.oid(dotted), der.set_of(value))


def _issuer_and_serial(certificate: bytes) -> bytes:
    name = certificate_name(certificate)
    return der.sequence(name.issuer, der.integer(name.serial))


def signed_attributes(content_digest: bytes, certificate: bytes, certificate_digest: bytes, at: datetime) -> bytes:
    """DER of the attributes to sign: content type, message digest, signing time, signingCertificateV2 (SHA-256 of the
    certificate, RFC 5035) and the ciphers we read, best first (RFC 8551 §2.5.2)."""
    name = certificate_name(certificate)
    issuer = der.sequence(der.element(0xA4, name.issuer))  # GeneralNames with one directoryName
    # ESSCertIDv2's hash algorithm defaults to SHA-256, and DER leaves defaults out.
    ess = der.sequence(der.octets(certificate_digest), der.sequence(issuer, der.integer(name.serial)))
    return der.set_of(
        _attribute("1.2.840.113549.1.9.3", _DATA),
        _attribute("1.2.840.113549.1.9.4", der.octets(content_digest)),
        _attribute("1.2.840.113549.1.9.5", der.time(at)),
        _attribute("1.2.840.113549.1.9.15", der.sequence(der.sequence(_AES256_CBC), der.sequence(_AES128_CBC))),
        _attribute("1.2.840.113549.1.9.16.2.47", der.sequence(der.sequence(ess))),
    )


def write_signed(
    *,
    certificates: Sequence[bytes],
    digest: str,
    attributes: bytes,
    signature_algorithm: str,
    signature: bytes,
    content: bytes | None = None,
) -> bytes:
    """DER of a ContentInfo with a SignedData (RFC 5652 §5) of one signer, who is `certificates[0]`; detached without
    `content`. `attributes` as `signed_attributes` gives them."""
    algorithm = der.sequence(_DIGESTS[digest])
    signer = der.sequence(
        der.integer(1),
        _issuer_and_serial(certificates[0]),
        algorithm,
        b"\xa0" + attributes[1:],
        _SIGNATURES[signature_algorithm],
        der.octets(signature),
    )
    encapsulated = [_DATA] if content is None else [_DATA, der.element(0xA0, der.octets(content))]
    signed = der.sequence(
        der.integer(1),
        der.set_of(algorithm),
        der.sequence(*encapsulated),
        der.element(0xA0, *sorted(certificates)),
        der.set_of(signer),
    )
    return der.sequence(_SIGNED_DATA, der.element(0xA0, signed))


def write_enveloped(recipients: Sequence[tuple[bytes, bytes, str | None]], *, iv: bytes, ciphertext: bytes) -> bytes:
    """DER of a ContentInfo with an EnvelopedData (RFC 5652 §6) under AES-256-CBC. Each recipient: certificate DER,
    encrypted key, and the OAEP hash name or None for PKCS#1 v1.5."""
    infos = (
        der.sequence(der.integer(0), _issuer_and_serial(certificate), _transport(oaep), der.octets(key))
        for certificate, key, oaep in recipients
    )
    encrypted = der.sequence(_DATA, der.sequence(_AES256_CBC, der.octets(iv)), der.element(0x80, ciphertext))
    enveloped = der.sequence(der.integer(0), der.set_of(*infos), encrypted)
    return der.sequence(_ENVELOPED_DATA, der.element(0xA0, enveloped))


def _transport(oaep: str | None) -> bytes:
    if oaep is None:
        return _RSA
    digest = der.sequence(_DIGESTS[oaep], der.NULL)
    parameters = der.sequence(der.element(0xA0, digest), der.element(0xA1, der.sequence(_MGF1, digest)))
    return der.sequence(_RSAES_OAEP, parameters)
