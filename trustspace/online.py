"""What may be asked of the network in the middle of a decision: an unknown issuer (AIA), a revocation status (OCSP).

Invariants: each question is bounded in size and time, and its answer, or the lack of one, is remembered, so that a
peer cannot make us ask at every connection; OCSP is asked at addresses of certificates whose issuer is established; an
AIA address comes from a certificate that nobody has vouched for yet, so it is followed only to the hosts that our own
trusted certificates, or the settings, name (no request to an address of an attacker's choice); what comes back is
verified by the caller like anything else. Thread safe.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from asn1crypto import cms
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from trustspace import pem
from trustspace.fetch import Fetcher, FetchFailed
from trustspace.locations import (
    crl_addresses,
    delta_addresses,
    host_of,
    hosts_named,
    issuer_addresses,
    ocsp_addresses,
)
from trustspace.ocsp import MAX_ANSWER, question, read_answer
from trustspace.revocation import NOTHING_KNOWN, Finding, Status, issued_by
from trustspace.verdict import Anchors

MAX_ISSUER = 64 * 1024
"""Octets of what an AIA address may hold: a certificate, or a few in a p7c."""
MAX_ISSUER_CERTIFICATES = 8
MAX_DEPTH = 3
_MAX_REMEMBERED = 2048
_MAX_WANTED = 256
_KEEP_ISSUERS = 24 * 3600.0
_KEEP_ANSWER = 3600.0
"""Seconds an OCSP answer is repeated at most, even when it lives for days: a revocation must be seen."""
_KEEP_FAILURE = 60.0

_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class OnlineRules:
    """What may be asked, how long one question may take (seconds), and hosts allowed beside those of our anchors."""

    ocsp: bool = True
    aia: bool = True
    seconds: float = 3.0
    hosts: frozenset[str] = frozenset()


class OnlineSources:
    """AIA and OCSP over a Fetcher; also remembers which CRLs were missed, for the store to fetch (crlstore.py)."""

    def __init__(
        self, fetcher: Fetcher, rules: OnlineRules, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Nothing is asked before `issuers` or `revocation` is called."""
        self._fetcher = fetcher
        self._rules = rules
        self._issuers: _Memory[str, tuple[x509.Certificate, ...]] = _Memory(monotonic)
        self._answers: _Memory[tuple[bytes, int], Finding] = _Memory(monotonic)
        self._wanted: dict[str, None] = {}
        self._lock = threading.Lock()

    def issuers(self, certificate: x509.Certificate, anchors: Anchors) -> Sequence[x509.Certificate]:
        """The certificates above `certificate` that AIA leads to, nearest first, up to an issuer that we know."""
        if not self._rules.aia:
            return ()
        allowed = self._rules.hosts | hosts_named((*anchors.roots, *anchors.intermediates))
        known = {one.subject for one in (*anchors.roots, *anchors.intermediates)}
        found: list[x509.Certificate] = []
        current = certificate
        for _ in range(MAX_DEPTH):
            addresses = [one for one in issuer_addresses(current) if host_of(one) in allowed]
            parents = (one for address in addresses for one in self._certificates(address))
            parent = next((one for one in parents if issued_by(current, one)), None)
            if parent is None:
                break
            found.append(parent)
            if parent.issuer in known:
                break
            current = parent
        return found

    def revocation(self, certificate: x509.Certificate, issuer: x509.Certificate, at: datetime) -> Finding:
        """The OCSP status of a certificate whose issuer is established; UNKNOWN when nobody answers."""
        self._want((*crl_addresses(certificate), *delta_addresses(certificate)))
        addresses = ocsp_addresses(certificate)
        if not self._rules.ocsp or not addresses:
            return NOTHING_KNOWN
        key = (issuer.fingerprint(hashes.SHA256()), certificate.serial_number)
        known = self._answers.get(key)
        if known is not None and (known.until is None or at < known.until):
            return known
        finding = NOTHING_KNOWN
        for address in addresses:
            finding = self._ask(address, certificate, issuer, at)
            if finding.status is not Status.UNKNOWN:
                break
        known_until = (finding.until - at).total_seconds() if finding.until is not None else _KEEP_FAILURE
        keep = min(known_until, _KEEP_ANSWER)
        self._answers.put(key, finding, keep)
        return finding

    def wanted_crls(self) -> tuple[str, ...]:
        """Addresses of CRLs that would have answered a question, the newest last."""
        with self._lock:
            return tuple(self._wanted)

    def _want(self, addresses: Sequence[str]) -> None:
        with self._lock:
            for address in addresses:
                if len(self._wanted) < _MAX_WANTED:
                    self._wanted[address] = None

    def _ask(self, address: str, certificate: x509.Certificate, issuer: x509.Certificate, at: datetime) -> Finding:
        try:
            answer = self._fetcher.post(
                address,
                question(certificate, issuer),
                "application/ocsp-request",
                size=MAX_ANSWER,
                seconds=self._rules.seconds,
            )
        except FetchFailed:
            return NOTHING_KNOWN
        return read_answer(answer.content or b"", certificate, issuer, at)

    def _certificates(self, address: str) -> tuple[x509.Certificate, ...]:
        known = self._issuers.get(address)
        if known is not None:
            return known
        try:
            answer = self._fetcher.get(address, size=MAX_ISSUER, seconds=self._rules.seconds)
            found = issuer_certificates(answer.content or b"")
        except (FetchFailed, pem.UnreadableFile):
            found = ()
        self._issuers.put(address, found, _KEEP_ISSUERS if found else _KEEP_FAILURE)
        return found


def issuer_certificates(content: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates of an AIA answer: DER, PEM, or a p7c of certificates only (RFC 5280 §4.2.2.1).

    Raises pem.UnreadableFile.
    """
    try:
        return pem.certificates_of(content)[:MAX_ISSUER_CERTIFICATES]
    except pem.UnreadableFile:
        pass
    try:
        held = cms.ContentInfo.load(content, strict=True)
        if held["content_type"].native != "signed_data":
            raise ValueError("not a bundle of certificates")
        chosen = [one.chosen.dump() for one in held["content"]["certificates"] if one.name == "certificate"]
        return tuple(x509.load_der_x509_certificate(der) for der in chosen[:MAX_ISSUER_CERTIFICATES])
    except (ValueError, TypeError) as error:
        raise pem.UnreadableFile("neither a certificate nor a bundle of certificates") from error


class _Memory(Generic[_K, _V]):
    """Answers with an end, bounded: the oldest goes first."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._held: OrderedDict[_K, tuple[float, _V]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: _K) -> _V | None:
        with self._lock:
            found = self._held.get(key)
        return found[1] if found is not None and self._monotonic() < found[0] else None

    def put(self, key: _K, value: _V, seconds: float) -> None:
        with self._lock:
            self._held[key] = (self._monotonic() + seconds, value)
            self._held.move_to_end(key)
            while len(self._held) > _MAX_REMEMBERED:
                self._held.popitem(last=False)
