"""Signer and Decryptor on a PKCS#11 token (HSM, SoftHSM2), through python-pkcs11.

Invariants: the private key never leaves the token; one lock for each library, round every call into it, since a library
may not be thread safe and shares its state between tokens; one session and one login for each token and process; a
refused PIN is never tried again (it would lock the token); a token that does not answer is KeyUnavailable, never a wrong
signature and never a decryption failure.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pkcs11
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import KDF, MGF, Attribute, KeyType, ObjectClass, UserType
from pkcs11 import Mechanism as TokenMechanism
from pkcs11 import exceptions as errors

from smime import der
from smime.algorithms import DIGEST_OIDS, HASHES, Mechanism
from smime.errors import KeyUnavailable, UnsuitableCertificate, UnwrapFailed
from smime.keys import KeyTransport, public_key

_T = TypeVar("_T")
_GONE = (
    errors.SessionHandleInvalid,
    errors.SessionClosed,
    errors.DeviceRemoved,
    errors.TokenNotPresent,
    errors.UserNotLoggedIn,
    errors.KeyHandleInvalid,
    errors.ObjectHandleInvalid,
)
"""What a token that went away and came back says: worth one new session."""
_ABSENT = (
    *_GONE,
    errors.DeviceError,
    errors.DeviceMemory,
    errors.HostMemory,
    errors.NoSuchToken,
    errors.NoSuchKey,
    errors.MultipleObjectsReturned,
    errors.MultipleTokensReturned,
    errors.PinIncorrect,
    errors.PinLocked,
    errors.PinExpired,
    errors.SessionCount,
    errors.SlotIDInvalid,
    errors.TokenNotRecognised,
)
_HASH_MECHANISMS = {
    "sha1": (TokenMechanism.SHA_1, MGF.SHA1),
    "sha256": (TokenMechanism.SHA256, MGF.SHA256),
    "sha384": (TokenMechanism.SHA384, MGF.SHA384),
    "sha512": (TokenMechanism.SHA512, MGF.SHA512),
}
_INFO_HEADS = {
    # All of a DigestInfo but the digest.
    name: der.sequence(der.sequence(der.oid(oid), der.NULL), der.octets(bytes(HASHES[name]().digest_size)))[
        : -HASHES[name]().digest_size
    ]
    for oid, name in DIGEST_OIDS.items()
}
_locks: dict[str, threading.RLock] = {}
_tokens: dict[tuple[str, str], Token] = {}
_registry = threading.Lock()


class Token:
    """One logged-in token of one library. Thread safe. Use `Token.open`, which gives the same object for the same token:
    a process can log in to a token only once."""

    def __init__(self, library: str, label: str, pin: str) -> None:
        self._library, self._label, self._pin = library, label, pin
        self._lock = _locks.setdefault(library, threading.RLock())
        self._session: pkcs11.Session | None = None
        self._generation = 0
        self._refused = False

    @classmethod
    def open(cls, library: str | Path, *, label: str, pin: str) -> Token:
        """The token with this label. Raises KeyUnavailable: no such library or token, PIN refused."""
        key = (str(library), label)
        with _registry:
            token = _tokens.get(key)
            if token is None:
                token = cls(str(library), label, pin)
                token._connect()
                _tokens[key] = token
        return token

    def __repr__(self) -> str:
        return f"Token({self._library!r}, label={self._label!r})"

    def close(self) -> None:
        """Logs out. Signers and decryptors of this token answer KeyUnavailable from now on."""
        with _registry, self._lock:
            _tokens.pop((self._library, self._label), None)
            self._refused = True
            self._drop()

    def _drop(self) -> None:
        session, self._session = self._session, None
        self._generation += 1
        if session is not None:
            with contextlib.suppress(errors.PKCS11Error):  # it may be gone already
                session.close()

    def _connect(self) -> None:
        if self._refused:
            raise KeyUnavailable("the token was closed, or refused its PIN")
        with self._lock:
            try:
                token = pkcs11.lib(self._library).get_token(token_label=self._label)
                try:
                    self._session = token.open(user_pin=self._pin)
                except errors.UserAlreadyLoggedIn:
                    self._session = token.open(user_type=UserType.NOBODY)
            except (errors.PinIncorrect, errors.PinLocked, errors.PinExpired, errors.PinInvalid) as error:
                self._refused = True
                raise KeyUnavailable("the token refuses its PIN; it will not be tried again") from error
            except (errors.PKCS11Error, RuntimeError, OSError) as error:
                raise KeyUnavailable("the token does not answer") from error
            self._generation += 1

    def run(self, handle: _Handle, work: Callable[[Any], _T]) -> _T:
        """`work(key)` under the library's lock; with a new session once, when the token went away and came back. Raises
        KeyUnavailable, and PKCS11Error for what is not the token's absence."""
        with self._lock:
            try:
                if self._session is None:
                    self._connect()
                try:
                    return work(self._key(handle))
                except _GONE:
                    self._drop()
                    self._connect()
                    return work(self._key(handle))
            except _ABSENT as error:
                raise KeyUnavailable("the token does not answer") from error

    def _key(self, handle: _Handle) -> Any:
        """The key object of this session."""
        if handle.found is None or handle.generation != self._generation or self._session is None:
            if self._session is None:
                raise KeyUnavailable("the token does not answer")
            wanted: dict[Attribute, Any] = {Attribute.CLASS: ObjectClass.PRIVATE_KEY}
            if handle.key_id is not None:
                wanted[Attribute.ID] = handle.key_id
            if handle.label is not None:
                wanted[Attribute.LABEL] = handle.label
            keys = list(self._session.get_objects(wanted))
            if len(keys) != 1:
                raise KeyUnavailable("no such key in the token" if not keys else "several such keys in the token")
            handle.found, handle.generation = keys[0], self._generation
        return handle.found

    def signer(
        self, chain: Sequence[x509.Certificate], *, key_id: bytes | None = None, label: str | None = None
    ) -> TokenSigner:
        """The Signer of a key of this token, by CKA_ID, CKA_LABEL or both. Raises KeyUnavailable when it is not there."""
        signer = TokenSigner(self, _Handle(key_id, label), chain)
        self.run(signer._handle, lambda key: None)
        return signer

    def decryptor(
        self, certificate: x509.Certificate, *, key_id: bytes | None = None, label: str | None = None
    ) -> TokenDecryptor:
        """The Decryptor of a key of this token. Raises KeyUnavailable when it is not there."""
        decryptor = TokenDecryptor(self, _Handle(key_id, label), certificate)
        self.run(decryptor._handle, lambda key: None)
        return decryptor

    def generate_rsa(self, label: str, bits: int) -> bytes:
        """Make an RSA key pair inside the token, under this label; its SubjectPublicKeyInfo (DER). The private key is
        sensitive and cannot be extracted. Raises KeyUnavailable, UnsuitableCertificate when the label is taken."""
        with self._lock:
            if self._session is None:
                self._connect()
            try:
                # The session in use only reads; the login holds for all the sessions of the process.
                token = pkcs11.lib(self._library).get_token(token_label=self._label)
                with token.open(rw=True, user_type=UserType.NOBODY) as session:
                    numbers = _new_rsa(session, label, bits)
            except errors.PKCS11Error as error:
                raise KeyUnavailable("the token does not answer") from error
        return numbers.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _new_rsa(session: Any, label: str, bits: int) -> rsa.RSAPublicNumbers:
    if list(session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: label})):
        raise UnsuitableCertificate("the token has a key of this label")
    private = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False}
    public, _ = session.generate_keypair(KeyType.RSA, bits, label=label, store=True, private_template=private)
    exponent, modulus = (public[name] for name in (Attribute.PUBLIC_EXPONENT, Attribute.MODULUS))
    return rsa.RSAPublicNumbers(int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big"))


class _Handle:
    """Where a key is in its token, and its object in the session in use."""

    def __init__(self, key_id: bytes | None, label: str | None) -> None:
        if key_id is None and label is None:
            raise UnsuitableCertificate("a key is named by its id, its label or both")
        self.key_id, self.label = key_id, label
        self.found: Any = None
        self.generation = -1


class TokenSigner:
    """A `Signer` whose key is in a token. Its answers are verified by `smime.sign_message` before they leave."""

    def __init__(self, token: Token, handle: _Handle, chain: Sequence[x509.Certificate]) -> None:
        if not chain:
            raise UnsuitableCertificate("a signer needs its certificate")
        self._token, self._handle, self._chain = token, handle, tuple(chain)

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        return self._chain

    def sign(self, digest: bytes, mechanism: Mechanism) -> bytes:
        """See `Signer.sign`. Raises UnsuitableCertificate for what the token cannot do."""
        try:
            return self._token.run(self._handle, lambda key: _sign(key, digest, mechanism))
        except errors.PKCS11Error as error:
            raise UnsuitableCertificate("the token does not sign that way") from error


def _sign(key: Any, digest: bytes, mechanism: Mechanism) -> bytes:
    if mechanism.family == "ed25519":
        return bytes(key.sign(digest, mechanism=TokenMechanism.EDDSA))
    if mechanism.family == "ecdsa":
        raw = bytes(key.sign(digest, mechanism=TokenMechanism.ECDSA))
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))
    if mechanism.family == "pss":
        parameters = (*_HASH_MECHANISMS[mechanism.digest], HASHES[mechanism.digest]().digest_size)
        return bytes(key.sign(digest, mechanism=TokenMechanism.RSA_PKCS_PSS, mechanism_param=parameters))
    # PKCS#1 v1.5 over our own DigestInfo (RFC 8017 §9.2): the token hashes nothing.
    return bytes(key.sign(_INFO_HEADS[mechanism.digest] + digest, mechanism=TokenMechanism.RSA_PKCS))


class TokenDecryptor:
    """A `Decryptor` whose key is in a token: RSA (PKCS#1 v1.5, OAEP where the token knows the hash) or elliptic curve."""

    def __init__(self, token: Token, handle: _Handle, certificate: x509.Certificate) -> None:
        self._token, self._handle, self._certificate = token, handle, certificate

    @property
    def certificate(self) -> x509.Certificate:
        return self._certificate

    def unwrap(self, encrypted_key: bytes, transport: KeyTransport, key_length: int) -> bytes:
        """See `Decryptor.unwrap`."""
        substitute = secrets.token_bytes(key_length)
        try:
            key = self._token.run(self._handle, lambda one: _decrypt(one, encrypted_key, transport))
        except errors.PKCS11Error:
            if transport.oaep is not None:
                raise UnwrapFailed from None
            return substitute
        return key if len(key) == key_length else substitute

    def agree(self, public: bytes) -> bytes:
        """See `Decryptor.agree`."""
        own = public_key(self._certificate)
        if not isinstance(own, ec.EllipticCurvePublicKey):
            raise UnwrapFailed
        try:
            # A point that is not on the curve would let its sender learn the key, whatever the token does with it.
            ec.EllipticCurvePublicKey.from_encoded_point(own.curve, public)
        except ValueError:
            raise UnwrapFailed from None
        size = (own.curve.key_size + 7) // 8
        try:
            return self._token.run(self._handle, lambda key: _derive(key, public, size))
        except errors.PKCS11Error:
            raise UnwrapFailed from None


def _decrypt(key: Any, encrypted_key: bytes, transport: KeyTransport) -> bytes:
    if transport.oaep is None:
        return bytes(key.decrypt(encrypted_key, mechanism=TokenMechanism.RSA_PKCS))
    digest, mask = transport.oaep
    if digest not in _HASH_MECHANISMS or mask not in _HASH_MECHANISMS:
        raise errors.MechanismParamInvalid
    parameters = (_HASH_MECHANISMS[digest][0], _HASH_MECHANISMS[mask][1], None)
    return bytes(key.decrypt(encrypted_key, mechanism=TokenMechanism.RSA_PKCS_OAEP, mechanism_param=parameters))


def _derive(key: Any, public: bytes, size: int) -> bytes:
    """The raw shared secret (PKCS#11 §2.3.16, no key derivation in the token), as a secret of the session only."""
    secret = key.derive_key(
        KeyType.GENERIC_SECRET,
        size * 8,
        mechanism=TokenMechanism.ECDH1_DERIVE,
        mechanism_param=(KDF.NULL, None, public),
        template={Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True, Attribute.TOKEN: False},
    )
    try:
        return bytes(secret[Attribute.VALUE]).rjust(size, b"\0")
    finally:
        secret.destroy()
