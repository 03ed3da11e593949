"""What certificates say, read once: a structure's two certificates come with every request, and reading one, its key and
its names costs more than verifying with it.

What is kept is public, bounded in number and in size, and never a verdict: paths and revocation are the callers' checks, made
each time. A certificate that cannot be read is not remembered.
"""

from __future__ import annotations

import base64
import binascii
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

MAX_SIZE = 16 * 1024
_KEPT = 256


@lru_cache(maxsize=_KEPT)
def _loaded(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)


def certificate_of(der: bytes) -> x509.Certificate:
    """The certificate of these DER octets. Raises ValueError."""
    return _loaded(der) if len(der) <= MAX_SIZE else x509.load_der_x509_certificate(der)


@lru_cache(maxsize=_KEPT)
def _decoded(text: str) -> x509.Certificate:
    return x509.load_der_x509_certificate(base64.b64decode("".join(text.split()), validate=True))


def certificate_of_base64(text: str) -> x509.Certificate:
    """The certificate of a base64 text, white space apart (ds:X509Certificate). Raises ValueError."""
    if len(text) > 2 * MAX_SIZE or not text.isascii():
        raise ValueError("not a certificate")
    try:
        return _decoded(text)
    except binascii.Error:
        raise ValueError("not base64") from None


@lru_cache(maxsize=_KEPT)
def public_key_of(certificate: x509.Certificate) -> object:
    """The public key, of whatever kind. Raises ValueError, UnsupportedAlgorithm."""
    return certificate.public_key()


@lru_cache(maxsize=_KEPT)
def subject_of(certificate: x509.Certificate) -> str:
    """The subject as RFC 4514 writes it."""
    return certificate.subject.rfc4514_string()


@lru_cache(maxsize=_KEPT)
def relative_names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The relative names of the subject, in the certificate's order."""
    return tuple(rdn.rfc4514_string() for rdn in certificate.subject.rdns)


@lru_cache(maxsize=_KEPT)
def issuer_of(certificate: x509.Certificate) -> str:
    """The issuer as RFC 4514 writes it."""
    return certificate.issuer.rfc4514_string()


@lru_cache(maxsize=_KEPT)
def octets_of(certificate: x509.Certificate) -> bytes:
    """The DER octets."""
    return certificate.public_bytes(Encoding.DER)


@lru_cache(maxsize=_KEPT)
def base64_of(certificate: x509.Certificate) -> str:
    """The DER octets in base64, on one line."""
    return base64.b64encode(octets_of(certificate)).decode("ascii")
