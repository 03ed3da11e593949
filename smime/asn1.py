"""The small ASN.1 structures that are rarely met or deeply defaulted. The only module that imports asn1crypto.

Invariants: what is given to asn1crypto is short and has passed `ber.check`; answers are remembered, so that its cost is
paid once for each certificate or parameter set; nothing but MalformedCms is raised. Large structures are read in place
by signed_codec.py and enveloped_codec.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

from asn1crypto import algos, core
from asn1crypto import x509 as asn1_x509

from smime import ber
from smime.errors import MalformedCms

MAX_PARAMETERS = 4096
MAX_CERTIFICATE_SIZE = 64 * 1024
"""Octets. Real ones have a few thousand; names of certificates are remembered, hence the bound."""


@dataclass(frozen=True, slots=True)
class CertificateName:
    """How CMS names a certificate: issuer (exact DER) and serial number, or subject key identifier."""

    issuer: bytes
    serial: int
    key_identifier: bytes | None


@contextmanager
def _decoding() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise MalformedCms("not the structure it claims to be") from error


@lru_cache(maxsize=1024)
def certificate_name(encoded: bytes) -> CertificateName:
    """Issuer, serial and key identifier of a DER certificate. Raises MalformedCms."""
    if len(encoded) > MAX_CERTIFICATE_SIZE:
        raise MalformedCms("a certificate is too long")
    with _decoding():
        certificate = asn1_x509.Certificate.load(encoded)
        body = certificate["tbs_certificate"]
        try:
            identifier = certificate.key_identifier
        except ValueError:  # an unreadable extension elsewhere in the certificate
            identifier = None
        return CertificateName(body["issuer"].dump(), int(body["serial_number"].native), identifier)


@lru_cache(maxsize=256)
def pss_parameters(encoded: bytes) -> tuple[str, str, int]:
    """(hash, mask hash, salt length) of DER RSASSA-PSS-params (RFC 4055 §3.1). Raises MalformedCms."""
    _bounded(encoded)
    with _decoding():
        parameters = algos.RSASSAPSSParams.load(encoded)
        mask = parameters["mask_gen_algorithm"]
        if int(parameters["trailer_field"]) != 1:
            raise MalformedCms("unknown trailer")
        return (
            str(parameters["hash_algorithm"]["algorithm"].native),
            str(mask["parameters"]["algorithm"].native) if mask["algorithm"].native == "mgf1" else "unknown",
            int(parameters["salt_length"].native),
        )


@lru_cache(maxsize=256)
def oaep_parameters(encoded: bytes) -> tuple[str, str]:
    """(hash, mask hash) of DER RSAES-OAEP-params (RFC 4055 §4.1); ("unknown", …) for another mask or a label, which
    nobody uses. Raises MalformedCms."""
    _bounded(encoded)
    with _decoding():
        parameters = algos.RSAESOAEPParams.load(encoded)
        mask, source = parameters["mask_gen_algorithm"], parameters["p_source_algorithm"]
        label = source["parameters"]
        if mask["algorithm"].native != "mgf1" or (isinstance(label, core.OctetString) and label.native):
            return "unknown", "unknown"
        digest = str(parameters["hash_algorithm"]["algorithm"].native)
        return digest, str(mask["parameters"]["algorithm"].native)


def _bounded(encoded: bytes) -> None:
    if len(encoded) > MAX_PARAMETERS:
        raise MalformedCms("parameters are too long")
    ber.check(encoded, max_depth=16, max_elements=256)
