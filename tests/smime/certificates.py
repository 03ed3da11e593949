"""Small certificates for these tests: one authority, RSA and EC leaves, a path checker that knows this authority only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import smime

AT = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | x25519.X25519PrivateKey
FAR = timedelta(days=7000)
"""Other tools judge by the clock of the machine: these tests must still pass in ten years."""
PERSON_ID = "899700366240"  # a public test-card number with a right check digit


@dataclass(frozen=True)
class Holder:
    """A certificate with its key and its chain, leaf first."""

    certificate: x509.Certificate
    key: Key
    chain: tuple[x509.Certificate, ...]

    @property
    def rsa(self) -> rsa.RSAPrivateKey:
        assert isinstance(self.key, rsa.RSAPrivateKey)
        return self.key

    @property
    def signer(self) -> smime.SoftwareSigner:
        assert not isinstance(self.key, x25519.X25519PrivateKey)
        return smime.SoftwareSigner(self.key, self.chain)

    @property
    def decryptor(self) -> smime.SoftwareDecryptor:
        assert not isinstance(self.key, ed25519.Ed25519PrivateKey)
        return smime.SoftwareDecryptor(self.key, self.certificate)

    def chain_pem(self) -> bytes:
        return b"".join(item.public_bytes(Encoding.PEM) for item in self.chain)

    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@cache
def rsa_key(bits: int = 2048, number: int = 0) -> rsa.RSAPrivateKey:
    """The same key for the same number, made once: key generation is what costs time here."""
    return rsa.generate_private_key(65537, bits)


def name(*rdns: Sequence[tuple[x509.ObjectIdentifier, str]]) -> x509.Name:
    return x509.Name([x509.RelativeDistinguishedName([x509.NameAttribute(*pair) for pair in rdn]) for rdn in rdns])


def person_name(national_id: str = PERSON_ID) -> x509.Name:
    """The subject of a professional: one RDN of three values."""
    holder = [(NameOID.COMMON_NAME, national_id), (NameOID.SURNAME, "DOC"), (NameOID.GIVEN_NAME, "KIT")]
    return name([(NameOID.COUNTRY_NAME, "FR")], [(NameOID.TITLE, "Médecin")], holder)


def organisation_name(structure_id: str = "1990000010", common_name: str = "messagerie") -> x509.Name:
    unit = [(NameOID.ORGANIZATIONAL_UNIT_NAME, structure_id)]
    return name(
        [(NameOID.COUNTRY_NAME, "FR")],
        [(NameOID.ORGANIZATION_NAME, "TEST HOPITAL")],
        unit,
        [(NameOID.COMMON_NAME, common_name)],
    )


def key_usage(**on: bool) -> x509.KeyUsage:
    every = [
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ]
    return x509.KeyUsage(**{item: on.get(item, False) for item in every})


MAIL_USAGE = key_usage(digital_signature=True, content_commitment=True, key_encipherment=True)


@cache
def authority() -> Holder:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = name([(NameOID.COUNTRY_NAME, "FR")], [(NameOID.COMMON_NAME, "TEST AC SMIME")])
    certificate = _builder(subject, subject, key.public_key(), AT - timedelta(days=900), AT + FAR, ca=True)
    signed = certificate.add_extension(key_usage(key_cert_sign=True, crl_sign=True), True).sign(key, hashes.SHA256())
    return Holder(signed, key, (signed,))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: CertificatePublicKeyTypes,
    begins: datetime,
    ends: datetime,
    *,
    ca: bool,
    serial: int = 0,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder(issuer, subject, public, serial or x509.random_serial_number(), begins, ends)
        .add_extension(x509.BasicConstraints(ca, None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
    )


@dataclass(frozen=True)
class PublicHolder:
    """A certificate whose key is elsewhere, with its chain, leaf first."""

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]


def issue_public(
    public: PublicKeyTypes,
    *,
    subject: x509.Name | None = None,
    emails: Sequence[str] = ("medecin@test.mssante.fr",),
    usage: x509.KeyUsage | None = MAIL_USAGE,
    extended: Sequence[x509.ObjectIdentifier] | None = (ExtendedKeyUsageOID.EMAIL_PROTECTION,),
    begins: datetime = AT - timedelta(days=30),
    ends: datetime = AT + FAR,
    serial: int = 0,
    ca: bool = False,
    more: Sequence[x509.ExtensionType] = (),
) -> PublicHolder:
    """A leaf of the test authority for a public key."""
    issuer = authority()
    builder = _builder(
        subject or person_name(),
        issuer.certificate.subject,
        cast(CertificatePublicKeyTypes, public),
        begins,
        ends,
        ca=ca,
        serial=serial,
    )
    if usage is not None:
        builder = builder.add_extension(usage, True)
    if extended is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended), False)
    if emails:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.RFC822Name(item) for item in emails]), False)
    for extension in more:
        builder = builder.add_extension(extension, False)
    assert isinstance(issuer.key, ec.EllipticCurvePrivateKey)
    certificate = builder.sign(issuer.key, hashes.SHA256())
    return PublicHolder(certificate, (certificate, issuer.certificate))


def issue(key: Key, **options: Any) -> Holder:
    """A leaf of the test authority; options as for `issue_public`."""
    found = issue_public(key.public_key(), **options)
    return Holder(found.certificate, key, found.chain)


@cache
def rsa_holder() -> Holder:
    return issue(rsa_key())


@cache
def other_holder() -> Holder:
    return issue(rsa_key(2048, 1), subject=organisation_name(), emails=("labo@test.mssante.fr",))


CURVES: dict[str, type[ec.EllipticCurve]] = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1}


@cache
def ec_holder(curve: str = "P-256") -> Holder:
    """Signs, and agrees on keys."""
    usage = key_usage(digital_signature=True, key_agreement=True)
    return issue(ec.generate_private_key(CURVES[curve]()), usage=usage)


@cache
def ed25519_holder() -> Holder:
    return issue(ed25519.Ed25519PrivateKey.generate(), usage=key_usage(digital_signature=True))


@cache
def x25519_holder() -> Holder:
    return issue(x25519.X25519PrivateKey.generate(), usage=key_usage(key_agreement=True))


@dataclass(frozen=True)
class Path:
    trusted: bool
    reason: str


def path(certificate: x509.Certificate, others: Sequence[x509.Certificate], at: datetime) -> Path:
    """Trusts what the test authority signed."""
    try:
        certificate.verify_directly_issued_by(authority().certificate)
    except (InvalidSignature, ValueError, TypeError):
        return Path(False, "not issued by the test authority")
    return Path(True, "")
