"""Server-side keys: those the operator holds for mailboxes that asked it to sign or to open for them.

Private keys are sealed at rest by the store; here they live in memory only, decoded once per key.
"""

from __future__ import annotations

from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_private_key

from mailstore import Store, StoredKey
from smime import Decryptor, Signer, SoftwareDecryptor, SoftwareSigner, UnsuitableCertificate

SIGNING_USAGES = frozenset({"sign", "smime"})
DECRYPTION_USAGES = frozenset({"encrypt", "smime"})


class KeyRing:
    """The keys of every mailbox, read from the store when asked for: a new or retired key counts at once."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def signer(self, address: str) -> Signer | None:
        """The newest key in force that signs for a mailbox, or None."""
        keys = [key for key in self._store.keys(address) if key.usage in SIGNING_USAGES and key.retired_at is None]
        return _signer(max(keys, key=lambda key: key.created_at)) if keys else None

    def decryptors(self, address: str) -> tuple[Decryptor, ...]:
        """Every key that may open messages to a mailbox, retired ones included: old mail stays readable."""
        return tuple(_decryptor(key) for key in self._store.keys(address) if key.usage in DECRYPTION_USAGES)

    def opens_for(self, address: str) -> bool:
        """Whether the operator holds a key in force that opens this mailbox's messages: its owner left that to it."""
        return any(key.usage in DECRYPTION_USAGES and key.retired_at is None for key in self._store.keys(address))


@lru_cache(maxsize=1024)
def _signer(key: StoredKey) -> Signer:
    private = load_der_private_key(key.private_key, password=None)
    if not isinstance(private, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise UnsuitableCertificate("only RSA and elliptic curve keys sign here")
    return SoftwareSigner(private, tuple(x509.load_pem_x509_certificates(key.chain_pem)))


@lru_cache(maxsize=1024)
def _decryptor(key: StoredKey) -> Decryptor:
    private = load_der_private_key(key.private_key, password=None)
    if not isinstance(private, rsa.RSAPrivateKey):
        raise UnsuitableCertificate("only RSA keys decrypt here")
    return SoftwareDecryptor(private, x509.load_pem_x509_certificates(key.chain_pem)[0])
