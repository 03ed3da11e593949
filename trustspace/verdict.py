"""Values of path checking: what is trusted, for which usage, and the verdict; and which usage a certificate suits.

Invariants: a verdict has no truth value; an authority, or a certificate that says nothing of its key usage, suits no
usage at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import NoReturn, Self

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from trustspace import pem


class PathReason(StrEnum):
    """Why a path is trusted or not; stable names for logs, traces and SMTP answers."""

    TRUSTED = "TRUSTED"
    EXPIRED = "EXPIRED"
    NOT_YET_VALID = "NOT_YET_VALID"
    REVOKED = "REVOKED"
    REVOCATION_UNKNOWN = "REVOCATION_UNKNOWN"
    UNTRUSTED = "UNTRUSTED"
    BAD_USAGE = "BAD_USAGE"


class Usage(StrEnum):
    """What the certificate is presented for."""

    TLS_SERVER = "tls-server"
    TLS_CLIENT = "tls-client"
    SIGNATURE = "signature"
    ENCRYPTION = "encryption"
    LIST_SIGNATURE = "list-signature"


@dataclass(frozen=True, slots=True)
class PathVerdict:
    """`failing_subject` is the RFC 4514 name of the certificate that made the path fail ("" when trusted).

    `until` bounds how long a positive verdict stays true without another look (aware UTC).
    """

    trusted: bool
    reason: PathReason
    failing_subject: str = ""
    until: datetime | None = None

    def __bool__(self) -> NoReturn:
        raise TypeError("a PathVerdict has no truth value: read .trusted")


@dataclass(frozen=True, slots=True)
class Anchors:
    """What we trust: the roots, and the intermediates we know (helpful, not trusted by themselves)."""

    roots: tuple[x509.Certificate, ...]
    intermediates: tuple[x509.Certificate, ...] = ()

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read anchors/ and intermediates/ under `folder` (PEM or DER). Raises pem.UnreadableFile; no root is one."""
        roots = pem.read_certificate_folder(folder / "anchors")
        if not roots:
            raise pem.UnreadableFile("anchors: no trust anchor")
        return cls(roots, pem.read_certificate_folder(folder / "intermediates"))


_SIGNS = ("digital_signature", "content_commitment")
# Any one of the key usage bits, and the extended usage that must be there when the extension is there (RFC 5280
# §4.2.1.12; the IGC-Santé templates of SSL_SERV are not public, so its absence is not held against a certificate).
_RULES: dict[Usage, tuple[tuple[str, ...], x509.ObjectIdentifier]] = {
    Usage.TLS_SERVER: (("digital_signature", "key_encipherment"), ExtendedKeyUsageOID.SERVER_AUTH),
    Usage.TLS_CLIENT: (("digital_signature",), ExtendedKeyUsageOID.CLIENT_AUTH),
    Usage.SIGNATURE: (_SIGNS, ExtendedKeyUsageOID.EMAIL_PROTECTION),
    Usage.ENCRYPTION: (("key_encipherment",), ExtendedKeyUsageOID.EMAIL_PROTECTION),
    Usage.LIST_SIGNATURE: (_SIGNS, ExtendedKeyUsageOID.EMAIL_PROTECTION),
}


def suits(certificate: x509.Certificate, usage: Usage) -> bool:
    """True when the key usages allow `usage`. An authority, or a certificate without key usage, suits nothing.

    Raises ValueError when the extensions cannot be read.
    """
    bits, purpose = _RULES[usage]
    extensions = certificate.extensions
    try:
        if extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
    except x509.ExtensionNotFound:
        pass
    try:
        key_usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return False
    if not any(getattr(key_usage, bit) for bit in bits):
        return False
    try:
        return purpose in extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
