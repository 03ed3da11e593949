"""From reasons to a verdict and to one finding for each question, as tables.

Invariants: an unknown reason counts as INVALID; a question nobody could answer is UNKNOWN, never GOOD.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from smime.verdict import Finding, Findings, PathResult, Reason, Verdict

_UNTRUSTED = frozenset(
    {Reason.NO_PATH_CHECKER, Reason.PATH, Reason.USAGE, Reason.CA, Reason.NOT_IN_FORCE, Reason.FUTURE}
    | {Reason.OUTSIDE_VALIDITY}
)
_WEAK = frozenset({Reason.WEAK_DIGEST, Reason.WEAK_KEY, Reason.NO_ATTRIBUTES})
_UNSUPPORTED = frozenset({Reason.ALGORITHM_UNKNOWN, Reason.KEY_UNKNOWN})

_NO_CERTIFICATE = frozenset({Reason.NO_CERTIFICATE, Reason.OTHER_CERTIFICATE})
_BAD_SIGNATURE = frozenset({Reason.SIGNATURE, Reason.ALGORITHMS, Reason.ATTRIBUTES, Reason.CONTENT_TYPE})
_BAD_TIME = frozenset({Reason.NOT_IN_FORCE, Reason.FUTURE, Reason.OUTSIDE_VALIDITY})


def verdict(reasons: Sequence[Reason]) -> Verdict:
    """The worst finding decides."""
    if not reasons:
        return Verdict.VALID
    found = set(reasons)
    if found - _UNTRUSTED - _WEAK - _UNSUPPORTED:
        return Verdict.INVALID
    for family, result in (
        (_UNSUPPORTED, Verdict.UNSUPPORTED),
        (_UNTRUSTED, Verdict.UNTRUSTED),
        (_WEAK, Verdict.WEAK),
    ):
        if found & family:
            return result
    return Verdict.VALID


def findings(reasons: Sequence[Reason], path: PathResult | None, sender: Finding, *, found: bool) -> Findings:
    """One finding for each question; `found`: the signer's certificate was found."""
    if not reasons and found and path is not None and path.trusted is True:
        return _ALL_GOOD[sender]
    given = set(reasons)
    digest = _first(
        (Finding.BAD, given & {Reason.DIGEST}),
        (Finding.UNKNOWN, given & {Reason.ALGORITHM_UNKNOWN}),
        (Finding.WEAK, given & {Reason.WEAK_DIGEST}),
    )
    if Reason.NO_ATTRIBUTES in given and Reason.SIGNATURE in given:
        digest = Finding.UNKNOWN  # only the signature itself could have told
    signature = _first(
        (Finding.BAD, given & _BAD_SIGNATURE),
        (Finding.UNKNOWN, (given & (_UNSUPPORTED | _NO_CERTIFICATE)) or not found),
        (Finding.WEAK, given & {Reason.WEAK_KEY, Reason.NO_ATTRIBUTES}),
    )
    if not found:
        return Findings(digest, signature)
    chain, revocation = _path(path)
    return Findings(
        digest=digest,
        signature=signature,
        path=chain,
        revocation=revocation,
        time=Finding.BAD if given & _BAD_TIME else Finding.GOOD,
        usage=Finding.BAD if given & {Reason.USAGE, Reason.CA} else Finding.GOOD,
        sender=sender,
    )


_GOOD = Findings(Finding.GOOD, Finding.GOOD, Finding.GOOD, Finding.GOOD, Finding.GOOD, Finding.GOOD)
_ALL_GOOD = {sender: replace(_GOOD, sender=sender) for sender in Finding}


def _first(*pairs: tuple[Finding, object]) -> Finding:
    return next((finding for finding, present in pairs if present), Finding.GOOD)


def _path(path: PathResult | None) -> tuple[Finding, Finding]:
    """(path, revocation): a checker that trusts has looked at revocation too; one that refuses may say that this is why."""
    if path is None:
        return Finding.UNKNOWN, Finding.UNKNOWN
    if path.trusted is True:
        return Finding.GOOD, Finding.GOOD
    word = str(path.reason)
    if word == "REVOKED":
        return Finding.GOOD, Finding.BAD
    if word == "REVOCATION_UNKNOWN":
        return Finding.GOOD, Finding.UNKNOWN
    return Finding.BAD, Finding.UNKNOWN
