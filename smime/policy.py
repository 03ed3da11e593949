"""What an operator lets be read that is no longer good enough to be written. Strict unless said otherwise, with dates.

Invariant: an allowance names one weakness, the signing dates it is for and the day it ends; it never makes a wrong
signature right, and what it lets pass is noted beside the verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class WeakAllowance:
    """`weakness`: `md5`, `sha1`, `sha224` (digests), `rsa` (keys under 2048 bits, `least_bits` at least) or `curve`
    (other curves). Signatures dated before `signed_before` count as good when looked at before `until` (both aware). The
    date is the signer's own claim: keep this for mail known to be old."""

    weakness: str
    signed_before: datetime
    until: datetime
    least_bits: int = 1024

    def covers(self, weakness: str, bits: int, signed_at: datetime | None, at: datetime) -> bool:
        """Whether this allowance is for that weakness, of a signature of that date, looked at now."""
        return (
            weakness == self.weakness
            and signed_at is not None
            and signed_at < self.signed_before
            and at < self.until
            and (weakness != "rsa" or bits >= self.least_bits)
        )


@dataclass(frozen=True, slots=True)
class ReadingPolicy:
    """`triple_des`: whether triple DES envelopes are opened. `weak`: allowances for old signatures."""

    triple_des: bool = False
    weak: tuple[WeakAllowance, ...] = ()


STRICT = ReadingPolicy()
