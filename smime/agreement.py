"""Key agreement with elliptic curves (RFC 5753, RFC 8418): from a shared secret to a wrapped content key and back.

Invariants: the sender's key is ephemeral, one for each recipient; a secret is never used but through a key derivation
bound to the wrap algorithm (ECC-CMS-SharedInfo); the KEK is as long as the content key.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from smime import der
from smime.algorithms import AGREEMENT_CURVES, HASHES, SHA256_KDF, KeyDerivation, wrap_identifier
from smime.errors import UnsuitableCertificate, UnwrapFailed
from smime.keys import agreement_curve


def wrap(key: bytes, public: object) -> tuple[bytes, KeyDerivation, bytes, bytes]:
    """(ephemeral public key, derivation, wrap AlgorithmIdentifier, wrapped key) of `key` for a recipient's public key.
    Raises UnsuitableCertificate."""
    derivation, identifier = AGREEMENT_CURVES.get(agreement_curve(public) or "", SHA256_KDF), wrap_identifier(len(key))
    if isinstance(public, x25519.X25519PublicKey):
        once = x25519.X25519PrivateKey.generate()
        secret, mine = once.exchange(public), once.public_key().public_bytes_raw()
    elif isinstance(public, ec.EllipticCurvePublicKey):
        ephemeral = ec.generate_private_key(public.curve)
        secret = ephemeral.exchange(ec.ECDH(), public)
        mine = ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    else:
        raise UnsuitableCertificate("this key does not agree on secrets")
    kek = derive(secret, derivation, identifier, len(key), None)
    return mine, derivation, identifier, aes_key_wrap(kek, key)


def derive(secret: bytes, derivation: KeyDerivation, identifier: bytes, size: int, ukm: bytes | None) -> bytes:
    """The key-encryption key of `size` octets. `identifier` is the wrap AlgorithmIdentifier exactly as in the message
    (RFC 5753 §7.2)."""
    user = b"" if ukm is None else der.element(0xA0, der.octets(ukm))
    bits = der.element(0xA2, der.octets((size * 8).to_bytes(4, "big")))
    info = der.sequence(identifier, user, bits)
    algorithm = HASHES[derivation.digest]()
    if derivation.hkdf:
        return HKDF(algorithm, size, None, info).derive(secret)
    return X963KDF(algorithm, size, info).derive(secret)


def unwrap(kek: bytes, wrapped: bytes, key_length: int) -> bytes:
    """The content key. Raises UnwrapFailed, also for a key of another length."""
    try:
        key = aes_key_unwrap(kek, wrapped)
    except (InvalidUnwrap, ValueError):
        raise UnwrapFailed from None
    if len(key) != key_length:
        raise UnwrapFailed
    return key
