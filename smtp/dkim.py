"""DKIM (RFC 6376, RFC 8463) over dkimpy: what leaves is signed, what arrives is verified.

Invariants: signing is deterministic (PKCS#1 v1.5, Ed25519, time passed in), so that a retry is the same octets; a domain signs
with all its active keys, so that a key is replaced without a gap; keys of others come from settings or DNS, never from the
message; verification never raises and is bounded in signatures and time.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import dkim
import dns.exception
import dns.resolver
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

import mime
from smtp import fields

MAX_SIGNATURES = 5
MAX_SIZE = 32 * 1024 * 1024
_SIGNED = (b"from", b"to", b"cc", b"subject", b"date", b"message-id", b"mime-version", b"content-type", b"reply-to")
_DNS_TIME = 5.0


class DkimKeyError(ValueError):
    """A signing key that cannot be used; the text names the file."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One key of a domain under a selector. `material` is what dkimpy signs with."""

    selector: str
    domain: str
    algorithm: str
    material: bytes = field(repr=False)
    record: str = ""


def load_key(path: Path, selector: str, domain: str) -> SigningKey:
    """A PEM private key, RSA (2048 bits at least) or Ed25519. Raises DkimKeyError."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise DkimKeyError(f"{path}: clé illisible / unreadable key ({type(error).__name__})") from None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        raw = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        record = f"v=DKIM1; k=ed25519; p={base64.b64encode(public).decode('ascii')}"
        return SigningKey(selector, domain, "ed25519-sha256", base64.b64encode(raw), record)
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        record = f"v=DKIM1; k=rsa; p={base64.b64encode(public).decode('ascii')}"
        return SigningKey(selector, domain, "rsa-sha256", pem, record)
    raise DkimKeyError(f"{path}: RSA 2048 ou Ed25519 attendu / RSA 2048 or Ed25519 expected")


class Signer:
    """Signs for the domains it has keys of; `keys` is asked at each message, so that a new key counts at once."""

    def __init__(self, keys: Callable[[], Sequence[SigningKey]]) -> None:
        self._keys = keys

    def fields(self, message: bytes, domain: str, at: datetime) -> list[bytes]:
        """The DKIM-Signature fields of a message of this domain, one for each key."""
        present = {field.name.lower().encode() for field in mime.split(message)[0]}
        include = [name for name in _SIGNED if name in present]
        return [_sign(message, key, include, int(at.timestamp())) for key in self._keys() if key.domain == domain]


_signing = threading.Lock()


def _sign(message: bytes, key: SigningKey, include: list[bytes], seconds: int) -> bytes:
    signer: Any = dkim.DKIM(message, signature_algorithm=key.algorithm.encode("ascii"))
    # dkimpy reads the clock itself; the instant is ours, so that the octets depend on the message alone.
    with _signing:
        real, dkim.time = dkim.time, _Instant(seconds)
        try:
            signature: bytes = signer.sign(
                key.selector.encode("ascii"),
                key.domain.encode("ascii"),
                key.material,
                canonicalize=(b"relaxed", b"relaxed"),
                include_headers=include,
            )
        finally:
            dkim.time = real
    return signature.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


class _Instant:
    """Stands for the `time` module in dkimpy."""

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds

    def time(self) -> int:
        """The instant of the signature."""
        return self._seconds


class Checker:
    """Verifies signatures with keys of the settings (closed networks), else of DNS."""

    def __init__(self, static: Mapping[str, str], resolver: Callable[[str], str | None] | None = None) -> None:
        """`static`: `selector._domainkey.domain` to a DKIM record. `resolver`: a name to its record, None for none;
        raises dns.exception.DNSException when it cannot tell."""
        self._static = {name.lower().rstrip("."): record for name, record in static.items()}
        self._resolver = resolver or _from_dns

    def results(self, message: bytes) -> list[str]:
        """Authentication-Results clauses (RFC 8601 §2.7.1), in the order of the signatures. Blocking (DNS)."""
        count = sum(1 for one in mime.split(message)[0] if one.name.lower() == "dkim-signature")
        if not count:
            return ["dkim=none"]
        if len(message) > MAX_SIZE:
            return ["dkim=neutral reason=too-large"]
        return [self._one(message, number) for number in range(min(count, MAX_SIGNATURES))]

    def _one(self, message: bytes, number: int) -> str:
        verifier: Any = dkim.DKIM(message, minkey=1024, timeout=int(_DNS_TIME))
        try:
            verdict = "pass" if verifier.verify(idx=number, dnsfunc=self._record) else "fail"
        except dkim.DnsTimeoutError:
            verdict = "temperror"
        except dkim.ValidationError as error:
            # dkimpy has one class for an altered body and for a field that is no signature.
            verdict = "fail" if "body hash mismatch" in str(error) else "permerror"
        except (dkim.DKIMException, ValueError, TypeError, KeyError, IndexError, AttributeError):
            # dkimpy raises what its parsing stumbles on: a malformed signature proves nothing, and harms nothing.
            verdict = "permerror"
        domain = fields.token(_decoded(getattr(verifier, "domain", b"")))
        selector = fields.token(_decoded(getattr(verifier, "selector", b"")))
        algorithm = fields.token(_decoded((getattr(verifier, "signature_fields", None) or {}).get(b"a", b"")))
        return f"dkim={verdict} header.d={domain} header.s={selector} header.a={algorithm}"

    def _record(self, name: bytes, timeout: int = 5) -> bytes:
        asked = name.decode("ascii", "replace").lower().rstrip(".")
        if asked in self._static:
            return self._static[asked].encode("ascii")
        try:
            return (self._resolver(asked) or "").encode("ascii")
        except dns.exception.DNSException:
            raise dkim.DnsTimeoutError("no answer") from None


def _decoded(value: object) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else ""


def _from_dns(name: str) -> str | None:
    try:
        answer = dns.resolver.resolve(name, "TXT", lifetime=_DNS_TIME)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return None
    return b"".join(next(iter(answer)).strings).decode("ascii", "replace")
