"""Revocation lists, indexed once: is this certificate revoked, at this moment, by this issuer?

Invariants: a CRL counts only when the issuer's own key signed it, the issuer may sign CRLs, it is in force at the
moment asked for, and it is a plain full list (no delta, no issuing distribution point, no unknown critical extension);
whatever is not certain is UNKNOWN, never GOOD. The index exists because pyhanko-certvalidator walks the whole list in
Python at every check (0.1 s for 20,000 entries), and cards are revoked by the hundred thousand.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from enum import Enum

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa


class Status(Enum):
    """What the lists say about a certificate."""

    GOOD = "good"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


class _IndexedCrl:
    """One CRL with its serial numbers in a dictionary."""

    def __init__(self, crl: x509.CertificateRevocationList) -> None:
        self.crl = crl
        self.plain = _is_plain(crl)
        self.revoked = {entry.serial_number: entry.revocation_date_utc for entry in crl} if self.plain else {}
        self._signers: dict[bytes, bool] = {}
        self._lock = threading.Lock()

    def in_force(self, at: datetime) -> bool:
        """Between this and next update (RFC 5280 §5.1.2.4); a list without next update is never in force."""
        next_update = self.crl.next_update_utc
        return next_update is not None and self.crl.last_update_utc <= at < next_update

    def signed_by(self, issuer: x509.Certificate) -> bool:
        """True when the issuer's key made the signature and its key usage allows it; remembered per issuer."""
        fingerprint = issuer.fingerprint(hashes.SHA256())
        with self._lock:
            if fingerprint not in self._signers:
                self._signers[fingerprint] = signs(self.crl, issuer)
            return self._signers[fingerprint]


class RevocationIndex:
    """All CRLs we hold, found by issuer name. Thread safe."""

    def __init__(self, crls: Sequence[x509.CertificateRevocationList]) -> None:
        """Index the CRLs; none is trusted before its issuer is known."""
        self._by_issuer: dict[x509.Name, list[_IndexedCrl]] = defaultdict(list)
        for crl in crls:
            self._by_issuer[crl.issuer].append(_IndexedCrl(crl))

    def covers(self, issuer: x509.Name) -> bool:
        """True when some CRL bears this issuer's name, good or bad."""
        return issuer in self._by_issuer

    def status(
        self, certificate: x509.Certificate, issuer: x509.Certificate, at: datetime, *, whenever: bool = False
    ) -> Status:
        """What the CRLs of `issuer` in force at `at` (aware) say of `certificate`.

        A revocation dated after `at` does not count, except with `whenever`, for a signer whose own dating cannot be
        believed once it is revoked.
        """
        answer = Status.UNKNOWN
        for indexed in self._by_issuer.get(certificate.issuer, ()):
            if not indexed.plain or not indexed.in_force(at) or not indexed.signed_by(issuer):
                continue
            revoked_at = indexed.revoked.get(certificate.serial_number)
            if revoked_at is not None and (whenever or revoked_at <= at):
                return Status.REVOKED
            answer = Status.GOOD
        return answer


def issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """True when `issuer` bears the issuer name of `certificate` and its key made the signature."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _is_plain(crl: x509.CertificateRevocationList) -> bool:
    """A full list that speaks for its issuer only (RFC 5280 §5.2: unknown critical extensions forbid its use)."""
    try:
        for extension in crl.extensions:
            if extension.critical or isinstance(
                extension.value, x509.IssuingDistributionPoint | x509.DeltaCRLIndicator
            ):
                return False
    except ValueError:
        return False
    return True


def signs(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    """True when `issuer` bears the CRL's issuer name, may sign CRLs, and its key made the signature with SHA-2."""
    try:
        usage = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
        key = issuer.public_key()
        strong = isinstance(crl.signature_hash_algorithm, hashes.SHA256 | hashes.SHA384 | hashes.SHA512)
        return (
            strong
            and usage.crl_sign
            and crl.issuer == issuer.subject
            and isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)
            and crl.is_signature_valid(key)
        )
    except (x509.ExtensionNotFound, ValueError, TypeError):
        return False
