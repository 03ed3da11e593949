"""What is known of one connection and of one mail transaction, and what a listener's handler does with them.

Invariants: values only; what the shell learns of a peer (certificate, login) is begun anew after STARTTLS, and a transaction
after each message.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cryptography import x509

from mailstore import Account, ScramVerifier, Store
from smtp import sasl
from smtp.content import Received
from smtp.gate import Gate
from smtp.machine import MailOptions, RcptOptions
from smtp.replies import Reply
from smtp.services import Limits
from trustspace import Decision


@dataclass(frozen=True, slots=True)
class Decided:
    """That a peer may speak for a domain: `at` by the loop's time, by what was `in_force` of the trust space."""

    domain: str
    at: float
    in_force: object
    decision: Decision


@dataclass(slots=True)
class Talk:
    """What is known of one connection; begun anew after STARTTLS."""

    peer: str
    certificate: x509.Certificate | None = None
    chain: tuple[x509.Certificate, ...] = ()
    secure: bool = False
    tls_name: str = ""
    greeted: str = ""
    account: Account | None = None
    login_failures: int = 0
    binding: Callable[[str], bytes | None] = field(default=lambda _kind: None, repr=False)
    counted: str = ""
    """The operator's name, once its connection is counted."""
    said: str = ""
    decided: Decided | None = None

    @property
    def peer_name(self) -> str:
        """The full name of the peer's certificate (RFC 4514), "" without one."""
        if not self.said and self.certificate is not None:
            self.said = self.certificate.subject.rfc4514_string()
        return self.said


@dataclass(slots=True)
class Transaction:
    """One mail transaction. `sender` is None before MAIL and "" for the null sender; `facts` are the handler's notes."""

    sender: str | None = None
    options: MailOptions = field(default_factory=MailOptions)
    recipients: dict[str, Account | None] = field(default_factory=dict)
    asked: dict[str, RcptOptions] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)


class Handler(Protocol):
    """What a listener does with commands. Every method may raise SmtpRefusal; what it raises else becomes a 451.

    `logins` are the SASL mechanisms offered; `repairs` says that over-long lines are re-encoded, not refused.
    """

    service: str
    logins: tuple[str, ...]
    repairs: bool

    async def claimed(self, talk: Talk, claim: sasl.Claim) -> Account | None:
        """The account that a SASL claim speaks for, or None."""
        ...

    def verifier(self, login: str) -> ScramVerifier:
        """The SCRAM verifier of a login; blocking."""
        ...

    def secured(self, talk: Talk) -> None:
        """TLS has begun."""
        ...

    def closed(self, talk: Talk) -> None:
        """The connection is gone."""
        ...

    async def mail(self, talk: Talk, transaction: Transaction, sender: str) -> None:
        """May this sender send? `sender` is "" for the null sender; `transaction.options` are those asked for."""
        ...

    async def recipient(self, talk: Talk, transaction: Transaction, recipient: str) -> Account | None:
        """May this recipient receive? Answers its account when the mailbox is here."""
        ...

    async def message(self, talk: Talk, transaction: Transaction, received: Received) -> Reply:
        """Take responsibility for the message; the answer is sent as it is."""
        ...


@dataclass(frozen=True, slots=True)
class Setting:
    """What the connections of one listener share. `domain` is the first of those served here."""

    handler: Handler
    hostname: str
    domain: str
    limits: Limits
    gate: Gate
    store: Store
    tls: ssl.SSLContext | None
    implicit: bool = False
    require_tls: bool = True
    balancers: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network] = ()
