"""What the verification of a signature says.

Invariants: a result has no truth value (`if verification:` raises), so that no caller mistakes "there is a result" for
"it is good"; VALID means that every check passed, and there are no reasons against it; of several findings the worst
decides, and all are listed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NoReturn, Protocol

from cryptography import x509

from smime.capabilities import Capabilities
from smime.policy import STRICT, ReadingPolicy


class Verdict(StrEnum):
    """VALID: all is well. WEAK: the mathematics hold, but with an algorithm or form that proves too little. UNTRUSTED:
    the signature is right, the certificate is not trusted or not for this. UNSUPPORTED: cannot be judged here. INVALID:
    content, signature or structure is wrong."""

    VALID = "valid"
    WEAK = "weak"
    UNTRUSTED = "untrusted"
    UNSUPPORTED = "unsupported"
    INVALID = "invalid"


class Reason(StrEnum):
    """Why a verdict is not VALID; fixed words, no data of the message."""

    MALFORMED = "malformed-cms"
    STRUCTURE = "malformed-multipart-signed"
    NO_SIGNER = "no-signer"
    CONTENT_IN_DETACHED = "content-in-detached-signature"
    NO_CONTENT = "no-content"
    CONTENT_TYPE = "content-type-mismatch"
    DIGEST = "message-digest-mismatch"
    SIGNATURE = "signature-mismatch"
    ATTRIBUTES = "faulty-signed-attributes"
    ALGORITHMS = "algorithms-disagree"
    NO_CERTIFICATE = "signer-certificate-missing"
    OTHER_CERTIFICATE = "signing-certificate-attribute-mismatch"
    ALGORITHM_UNKNOWN = "unsupported-algorithm"
    KEY_UNKNOWN = "unsupported-key"
    WEAK_DIGEST = "weak-digest"
    WEAK_KEY = "weak-key"
    NO_ATTRIBUTES = "no-signed-attributes"
    NO_PATH_CHECKER = "path-not-checked"
    PATH = "path-not-trusted"
    USAGE = "certificate-not-for-mail-signature"
    CA = "signed-with-ca-certificate"
    NOT_IN_FORCE = "certificate-not-in-force"
    FUTURE = "signed-in-the-future"
    OUTSIDE_VALIDITY = "signed-outside-certificate-validity"


class Note(StrEnum):
    """Worth knowing, and not against the signature."""

    MICALG = "micalg-does-not-name-the-digest"
    ATTRIBUTES_ORDER = "signed-attributes-not-in-der-order"
    ELSEWHERE = "certificate-not-in-the-message"
    WEAK_ALLOWED = "weakness-allowed-by-policy"


class Finding(StrEnum):
    """The outcome of one check. UNKNOWN: it was not made, or could not be."""

    GOOD = "good"
    WEAK = "weak"
    BAD = "bad"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Findings:
    """One finding for each question about a signer. `digest`: is the content the one signed? `signature`: did this key
    sign it? `path`: does the certificate lead to a trusted root? `revocation`, `time`, `usage`: was it in force and for
    mail? `sender`: does it speak for every From address?"""

    digest: Finding = Finding.UNKNOWN
    signature: Finding = Finding.UNKNOWN
    path: Finding = Finding.UNKNOWN
    revocation: Finding = Finding.UNKNOWN
    time: Finding = Finding.UNKNOWN
    usage: Finding = Finding.UNKNOWN
    sender: Finding = Finding.UNKNOWN


class PathResult(Protocol):
    """What a path check says; `reason` is for people. The words REVOKED and REVOCATION_UNKNOWN are understood."""

    @property
    def trusted(self) -> bool: ...

    @property
    def reason(self) -> str: ...


PathChecker = Callable[[x509.Certificate, Sequence[x509.Certificate], datetime], PathResult]
"""(signer's certificate, other certificates of the message, moment) -> result, revocation included."""


@dataclass(frozen=True, slots=True)
class Judging:
    """What a signature is judged by. `at`: now, or the moment to judge for (aware). `certificates`: found elsewhere, for
    signatures that come without. `sender`: the addresses of From, None when it is not asked. `owner`: an address to the
    national identifier of its mailbox's owner, from the directory."""

    at: datetime
    path: PathChecker | None
    policy: ReadingPolicy = STRICT
    certificates: tuple[x509.Certificate, ...] = ()
    sender: tuple[str, ...] | None = None
    owner: Callable[[str], str | None] | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """One signer of one signed layer. `reasons` are `Reason` words, then the path checker's own text when it refused.

    `addresses` and `national_id` are what the certificate says about its holder; they mean something only when the
    verdict is VALID. `signed_at` is the signer's own claim. `layer`: 0 for the outermost signature. `algorithm`: as in
    `rsa-sha256`. `capabilities`: what the signer's program reads; believe it when the verdict is VALID only."""

    signer_certificate: x509.Certificate | None
    verdict: Verdict
    reasons: tuple[str, ...]
    addresses: tuple[str, ...] = ()
    national_id: str | None = None
    signed_at: datetime | None = None
    layer: int = 0
    findings: Findings = field(default_factory=Findings)
    notes: tuple[Note, ...] = ()
    algorithm: str = ""
    capabilities: Capabilities | None = None

    def __bool__(self) -> NoReturn:
        raise TypeError("a verification has no truth value: compare its verdict")
