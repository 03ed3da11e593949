"""The trust space of an operator: one folder of anchors, CRLs and the white list, asked for decisions.

Invariants: a decision and its explanation come from the same code; every answer comes from one consistent snapshot;
files are looked at again at most once a second; a bad new file leaves the old one in force and raises an alarm; a list
too old authorises nobody (temporary refusal), for the list itself carries no end date (mssante.md §1.4). Thread safe.
A reload verifies a signature and may take a third of a second: inside an event loop, call through a thread, or call
`refresh` from one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from cryptography import x509

from trustspace.dn import name_of
from trustspace.join import may_speak
from trustspace.listshape import ListRefusal, WhiteListRefused
from trustspace.loading import Rules, Snapshot, Stamp, examined, read_snapshot, stamp
from trustspace.model import Decision, TrustSpaceError, WhiteList
from trustspace.paths import Anchors, Online, PathReason, PathValidator, PathVerdict, Usage
from trustspace.verdict import Purpose, purpose_of

LOOK_EVERY = 1.0
"""Seconds between two looks at the files."""
RETRY_AFTER = timedelta(seconds=60)
"""A refusal may depend on the time (a CRL not there yet): unchanged files are tried again after this."""

RULE_STALE = "WHITE_LIST_STALE"
RULE_NO_ANCHORS = "NO_TRUST_ANCHORS"
RULE_UNREADABLE_NAME = "CERTIFICATE_NAME_UNREADABLE"

_PATH_TEXTS: dict[PathReason, tuple[str, str]] = {
    PathReason.EXPIRED: ("Le certificat (ou une autorité au-dessus) est expiré.", "The certificate has expired."),
    PathReason.NOT_YET_VALID: ("Le certificat n'est pas encore valide.", "The certificate is not valid yet."),
    PathReason.REVOKED: ("Le certificat (ou une autorité au-dessus) est révoqué.", "The certificate is revoked."),
    PathReason.REVOCATION_UNKNOWN: (
        "Aucune liste de révocation en cours de validité ne permet de vérifier le certificat.",
        "No revocation list in force allows the certificate to be checked.",
    ),
    PathReason.UNTRUSTED: (
        "Le certificat n'est pas émis par une autorité reconnue.",
        "The certificate is not issued by a recognised authority.",
    ),
    PathReason.BAD_USAGE: (
        "Le certificat n'est pas prévu pour cet usage.",
        "The certificate is not meant for this usage.",
    ),
}

CheckPath = Callable[[x509.Certificate, Sequence[x509.Certificate], datetime], PathVerdict]


class TrustUnavailable(TrustSpaceError):
    """There is no white list in force: the question cannot be answered now (a temporary condition)."""


class Freshness(StrEnum):
    """How old the list in force is."""

    FRESH = "fresh"
    AGEING = "ageing"
    STALE = "stale"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision with what it rests on: the path verdict (None when it was not reached) and the age of the list."""

    decision: Decision
    path: PathVerdict | None
    freshness: Freshness


@dataclass(frozen=True, slots=True)
class TrustState:
    """What is in force at a moment, for people and metrics. `list_age` runs from the last confirmed download.

    `crl_ends`: by file name, the next update of each CRL in force (aware UTC). `alarms`: by file name.
    """

    freshness: Freshness
    white_list: WhiteList | None
    list_age: timedelta | None
    crl_ends: Mapping[str, datetime | None]
    alarms: Mapping[str, str]


class TrustSpace:
    """The trust space read from `folder` (anchors/, intermediates/, crl/, listeblanche.xml; history/ is written)."""

    def __init__(
        self,
        folder: Path,
        *,
        signer_cn: str,
        practice: bool = False,
        stale_after: timedelta = timedelta(days=7),
        warn_after: timedelta = timedelta(hours=24),
        online: Online | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`signer_cn` is the common name of the list's signer; nothing is read before the first question.

        Without `practice`, practice authorities among the anchors are refused. `online` may be asked for issuers and
        OCSP answers. `clock` serves only the properties asked before any dated question.
        """
        self.folder = folder
        self._rules = Rules(signer_cn, practice, online)
        self._stale_after = stale_after
        self._warn_after = warn_after
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._snapshot = Snapshot()
        self._stamp: Stamp | None = None
        self._looked = 0.0
        self._read_at: datetime | None = None

    def is_listed(self, domain: str, at: datetime) -> bool:
        """True when the list in force has `domain`. Raises TrustUnavailable without any list.

        Staleness does not matter here: a message for a listed domain may be queued, and `authorise` defers its sending.
        """
        white_list = self._refreshed(at).white_list
        if white_list is None:
            raise TrustUnavailable("no white list in force")
        return white_list.is_listed(domain)

    def authorise(
        self,
        certificate: x509.Certificate,
        domain: str,
        at: datetime,
        *,
        supplied: Sequence[x509.Certificate] = (),
        usage: Usage = Usage.TLS_CLIENT,
        stapled: bytes | None = None,
    ) -> Decision:
        """May the holder of `certificate` speak for `domain` at `at` (aware)? The decision alone of `explain`."""
        return self.explain(certificate, domain, at, supplied=supplied, usage=usage, stapled=stapled).decision

    def explain(
        self,
        certificate: x509.Certificate,
        domain: str,
        at: datetime,
        *,
        supplied: Sequence[x509.Certificate] = (),
        usage: Usage = Usage.TLS_CLIENT,
        stapled: bytes | None = None,
    ) -> Explanation:
        """Anchors of the peers, freshness of the list, path and revocation, then the join: the first "no" decides.

        `certificate` is the one the TLS handshake proved; `supplied`, the rest of the peer's chain; `usage`, the
        peer's side of the connection; `stapled`, the OCSP response (DER) it gave, if any. Never raises for a bad
        certificate or domain.
        """
        state = self._refreshed(at)
        freshness = self._freshness(state, at)
        digest = state.white_list.digest if state.white_list else ""
        validator = state.validators.get(Purpose.PEERS)
        if validator is None:
            reasons = ("Aucune autorité de confiance n'est disponible.", "No trust anchor is available.")
            return Explanation(Decision(False, *reasons, RULE_NO_ANCHORS, digest, temporary=True), None, freshness)
        if freshness is Freshness.STALE:
            reasons = ("La liste blanche en vigueur est périmée.", "The white list in force is stale.")
            return Explanation(Decision(False, *reasons, RULE_STALE, digest, temporary=True), None, freshness)
        verdict = validator.check(certificate, supplied, at=at, usage=usage, stapled=stapled)
        return Explanation(_joined(state.white_list, certificate, verdict, domain, digest), verdict, freshness)

    @property
    def in_force(self) -> object:
        """What decisions rest on at this moment: another object after each reload. Looks at no file."""
        return self._snapshot

    def path_checker(self, usage: Usage | str, purpose: Purpose | None = None) -> CheckPath:
        """A function (certificate, intermediates, at) -> PathVerdict that follows reloads; for `smime`.

        The anchors are those of `purpose`; by default, of the one the usage has (`purpose_of`).
        """
        wanted = Usage(usage)
        anchors_of = purpose or purpose_of(wanted)

        def check(
            certificate: x509.Certificate, intermediates: Sequence[x509.Certificate], at: datetime
        ) -> PathVerdict:
            validator = self.validator(anchors_of, at)
            if validator is None:
                return PathVerdict(False, PathReason.UNTRUSTED)
            return validator.check(certificate, intermediates, at=at, usage=wanted)

        return check

    def validator(self, purpose: Purpose, at: datetime | None = None) -> PathValidator | None:
        """The path validator in force for a purpose; None without anchors. Do not keep it: it does not follow reloads."""
        return self._refreshed(at).validators.get(purpose)

    @property
    def white_list(self) -> WhiteList | None:
        """The list in force; None when none ever verified."""
        return self._refreshed(None).white_list

    @property
    def anchors(self) -> Anchors:
        """Roots and intermediates in force for the other operators. Raises TrustUnavailable when there are none."""
        return self.anchors_for(Purpose.PEERS)

    def anchors_for(self, purpose: Purpose) -> Anchors:
        """Roots and intermediates in force for a purpose. Raises TrustUnavailable when there are none."""
        anchors = self._refreshed(None).anchors.get(purpose)
        if anchors is None:
            raise TrustUnavailable("no trust anchor")
        return anchors

    def anchors_at_hand(self, purpose: Purpose) -> Anchors | None:
        """The anchors of a purpose as of the last look at the files, without another: for event loops."""
        return self._snapshot.anchors.get(purpose)

    @property
    def crls(self) -> tuple[x509.CertificateRevocationList, ...]:
        """The revocation lists in force, deltas included."""
        return tuple(one.crl for one in self._refreshed(None).crls.values())

    @property
    def files(self) -> Stamp | None:
        """Looks at the files; equal answers mean that nothing changed between."""
        self._refreshed(None)
        return self._stamp

    @property
    def alarm(self) -> str | None:
        """What is wrong with the files now ("; "-separated), None when nothing is."""
        return "; ".join(self._snapshot.alarms.values()) or None

    def freshness(self, at: datetime) -> Freshness:
        """FRESH, AGEING (past `warn_after`: tell someone), STALE (past `stale_after`: nobody is authorised), NONE."""
        return self._freshness(self._refreshed(at), at)

    def state(self, at: datetime) -> TrustState:
        """What is in force at `at` (aware)."""
        snapshot = self._refreshed(at)
        return TrustState(
            freshness=self._freshness(snapshot, at),
            white_list=snapshot.white_list,
            list_age=at - snapshot.fetched_at if snapshot.white_list and snapshot.fetched_at else None,
            crl_ends={name: one.crl.next_update_utc for name, one in snapshot.crls.items()},
            alarms=dict(snapshot.alarms),
        )

    def examine_list(self, content: bytes, at: datetime) -> WhiteList:
        """Verify a list as the one in force was, its date against that one's and ours; it does not enter into force.

        Raises WhiteListRefused.
        """
        state = self._refreshed(at)
        validator = state.validators.get(Purpose.LIST)
        if validator is None:
            raise WhiteListRefused(ListRefusal.SIGNER_UNTRUSTED, "no trust anchor")
        return examined(content, state, validator, self._rules.signer_cn, at)

    def refresh(self, at: datetime) -> None:
        """Look at the files now, whatever the time of the last look."""
        with self._lock:
            self._read(at)

    def _freshness(self, state: Snapshot, at: datetime) -> Freshness:
        if state.white_list is None or state.fetched_at is None:
            return Freshness.NONE
        age = at - state.fetched_at
        if age > self._stale_after:
            return Freshness.STALE
        return Freshness.AGEING if age > self._warn_after else Freshness.FRESH

    def _refreshed(self, at: datetime | None) -> Snapshot:
        """The snapshot, read again when files changed. One thread reads; the others go on with the one in force."""
        if self._stamp is not None and self._monotonic() - self._looked < LOOK_EVERY:
            return self._snapshot
        if not self._lock.acquire(blocking=self._stamp is None):
            return self._snapshot
        try:
            if self._stamp is None or self._monotonic() - self._looked >= LOOK_EVERY:
                self._read(at or self._read_at or self._clock())
        finally:
            self._lock.release()
        return self._snapshot

    def _read(self, at: datetime) -> None:
        found = stamp(self.folder)
        self._looked = self._monotonic()
        retry = bool(self._snapshot.alarms) and (self._read_at is None or abs(at - self._read_at) > RETRY_AFTER)
        if found != self._stamp or retry:
            self._snapshot = read_snapshot(self.folder, self._snapshot, rules=self._rules, at=at)
            self._stamp, self._read_at = found, at


def _joined(
    white_list: WhiteList | None, certificate: x509.Certificate, verdict: PathVerdict, domain: str, digest: str
) -> Decision:
    """The path's refusal, or the join's answer for the certificate's full name."""
    if not verdict.trusted:
        temporary = verdict.reason is PathReason.REVOCATION_UNKNOWN
        return Decision(
            False, *_PATH_TEXTS[verdict.reason], f"CERTIFICATE_{verdict.reason}", digest, temporary=temporary
        )
    try:
        name = name_of(certificate)
    except ValueError:
        reasons = ("Le nom du certificat est illisible.", "The certificate's name cannot be read.")
        return Decision(False, *reasons, RULE_UNREADABLE_NAME, digest)
    return may_speak(white_list, name, domain)
