"""What a correspondent's mail program can read (smimeCapabilities, RFC 8551 §2.5.2, RFC 4262) and what to send it.

Invariants: capabilities only choose among what the operator's policy allows; without any, what every reader in use opens
is sent (docs/adr/0012); a capability never lowers anything below the policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from smime import ber, codec, der
from smime.algorithms import CIPHER_OIDS, RSAES_OAEP, WRITTEN_CIPHERS, ContentCipher, cipher_oid
from smime.errors import MalformedCms, UnsuitableCertificate

MAX_CAPABILITIES = 128
_EXTENSION = x509.ObjectIdentifier("1.2.840.113549.1.9.15")


class Transport(StrEnum):
    """How a content key travels to an RSA key. PKCS#1 v1.5 is what every mail program, card and HSM in use opens; OAEP
    is for peers known to read it."""

    PKCS1 = "pkcs1-v1.5"
    OAEP_SHA256 = "oaep-sha256"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What somebody reads: content ciphers in their order of preference, and whether RSA-OAEP."""

    ciphers: tuple[ContentCipher, ...]
    oaep: bool = False


OURS = Capabilities(WRITTEN_CIPHERS, oaep=True)
"""What this program reads."""
COMMON = Capabilities((ContentCipher.AES256_CBC, ContentCipher.AES128_CBC))
"""What every program in use reads: to be stated for somebody whose program is not this one."""


def write(capabilities: Capabilities) -> bytes:
    """DER of an SMIMECapabilities."""
    items = [der.sequence(cipher_oid(cipher)) for cipher in capabilities.ciphers]
    if capabilities.oaep:
        items.append(der.sequence(der.oid(RSAES_OAEP)))
    return der.sequence(*items)


OURS_DER = write(OURS)


def read(encoded: bytes) -> Capabilities:
    """An SMIMECapabilities; what is unknown is passed over. Raises MalformedCms."""
    ciphers: list[ContentCipher] = []
    oaep = False
    for item in ber.children(encoded, ber.only(encoded, 0x30), MAX_CAPABILITIES):
        oid = codec.algorithm(encoded, item)[0]
        oaep = oaep or oid == RSAES_OAEP
        if oid in CIPHER_OIDS:
            ciphers.append(CIPHER_OIDS[oid])
    return Capabilities(tuple(dict.fromkeys(ciphers)), oaep)


@lru_cache(maxsize=1024)
def of_certificate(certificate: x509.Certificate) -> Capabilities | None:
    """The capabilities a certificate states (RFC 4262); None when it states none that can be read."""
    try:
        value = certificate.extensions.get_extension_for_oid(_EXTENSION).value
        return read(value.value) if isinstance(value, x509.UnrecognizedExtension) else None
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError, TypeError, MalformedCms):
        return None


@dataclass(frozen=True, slots=True)
class Recipient:
    """A certificate to encrypt to. `seen` are capabilities learnt otherwise: from a signed message of this correspondent,
    or the directory; they come before those the certificate states."""

    certificate: x509.Certificate
    seen: Capabilities | None = None

    @property
    def capabilities(self) -> Capabilities | None:
        """What is known of the recipient's reader, None when nothing is."""
        return self.seen if self.seen is not None else of_certificate(self.certificate)


@dataclass(frozen=True, slots=True)
class EncryptionPolicy:
    """The operator's policy: `ciphers` allowed, best first; `default`, used when a recipient's reader is unknown or reads
    none of them; `oaep`: `by-capability`, `always` or `never`; `to_sender`: the sender's certificate becomes a
    recipient too. Raises ValueError for a default that is not allowed or a cipher that is never written."""

    ciphers: tuple[ContentCipher, ...] = WRITTEN_CIPHERS
    default: ContentCipher = ContentCipher.AES256_CBC
    oaep: str = "by-capability"
    to_sender: bool = False

    def __post_init__(self) -> None:
        if self.default not in self.ciphers or not set(self.ciphers) <= set(WRITTEN_CIPHERS):
            raise ValueError("the default cipher must be among the allowed ones, which must be ones that are written")
        if self.oaep not in ("by-capability", "always", "never"):
            raise ValueError("oaep is by-capability, always or never")


DEFAULT_POLICY = EncryptionPolicy()


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be written: one cipher for all, and for each certificate its transport (of no meaning for elliptic
    curves). `reason` says in fixed words what decided the cipher."""

    cipher: ContentCipher
    recipients: tuple[tuple[x509.Certificate, Transport], ...]
    reason: str = field(default="policy-default")


def choose(
    recipients: Sequence[Recipient | x509.Certificate],
    policy: EncryptionPolicy = DEFAULT_POLICY,
    *,
    cipher: ContentCipher | None = None,
    transport: Transport | None = None,
) -> Plan:
    """The plan for these recipients. `cipher` and `transport` force a choice; a cipher that the policy does not allow
    raises UnsuitableCertificate."""
    known = [item if isinstance(item, Recipient) else Recipient(item) for item in recipients]
    stated = {item.certificate: item.capabilities for item in known}
    if cipher is not None and cipher not in policy.ciphers:
        raise UnsuitableCertificate(f"{cipher.value} is not allowed by the encryption policy")
    reason = "asked"
    if cipher is None:
        cipher, reason = _best(list(stated.values()), policy)
    chosen = tuple([(item, transport or _transport(item, found, policy)) for item, found in stated.items()])
    return Plan(cipher, chosen, reason)


def _best(stated: Sequence[Capabilities | None], policy: EncryptionPolicy) -> tuple[ContentCipher, str]:
    """The first allowed cipher that every recipient reads; a recipient of whom nothing is known reads the default."""
    for cipher in policy.ciphers:
        if all(cipher in one.ciphers if one is not None else cipher is policy.default for one in stated):
            return cipher, "capabilities" if any(one is not None for one in stated) else "policy-default"
    return policy.default, "no-common-cipher"


def _transport(certificate: x509.Certificate, stated: Capabilities | None, policy: EncryptionPolicy) -> Transport:
    if policy.oaep == "always" and isinstance(certificate.public_key(), rsa.RSAPublicKey):
        return Transport.OAEP_SHA256
    reads_oaep = policy.oaep == "by-capability" and stated is not None and stated.oaep
    return Transport.OAEP_SHA256 if reads_oaep else Transport.PKCS1
