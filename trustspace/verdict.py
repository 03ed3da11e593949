"""Values of path checking: what is trusted, for which purpose and usage, and the verdict; which usage a certificate suits.

Invariants: a verdict has no truth value; an authority, or a certificate that says nothing of its key usage, suits no
usage at all; a purpose that has anchors of its own trusts those and no other.
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


class Purpose(StrEnum):
    """Whom anchors are for; also the name of the folder under anchors/ that holds a purpose's own ones."""

    PEERS = "peers"
    CLIENTS = "clients"
    SIGNERS = "signers"
    LIST = "list"
    DOWNLOAD = "download"
    DMP = "dmp"


_PURPOSE_OF_USAGE = {
    Usage.TLS_SERVER: Purpose.DMP,
    Usage.TLS_CLIENT: Purpose.CLIENTS,
    Usage.SIGNATURE: Purpose.SIGNERS,
    Usage.ENCRYPTION: Purpose.SIGNERS,
    Usage.LIST_SIGNATURE: Purpose.LIST,
}


def purpose_of(usage: Usage) -> Purpose:
    """The purpose that a usage has outside the exchanges between operators (those say PEERS)."""
    return _PURPOSE_OF_USAGE[usage]


@dataclass(frozen=True, slots=True)
class PathVerdict:
    """`failing_subject` is the RFC 4514 name of the certificate that made the path fail ("" when trusted).

    `until` bounds how long a positive verdict stays true without another look (aware UTC). `detail` adds the library's
    own words, for people. `chain` is the path found, names from the leaf to the root; `evidence` says, in that order,
    what vouched that each certificate below the root is not revoked, or what said that it is.
    """

    trusted: bool
    reason: PathReason
    failing_subject: str = ""
    until: datetime | None = None
    detail: str = ""
    chain: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()

    def __bool__(self) -> NoReturn:
        raise TypeError("a PathVerdict has no truth value: read .trusted")


@dataclass(frozen=True, slots=True)
class Anchors:
    """What we trust: the roots, and the intermediates we know (helpful, not trusted by themselves)."""

    roots: tuple[x509.Certificate, ...]
    intermediates: tuple[x509.Certificate, ...] = ()

    @classmethod
    def load(cls, folder: Path, purpose: Purpose | None = None) -> Self:
        """Read anchors/ and intermediates/ under `folder` (PEM or DER). Raises pem.UnreadableFile; no root is one.

        With a `purpose`, the roots are those of anchors/PURPOSE/ when that folder exists: an empty one is an error,
        because whoever made it meant to say whom to trust.
        """
        place = folder / "anchors"
        if purpose is not None and (place / purpose).is_dir():
            place = place / purpose
        roots = pem.read_certificate_folder(place)
        if not roots:
            raise pem.NoAnchor(f"{place.relative_to(folder)}: no trust anchor")
        return cls(roots, pem.read_certificate_folder(folder / "intermediates"))


_SIGNS = ("digital_signature", "content_commitment")
# Any one of the key usage bits, and the extended usage that must be there when the extension is there (RFC 5280
# §4.2.1.12; the IGC-Santé templates of SSL_SERV are not public, so its absence is not held against a certificate).
_RULES: dict[Usage, tuple[tuple[str, ...], x509.ObjectIdentifier]] = {
    Usage.TLS_SERVER: (("digital_signature", "key_encipherment"), ExtendedKeyUsageOID.SERVER_AUTH),
    Usage.TLS_CLIENT: (("digital_signature",), ExtendedKeyUsageOID.CLIENT_AUTH),
    Usage.SIGNATURE: (_SIGNS, ExtendedKeyUsageOID.EMAIL_PROTECTION),
    Usage.ENCRYPTION: (("key_encipherment", "key_agreement"), ExtendedKeyUsageOID.EMAIL_PROTECTION),
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
