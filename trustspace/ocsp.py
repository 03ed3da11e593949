"""OCSP (RFC 6960): building a question, judging an answer. Pure: bytes in, values out.

Invariants: an answer counts only when it is about that very certificate and issuer, signed by the issuer itself or by
a responder that the issuer certified for that (id-kp-OCSPSigning) and that is valid, with SHA-2; when it was produced
in the past and is not older than its own next update; whatever is not certain is UNKNOWN, never GOOD. No nonce is
asked for: answers are kept and shared (RFC 5019), and their dates bound them.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from asn1crypto.keys import PublicKeyInfo
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from trustspace.revocation import NOTHING_KNOWN, Finding, Status, issued_by

MAX_ANSWER = 64 * 1024
"""Octets of a response: it holds one status and at most a few certificates."""
CLOCK_SKEW = timedelta(minutes=5)
_WITHOUT_END = timedelta(hours=1)
"""How long an answer without next update is believed: it says that newer information is always available."""
_MAX_RESPONDERS = 4
_STRONG = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


def question(certificate: x509.Certificate, issuer: x509.Certificate) -> bytes:
    """The DER request about one certificate. SHA-1 identifies it, as every responder understands (RFC 5019 §2.1.1):
    it is a look-up key, not a protection."""
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA1())  # noqa: S303
    return builder.build().public_bytes(Encoding.DER)


def read_answer(content: bytes, certificate: x509.Certificate, issuer: x509.Certificate, at: datetime) -> Finding:
    """What a DER response establishes at `at` (aware) about `certificate`, whose issuer is `issuer`. Never raises."""
    if len(content) > MAX_ANSWER:
        return NOTHING_KNOWN
    try:
        response = ocsp.load_der_ocsp_response(content)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            return NOTHING_KNOWN
        single = next((one for one in response.responses if _is_about(one, certificate, issuer)), None)
        if single is None or not _is_signed(response, issuer, at):
            return NOTHING_KNOWN
        return _judged(single, at)
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        return NOTHING_KNOWN


def _judged(single: ocsp.OCSPSingleResponse, at: datetime) -> Finding:
    source = f"OCSP ({single.this_update_utc:%Y-%m-%dT%H:%MZ})"
    if single.certificate_status is ocsp.OCSPCertStatus.REVOKED:
        # Whatever its dates: a revocation does not age.
        revoked_at = single.revocation_time_utc
        return NOTHING_KNOWN if revoked_at is not None and revoked_at > at else Finding(Status.REVOKED, None, source)
    until = single.next_update_utc or single.this_update_utc + _WITHOUT_END
    if single.this_update_utc > at + CLOCK_SKEW or at >= until:
        return NOTHING_KNOWN
    if single.certificate_status is ocsp.OCSPCertStatus.GOOD:
        return Finding(Status.GOOD, until, source)
    return NOTHING_KNOWN


def _is_about(single: ocsp.OCSPSingleResponse, certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """The serial, and the issuer's name and key, hashed as the response says (RFC 6960 §4.1.1)."""
    key = issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return (
        single.serial_number == certificate.serial_number
        and single.issuer_name_hash == _hash(single.hash_algorithm, issuer.subject.public_bytes())
        and single.issuer_key_hash == _hash(single.hash_algorithm, _bit_string(key))
    )


def _bit_string(public_key: bytes) -> bytes:
    """The key itself inside a SubjectPublicKeyInfo: what RFC 6960 hashes, without tag, length and unused bits."""
    return bytes(PublicKeyInfo.load(public_key)["public_key"].contents[1:])


def _hash(algorithm: hashes.HashAlgorithm, content: bytes) -> bytes:
    digest = hashes.Hash(algorithm)
    digest.update(content)
    return digest.finalize()


def _is_signed(response: ocsp.OCSPResponse, issuer: x509.Certificate, at: datetime) -> bool:
    """By the issuer, or by a delegated responder (RFC 6960 §4.2.2.2) found among the certificates of the response."""
    delegates = [one for one in response.certificates[:_MAX_RESPONDERS] if _is_delegate(one, issuer, at)]
    return any(_verifies(response, signer) for signer in (issuer, *delegates))


def _is_delegate(candidate: x509.Certificate, issuer: x509.Certificate, at: datetime) -> bool:
    """Certified by the issuer itself for OCSP, and valid. Its own revocation is not asked (RFC 6960 §4.2.2.2.1): the
    issuer bounds it by a short life, and no answer could vouch for its own signer."""
    try:
        usages = candidate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    in_force = candidate.not_valid_before_utc <= at <= candidate.not_valid_after_utc
    return in_force and ExtendedKeyUsageOID.OCSP_SIGNING in usages and issued_by(candidate, issuer)


def _verifies(response: ocsp.OCSPResponse, signer: x509.Certificate) -> bool:
    algorithm, key = response.signature_hash_algorithm, signer.public_key()
    if not isinstance(algorithm, _STRONG):
        return False
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(response.signature, response.tbs_response_bytes, padding.PKCS1v15(), algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(algorithm))
        else:
            return False
    except InvalidSignature:
        return False
    return True
