"""Who signs and who opens: the two protocols that a software key, an HSM and a card implement, and the software forms.

Invariants: a private key never leaves its object; `unwrap` of PKCS#1 v1.5 never reveals whether the padding was right
(implicit rejection, RFC 8017 §7.2.2 note and RFC 3218 §2.3.2).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from smime.algorithms import AGREEMENT_CURVES, HASHES, MAX_RSA_BITS, MIN_RSA_BITS, Mechanism
from smime.errors import UnsuitableCertificate, UnwrapFailed

SigningKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
OpeningKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey


class Signer(Protocol):
    """A certificate chain, leaf first, and the power to sign a digest with the leaf's key."""

    @property
    def chain(self) -> tuple[x509.Certificate, ...]: ...

    def sign(self, digest: bytes, mechanism: Mechanism) -> bytes:
        """The signature over `digest` (of `mechanism.digest`; for ED25519 the octets themselves). Raises
        UnsuitableCertificate, KeyUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class KeyTransport:
    """How a content key was wrapped: `oaep` is (hash, mask hash) as in `sha256`, None for PKCS#1 v1.5."""

    oaep: tuple[str, str] | None = None


class Decryptor(Protocol):
    """A certificate and the power to unwrap keys encrypted to it (RSA) or to agree on a secret with a sender (elliptic
    curves)."""

    @property
    def certificate(self) -> x509.Certificate: ...

    def unwrap(self, encrypted_key: bytes, transport: KeyTransport, key_length: int) -> bytes:
        """The content key, `key_length` octets. With PKCS#1 v1.5, when it cannot be had, a random key of that length,
        never an error that depends on the padding. With OAEP, UnwrapFailed. Raises KeyUnavailable."""
        ...

    def agree(self, public: bytes) -> bytes:
        """The raw shared secret with the sender's ephemeral public key: an uncompressed point (SEC 1 §2.3.3) or the 32
        octets of X25519. Raises UnwrapFailed for a point that is not on the curve, KeyUnavailable."""
        ...


def mechanism_for(certificate: x509.Certificate) -> Mechanism:
    """The default mechanism of a certificate's key, the one every reader knows. Raises UnsuitableCertificate (RSA under
    2048 bits, other curves)."""
    return mechanisms_of(certificate)[0]


_BY_CURVE = {
    "secp256r1": Mechanism.ECDSA_SHA256,
    "secp384r1": Mechanism.ECDSA_SHA384,
    "secp521r1": Mechanism.ECDSA_SHA512,
}
_FOR_RSA = tuple(mechanism for mechanism in Mechanism if mechanism.family in ("rsa", "pss"))


def mechanisms_of(certificate: x509.Certificate) -> tuple[Mechanism, ...]:
    """Every mechanism that fits a certificate's key, the usual one first. Raises UnsuitableCertificate."""
    key = public_key(certificate)
    if isinstance(key, rsa.RSAPublicKey) and MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        return _FOR_RSA
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _BY_CURVE:
        return (_BY_CURVE[key.curve.name],)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return (Mechanism.ED25519,)
    raise UnsuitableCertificate("signing needs RSA of 2048 bits or more, P-256, P-384, P-521 or Ed25519")


def fitting(certificate: x509.Certificate, mechanism: Mechanism | None) -> Mechanism:
    """The mechanism asked for, or the usual one. Raises UnsuitableCertificate when the key does not sign so."""
    fit = mechanisms_of(certificate)
    if mechanism is not None and mechanism not in fit:
        raise UnsuitableCertificate("this key does not sign that way")
    return mechanism or fit[0]


def public_key(certificate: x509.Certificate) -> object:
    """The public key, None for a kind that is unknown or unreadable."""
    try:
        return certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None


class SoftwareSigner:
    """A Signer whose key is in memory. Raises UnsuitableCertificate when key and leaf do not belong together."""

    def __init__(self, key: SigningKey, chain: Sequence[x509.Certificate]) -> None:
        if not chain or _spki(key.public_key()) != _spki(public_key(chain[0])):
            raise UnsuitableCertificate("the key is not the certificate's")
        self._key = key
        self._chain = tuple(chain)

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        return self._chain

    def sign(self, digest: bytes, mechanism: Mechanism) -> bytes:
        """See `Signer.sign`. Raises UnsuitableCertificate for a mechanism of another kind of key."""
        key, family = self._key, mechanism.family
        if isinstance(key, rsa.RSAPrivateKey) and family in ("rsa", "pss"):
            return key.sign(digest, *_RSA_SCHEMES[mechanism])
        if isinstance(key, ec.EllipticCurvePrivateKey) and family == "ecdsa":
            return key.sign(digest, ec.ECDSA(Prehashed(HASHES[mechanism.digest]())))
        if isinstance(key, ed25519.Ed25519PrivateKey) and family == "ed25519":
            return key.sign(digest)
        raise UnsuitableCertificate("this key does not sign that way")


def signature_padding(mechanism: Mechanism, algorithm: hashes.HashAlgorithm) -> padding.AsymmetricPadding:
    """The padding of an RSA mechanism; PSS with a salt as long as the digest (RFC 4056 §2.2)."""
    if mechanism.family == "pss":
        return padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)
    return padding.PKCS1v15()


_RSA_SCHEMES = {
    mechanism: (
        signature_padding(mechanism, HASHES[mechanism.digest]()),
        Prehashed(HASHES[mechanism.digest]()),
    )
    for mechanism in _FOR_RSA
}


class SoftwareDecryptor:
    """A Decryptor whose key (RSA, P-256, P-384, P-521 or X25519) is in memory. Raises UnsuitableCertificate when key and
    certificate do not match."""

    def __init__(self, key: OpeningKey, certificate: x509.Certificate) -> None:
        is_known = isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey)
        if not is_known or _spki(key.public_key()) != _spki(public_key(certificate)):
            raise UnsuitableCertificate("an RSA, elliptic curve or X25519 key that is the certificate's is needed")
        self._key = key
        self._certificate = certificate

    @property
    def certificate(self) -> x509.Certificate:
        return self._certificate

    def unwrap(self, encrypted_key: bytes, transport: KeyTransport, key_length: int) -> bytes:
        """See `Decryptor.unwrap`."""
        if not isinstance(self._key, rsa.RSAPrivateKey):
            raise UnwrapFailed
        substitute = secrets.token_bytes(key_length)
        try:
            key = self._key.decrypt(encrypted_key, transport_padding(transport))
        except (ValueError, UnsupportedAlgorithm):
            if transport.oaep is not None:
                raise UnwrapFailed from None
            return substitute
        return key if len(key) == key_length else substitute

    def agree(self, public: bytes) -> bytes:
        """See `Decryptor.agree`."""
        try:
            if isinstance(self._key, x25519.X25519PrivateKey):
                return self._key.exchange(x25519.X25519PublicKey.from_public_bytes(public))
            if isinstance(self._key, ec.EllipticCurvePrivateKey):
                point = ec.EllipticCurvePublicKey.from_encoded_point(self._key.curve, public)
                return self._key.exchange(ec.ECDH(), point)
        except (ValueError, UnsupportedAlgorithm):
            pass
        raise UnwrapFailed


_PKCS1 = padding.PKCS1v15()


def transport_padding(transport: KeyTransport) -> padding.AsymmetricPadding:
    """The RSA padding of a transport. Raises ValueError for an unknown hash."""
    if transport.oaep is None:
        return _PKCS1
    digest, mask = transport.oaep
    if digest not in HASHES or mask not in HASHES:
        raise ValueError("unknown hash")
    return padding.OAEP(padding.MGF1(HASHES[mask]()), HASHES[digest](), None)


def agreement_curve(key: object) -> str | None:
    """The curve name of a key that can agree on a secret, as in AGREEMENT_CURVES; None for other keys."""
    if isinstance(key, x25519.X25519PublicKey | x25519.X25519PrivateKey):
        return "x25519"
    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey) and key.curve.name in AGREEMENT_CURVES:
        return key.curve.name
    return None


def _spki(key: object) -> bytes:
    public = getattr(key, "public_bytes", None)
    if public is None:
        raise UnsuitableCertificate("unknown kind of key")
    return bytes(public(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
