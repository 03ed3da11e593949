"""Revocation lists, indexed once: is this certificate revoked, at this moment, by this issuer?

Invariants: a CRL counts only when the issuer's own key signed it, the issuer may sign CRLs, it is in force at the
moment asked for, and it is a full list, or the delta of one (no issuing distribution point, no other critical
extension); GOOD always rests on a full list in force, a delta only adds revocations to it or lifts a hold; whatever is
not certain is UNKNOWN, never GOOD. The index exists because pyhanko-certvalidator walks the whole list in Python at
every check (0.1 s for 20,000 entries), and cards are revoked by the hundred thousand.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Finding:
    """A status, until when it may be repeated without another look (aware UTC), and what said so, for people."""

    status: Status
    until: datetime | None = None
    source: str = ""


NOTHING_KNOWN = Finding(Status.UNKNOWN)


class _IndexedCrl:
    """One CRL with its serial numbers in a dictionary: revocation date, or None for "removed" (deltas only)."""

    def __init__(self, crl: x509.CertificateRevocationList) -> None:
        self.crl = crl
        self.number = _number(crl, x509.CRLNumber)
        self.base = _number(crl, x509.DeltaCRLIndicator)
        self.usable = _is_usable(crl)
        self.revoked = {entry.serial_number: _moment(entry) for entry in crl} if self.usable else {}
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

    def completes(self, full: _IndexedCrl) -> bool:
        """True when this delta may be combined with the full list `full` (RFC 5280 §5.2.4 c, d)."""
        if self.base is None or self.number is None or full.number is None:
            return False
        return self.base <= full.number < self.number

    def described(self) -> str:
        """For people: kind, number, dates."""
        kind = "CRL" if self.base is None else "delta CRL"
        number = f" {self.number}" if self.number is not None else ""
        return f"{kind}{number} ({self.crl.last_update_utc:%Y-%m-%dT%H:%MZ})"


class RevocationIndex:
    """All CRLs we hold, found by issuer name. Thread safe."""

    def __init__(self, crls: Sequence[x509.CertificateRevocationList], previous: RevocationIndex | None = None) -> None:
        """Index the CRLs; none is trusted before its issuer is known. What `previous` had indexed is taken over."""
        self._by_issuer: dict[x509.Name, list[_IndexedCrl]] = defaultdict(list)
        known = {id(one.crl): one for held in previous._by_issuer.values() for one in held} if previous else {}
        for crl in crls:
            self._by_issuer[crl.issuer].append(known.get(id(crl)) or _IndexedCrl(crl))

    def covers(self, issuer: x509.Name) -> bool:
        """True when some CRL bears this issuer's name, good or bad."""
        return issuer in self._by_issuer

    def status(
        self, certificate: x509.Certificate, issuer: x509.Certificate, at: datetime, *, whenever: bool = False
    ) -> Status:
        """The status alone of `look`."""
        return self.look(certificate, issuer, at, whenever=whenever).status

    def look(
        self, certificate: x509.Certificate, issuer: x509.Certificate, at: datetime, *, whenever: bool = False
    ) -> Finding:
        """What the CRLs of `issuer` in force at `at` (aware) say of `certificate`.

        A revocation dated after `at` does not count, except with `whenever`, for a signer whose own dating cannot be
        believed once it is revoked.
        """
        held = self._by_issuer.get(certificate.issuer, ())
        current = [one for one in held if one.usable and one.in_force(at) and one.signed_by(issuer)]
        deltas = [one for one in current if one.base is not None]
        serial, best = certificate.serial_number, NOTHING_KNOWN
        for delta in deltas:
            revoked_at = delta.revoked.get(serial)
            if revoked_at is not None and (whenever or revoked_at <= at):
                return Finding(Status.REVOKED, None, delta.described())
        for full in (one for one in current if one.base is None):
            used = [full, *(delta for delta in deltas if delta.completes(full))]
            revoked_at = full.revoked.get(serial)
            lifted = any(serial in delta.revoked for delta in used[1:])
            if revoked_at is not None and not lifted and (whenever or revoked_at <= at):
                return Finding(Status.REVOKED, None, full.described())
            until = min(one.crl.next_update_utc for one in used if one.crl.next_update_utc is not None)
            if best.until is None or until > best.until:
                best = Finding(Status.GOOD, until, " + ".join(one.described() for one in used))
        return best


def issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """True when `issuer` bears the issuer name of `certificate` and its key made the signature."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
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


def crl_number(crl: x509.CertificateRevocationList) -> int | None:
    """The CRL number (RFC 5280 §5.2.3), None when absent or unreadable."""
    return _number(crl, x509.CRLNumber)


def is_delta(crl: x509.CertificateRevocationList) -> bool:
    """True for a delta CRL (RFC 5280 §5.2.4)."""
    return _number(crl, x509.DeltaCRLIndicator) is not None


def _number(
    crl: x509.CertificateRevocationList, kind: type[x509.CRLNumber] | type[x509.DeltaCRLIndicator]
) -> int | None:
    try:
        return crl.extensions.get_extension_for_class(kind).value.crl_number
    except (x509.ExtensionNotFound, ValueError):
        return None


def _is_usable(crl: x509.CertificateRevocationList) -> bool:
    """A list that speaks for its issuer only (RFC 5280 §5.2, §5.3: what is critical and unknown forbids its use)."""
    try:
        for extension in crl.extensions:
            if isinstance(extension.value, x509.DeltaCRLIndicator):
                continue
            if extension.critical or isinstance(extension.value, x509.IssuingDistributionPoint):
                return False
        return not any(extension.critical for entry in crl for extension in entry.extensions)
    except ValueError:
        return False


def _moment(entry: x509.RevokedCertificate) -> datetime | None:
    try:
        reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    except x509.ExtensionNotFound:
        return entry.revocation_date_utc
    return None if reason is x509.ReasonFlags.remove_from_crl else entry.revocation_date_utc
