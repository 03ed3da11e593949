"""Building certificates and CRLs for the practice authority, with the extensions of the real IGC-Santé profiles.

Invariants: pure (keys and time in, objects out; only key generation and serial numbers are random); every leaf has
authority and subject key identifiers, a critical key usage, policies, and a CRL distribution point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from trustspace import pem

PRACTICE_ORGANISATION = "PRATIQUE CADUCEE"
"""Organisation of every practice authority: by it a production operator knows and refuses them."""
LEAF_VALIDITY = timedelta(days=3 * 365)
CA_VALIDITY = timedelta(days=20 * 365)
# Certificates and CRLs begin a little earlier than "now": the peer's clock may be late.
CLOCK_SKEW = timedelta(minutes=5)
# Publication points under .invalid (RFC 6761): practice material never makes anyone fetch from the real IGC-Santé.
BASE_URL = "http://igc-sante.practice.invalid"
# The example arc 2.999 (X.660) in front of the shape of the real policy identifiers.
_POLICY = x509.ObjectIdentifier("2.999.213.1.7.1.1.2.3.1")
_ANY_POLICY = x509.ObjectIdentifier("2.5.29.32.0")


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate with its private key. `chain` is leaf first, then the intermediate; the root is not in it."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey
    chain: tuple[x509.Certificate, ...]

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write `name`.pem (the chain) and `name`.key (0600) in `folder` (made 0700 when absent); returns both paths."""
        if not folder.is_dir():
            pem.private_folder(folder)
        chain_path, key_path = folder / f"{name}.pem", folder / f"{name}.key"
        pem.write_private(key_path, pem.key_to_pem(self.key))
        pem.write_public(chain_path, pem.chain_to_pem(self.chain))
        return chain_path, key_path

    @classmethod
    def read(cls, chain_path: Path, key_path: Path) -> Self:
        """Read what `write` wrote. Raises pem.UnreadableFile, also when the key is not the certificate's."""
        chain = pem.read_certificates(chain_path)
        key = pem.read_private_key(key_path)
        if not isinstance(key, rsa.RSAPrivateKey) or key.public_key() != chain[0].public_key():
            raise pem.UnreadableFile(f"{key_path.name}: not the key of {chain_path.name}")
        return cls(chain[0], key, chain)


@dataclass(frozen=True, slots=True)
class CaPlan:
    """An authority to make: file name (also of its CRL), common name, file name of its parent (None for a root)."""

    file: str
    name: str
    parent: str | None


@dataclass(frozen=True, slots=True)
class Profile:
    """What a leaf is for: its key usage, its extended key usage (none when empty), its alternative names."""

    key_usage: x509.KeyUsage
    extended: tuple[x509.ObjectIdentifier, ...] = ()
    names: tuple[x509.GeneralName, ...] = ()


def new_authority(plan: CaPlan, parent: Issued | None, at: datetime, key_size: int) -> Issued:
    """A root (signed by itself) or an intermediate of path length 0, named as cps-card.md §3.8."""
    key = rsa.generate_private_key(65537, key_size)
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "FR"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, PRACTICE_ORGANISATION),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "0002 000000000"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "IGC-SANTE TEST"),
            x509.NameAttribute(NameOID.COMMON_NAME, plan.name),
        ]
    )
    issuer_name = parent.certificate.subject if parent else subject
    issuer_key = parent.key if parent else key
    builder = (
        _builder(subject, issuer_name, key.public_key(), at, CA_VALIDITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0 if parent else None), critical=True)
        .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(_policies(_ANY_POLICY), critical=False)
        .add_extension(_authority_key(issuer_key.public_key()), critical=False)
    )
    if plan.parent is not None:
        builder = builder.add_extension(_distribution_point(plan.parent), critical=False)
    certificate = builder.sign(issuer_key, hashes.SHA256())
    return Issued(certificate, key, (certificate,))


def issue(authority: Issued, authority_file: str, subject: x509.Name, profile: Profile, at: datetime) -> Issued:
    """A leaf with a new RSA 2048 key, valid three years from `at`, with the extensions seen in real leaves."""
    key = rsa.generate_private_key(65537, 2048)
    access = x509.AuthorityInformationAccess(
        [
            x509.AccessDescription(
                AuthorityInformationAccessOID.CA_ISSUERS,
                x509.UniformResourceIdentifier(f"{BASE_URL}/AC/{authority_file}.cer"),
            )
        ]
    )
    builder = (
        _builder(subject, authority.certificate.subject, key.public_key(), at, LEAF_VALIDITY)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=False)
        .add_extension(profile.key_usage, critical=True)
        .add_extension(_policies(_POLICY), critical=False)
        .add_extension(_authority_key(authority.key.public_key()), critical=False)
        .add_extension(_distribution_point(authority_file), critical=False)
        .add_extension(access, critical=False)
    )
    if profile.extended:
        builder = builder.add_extension(x509.ExtendedKeyUsage(profile.extended), critical=False)
    if profile.names:
        builder = builder.add_extension(x509.SubjectAlternativeName(profile.names), critical=False)
    certificate = builder.sign(authority.key, hashes.SHA256())
    return Issued(certificate, key, (certificate, authority.certificate))


def build_crl(
    authority: Issued, revoked: Sequence[tuple[int, datetime]], at: datetime, days: float, number: int
) -> x509.CertificateRevocationList:
    """The CRL of an authority: (serial, revocation date) pairs, valid from `at` for `days`."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(at - CLOCK_SKEW)
        .next_update(at + timedelta(days=days))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_authority_key(authority.key.public_key()), critical=False)
    )
    for serial, moment in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(moment.astimezone(UTC))
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(authority.key, hashes.SHA256())


def structure_name(cn: str, organisation: str, structure_id: str, department: str) -> x509.Name:
    """Subject of a server or an organisation: C, ST, O, OU, CN (mssante.md §2)."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "FR"),
            x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, department),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, structure_id),
            x509.NameAttribute(NameOID.COMMON_NAME, cn),
        ]
    )


def professional_name(national_id: str, surname: str, given_name: str, profession: str) -> x509.Name:
    """Subject of a professional: C, title, then one RDN that holds CN, SN and GN (cps-card.md §3.8)."""
    person = [
        x509.NameAttribute(NameOID.COMMON_NAME, national_id),
        x509.NameAttribute(NameOID.SURNAME, surname),
        x509.NameAttribute(NameOID.GIVEN_NAME, given_name),
    ]
    return x509.Name(
        [
            x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COUNTRY_NAME, "FR")]),
            x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.TITLE, profession)]),
            x509.RelativeDistinguishedName(person),
        ]
    )


def key_usage(
    *,
    digital_signature: bool = False,
    content_commitment: bool = False,
    key_encipherment: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    """A key usage extension from the bits that IGC-Santé uses (RFC 5280 §4.2.1.3)."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=content_commitment,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: rsa.RSAPublicKey, at: datetime, validity: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - CLOCK_SKEW)
        .not_valid_after(at + validity)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _authority_key(key: rsa.RSAPublicKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)


def _policies(policy: x509.ObjectIdentifier) -> x509.CertificatePolicies:
    return x509.CertificatePolicies([x509.PolicyInformation(policy, [f"{BASE_URL}/PC"])])


def _distribution_point(file: str) -> x509.CRLDistributionPoints:
    url = x509.UniformResourceIdentifier(f"{BASE_URL}/CRL/{file}.crl")
    return x509.CRLDistributionPoints([x509.DistributionPoint([url], None, None, None)])
