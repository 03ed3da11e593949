"""Authentication-Results clauses for S/MIME (RFC 8601, method `smime` of RFC 7281)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from smime import Verdict, Verification, speaks_for

_RESULT = {Verdict.VALID: "pass", Verdict.WEAK: "policy", Verdict.UNTRUSTED: "policy"}


def authentication_results(
    verifications: Sequence[Verification], sender: str, *, owner_id: str | None
) -> tuple[str, ...]:
    """One clause per signer, or `smime=none`. A valid signature that is not the envelope sender's is said to be so.

    `owner_id`: the national identifier of the sender's mailbox according to the directory, None when unknown."""
    return tuple(_clause(one, sender, owner_id) for one in verifications) or ("smime=none",)


def _clause(one: Verification, sender: str, owner_id: str | None) -> str:
    result = _RESULT.get(one.verdict, "fail")
    if one.signer_certificate is None:
        return f"smime={result}"
    of_sender = speaks_for(one.signer_certificate, sender, owner_id=owner_id)
    serial = f"{one.signer_certificate.serial_number:x}"
    identifier = one.addresses[0] if one.addresses else one.national_id or "unknown"
    # Anybody can write anything in a certificate of their own: nothing of it may end the clause and begin another.
    identifier = re.sub(r"[^A-Za-z0-9.@_+-]", "_", identifier)
    note = "" if of_sender else ' reason="signer is not the envelope sender"'
    return f"smime={result}{note} body.smime-identifier={identifier} body.smime-serial={serial}"
