"""Server-side keys in use: those the operator holds for mailboxes that asked it to sign or to open for them.

Invariants: which keys are in force is read from the store at each message, so that a new or retired key counts at once;
private parts are unsealed when first needed and kept in memory for the keys used most; each signature and opening is
noted with the key's id, for the audit trail. Keys are administered by `proxy.keychain`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import load_der_private_key

from mailstore import Account, KeyRecord, Store
from smime import (
    Decryptor,
    KeyTransport,
    Signer,
    SoftwareDecryptor,
    SoftwareSigner,
    UnsuitableCertificate,
    speaks_for,
)

SIGNING_USAGES = frozenset({"sign", "smime"})
DECRYPTION_USAGES = frozenset({"encrypt", "smime"})
PKCS11 = "pkcs11"
"""The `place` of a key whose private part is a reference into a PKCS#11 token (`proxy.tokens`)."""
_KEPT = 1024
_T = TypeVar("_T")


class Tokens(Protocol):
    """Keys that live in PKCS#11 tokens, by the reference kept in the store."""

    def signer(self, reference: bytes, chain: tuple[x509.Certificate, ...]) -> Signer:
        """Raises smime.SmimeError when the token or the key is not there."""
        ...

    def decryptor(self, reference: bytes, certificate: x509.Certificate) -> Decryptor:
        """Likewise."""
        ...


@dataclass(frozen=True, slots=True)
class HeldSigner:
    """A signer and the id of its key in the store; `opens`: whether the operator also opens the mailbox's messages."""

    key_id: int
    signer: Signer
    opens: bool


class HeldDecryptor:
    """A decryptor that notes its use: `used` tells the audit trail which key opened a message."""

    def __init__(self, key_id: int, inner: Decryptor) -> None:
        self.key_id = key_id
        self.used = False
        self._inner = inner

    @property
    def certificate(self) -> x509.Certificate:
        return self._inner.certificate

    def unwrap(self, encrypted_key: bytes, transport: KeyTransport, key_length: int) -> bytes:
        """See `smime.Decryptor.unwrap`."""
        self.used = True
        return self._inner.unwrap(encrypted_key, transport, key_length)

    def agree(self, public: bytes) -> bytes:
        """See `smime.Decryptor.agree`."""
        self.used = True
        return self._inner.agree(public)


class KeyRing:
    """The keys of every mailbox and domain. Thread safe."""

    def __init__(self, store: Store, tokens: Tokens | None = None) -> None:
        self._store = store
        self._tokens = tokens
        self._signers: _Kept[Signer] = _Kept()
        self._decryptors: _Kept[Decryptor] = _Kept()

    def signer(self, account: Account) -> HeldSigner | None:
        """The newest key in force that signs for a mailbox: its own, else its domain's when that speaks for it."""
        own = self._records(account.address)
        opens = any(_in_use(record, DECRYPTION_USAGES) for record in own)
        for record in own:
            if _in_use(record, SIGNING_USAGES):
                return self._held(record, opens)
        for record in self._records(account.address.rpartition("@")[2]):
            if _in_use(record, SIGNING_USAGES) and speaks_for(
                _chain(record)[0], account.address, owner_id=account.national_id
            ):
                return self._held(record, opens)
        return None

    def decryptors(self, address: str) -> tuple[HeldDecryptor, ...]:
        """Every key that may open messages to a mailbox, retired ones included: old mail stays readable."""
        return tuple(
            HeldDecryptor(record.id, self._decryptors.get(record, self._load_decryptor))
            for record in self._records(address)
            if record.usage in DECRYPTION_USAGES
        )

    def opens_for(self, address: str) -> bool:
        """Whether the operator holds a key in force that opens this mailbox's messages: its owner left that to it."""
        return any(_in_use(record, DECRYPTION_USAGES) for record in self._records(address))

    def _records(self, holder: str) -> list[KeyRecord]:
        return [one for one in self._store.key_records(holder) if one.chain_pem and one.destroyed_at is None]

    def _held(self, record: KeyRecord, opens: bool) -> HeldSigner:
        return HeldSigner(record.id, self._signers.get(record, self._load_signer), opens)

    def _load_signer(self, record: KeyRecord) -> Signer:
        private, chain = self._store.private_key(record.id), _chain(record)
        if record.place == PKCS11:
            return self._in_token().signer(private, chain)
        key = load_der_private_key(private, password=None)
        if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
            raise UnsuitableCertificate("only RSA, elliptic curve and Ed25519 keys sign here")
        return SoftwareSigner(key, chain)

    def _load_decryptor(self, record: KeyRecord) -> Decryptor:
        private, chain = self._store.private_key(record.id), _chain(record)
        if record.place == PKCS11:
            return self._in_token().decryptor(private, chain[0])
        key = load_der_private_key(private, password=None)
        if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey):
            raise UnsuitableCertificate("only RSA, elliptic curve and X25519 keys decrypt here")
        return SoftwareDecryptor(key, chain[0])

    def _in_token(self) -> Tokens:
        if self._tokens is None:
            raise UnsuitableCertificate("this key is in a token, and none is configured")
        return self._tokens


class _Kept(Generic[_T]):
    """What was loaded, for the keys used last; loaded again when its chain changed. Thread safe."""

    def __init__(self) -> None:
        self._loaded: OrderedDict[int, tuple[bytes, _T]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, record: KeyRecord, load: Callable[[KeyRecord], _T]) -> _T:
        with self._lock:
            found = self._loaded.get(record.id)
            if found is not None and found[0] == record.chain_pem:
                self._loaded.move_to_end(record.id)
                return found[1]
        loaded = load(record)
        with self._lock:
            self._loaded[record.id] = (record.chain_pem, loaded)
            while len(self._loaded) > _KEPT:
                self._loaded.popitem(last=False)
        return loaded


def _in_use(record: KeyRecord, usages: Set[str]) -> bool:
    return record.usage in usages and record.retired_at is None


def _chain(record: KeyRecord) -> tuple[x509.Certificate, ...]:
    return tuple(x509.load_pem_x509_certificates(record.chain_pem))
