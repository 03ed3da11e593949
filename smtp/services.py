"""What the SMTP room needs from the others, in one value; and its limits.

Invariants: everything is bounded; the clock is passed in; the store, the trust space and the proxy are synchronous and
may block, so the room always calls them through `in_thread`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import ParamSpec, Protocol, TypeVar

from directory import Directory
from mailstore import Account, NewDeposit, Store
from proxy.model import Opened, Protected, Refusal
from trustspace import TrustSpace

Clock = Callable[[], datetime]
"""Answers the present instant, aware, in UTC."""

P = ParamSpec("P")
T = TypeVar("T")


class Protector(Protocol):
    """The proxy, as this room sees it (DESIGN, journey steps 2 and 6)."""

    def protect(
        self,
        raw: bytes,
        *,
        sender: Account,
        recipients: Sequence[str],
        at: datetime,
        peer: str = "",
        vouched: bool = False,
    ) -> Protected | Refusal:
        """Sign and encrypt a submitted message for its recipients, or say why not. `peer`: the address it comes from."""
        ...

    def open(self, raw: bytes, *, recipient: Account, sender: str, at: datetime) -> Opened:
        """Open and verify a received message for one mailbox of ours."""
        ...


class DepositPlanner(Protocol):
    """The bridge, as this room sees it (DESIGN, journey step 3)."""

    def labels(self, clear: bytes) -> Mapping[str, str]:
        """The X-MSS-CODECDA and X-MSS-INS fields of the documents found (ECO.2.4.1, ECO.2.4.2), none without. Never raises."""
        ...

    def plan(
        self, clear: bytes, *, sender: Account, at: datetime, original: Callable[[], bytes] = ...
    ) -> tuple[NewDeposit, ...]:
        """The deposits that a clear message calls for; `original` gives what its sender handed in, without a send code, and
        may block. Never raises."""
        ...

    def searches(self, recipient: Account) -> bool:
        """Whether messages received for this mailbox are searched for documents to deposit."""
        ...

    def plan_received(
        self,
        clear: bytes,
        *,
        recipient: Account,
        at: datetime,
        mail_from: str = ...,
        original: Callable[[], bytes] = ...,
    ) -> tuple[NewDeposit, ...]:
        """Those that a message received for a mailbox of ours from `mail_from` calls for; `original` gives what came. Never
        raises."""
        ...


BearerLogin = Callable[[str, str, datetime], Account | None]
"""(mailbox address, token, at) to its account; None when the token is not its owner's. Raises one of `bearer_away` of
Services when the issuer cannot be asked."""


class DkimSigner(Protocol):
    """Signs what leaves for other operators (RFC 6376)."""

    def fields(self, message: bytes, domain: str, at: datetime) -> list[bytes]:
        """The DKIM-Signature fields to put on top, none for a domain without keys. Deterministic."""
        ...


class DkimChecker(Protocol):
    """Verifies the signatures of what arrives."""

    def results(self, message: bytes) -> list[str]:
        """Authentication-Results clauses, `dkim=none` without a signature. Never raises."""
        ...


@dataclass(frozen=True, slots=True)
class Rules:
    """What this operator asks of messages. Sizes in octets.

    `patient_domains` and `patient_size`: mssante.md §3.6. `nil`: this product's number (ECO.2.4.3), "" for none.
    `receipt_deadline`: how long a receipt asked for may be silent (a local choice: no rule was found).
    """

    patient_domains: frozenset[str] = frozenset({"patient.mssante.fr"})
    patient_size: int = 25 * 1024 * 1024
    nil: str = ""
    receipt_deadline: timedelta = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the listeners. Sizes in octets, times in seconds.

    `size` follows the only known national figure (mssante.md §2: 25 MB); `command_time` is RFC 5321 §4.5.3.2.7. `memory`
    bounds large messages held whole, all together. `peer_connections` and `peer_messages` (a minute) are for one operator,
    by certificate. After `tarpit_after` errors each reply waits `tarpit_step` seconds longer, ten at most.
    """

    size: int = 25 * 1024 * 1024
    recipients: int = 100
    connections: int = 1000
    connections_per_address: int = 50
    command_time: float = 300.0
    data_time: float = 1800.0
    session_time: float = 6 * 3600.0
    errors: int = 20
    login_failures: int = 5
    received_fields: int = 30
    memory: int = 64 * 1024 * 1024
    peer_connections: int = 50
    peer_messages: int = 6000
    tarpit_after: int = 3
    tarpit_step: float = 0.5


@dataclass(frozen=True, slots=True)
class Services:
    """What listeners work with. `local_domains` are lower-case ASCII; `hostname` is also the RFC 8601 authserv-id."""

    store: Store
    trust: TrustSpace
    protector: Protector
    planner: DepositPlanner
    clock: Clock
    hostname: str
    local_domains: frozenset[str]
    limits: Limits = field(default_factory=Limits)
    directory: Directory | None = None
    rules: Rules = field(default_factory=Rules)
    bearer: BearerLogin | None = None
    bearer_away: tuple[type[Exception], ...] = ()
    dkim_signer: DkimSigner | None = None
    dkim_checker: DkimChecker | None = None
    opens_for: Callable[[str], bool] = lambda _address: True


async def in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking call of another room without stopping the loop."""
    return await asyncio.to_thread(call, *args, **kwargs)
