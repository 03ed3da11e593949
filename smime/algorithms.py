"""The algorithms of CMS as data: object identifiers, names, sizes, and what each is good for.

Invariant: an algorithm is known here or not at all; whether it is strong enough is said here once. Sources: RFC 5754
(SHA-2 with RSA and ECDSA), RFC 4056 (PSS), RFC 8419 (EdDSA), RFC 3565 (AES-CBC), RFC 5084 (AES-GCM), RFC 3560 (OAEP),
RFC 5753 (ECDH), RFC 8418 (X25519), RFC 8551 §2 (what S/MIME asks for).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from smime import der

MIN_RSA_BITS = 2048
MAX_RSA_BITS = 16384


class Mechanism(StrEnum):
    """How a digest is signed. ECDSA signatures are DER `Ecdsa-Sig-Value`s (RFC 3279 §2.2.3), not raw r||s. ED25519 signs
    the octets themselves, not a digest of them (RFC 8419 §3.1). `digest`: the digest algorithm of the SignerInfo (SHA-512
    with Ed25519). `family`: `rsa` (PKCS#1 v1.5), `pss`, `ecdsa` or `ed25519`."""

    digest: str
    family: str

    def __new__(cls, value: str, family: str = "", digest: str = "") -> Mechanism:
        member = str.__new__(cls, value)
        member._value_ = value
        member.family, member.digest = family, digest
        return member

    RSA_PKCS1_SHA256 = "rsa-pkcs1-sha256", "rsa", "sha256"
    RSA_PKCS1_SHA384 = "rsa-pkcs1-sha384", "rsa", "sha384"
    RSA_PKCS1_SHA512 = "rsa-pkcs1-sha512", "rsa", "sha512"
    RSA_PSS_SHA256 = "rsa-pss-sha256", "pss", "sha256"
    RSA_PSS_SHA384 = "rsa-pss-sha384", "pss", "sha384"
    RSA_PSS_SHA512 = "rsa-pss-sha512", "pss", "sha512"
    ECDSA_SHA256 = "ecdsa-sha256", "ecdsa", "sha256"
    ECDSA_SHA384 = "ecdsa-sha384", "ecdsa", "sha384"
    ECDSA_SHA512 = "ecdsa-sha512", "ecdsa", "sha512"
    ED25519 = "ed25519", "ed25519", "sha512"


class ContentCipher(StrEnum):
    """How the content is encrypted. The first four are written; AES-192 and triple DES are only read. `key_length`: octets
    of the content key. `authenticated`: true for GCM, whose envelope is an AuthEnvelopedData (RFC 5083). `block`: octets
    of a block of the cipher."""

    key_length: int
    authenticated: bool
    block: int

    def __new__(cls, value: str, key_length: int = 0, block: int = 0) -> ContentCipher:
        member = str.__new__(cls, value)
        member._value_ = value
        member.key_length, member.block, member.authenticated = key_length, block, value.endswith("-gcm")
        return member

    AES256_GCM = "aes256-gcm", 32, 16
    AES128_GCM = "aes128-gcm", 16, 16
    AES256_CBC = "aes256-cbc", 32, 16
    AES128_CBC = "aes128-cbc", 16, 16
    AES192_GCM = "aes192-gcm", 24, 16
    AES192_CBC = "aes192-cbc", 24, 16
    TRIPLE_DES = "3des-cbc", 24, 8


WRITTEN_CIPHERS = (
    ContentCipher.AES256_GCM,
    ContentCipher.AES128_GCM,
    ContentCipher.AES256_CBC,
    ContentCipher.AES128_CBC,
)

HASHES: dict[str, Callable[[], hashes.HashAlgorithm]] = {
    "md5": hashes.MD5,
    "sha1": hashes.SHA1,
    "sha224": hashes.SHA224,
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}
STRONG_DIGESTS = frozenset({"sha256", "sha384", "sha512"})
STRONG_CURVES = frozenset(
    {"secp256r1", "secp384r1", "secp521r1", "brainpoolP256r1", "brainpoolP384r1", "brainpoolP512r1"}
)
MICALG = {"md5": "md5", "sha1": "sha-1", "sha224": "sha-224", "sha256": "sha-256", "sha384": "sha-384"} | {
    "sha512": "sha-512"
}
"""RFC 8551 §3.5.3.2: the values of the micalg parameter."""

DIGEST_OIDS = {
    "1.2.840.113549.2.5": "md5",
    "1.3.14.3.2.26": "sha1",
    "2.16.840.1.101.3.4.2.4": "sha224",
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
}

SIGNATURE_OIDS: dict[str, tuple[str, str | None]] = {
    # object identifier: (family, the digest it names)
    "1.2.840.113549.1.1.1": ("rsa", None),
    "1.2.840.113549.1.1.4": ("rsa", "md5"),
    "1.2.840.113549.1.1.5": ("rsa", "sha1"),
    "1.2.840.113549.1.1.14": ("rsa", "sha224"),
    "1.2.840.113549.1.1.11": ("rsa", "sha256"),
    "1.2.840.113549.1.1.12": ("rsa", "sha384"),
    "1.2.840.113549.1.1.13": ("rsa", "sha512"),
    "1.2.840.113549.1.1.10": ("pss", None),
    "1.2.840.10045.4.1": ("ecdsa", "sha1"),
    "1.2.840.10045.4.3.1": ("ecdsa", "sha224"),
    "1.2.840.10045.4.3.2": ("ecdsa", "sha256"),
    "1.2.840.10045.4.3.3": ("ecdsa", "sha384"),
    "1.2.840.10045.4.3.4": ("ecdsa", "sha512"),
    "1.2.840.10045.2.1": ("ecdsa", None),
    "1.3.101.112": ("ed25519", "sha512"),
    "1.2.840.10040.4.1": ("dsa", None),
    "1.2.840.10040.4.3": ("dsa", "sha1"),
}

CIPHER_OIDS = {
    "2.16.840.1.101.3.4.1.2": ContentCipher.AES128_CBC,
    "2.16.840.1.101.3.4.1.22": ContentCipher.AES192_CBC,
    "2.16.840.1.101.3.4.1.42": ContentCipher.AES256_CBC,
    "2.16.840.1.101.3.4.1.6": ContentCipher.AES128_GCM,
    "2.16.840.1.101.3.4.1.26": ContentCipher.AES192_GCM,
    "2.16.840.1.101.3.4.1.46": ContentCipher.AES256_GCM,
    "1.2.840.113549.3.7": ContentCipher.TRIPLE_DES,
}

WRAP_OIDS = {
    "2.16.840.1.101.3.4.1.5": 16,
    "2.16.840.1.101.3.4.1.25": 24,
    "2.16.840.1.101.3.4.1.45": 32,
}
"""AES key wrap (RFC 3394): octets of the key-encryption key."""


@dataclass(frozen=True, slots=True)
class KeyDerivation:
    """How a key-encryption key comes from a shared secret: ANSI X9.63 (RFC 5753 §7.2) or HKDF (RFC 8418 §2.2)."""

    oid: str
    digest: str
    hkdf: bool = False


SHA1_KDF = KeyDerivation("1.3.133.16.840.63.0.2", "sha1")
SHA256_KDF = KeyDerivation("1.3.132.1.11.1", "sha256")
SHA384_KDF = KeyDerivation("1.3.132.1.11.2", "sha384")
SHA512_KDF = KeyDerivation("1.3.132.1.11.3", "sha512")
DERIVATIONS = {
    item.oid: item
    for item in (
        SHA1_KDF,
        KeyDerivation("1.3.132.1.11.0", "sha224"),
        SHA256_KDF,
        SHA384_KDF,
        SHA512_KDF,
        KeyDerivation("1.2.840.113549.1.9.16.3.19", "sha256", hkdf=True),
        KeyDerivation("1.2.840.113549.1.9.16.3.20", "sha384", hkdf=True),
        KeyDerivation("1.2.840.113549.1.9.16.3.21", "sha512", hkdf=True),
    )
}

AGREEMENT_CURVES: dict[str, KeyDerivation] = {
    "secp256r1": SHA256_KDF,
    "secp384r1": SHA384_KDF,
    "secp521r1": SHA512_KDF,
    "x25519": SHA256_KDF,
}
"""Recipients' curves, and the derivation written for each (RFC 5753 §7.1.4, RFC 8418 §2.3)."""

CURVES: dict[str, type[ec.EllipticCurve]] = {
    "secp256r1": ec.SECP256R1,
    "secp384r1": ec.SECP384R1,
    "secp521r1": ec.SECP521R1,
}
EC_PUBLIC_KEY = "1.2.840.10045.2.1"
X25519 = "1.3.101.110"
RSA = "1.2.840.113549.1.1.1"
RSAES_OAEP = "1.2.840.113549.1.1.7"
RSASSA_PSS = "1.2.840.113549.1.1.10"
MGF1 = "1.2.840.113549.1.1.8"

_DIGEST_DER = {name: der.oid(oid) for oid, name in DIGEST_OIDS.items()}
_CIPHER_OID = {cipher: oid for oid, cipher in CIPHER_OIDS.items()}
_SIGNATURE_OID = {pair: oid for oid, pair in SIGNATURE_OIDS.items()}


def digest_identifier(name: str) -> bytes:
    """The AlgorithmIdentifier of a digest, parameters absent (RFC 5754 §2)."""
    return der.sequence(_DIGEST_DER[name])


def cipher_oid(cipher: ContentCipher) -> bytes:
    """The OBJECT IDENTIFIER of a content cipher, DER."""
    return der.oid(_CIPHER_OID[cipher])


def wrap_identifier(size: int) -> bytes:
    """The AlgorithmIdentifier of AES key wrap with a key of `size` octets, parameters absent (RFC 3565 §2.3.2)."""
    return der.sequence(der.oid(next(oid for oid, octets in WRAP_OIDS.items() if octets == size)))


def _with_null(name: str) -> bytes:
    return der.sequence(_DIGEST_DER[name], der.NULL)


def oaep_identifier(digest: str) -> bytes:
    """RSAES-OAEP with `digest` for the hash and for MGF1 (RFC 4055 §4.1)."""
    inner = _with_null(digest)
    parameters = der.sequence(der.element(0xA0, inner), der.element(0xA1, der.sequence(der.oid(MGF1), inner)))
    return der.sequence(der.oid(RSAES_OAEP), parameters)


def _pss_identifier(digest: str) -> bytes:
    """RSASSA-PSS, the digest for the hash and MGF1, a salt as long as the digest (RFC 4056 §2.2, RFC 4055 §3.1)."""
    inner = _with_null(digest)
    parameters = der.sequence(
        der.element(0xA0, inner),
        der.element(0xA1, der.sequence(der.oid(MGF1), inner)),
        der.element(0xA2, der.integer(HASHES[digest]().digest_size)),
    )
    return der.sequence(der.oid(RSASSA_PSS), parameters)


def _signature_identifier(mechanism: Mechanism) -> bytes:
    if mechanism.family == "rsa":
        # rsaEncryption rather than sha256WithRSAEncryption: both are right (RFC 5754 §3.2), the first is read everywhere.
        return der.sequence(der.oid(RSA), der.NULL)
    if mechanism.family == "pss":
        return _pss_identifier(mechanism.digest)
    return der.sequence(der.oid(_SIGNATURE_OID[(mechanism.family, mechanism.digest)]))


SIGNATURE_IDENTIFIERS = {mechanism: _signature_identifier(mechanism) for mechanism in Mechanism}
"""The signatureAlgorithm written for each mechanism, DER."""
