"""The life of server-side keys: made here or in a token, certified, imported, replaced, retired, destroyed.

Invariants: a key serves only with a certificate that is its own and fits its use; keys that open messages are not taken
for a mailbox whose policy gives them to its owner; replacing a signing key retires the earlier ones, which still open old
messages; destruction takes two custodians; each step is an audit event that names the key, the person and the reason.
Software keys are sealed under the master key by the store; a token's key never leaves it (`proxy.tokens`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
    pkcs12,
)

from mailstore import Event, KeyRecord, Store
from proxy.keys import DECRYPTION_USAGES, PKCS11, SIGNING_USAGES
from proxy.policy import CustodyPolicy
from proxy.tokens import Reference, TokenProcesses
from smime import Mechanism, SmimeError, der, may_receive_keys, may_sign_mail

USAGES = ("sign", "encrypt", "smime")
MAX_PKCS12 = 256 * 1024
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class KeyKind(StrEnum):
    """What is generated. Everything in use reads RSA 2048."""

    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    P256 = "p-256"


class KeyRefused(Exception):
    """A key, certificate or request that is not taken; the text says why, in French then English."""


@dataclass(frozen=True, slots=True)
class Requested:
    """A key that waits for its certificate: its id, and the request (PKCS #10, PEM) to send to the authority."""

    key_id: int
    request: bytes


class Keychain:
    """Administers the keys of one store. `custody` answers the policy of a mailbox or domain."""

    def __init__(
        self, store: Store, custody: Callable[[str], CustodyPolicy], tokens: TokenProcesses | None = None
    ) -> None:
        self._store = store
        self._custody = custody
        self._tokens = tokens

    def generate(
        self,
        holder: str,
        usage: str,
        subject: x509.Name,
        *,
        at: datetime,
        by: str,
        kind: KeyKind = KeyKind.RSA_2048,
        token: Reference | None = None,
    ) -> Requested:
        """Make a key, in `token` when given, and its certificate request. Raises KeyRefused, smime.KeyUnavailable."""
        self._check_usage(holder, usage)
        if token is None:
            private = _new_key(kind)
            octets, place = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), ""
            request = _request(subject, holder).sign(private, SHA256()).public_bytes(Encoding.PEM)
        else:
            if self._tokens is None or kind is KeyKind.P256:
                raise KeyRefused("jeton non réglé, ou clé non RSA / no token configured, or not an RSA key")
            public = self._tokens.generate_rsa(token, int(kind.value.partition("-")[2]))
            octets, place = token.to_bytes(), PKCS11
            request = _request_of_token(self._tokens, token, public, subject, holder)
        key_id = self._store.put_key(holder, usage, b"", octets, at, place=place)
        self._audit("key.generated", key_id, holder, by, at, usage=usage, kind=kind.value, place=place or "software")
        return Requested(key_id, request)

    def install(self, key_id: int, chain_pem: bytes, *, at: datetime, by: str, replace: bool = True) -> KeyRecord:
        """Give its chain (PEM, leaf first) to a key that waits; `replace` retires the earlier keys of the same use.

        Raises KeyRefused, mailstore.StoreError."""
        record = self.record(key_id)
        chain = _read_chain(chain_pem)
        self._check_certificate(record.usage, chain[0], at)
        if _spki(chain[0].public_key()) != self._public(record, chain[0]):
            raise KeyRefused("ce certificat n'est pas celui de cette clé / this certificate is not this key's")
        self._store.complete_key(key_id, _pem(chain))
        self._audit("key.certified", key_id, record.holder, by, at, dn=chain[0].subject.rfc4514_string())
        if replace:
            self._retire_others(record, by, at)
        return self.record(key_id)

    def import_pkcs12(self, holder: str, usage: str, content: bytes, password: bytes, *, at: datetime, by: str) -> int:
        """Take a key with its certificates from a PKCS #12. Raises KeyRefused: wrong password, no key, wrong use."""
        self._check_usage(holder, usage)
        if len(content) > MAX_PKCS12:
            raise KeyRefused("fichier PKCS #12 trop gros / PKCS #12 file too large")
        try:
            key, certificate, others = pkcs12.load_key_and_certificates(content, password)
        except (ValueError, UnsupportedAlgorithm):
            raise KeyRefused("mot de passe faux, ou fichier illisible / wrong password, or unreadable file") from None
        if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) or certificate is None:
            raise KeyRefused("le fichier ne contient pas une clé et son certificat / no key with its certificate")
        if _spki(key.public_key()) != _spki(certificate.public_key()):
            raise KeyRefused("la clé n'est pas celle du certificat / the key is not the certificate's")
        self._check_certificate(usage, certificate, at)
        octets = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        key_id = self._store.put_key(holder, usage, _pem((certificate, *others)), octets, at)
        self._audit("key.imported", key_id, holder, by, at, usage=usage, dn=certificate.subject.rfc4514_string())
        return key_id

    def attach(self, holder: str, usage: str, token: Reference, chain_pem: bytes, *, at: datetime, by: str) -> int:
        """Use a key that is in a token already. It is tried before it is taken. Raises KeyRefused, KeyUnavailable."""
        self._check_usage(holder, usage)
        chain = _read_chain(chain_pem)
        self._check_certificate(usage, chain[0], at)
        if self._tokens is None:
            raise KeyRefused("aucun module PKCS#11 réglé (proxy.pkcs11_library) / no PKCS#11 module configured")
        _try(self._tokens, token, chain)
        key_id = self._store.put_key(holder, usage, _pem(chain), token.to_bytes(), at, place=PKCS11)
        self._audit("key.attached", key_id, holder, by, at, usage=usage, token=token.token)
        return key_id

    def retire(self, key_id: int, *, at: datetime, by: str, reason: str) -> None:
        """Take a key out of service: it signs no more, it still opens. Raises KeyRefused when it is unknown."""
        record = self.record(key_id)
        self._store.retire_key(key_id, at)
        self._audit("key.retired", key_id, record.holder, by, at, reason=reason)

    def ask_destruction(self, key_id: int, *, custodian: str, passphrase: str, reason: str, at: datetime) -> None:
        """First custodian. Raises KeyRefused, mailstore.StoreError (key in force)."""
        record = self._as_custodian(key_id, custodian, passphrase, at)
        self._store.ask_destruction(key_id, custodian, at)
        self._audit("key.destruction_asked", key_id, record.holder, custodian, at, reason=reason)

    def destroy(self, key_id: int, *, custodian: str, passphrase: str, at: datetime) -> None:
        """Second custodian: the key is gone. Raises KeyRefused, mailstore.StoreError (same person, not asked)."""
        record = self._as_custodian(key_id, custodian, passphrase, at)
        self._store.destroy_key(key_id, custodian, at)
        self._audit("key.destroyed", key_id, record.holder, custodian, at)

    def record(self, key_id: int) -> KeyRecord:
        """One key without its private part. Raises KeyRefused when it is unknown."""
        for one in self._store.key_records():
            if one.id == key_id:
                return one
        raise KeyRefused(f"{key_id}: clé inconnue / unknown key")

    def _as_custodian(self, key_id: int, custodian: str, passphrase: str, at: datetime) -> KeyRecord:
        record = self.record(key_id)
        if not self._store.is_custodian(custodian, passphrase):
            self._audit("key.destruction.refused", key_id, record.holder, custodian, at, reason="passphrase")
            raise KeyRefused("dépositaire inconnu ou phrase fausse / unknown custodian or wrong passphrase")
        return record

    def _retire_others(self, record: KeyRecord, by: str, at: datetime) -> None:
        for one in self._store.key_records(record.holder):
            if one.usage == record.usage and one.id != record.id and one.retired_at is None and one.chain_pem:
                self.retire(one.id, at=at, by=by, reason=f"replaced by {record.id}")

    def _check_usage(self, holder: str, usage: str) -> None:
        if usage not in USAGES:
            raise KeyRefused(f"« {usage} » : un usage parmi {', '.join(USAGES)} / unknown usage")
        if usage in DECRYPTION_USAGES and self._custody(holder) is CustodyPolicy.OWNER:
            raise KeyRefused(
                f"{holder}: sa règle custody = owner garde ses clés à son titulaire / its policy leaves keys to its owner"
            )

    def _check_certificate(self, usage: str, certificate: x509.Certificate, at: datetime) -> None:
        if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
            raise KeyRefused("certificat hors de ses dates / certificate out of its dates")
        if usage in SIGNING_USAGES and not may_sign_mail(certificate):
            raise KeyRefused("ce certificat ne permet pas de signer du courrier / not a certificate to sign mail with")
        if usage in DECRYPTION_USAGES and not may_receive_keys(certificate):
            raise KeyRefused("ce certificat ne permet pas de chiffrer vers lui / not a certificate to encrypt to")

    def _public(self, record: KeyRecord, certificate: x509.Certificate) -> bytes:
        """The public part of a key; a token's key proves itself by a signature that this certificate verifies."""
        private = self._store.private_key(record.id)
        if record.place != PKCS11:
            key = load_der_private_key(private, password=None)
            return _spki(key.public_key())
        if self._tokens is None:
            raise KeyRefused("aucun module PKCS#11 réglé / no PKCS#11 module configured")
        _try(self._tokens, Reference.from_bytes(private), (certificate,))
        return _spki(certificate.public_key())

    def _audit(self, name: str, key_id: int, holder: str, by: str, at: datetime, **more: str) -> None:
        self._store.record((Event(name, {"key_id": str(key_id), "account": holder, "by": by, **more}),), at=at)


def _new_key(kind: KeyKind) -> PrivateKey:
    if kind is KeyKind.P256:
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(public_exponent=65537, key_size=int(kind.value.partition("-")[2]))


def _request(subject: x509.Name, holder: str) -> x509.CertificateSigningRequestBuilder:
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if "@" in holder:
        return builder.add_extension(x509.SubjectAlternativeName([x509.RFC822Name(holder)]), critical=False)
    return builder


def _request_of_token(
    tokens: TokenProcesses, token: Reference, public: bytes, subject: x509.Name, holder: str
) -> bytes:
    """A request for a key of a token: written with a passing key of the same size, whose public part is then replaced."""
    key = load_der_public_key(public)
    assert isinstance(key, rsa.RSAPublicKey)  # noqa: S101 - just generated as one
    passing = rsa.generate_private_key(public_exponent=65537, key_size=key.key_size)
    written = _request(subject, holder).sign(passing, SHA256()).tbs_certrequest_bytes
    content = written.replace(_spki(passing.public_key()), public)
    # The worker names a key by its certificate too; before there is one, any certificate of that key will do.
    signer = tokens.signer(token.to_bytes(), (_passing_certificate(passing),))
    signature = signer.sign(hashlib.sha256(content).digest(), Mechanism.RSA_PKCS1_SHA256)
    algorithm = der.sequence(der.oid("1.2.840.113549.1.1.11"), der.NULL)
    whole = der.sequence(content, algorithm, der.element(0x03, b"\0", signature))
    request = x509.load_der_x509_csr(whole)
    if not request.is_signature_valid:
        raise KeyRefused("le jeton a mal signé la demande / the token signed the request wrongly")
    return request.public_bytes(Encoding.PEM)


def _passing_certificate(key: rsa.RSAPrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pending")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(datetime(2020, 1, 1)).not_valid_after(datetime(2021, 1, 1))
    return builder.sign(key, SHA256())


def _try(tokens: TokenProcesses, token: Reference, chain: tuple[x509.Certificate, ...]) -> None:
    """Have the token sign something, and verify it with the certificate. Raises KeyRefused, KeyUnavailable."""
    public = chain[0].public_key()
    if not isinstance(public, rsa.RSAPublicKey):
        raise KeyRefused("seules les clés RSA d'un jeton sont prises / only RSA keys of a token are taken")
    trial = b"caducee key trial"
    try:
        signature = tokens.signer(token.to_bytes(), chain).sign(
            hashlib.sha256(trial).digest(), Mechanism.RSA_PKCS1_SHA256
        )
        public.verify(signature, trial, padding.PKCS1v15(), SHA256())
    except InvalidSignature:
        raise KeyRefused(
            "la clé du jeton n'est pas celle du certificat / the token's key is not the certificate's"
        ) from None


def _read_chain(chain_pem: bytes) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(x509.load_pem_x509_certificates(chain_pem))
    except ValueError:
        raise KeyRefused("certificats illisibles (PEM attendu) / unreadable certificates (PEM expected)") from None


def _pem(chain: tuple[x509.Certificate, ...]) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in chain)


def _spki(public: object) -> bytes:
    to_bytes = getattr(public, "public_bytes", None)
    if to_bytes is None:
        raise SmimeError("unknown kind of key")
    return bytes(to_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
