"""Certificates, CRLs and OCSP answers that the practice authority does not make: addresses of the test's own, deltas."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from trustspace import Issued, PracticeAuthority
from trustspace.issuing import CLOCK_SKEW, structure_name
from trustspace.issuing import key_usage as usage_of

ORGANISATIONS = "TEST-ACI-EL-ORG"
ROOT = "TEST-ACR-EL"


def issuer_of(authority: PracticeAuthority, file: str = ORGANISATIONS) -> Issued:
    """An authority with its key."""
    return authority._authorities[file]


def leaf(
    issuer: Issued,
    at: datetime,
    *,
    cn: str = "mss.hopital-a.example",
    crls: Sequence[str] = (),
    deltas: Sequence[str] = (),
    ocsps: Sequence[str] = (),
    above: Sequence[str] = (),
    days: float = 365,
    extended: Sequence[x509.ObjectIdentifier] = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH),
    ca: bool = False,
    subject: x509.Name | None = None,
) -> Issued:
    """A certificate whose extensions name the addresses given."""
    key = rsa.generate_private_key(65537, 2048)
    access = [
        x509.AccessDescription(method, x509.UniformResourceIdentifier(url))
        for method, urls in (
            (AuthorityInformationAccessOID.OCSP, ocsps),
            (AuthorityInformationAccessOID.CA_ISSUERS, above),
        )
        for url in urls
    ]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject or structure_name(cn, "HOPITAL A", "1750000018", "Paris (75)"))
        .issuer_name(issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - CLOCK_SKEW)
        .not_valid_after(at + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca, 0 if ca else None), critical=True)
        .add_extension(
            usage_of(digital_signature=True, key_encipherment=True, key_cert_sign=ca, crl_sign=ca), critical=True
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
    )
    if extended and not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
    if crls:
        builder = builder.add_extension(x509.CRLDistributionPoints([point(url) for url in crls]), critical=False)
    if deltas:
        builder = builder.add_extension(x509.FreshestCRL([point(url) for url in deltas]), critical=False)
    if access:
        builder = builder.add_extension(x509.AuthorityInformationAccess(access), critical=False)
    certificate = builder.sign(issuer.key, hashes.SHA256())
    return Issued(certificate, key, (certificate, issuer.certificate))


def point(url: str) -> x509.DistributionPoint:
    """A distribution point by full name."""
    return x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)


def crl(
    issuer: Issued,
    at: datetime,
    number: int,
    revoked: Sequence[tuple[x509.Certificate, x509.ReasonFlags | None]] = (),
    *,
    base: int | None = None,
    days: float = 7,
    back: timedelta = CLOCK_SKEW,
) -> x509.CertificateRevocationList:
    """A CRL, or with `base` the delta to it."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(at - back)
        .next_update(at + timedelta(days=days))
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    if base is not None:
        builder = builder.add_extension(x509.DeltaCRLIndicator(base), critical=True)
    for certificate, reason in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number).revocation_date(at - back)
        if reason is not None:
            entry = entry.add_extension(x509.CRLReason(reason), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(issuer.key, hashes.SHA256())


def ocsp_answer(
    certificate: x509.Certificate,
    issuer: Issued,
    at: datetime,
    *,
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
    responder: Issued | None = None,
    hours: float | None = 12,
    revoked_at: datetime | None = None,
) -> bytes:
    """A DER answer, signed by the issuer or by `responder`."""
    signer = responder or issuer
    builder = ocsp.OCSPResponseBuilder().add_response(
        certificate,
        issuer.certificate,
        hashes.SHA256(),
        status,
        at,
        at + timedelta(hours=hours) if hours is not None else None,
        revoked_at or (at if status is ocsp.OCSPCertStatus.REVOKED else None),
        None,
    )
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, signer.certificate)
    if responder is not None:
        builder = builder.certificates([responder.certificate])
    return builder.sign(signer.key, hashes.SHA256()).public_bytes(Encoding.DER)
