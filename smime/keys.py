"""Who signs and who opens: the two protocols that a software key, an HSM and a card implement, and the software forms.

Invariants: a private key never leaves its object; `unwrap` of PKCS#1 v1.5 never reveals whether the padding was right
(implicit rejection, RFC 8017 §7.2.2 note and RFC 3218 §2.3.2).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from smime.errors import UnsuitableCertificate

MIN_RSA_BITS = 2048
MAX_RSA_BITS = 16384


class Mechanism(StrEnum):
    """How a digest is signed. ECDSA signatures are DER `Ecdsa-Sig-Value`s (RFC 3279 §2.2.3), not raw r||s."""

    RSA_PKCS1_SHA256 = "rsa-pkcs1-sha256"
    ECDSA_SHA256 = "ecdsa-sha256"
    ECDSA_SHA384 = "ecdsa-sha384"


class Signer(Protocol):
    """A certificate chain, leaf first, and the power to sign a digest with the leaf's key."""

    @property
    def chain(self) -> tuple[x509.Certificate, ...]: ...

    def sign(self, digest: bytes, mechanism: Mechanism) -> bytes:
        """The signature over `digest` (32 octets for SHA-256, 48 for SHA-384)."""
        ...


@dataclass(frozen=True, slots=True)
class KeyTransport:
    """How a content key was wrapped: `oaep` is (hash, mask hash) as in `sha256`, None for PKCS#1 v1.5."""

    oaep: tuple[str, str] | None = None


class Decryptor(Protocol):
    """A certificate and the power to unwrap keys encrypted to it."""

    @property
    def certificate(self) -> x509.Certificate: ...

    def unwrap(self, encrypted_key: bytes, transport: KeyTransport, key_length: int) -> bytes:
        """The content key, `key_length` octets. When it cannot be had, a random key of that length, never an error that
        depends on the padding."""
        ...


def mechanism_for(certificate: x509.Certificate) -> Mechanism:
    """The mechanism that fits a certificate's key. Raises UnsuitableCertificate (RSA under 2048 bits, other curves)."""
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey) and MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        return Mechanism.RSA_PKCS1_SHA256
    if isinstance(key, ec.EllipticCurvePublicKey):
        if isinstance(key.curve, ec.SECP256R1):
            return Mechanism.ECDSA_SHA256
        if isinstance(key.curve, ec.SECP384R1):
            return Mechanism.ECDSA_SHA384
    raise UnsuitableCertificate("signing needs RSA of 2048 bits or more, P-256 or P-384")


class SoftwareSigner:
    """A Signer whose key is in memory. Raises UnsuitableCertificate when key and leaf do not belong together."""

    def __init__(self, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, chain: Sequence[x509.Certificate]) -> None:
        if not chain or _spki(key.public_key()) != _spki(chain[0].public_key()):
            raise UnsuitableCertificate("the key is not the certificate's")
        self._key = key
        self._chain = tuple(chain)

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        return self._chain

    def sign(self, digest: bytes, mechanism: Mechanism) -> bytes:
        """See `Signer.sign`. Raises UnsuitableCertificate for a mechanism of another kind of key."""
        algorithm = Prehashed(hashes.SHA384() if mechanism is Mechanism.ECDSA_SHA384 else hashes.SHA256())
        if isinstance(self._key, rsa.RSAPrivateKey) and mechanism is Mechanism.RSA_PKCS1_SHA256:
            return self._key.sign(digest, padding.PKCS1v15(), algorithm)
        if isinstance(self._key, ec.EllipticCurvePrivateKey) and mechanism is not Mechanism.RSA_PKCS1_SHA256:
            return self._key.sign(digest, ec.ECDSA(algorithm))
        raise UnsuitableCertificate("this key does not sign that way")


_HASHES: dict[str, type[hashes.SHA1 | hashes.SHA256 | hashes.SHA384 | hashes.SHA512]] = {
    "sha1": hashes.SHA1,
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}


class SoftwareDecryptor:
    """A Decryptor whose RSA key is in memory. Raises UnsuitableCertificate when key and certificate do not match."""

    def __init__(self, key: rsa.RSAPrivateKey, certificate: x509.Certificate) -> None:
        if not isinstance(key, rsa.RSAPrivateKey) or _spki(key.public_key()) != _spki(certificate.public_key()):
            raise UnsuitableCertificate("an RSA key that is the certificate's is needed")
        self._key = key
        self._certificate = certificate

    @property
    def certificate(self) -> x509.Certificate:
        return self._certificate

    def unwrap(self, encrypted_key: bytes, transport: KeyTransport, key_length: int) -> bytes:
        """See `Decryptor.unwrap`."""
        substitute = secrets.token_bytes(key_length)
        try:
            key = self._key.decrypt(encrypted_key, _padding(transport))
        except ValueError:
            return substitute
        return key if len(key) == key_length else substitute


def _padding(transport: KeyTransport) -> padding.AsymmetricPadding:
    if transport.oaep is None:
        return padding.PKCS1v15()
    digest, mask = transport.oaep
    if digest not in _HASHES or mask not in _HASHES:
        raise ValueError("unknown hash")
    return padding.OAEP(padding.MGF1(_HASHES[mask]()), _HASHES[digest](), None)


def _spki(key: object) -> bytes:
    public = getattr(key, "public_bytes", None)
    if public is None:
        raise UnsuitableCertificate("unknown kind of key")
    return bytes(public(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
