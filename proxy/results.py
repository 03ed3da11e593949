"""Authentication-Results clauses for S/MIME (RFC 8601, method `smime` of RFC 7281)."""

from __future__ import annotations

from collections.abc import Sequence

from smime import Verdict, Verification

_RESULT = {Verdict.VALID: "pass", Verdict.WEAK: "policy", Verdict.UNTRUSTED: "policy"}


def authentication_results(verifications: Sequence[Verification], sender: str) -> tuple[str, ...]:
    """One clause per signer, or `smime=none`. A valid signature that is not the envelope sender's is said to be so."""
    return tuple(_clause(one, sender) for one in verifications) or ("smime=none",)


def _clause(one: Verification, sender: str) -> str:
    result = _RESULT.get(one.verdict, "fail")
    if one.signer_certificate is None:
        return f"smime={result}"
    of_sender = sender.lower() in one.addresses
    serial = f"{one.signer_certificate.serial_number:x}"
    identifier = one.addresses[0] if one.addresses else one.national_id or "unknown"
    note = "" if of_sender or not one.addresses else ' reason="signer is not the envelope sender"'
    return f"smime={result}{note} body.smime-identifier={identifier} body.smime-serial={serial}"
