"""Certificate paths: may this certificate be trusted, now, for this usage? pyhanko-certvalidator behind one door.

Invariants: trust roots are explicit, always (the library falls back to the system's store without them); revocation is
required for every certificate below the root (mode `require`: under soft-fail a revoked certificate can pass); the
library never fetches; what our own CRL index (revocation.py) or a verified OCSP answer (ocsp.py) has established is
handed to the library as an assertion, and whatever they could not establish the library must find by itself in the
same CRLs; a bad certificate gives a verdict, never an exception. What a peer sends along is used only when our own
intermediates do not name the issuer, and is bounded; what is fetched (online.py) comes last.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from asn1crypto import crl as asn1_crl
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

from trustspace.claims import asn1_to_certificate, crl_issuers, names_issuer, speaks_of, subject_of, to_asn1
from trustspace.dn import DistinguishedName, from_x509
from trustspace.ocsp import read_answer
from trustspace.revocation import Finding, RevocationIndex, Status, issued_by
from trustspace.verdict import Anchors, PathReason, PathVerdict, Usage, suits

MAX_SUPPLIED = 4
"""Certificates taken from a peer's chain: path building over same-named certificates grows like a factorial."""
_MAX_CACHED = 4096
_CACHE_FOR = timedelta(seconds=60)
_MAX_DETAIL = 300

_REASONS: tuple[tuple[type[PathValidationError], PathReason], ...] = (
    (RevokedError, PathReason.REVOKED),
    (ExpiredError, PathReason.EXPIRED),
    (NotYetValidError, PathReason.NOT_YET_VALID),
    (InsufficientRevinfoError, PathReason.REVOCATION_UNKNOWN),
    (PathValidationError, PathReason.UNTRUSTED),
)

_Pairs = list[tuple[x509.Certificate, x509.Certificate]]


class Online(Protocol):
    """What may be asked of the network when nothing at hand answers; both are bounded in time and never raise."""

    def issuers(self, certificate: x509.Certificate, anchors: Anchors) -> Sequence[x509.Certificate]:
        """Certificates that may be the issuers', from the AIA of `certificate`, nearest first."""

    def revocation(self, certificate: x509.Certificate, issuer: x509.Certificate, at: datetime) -> Finding:
        """The status of a certificate whose issuer is established."""


class PathValidator:
    """Checks paths against one set of anchors and CRLs, parsed once. Synchronous, thread safe, usable inside a loop.

    Inside a running loop, without `online` only: the network would hold the loop up.
    """

    def __init__(
        self,
        anchors: Anchors,
        crls: Sequence[x509.CertificateRevocationList],
        *,
        index: RevocationIndex | None = None,
        online: Online | None = None,
    ) -> None:
        """`crls` are taken as they are; each is verified against its issuer at every check. `index` is theirs."""
        self.anchors = anchors
        self.index = index or RevocationIndex(crls)
        self._online = online
        self._own = {one: to_asn1(one) for one in (*anchors.roots, *anchors.intermediates)}
        self._crls = [(crl, asn1_crl.CertificateList.load(crl.public_bytes(Encoding.DER))) for crl in crls]
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
        stapled: bytes | None = None,
    ) -> PathVerdict:
        """The verdict on `certificate` at `at` (aware). Never raises for a bad certificate.

        `supplied` are certificates sent by the peer, `stapled` an OCSP response (DER) it sent about its own.
        `revocation=False` is for the list signer's own time only, whose revocation is looked at apart (whitelist.py).
        """
        key = (certificate.fingerprint(hashes.SHA256()), usage, revocation)
        cached = self._cached(key, at)
        # A staple may tell of a revocation that we do not know yet.
        if cached is not None and stapled is None:
            return cached
        verdict = self._check(certificate, supplied, at.astimezone(UTC), usage, revocation, stapled)
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
        stapled: bytes | None = None,
    ) -> PathVerdict:
        subject = subject_of(certificate)
        try:
            early = _early_refusal(certificate, at, usage)
            if early is not None:
                return PathVerdict(False, early, subject)
            others = self._others(certificate, supplied)
            pairs = self._chain(certificate, others)
            if not pairs and self._online is not None:
                others = (*others, *self._online.issuers(certificate, self.anchors)[:MAX_SUPPLIED])
                pairs = self._chain(certificate, others)
            findings = [
                self._finding(*pair, at, stapled if n == 0 else None) for n, pair in enumerate(pairs) if revocation
            ]
            chain = (subject, *(subject_of(issuer) for _, issuer in pairs))
            evidence = tuple(finding.source or "-" for finding in findings)
            for (element, _), finding in zip(pairs, findings, strict=False):
                if finding.status is Status.REVOKED:
                    refused = PathReason.REVOKED
                    return PathVerdict(False, refused, subject_of(element), None, finding.source, chain, evidence)
            verdict = self._by_library(certificate, others, pairs, findings, at, revocation)
        except Exception as error:
            # A malformed extension, a name that does not decode: the libraries raise many types.
            return PathVerdict(False, PathReason.UNTRUSTED, subject, None, type(error).__name__)
        return replace(verdict, chain=verdict.chain or chain, evidence=evidence)

    def _finding(
        self, element: x509.Certificate, issuer: x509.Certificate, at: datetime, stapled: bytes | None
    ) -> Finding:
        """What is known of one certificate: our CRLs, then what the peer stapled, then the network."""
        finding = self.index.look(element, issuer, at)
        if finding.status is not Status.REVOKED and stapled is not None:
            answer = read_answer(stapled, element, issuer, at)
            finding = answer if answer.status is not Status.UNKNOWN else finding
        if finding.status is Status.UNKNOWN and self._online is not None:
            finding = self._online.revocation(element, issuer, at)
        return finding

    def _by_library(
        self,
        certificate: x509.Certificate,
        others: Sequence[x509.Certificate],
        pairs: _Pairs,
        findings: Sequence[Finding],
        at: datetime,
        revocation: bool,
    ) -> PathVerdict:
        """RFC 5280 §6 by the library, along the path we found; over all we hold when that one does not do."""
        asserted = [] if any(finding.status is not Status.GOOD for finding in findings) else [p[0] for p in pairs]
        ends = [finding.until for finding in findings if finding.until is not None]
        if pairs:
            issuers = [issuer for _, issuer in pairs]
            verdict = self._run(certificate, issuers[-1:], issuers[:-1], asserted, at, revocation, ends)
            if verdict.trusted:
                return verdict
        # The library takes an assertion on the leaf for the whole path, whichever it is: another path gets none.
        return self._run(certificate, self.anchors.roots, others, (), at, revocation, ends)

    def _run(
        self,
        certificate: x509.Certificate,
        roots: Sequence[x509.Certificate],
        others: Sequence[x509.Certificate],
        asserted: Sequence[x509.Certificate],
        at: datetime,
        revocation: bool,
        ends: Sequence[datetime],
    ) -> PathVerdict:
        lists = self._relevant_crls(certificate, (*roots, *others)) if revocation and not asserted else []
        # asn1crypto parses lazily, in place: two threads must not read the shared roots and CRLs at once.
        with self._library:
            context = self._context(roots, others, asserted, [one for _, one in lists], at, revocation)
            try:
                path = _run(
                    CertificateValidator(to_asn1(certificate), validation_context=context).async_validate_path()
                )
            except PathValidationError as error:
                reason = next(reason for kind, reason in _REASONS if isinstance(error, kind))
                detail = str(error.failure_msg)[:_MAX_DETAIL]
                return PathVerdict(False, reason, _failing(error, subject_of(certificate)), None, detail)
            except Exception as error:
                # No path could be built: the library has several types for that.
                return PathVerdict(False, PathReason.UNTRUSTED, subject_of(certificate), None, str(error)[:_MAX_DETAIL])
            elements = [asn1_to_certificate(element) for element in path]
        if revocation and not asserted:
            for element in elements[1:]:
                if not any(speaks_of(crl, element, (*roots, *others), at) for crl, _ in lists):
                    return PathVerdict(False, PathReason.REVOCATION_UNKNOWN, subject_of(element))
        return _positive(elements, at, ends)

    def _relevant_crls(
        self, certificate: x509.Certificate, authorities: Sequence[x509.Certificate]
    ) -> list[tuple[x509.CertificateRevocationList, Any]]:
        """The CRLs of the names above `certificate`, and of the CRL issuers that certificates name.

        The library takes a CRL from any CRL signer that the same authority certified: a sister authority's list would
        vouch for a certificate whose own issuer's list is missing or bad (PKITS 4.4.4, 4.4.21).
        """
        names: set[DistinguishedName] = set()
        waiting = [certificate]
        while waiting:
            new = crl_issuers(waiting.pop()) - names
            names |= new
            waiting += [one for one in authorities if from_x509(one.subject) in new]
        return [pair for pair in self._crls if from_x509(pair[0].issuer) in names]

    def _others(
        self, certificate: x509.Certificate, supplied: Sequence[x509.Certificate]
    ) -> tuple[x509.Certificate, ...]:
        """The intermediates to use: ours; and the peer's only when ours and the roots do not name the issuer."""
        ours = self.anchors.intermediates
        if any(names_issuer(known, certificate) for known in (*ours, *self.anchors.roots)):
            return ours
        return (*ours, *supplied[:MAX_SUPPLIED])

    def _chain(self, certificate: x509.Certificate, others: Sequence[x509.Certificate]) -> _Pairs:
        """(certificate, issuer) pairs from the leaf up to a root; [] when no root is reached."""
        pairs: _Pairs = []
        current = certificate
        for _ in range(len(others) + 1):
            for candidate in (*self.anchors.roots, *others):
                if names_issuer(candidate, current) and issued_by(current, candidate):
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
        roots: Sequence[x509.Certificate],
        others: Sequence[x509.Certificate],
        unrevoked: Sequence[x509.Certificate],
        crls: Sequence[Any],
        at: datetime,
        revocation: bool,
    ) -> ValidationContext:
        trusted = [self._own[root] for root in roots]
        registry = CertificateRegistry.build([self._own.get(other) or to_asn1(other) for other in others])
        for root in trusted:
            registry.register(root)
        manager = RevinfoManager(
            certificate_registry=registry,
            poe_manager=POEManager(),
            crls=process_legacy_crl_input(crls),
            ocsps=(),
            assertions=[
                NonRevokedStatusAssertion(cert_sha256=element.fingerprint(hashes.SHA256()), at=at)
                for element in unrevoked
            ],
        )
        return ValidationContext(
            trust_roots=trusted,
            certificate_registry=registry,
            revinfo_manager=manager,
            moment=at,
            allow_fetching=False,
            revocation_mode="require" if revocation else "soft-fail",
            time_tolerance=timedelta(0),
        )


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


def _early_refusal(certificate: x509.Certificate, at: datetime, usage: Usage) -> PathReason | None:
    """What the certificate itself tells, so that an expired one is called expired even when CRLs are missing."""
    if not suits(certificate, usage):
        return PathReason.BAD_USAGE
    if at > certificate.not_valid_after_utc:
        return PathReason.EXPIRED
    if at < certificate.not_valid_before_utc:
        return PathReason.NOT_YET_VALID
    return None


def _positive(path: Sequence[x509.Certificate], at: datetime, ends: Sequence[datetime]) -> PathVerdict:
    """Trusted, if the root itself is valid at `at` (the library does not look); with the end of that truth."""
    for element in path:
        if at > element.not_valid_after_utc:
            return PathVerdict(False, PathReason.EXPIRED, subject_of(element))
        if at < element.not_valid_before_utc:
            return PathVerdict(False, PathReason.NOT_YET_VALID, subject_of(element))
    until = min(at + _CACHE_FOR, *ends, *(element.not_valid_after_utc for element in path))
    chain = tuple(subject_of(element) for element in reversed(path))
    return PathVerdict(True, PathReason.TRUSTED, "", until, "", chain)


def _failing(error: PathValidationError, leaf: str) -> str:
    """Name of the certificate at fault: the leaf, or the highest intermediate of the path otherwise."""
    if error.is_ee_cert:
        return leaf
    elements = list(error.current_path)
    index = next((int(word) for word in error.failure_msg.split() if word.isdecimal()), 1)
    if not 0 <= index < len(elements):
        return leaf
    return subject_of(asn1_to_certificate(elements[index]))


def _run(coroutine: Any) -> Any:
    """Run a coroutine that never waits, because fetching is off: works with or without a running event loop."""
    try:
        coroutine.send(None)
    except StopIteration as finished:
        return finished.value
    coroutine.close()
    raise RuntimeError("path validation tried to wait")


__all__ = [
    "MAX_SUPPLIED",
    "Anchors",
    "Online",
    "PathReason",
    "PathValidator",
    "PathVerdict",
    "Usage",
    "check_path",
]
