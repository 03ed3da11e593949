"""Certificate paths: may this certificate be trusted, now, for this usage? pyhanko-certvalidator behind one door.

Invariants: trust roots are explicit, always (the library falls back to the system's store without them); revocation is
required for every certificate below the root (mode `require`: under soft-fail a revoked certificate can pass);
nothing is fetched from the network here; what our own CRL index (revocation.py) has established is handed to the
library as an assertion, and whatever it could not establish the library must find by itself; a bad certificate gives
a verdict, never an exception. What a peer sends along is used only when our own intermediates do not name the issuer,
and is bounded.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from asn1crypto import crl as asn1_crl
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from pyhanko_certvalidator import CertificateValidator, ValidationContext
from pyhanko_certvalidator.errors import (
    ExpiredError,
    InsufficientRevinfoError,
    NotYetValidError,
    PathValidationError,
    RevokedError,
)
from pyhanko_certvalidator.ltv.poe import POEManager
from pyhanko_certvalidator.policy_decl import NonRevokedStatusAssertion
from pyhanko_certvalidator.registry import CertificateRegistry
from pyhanko_certvalidator.revinfo.archival import process_legacy_crl_input
from pyhanko_certvalidator.revinfo.manager import RevinfoManager

from trustspace.revocation import RevocationIndex, Status, issued_by
from trustspace.verdict import Anchors, PathReason, PathVerdict, Usage, suits

MAX_SUPPLIED = 4
"""Certificates taken from a peer's chain: path building over same-named certificates grows like a factorial."""
_MAX_CACHED = 4096
_CACHE_FOR = timedelta(seconds=60)


class PathValidator:
    """Checks paths against one set of anchors and CRLs, parsed once. Synchronous, thread safe, usable inside a loop."""

    def __init__(self, anchors: Anchors, crls: Sequence[x509.CertificateRevocationList]) -> None:
        """`crls` are taken as they are; each is verified against its issuer at every check."""
        self.anchors = anchors
        self._roots = [_asn1(root) for root in anchors.roots]
        self.index = RevocationIndex(crls)
        self._crls = [asn1_crl.CertificateList.load(crl.public_bytes(Encoding.DER)) for crl in crls]
        self._next_updates = {crl.issuer: crl.next_update_utc for crl in crls if crl.next_update_utc is not None}
        self._cache: OrderedDict[tuple[bytes, Usage, bool], tuple[datetime, PathVerdict]] = OrderedDict()
        self._lock = threading.Lock()
        self._library = threading.Lock()

    def check(
        self,
        certificate: x509.Certificate,
        supplied: Sequence[x509.Certificate] = (),
        *,
        at: datetime,
        usage: Usage,
        revocation: bool = True,
    ) -> PathVerdict:
        """The verdict on `certificate` at `at` (aware). Never raises for a bad certificate.

        `supplied` are certificates sent by the peer. `revocation=False` is for the list signer's own time only,
        whose revocation is looked at apart (whitelist.py).
        """
        key = (certificate.fingerprint(hashes.SHA256()), usage, revocation)
        cached = self._cached(key, at)
        if cached is not None:
            return cached
        verdict = self._check(certificate, supplied, at.astimezone(UTC), usage, revocation)
        if verdict.trusted:
            with self._lock:
                self._cache[key] = (at, verdict)
                while len(self._cache) > _MAX_CACHED:
                    self._cache.popitem(last=False)
        return verdict

    def _cached(self, key: tuple[bytes, Usage, bool], at: datetime) -> PathVerdict | None:
        with self._lock:
            found = self._cache.get(key)
        if found is None or found[1].until is None or not found[0] <= at < found[1].until:
            return None
        return found[1]

    def _check(
        self,
        certificate: x509.Certificate,
        supplied: Sequence[x509.Certificate],
        at: datetime,
        usage: Usage,
        revocation: bool,
    ) -> PathVerdict:
        subject = _subject(certificate)
        try:
            early = self._early_refusal(certificate, at, usage)
            if early is not None:
                return PathVerdict(False, early, subject)
            others = self._others(certificate, supplied)
            chain = self._chain(certificate, others)
            unrevoked: list[x509.Certificate] = []
            if revocation:
                for element, issuer in chain:
                    status = self.index.status(element, issuer, at)
                    if status is Status.REVOKED:
                        return PathVerdict(False, PathReason.REVOKED, _subject(element))
                    if status is Status.GOOD:
                        unrevoked.append(element)
            # The library takes an assertion on the leaf for the whole path: all or nothing.
            asserted = unrevoked if chain and len(unrevoked) == len(chain) else []
            # asn1crypto parses lazily, in place: two threads must not read the shared roots and CRLs at once.
            with self._library:
                context = self._context(others, asserted, at, revocation)
                path = _run(CertificateValidator(_asn1(certificate), validation_context=context).async_validate_path())
                elements = [asn1_to_certificate(element) for element in path]
        except RevokedError as error:
            return PathVerdict(False, PathReason.REVOKED, _failing(error, subject))
        except ExpiredError as error:
            return PathVerdict(False, PathReason.EXPIRED, _failing(error, subject))
        except NotYetValidError as error:
            return PathVerdict(False, PathReason.NOT_YET_VALID, _failing(error, subject))
        except InsufficientRevinfoError as error:
            return PathVerdict(False, PathReason.REVOCATION_UNKNOWN, _failing(error, subject))
        except PathValidationError as error:
            return PathVerdict(False, PathReason.UNTRUSTED, _failing(error, subject))
        except Exception:
            # Path not built, a malformed extension, a name that does not decode: the library raises many types.
            return PathVerdict(False, PathReason.UNTRUSTED, subject)
        return self._positive(elements, at)

    @staticmethod
    def _early_refusal(certificate: x509.Certificate, at: datetime, usage: Usage) -> PathReason | None:
        """What the certificate itself tells, so that an expired one is called expired even when CRLs are missing."""
        if not suits(certificate, usage):
            return PathReason.BAD_USAGE
        if at > certificate.not_valid_after_utc:
            return PathReason.EXPIRED
        if at < certificate.not_valid_before_utc:
            return PathReason.NOT_YET_VALID
        return None

    def _others(
        self, certificate: x509.Certificate, supplied: Sequence[x509.Certificate]
    ) -> tuple[x509.Certificate, ...]:
        """The intermediates to use: ours; and the peer's only when ours and the roots do not name the issuer."""
        ours = self.anchors.intermediates
        if any(_names_issuer(known, certificate) for known in (*ours, *self.anchors.roots)):
            return ours
        return (*ours, *supplied[:MAX_SUPPLIED])

    def _chain(
        self, certificate: x509.Certificate, others: Sequence[x509.Certificate]
    ) -> list[tuple[x509.Certificate, x509.Certificate]]:
        """(certificate, issuer) pairs from the leaf up to a root; [] when no root is reached."""
        pairs: list[tuple[x509.Certificate, x509.Certificate]] = []
        current = certificate
        for _ in range(len(others) + 1):
            for candidate in (*self.anchors.roots, *others):
                if _names_issuer(candidate, current) and issued_by(current, candidate):
                    pairs.append((current, candidate))
                    break
            else:
                return []
            if pairs[-1][1] in self.anchors.roots:
                return pairs
            current = pairs[-1][1]
        return []

    def _context(
        self,
        others: Sequence[x509.Certificate],
        unrevoked: Sequence[x509.Certificate],
        at: datetime,
        revocation: bool,
    ) -> ValidationContext:
        registry = CertificateRegistry.build([_asn1(other) for other in others])
        for root in self._roots:
            registry.register(root)
        manager = RevinfoManager(
            certificate_registry=registry,
            poe_manager=POEManager(),
            crls=process_legacy_crl_input(self._crls) if revocation else (),
            ocsps=(),
            assertions=[
                NonRevokedStatusAssertion(cert_sha256=element.fingerprint(hashes.SHA256()), at=at)
                for element in unrevoked
            ],
        )
        return ValidationContext(
            trust_roots=self._roots,
            certificate_registry=registry,
            revinfo_manager=manager,
            moment=at,
            allow_fetching=False,
            revocation_mode="require" if revocation else "soft-fail",
            time_tolerance=timedelta(0),
        )

    def _positive(self, path: list[x509.Certificate], at: datetime) -> PathVerdict:
        """Trusted, if the root itself is valid at `at` (the library does not look); with the end of that truth."""
        for element in path:
            if at > element.not_valid_after_utc:
                return PathVerdict(False, PathReason.EXPIRED, _subject(element))
            if at < element.not_valid_before_utc:
                return PathVerdict(False, PathReason.NOT_YET_VALID, _subject(element))
        ends = [element.not_valid_after_utc for element in path]
        ends += [self._next_updates[e.issuer] for e in path if e.issuer in self._next_updates]
        return PathVerdict(True, PathReason.TRUSTED, "", min(at + _CACHE_FOR, *ends))


def check_path(
    certificate: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    *,
    anchors: Anchors,
    crls: Sequence[x509.CertificateRevocationList],
    at: datetime,
    usage: Usage,
) -> PathVerdict:
    """One check without keeping anything; use a PathValidator for many. Same rules as `PathValidator.check`."""
    return PathValidator(anchors, crls).check(certificate, intermediates, at=at, usage=usage)


def asn1_to_certificate(certificate: Any) -> x509.Certificate:
    """The `cryptography` form of an asn1crypto certificate."""
    return x509.load_der_x509_certificate(certificate.dump())


def _asn1(certificate: x509.Certificate) -> Any:
    return asn1_x509.Certificate.load(certificate.public_bytes(Encoding.DER))


def _names_issuer(candidate: x509.Certificate, certificate: x509.Certificate) -> bool:
    """The candidate bears the issuer's name and, when both say, the issuer's key identifier (RFC 5280 §4.2.1.1)."""
    if candidate.subject != certificate.issuer:
        return False
    try:
        wanted = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        own = candidate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return True
    return wanted is None or wanted == own


def _failing(error: PathValidationError, leaf: str) -> str:
    """Name of the certificate at fault: the leaf, or the highest intermediate of the path otherwise."""
    if error.is_ee_cert:
        return leaf
    elements = list(error.current_path)
    index = next((int(word) for word in error.failure_msg.split() if word.isdecimal()), 1)
    if not 0 <= index < len(elements):
        return leaf
    return _subject(asn1_to_certificate(elements[index]))


def _subject(certificate: x509.Certificate) -> str:
    try:
        return certificate.subject.rfc4514_string()[:512]
    except ValueError:
        return "(unreadable name)"


def _run(coroutine: Any) -> Any:
    """Run a coroutine that never waits, because fetching is off: works with or without a running event loop."""
    try:
        coroutine.send(None)
    except StopIteration as finished:
        return finished.value
    coroutine.close()
    raise RuntimeError("path validation tried to wait")


__all__ = ["MAX_SUPPLIED", "Anchors", "PathReason", "PathValidator", "PathVerdict", "Usage", "check_path"]
