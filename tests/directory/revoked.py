"""A small authority with one revoked certificate and one good, and its list of revocations."""

from __future__ import annotations

from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from directory.revocation import PublishedAuthority
from tests.directory.helpers import NOW


def practice() -> tuple[PublishedAuthority, x509.Certificate, x509.Certificate]:
    """(the authority as published, a revoked certificate, a good and older one)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "TEST AC")])

    def issue(start: int, *, ca: bool) -> x509.Certificate:
        subject = name if ca else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"BAL {start}")])
        holder = key if ca else ec.generate_private_key(ec.SECP256R1())
        usage = dict.fromkeys(("content_commitment", "data_encipherment", "encipher_only", "decipher_only"), False)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name)
            .public_key(holder.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(days=start))
            .not_valid_after(NOW + timedelta(days=30))
            .add_extension(
                x509.KeyUsage(
                    digital_signature=False,
                    key_encipherment=not ca,
                    key_agreement=False,
                    key_cert_sign=ca,
                    crl_sign=ca,
                    **usage,
                ),
                critical=True,
            )
            .sign(key, hashes.SHA256())
        )

    root, revoked, good = issue(90, ca=True), issue(5, ca=False), issue(10, ca=False)
    entry = x509.RevokedCertificateBuilder().serial_number(revoked.serial_number).revocation_date(NOW).build()
    listed = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name)
        .last_update(NOW - timedelta(days=1))
        .next_update(NOW + timedelta(days=7))
        .add_revoked_certificate(entry)
        .sign(key, hashes.SHA256())
    )
    return PublishedAuthority((root,), (listed,)), revoked, good
