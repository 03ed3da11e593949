"""The operator's own certificates: asking for them (PKCS#10), taking them in, watching them end.

Invariants: a key is made here, never leaves the folder and is 0600; a request never touches the key in use: the new key
waits beside it until its certificate comes; a certificate is taken in only when it bears the public key that waits (or
that is in use), suits its profile, chains to the anchors of its purpose and is in force; the former pair is kept aside.

Subjects are those seen in the field, printed reversed in the list (mssante.md §2): C, ST, O, OU, CN. The public texts do
not give the key usages of SSL_SERV and AUTH_CLI ([NF]): the authority sets them; the request asks for the usual ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from trustspace import pem
from trustspace.issuing import key_usage, structure_name
from trustspace.model import TrustSpaceError
from trustspace.space import TrustSpace
from trustspace.verdict import PathReason, Purpose, Usage, suits

NEXT = ".next"
PREVIOUS = ".previous"
MIN_KEY_BITS = 2048
WARN_DAYS = (60, 30, 7)
"""Days before its end at which a certificate is spoken of, each time louder. A choice."""


class ProfileName(StrEnum):
    """The IGC-Santé offers that an operator needs (mssante.md §2, "Certificate offers")."""

    SSL_SERV = "ssl-serv"
    AUTH_CLI = "auth-cli"
    SIGN = "sign"
    CONF = "conf"
    SMIME = "smime"


@dataclass(frozen=True, slots=True)
class RequestProfile:
    """What a request asks for, and what its certificate must suit; `name` is that of the files under keys/."""

    name: str
    usage: x509.KeyUsage
    extended: tuple[x509.ObjectIdentifier, ...]
    suits: tuple[Usage, ...]
    purpose: Purpose


_AUTHENTICATES = key_usage(digital_signature=True, key_encipherment=True)
_SIGNS = key_usage(digital_signature=True, content_commitment=True)
_RECEIVES = key_usage(key_encipherment=True)
_BOTH_SIDES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
_MAIL = (ExtendedKeyUsageOID.EMAIL_PROTECTION,)

PROFILES: dict[ProfileName, RequestProfile] = {
    # One certificate for both sides of exchanges between operators: the list has one DN an entry (mssante.md §2).
    ProfileName.SSL_SERV: RequestProfile(
        "server", _AUTHENTICATES, _BOTH_SIDES, (Usage.TLS_SERVER, Usage.TLS_CLIENT), Purpose.PEERS
    ),
    ProfileName.AUTH_CLI: RequestProfile(
        "dmp-auth", _AUTHENTICATES, (ExtendedKeyUsageOID.CLIENT_AUTH,), (Usage.TLS_CLIENT,), Purpose.CLIENTS
    ),
    ProfileName.SIGN: RequestProfile("dmp-sign", _SIGNS, (), (Usage.SIGNATURE,), Purpose.SIGNERS),
    ProfileName.CONF: RequestProfile("conf", _RECEIVES, _MAIL, (Usage.ENCRYPTION,), Purpose.SIGNERS),
    ProfileName.SMIME: RequestProfile("smime", _SIGNS, _MAIL, (Usage.SIGNATURE,), Purpose.SIGNERS),
}


@dataclass(frozen=True, slots=True)
class Holder:
    """Who a certificate is for. `structure_id` is type digit + number; `names` are host names, `mail` an address."""

    cn: str
    organisation: str
    structure_id: str
    department: str
    names: tuple[str, ...] = ()
    mail: str = ""


class NotEnrolled(TrustSpaceError):
    """A request or a certificate cannot be taken; the text says why."""


class Level(StrEnum):
    """How near a certificate's end is."""

    FINE = "fine"
    SOON = "soon"
    NEAR = "near"
    URGENT = "urgent"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class OwnStatus:
    """One of our certificates. `days_left` is negative once expired; `waiting`: a request has not come back."""

    name: str
    subject: str
    ends: datetime
    days_left: int
    level: Level
    reason: PathReason | None
    waiting: bool


def request(folder: Path, profile: ProfileName, holder: Holder, *, bits: int = 2048) -> Path:
    """Make a new key and its PKCS#10 request in `folder` (keys/); returns the request's path.

    Raises NotEnrolled when a request already waits, or something that the subject needs is missing.
    """
    wanted = PROFILES[profile]
    key_path, request_path = _waiting(folder, wanted.name)
    if key_path.exists():
        raise NotEnrolled(f"{key_path.name}: a request waits for its certificate already ({request_path.name})")
    missing = [name for name in ("cn", "organisation", "structure_id", "department") if not getattr(holder, name)]
    if missing:
        raise NotEnrolled(f"missing: {', '.join(missing)}")
    if bits < MIN_KEY_BITS:
        raise NotEnrolled(f"a key of {bits} bits is too short: {MIN_KEY_BITS} at least")
    key = rsa.generate_private_key(65537, bits)
    subject = structure_name(holder.cn, holder.organisation, holder.structure_id, holder.department)
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    builder = builder.add_extension(wanted.usage, critical=True)
    if wanted.extended:
        builder = builder.add_extension(x509.ExtendedKeyUsage(wanted.extended), critical=False)
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in holder.names]
    names += [x509.RFC822Name(holder.mail)] if holder.mail else []
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    made = builder.sign(key, hashes.SHA256())
    if not folder.is_dir():
        pem.private_folder(folder)
    pem.write_private(key_path, pem.key_to_pem(key))
    pem.write_public(request_path, made.public_bytes(Encoding.PEM))
    return request_path


def take_in(
    folder: Path, profile: ProfileName, certificates: Sequence[x509.Certificate], space: TrustSpace, at: datetime
) -> tuple[x509.Certificate, ...]:
    """Put a certificate (and its chain, any order, completed from our intermediates) in use; returns the chain, leaf first.

    Raises NotEnrolled.
    """
    wanted = PROFILES[profile]
    leaf, key, fresh = _matching(folder, wanted.name, certificates)
    for usage in wanted.suits:
        if not suits(leaf, usage):
            raise NotEnrolled(f"the certificate is not for {usage} (profile {profile})")
    validator = space.validator(wanted.purpose, at)
    if validator is None:
        raise NotEnrolled("no trust anchor to check the certificate against")
    others = tuple(one for one in certificates if one != leaf)
    verdict = validator.check(leaf, others, at=at, usage=wanted.suits[0], revocation=False)
    if not verdict.trusted:
        raise NotEnrolled(f"{verdict.reason} {verdict.failing_subject} {verdict.detail}".strip())
    if validator.check(leaf, others, at=at, usage=wanted.suits[0]).reason is PathReason.REVOKED:
        raise NotEnrolled("the certificate is revoked")
    known = {one.subject: one for one in (*validator.anchors.intermediates, *others)}
    chain, current = [leaf], leaf
    while (issuer := known.get(current.issuer)) is not None and issuer not in chain:
        chain.append(issuer)
        current = issuer
    _install(folder, wanted.name, chain, key, fresh)
    return tuple(chain)


def statuses(folder: Path, space: TrustSpace | None, at: datetime) -> list[OwnStatus]:
    """Every certificate of `folder` (keys/) that has a name of ours, sorted by name; paths are checked with `space`."""
    found: list[OwnStatus] = []
    profiles = {profile.name: profile for profile in PROFILES.values()}
    for name, profile in sorted(profiles.items()):
        try:
            leaf = pem.read_certificates(folder / f"{name}.pem")[0]
        except (pem.UnreadableFile, IndexError):
            continue
        reason = None
        if space is not None:
            with contextlib.suppress(TrustSpaceError):
                chain = pem.read_certificates(folder / f"{name}.pem")[1:]
                reason = space.path_checker(profile.suits[0], profile.purpose)(leaf, chain, at).reason
        left = (leaf.not_valid_after_utc - at) // timedelta(days=1)
        waiting = _waiting(folder, name)[0].exists()
        subject, ends = leaf.subject.rfc4514_string(), leaf.not_valid_after_utc
        found.append(OwnStatus(name, subject, ends, left, level_of(left), reason, waiting))
    return found


def level_of(days_left: int) -> Level:
    """The level of a certificate that ends in so many whole days (WARN_DAYS)."""
    if days_left < 0:
        return Level.EXPIRED
    soon, near, urgent = WARN_DAYS
    if days_left <= urgent:
        return Level.URGENT
    return Level.NEAR if days_left <= near else Level.SOON if days_left <= soon else Level.FINE


def _waiting(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}{NEXT}.key", folder / f"{name}{NEXT}.csr"


def _matching(
    folder: Path, name: str, certificates: Sequence[x509.Certificate]
) -> tuple[x509.Certificate, PrivateKeyTypes, bool]:
    """The certificate of a key that waits or is in use, that key, and whether it waited."""
    for path, fresh in ((_waiting(folder, name)[0], True), (folder / f"{name}.key", False)):
        if not path.exists():
            continue
        key = pem.read_private_key(path)
        public = getattr(key, "public_key", lambda: None)()
        for one in certificates:
            if one.public_key() == public:
                return one, key, fresh
    raise NotEnrolled(f"no certificate here is for the key that waits ({name}{NEXT}.key) or is in use ({name}.key)")


def _install(folder: Path, name: str, chain: Sequence[x509.Certificate], key: PrivateKeyTypes, fresh: bool) -> None:
    """Two files cannot change at once: a process that reads between the two keeps the former pair (reloading.py)."""
    for suffix, write in ((".pem", pem.write_public), (".key", pem.write_private)):
        current = folder / f"{name}{suffix}"
        if current.exists():
            write(folder / f"{name}{PREVIOUS}{suffix}", current.read_bytes())
    if fresh:
        pem.write_private(folder / f"{name}.key", pem.key_to_pem(key))
    pem.write_public(folder / f"{name}.pem", pem.chain_to_pem(chain))
    for path in _waiting(folder, name) if fresh else ():
        path.unlink(missing_ok=True)
