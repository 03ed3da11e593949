"""What correspondents' programs read, remembered from the signatures they sent (smimeCapabilities, RFC 8551 §2.5.2).

Invariants: only a VALID verification teaches anything; the latest signing time wins (RFC 8551 §2.7.1), so that an old
message shown again brings nothing back; a certificate is known by whom it names, because people sign with one and are
encrypted to with another; bounded, the correspondent heard of longest ago being forgotten first. What is remembered only
chooses among what the policy allows (`choose`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime
from threading import Lock
from typing import NamedTuple

from cryptography import x509

from smime import identity
from smime.capabilities import Capabilities, Recipient
from smime.verdict import Verdict, Verification

MAX_CORRESPONDENTS = 50_000
MAX_NAMES = 8
"""Names of one certificate that are kept."""


class _Heard(NamedTuple):
    at: datetime
    capabilities: Capabilities


class CapabilityMemory:
    """Capabilities by correspondent, in memory and thread safe. `most`: names kept; about 300 octets each."""

    def __init__(self, most: int = MAX_CORRESPONDENTS) -> None:
        self._most = most
        self._heard: OrderedDict[str, _Heard] = OrderedDict()
        self._lock = Lock()

    def learn(self, verifications: Iterable[Verification]) -> None:
        """Remembers what these signatures state; those that are not VALID, undated, or silent teach nothing."""
        for one in verifications:
            certificate, signed_at = one.signer_certificate, one.signed_at
            if one.verdict is not Verdict.VALID or certificate is None or signed_at is None or one.capabilities is None:
                continue
            with self._lock:
                for name in _names(certificate):
                    known = self._heard.pop(name, None)
                    stated = _Heard(signed_at, one.capabilities)
                    self._heard[name] = stated if known is None or known.at <= signed_at else known
                while len(self._heard) > self._most:
                    self._heard.popitem(last=False)

    def of(self, certificate: x509.Certificate) -> Capabilities | None:
        """What the program of this certificate's holder reads: the latest of what its names stated; None when unheard."""
        with self._lock:
            heard = [self._heard[name] for name in _names(certificate) if name in self._heard]
        return max(heard, key=lambda one: one.at).capabilities if heard else None

    def recipient(self, certificate: x509.Certificate) -> Recipient:
        """The certificate with what was heard of its holder."""
        return Recipient(certificate, self.of(certificate))

    def __len__(self) -> int:
        return len(self._heard)


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    """Whom a certificate names: its addresses; without any, its holder's national identifier, as on a card."""
    addresses = identity.addresses(certificate)[:MAX_NAMES]
    holder = identity.national_id(certificate)
    return addresses or (() if holder is None else (holder,))
