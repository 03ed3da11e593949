"""What protection a mailbox asks for, inherited from its domain and from the operator, with the origin of each value.

Invariant: the nearest level that says something wins (mailbox, domain, operator), value by value; a value that this
program does not know, in the database, is an error and never a default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from mailstore.model import MailboxKind
from smime import EncryptionPolicy


class SignPolicy(StrEnum):
    """When the server signs a clear message for its sender. OWN: never, and an unsigned message does not leave."""

    ALWAYS = "always"
    WITH_CODE = "with_code"
    NEVER = "never"
    OWN = "own"


class EncryptPolicy(StrEnum):
    """When copies are encrypted to the recipients' certificates."""

    REQUIRED = "required"
    WHEN_POSSIBLE = "when_possible"
    NEVER = "never"


class WithoutCertificate(StrEnum):
    """What becomes of a message when a recipient has no certificate and encryption is wanted when possible."""

    TRUST_SPACE = "trust_space"
    ASK = "ask"
    REFUSE = "refuse"


class ConfirmPolicy(StrEnum):
    """When the sender is told, by a message, how theirs left."""

    NEVER = "never"
    UNENCRYPTED = "unencrypted"
    ALWAYS = "always"


class CustodyPolicy(StrEnum):
    """Who may hold the keys that open a mailbox's messages."""

    OPERATOR = "operator"
    OWNER = "owner"


class HeaderPolicy(StrEnum):
    """Whether Subject, From, To, Date and Message-ID are protected with the message (RFC 9788). SIGNED: copies are signed,
    all stay readable outside. ENCRYPTED: in encrypted copies the Subject is only inside."""

    NONE = "none"
    SIGNED = "signed"
    ENCRYPTED = "encrypted"


VALUES: Mapping[str, type[StrEnum]] = {
    "sign": SignPolicy,
    "encrypt": EncryptPolicy,
    "without_certificate": WithoutCertificate,
    "confirm": ConfirmPolicy,
    "custody": CustodyPolicy,
}
"""Every policy by name, with its values."""


class BadPolicy(ValueError):
    """An unknown policy or value; the text names it and what is allowed, in French then English."""


@dataclass(frozen=True, slots=True)
class ProxyPolicy:
    """The operator's policy: signing by kind of mailbox, the rest for all. `encryption`: which algorithms, and whether the
    sender is encrypted to as well. `headers`: what is protected of the header of a message signed here."""

    sign: Mapping[MailboxKind, SignPolicy]
    encrypt: EncryptPolicy
    without_certificate: WithoutCertificate = WithoutCertificate.TRUST_SPACE
    confirm: ConfirmPolicy = ConfirmPolicy.NEVER
    custody: CustodyPolicy = CustodyPolicy.OPERATOR
    encryption: EncryptionPolicy = field(default_factory=EncryptionPolicy)
    headers: HeaderPolicy = HeaderPolicy.SIGNED


@dataclass(frozen=True, slots=True)
class Effective:
    """What holds for one mailbox. `origins` says, by name, where each value comes from: `mailbox ADDRESS`, `domain
    NAME` or `operator KEY` (the settings key of [proxy])."""

    sign: SignPolicy
    encrypt: EncryptPolicy
    without_certificate: WithoutCertificate
    confirm: ConfirmPolicy
    custody: CustodyPolicy
    origins: Mapping[str, str]


_Value = TypeVar("_Value", bound=StrEnum)
_SIGN_KEYS = {MailboxKind.PER: "sign_per", MailboxKind.CAB: "sign_per", MailboxKind.ORG: "sign_org"}


def check_value(name: str, value: str) -> str:
    """`value` when it is one of the policy `name`. Raises BadPolicy."""
    if name not in VALUES:
        raise BadPolicy(f"{name}: règle inconnue, une de {', '.join(VALUES)} / unknown policy")
    allowed = [one.value for one in VALUES[name]]
    if value not in allowed:
        raise BadPolicy(f"{name}: « {value} » inconnu, une de {', '.join(allowed)} / unknown value")
    return value


def effective(
    address: str, kind: MailboxKind, operator: ProxyPolicy, asked: Mapping[str, Mapping[str, str]]
) -> Effective:
    """The policy of a mailbox. `asked` is what its address and its domain ask for, by subject. Raises BadPolicy."""
    domain = address.rpartition("@")[2]
    origins: dict[str, str] = {}

    def chosen(name: str, by_operator: _Value, key: str = "") -> _Value:
        for subject, level in ((address, "mailbox"), (domain, "domain")):
            value = asked.get(subject, {}).get(name)
            if value is not None:
                origins[name] = f"{level} {subject}"
                return type(by_operator)(check_value(name, value))
        origins[name] = f"operator proxy.{key or name}"
        return by_operator

    return Effective(
        sign=chosen("sign", operator.sign[kind], _SIGN_KEYS.get(kind, "sign_app")),
        encrypt=chosen("encrypt", operator.encrypt),
        without_certificate=chosen("without_certificate", operator.without_certificate),
        confirm=chosen("confirm", operator.confirm),
        custody=chosen("custody", operator.custody),
        origins=origins,
    )
