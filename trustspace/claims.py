"""What one certificate or CRL says of another: names, key identifiers, who may speak of whom. Pure.

These are claims read from the documents, never decisions: paths.py decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from trustspace.dn import DistinguishedName, from_x509
from trustspace.revocation import signs


def asn1_to_certificate(certificate: Any) -> x509.Certificate:
    """The `cryptography` form of an asn1crypto certificate."""
    return x509.load_der_x509_certificate(certificate.dump())


def crl_issuers(certificate: x509.Certificate) -> set[DistinguishedName]:
    """Whose CRLs may speak of a certificate: its issuer, and the CRL issuers it names (RFC 5280 §4.2.1.13)."""
    found = {from_x509(certificate.issuer)}
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except x509.ExtensionNotFound:
        return found
    named = (name for point in points for name in point.crl_issuer or ())
    return found | {from_x509(name.value) for name in named if isinstance(name, x509.DirectoryName)}


def speaks_of(
    crl: x509.CertificateRevocationList,
    certificate: x509.Certificate,
    authorities: Sequence[x509.Certificate],
    at: datetime,
) -> bool:
    """True when the CRL is in force and signed, under a name that may speak of the certificate."""
    name = from_x509(crl.issuer)
    in_force = crl.next_update_utc is not None and crl.last_update_utc <= at < crl.next_update_utc
    return (
        in_force
        and name in crl_issuers(certificate)
        and any(signs(crl, one) for one in authorities if from_x509(one.subject) == name)
    )


def to_asn1(certificate: x509.Certificate) -> Any:
    """The asn1crypto form of a certificate."""
    return asn1_x509.Certificate.load(certificate.public_bytes(Encoding.DER))


def names_issuer(candidate: x509.Certificate, certificate: x509.Certificate) -> bool:
    """The candidate bears the issuer's name and, when both say, the issuer's key identifier (RFC 5280 §4.2.1.1)."""
    if candidate.subject != certificate.issuer:
        return False
    try:
        wanted = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        own = candidate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return True
    return wanted is None or wanted == own


def subject_of(certificate: x509.Certificate) -> str:
    """The subject as RFC 4514 writes it, at most 512 characters; of whatever a stranger put there."""
    try:
        return certificate.subject.rfc4514_string()[:512]
    except ValueError:
        return "(unreadable name)"
