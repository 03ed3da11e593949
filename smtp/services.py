"""What the SMTP room needs from the others, in one value; and its limits.

Invariants: everything is bounded; the clock is passed in; the store, the trust space and the proxy are synchronous and
may block, so the room always calls them through `in_thread`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
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

    def protect(self, raw: bytes, *, sender: Account, recipients: Sequence[str], at: datetime) -> Protected | Refusal:
        """Sign and encrypt a submitted message for its recipients, or say why not."""
        ...

    def open(self, raw: bytes, *, recipient: Account, sender: str, at: datetime) -> Opened:
        """Open and verify a received message for one mailbox of ours."""
        ...


class DepositPlanner(Protocol):
    """The bridge, as this room sees it (DESIGN, journey step 3)."""

    def plan(self, clear: bytes, *, sender: Account, at: datetime) -> tuple[NewDeposit, ...]:
        """The deposits that a clear message calls for. Never raises."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the listeners. Sizes in octets, times in seconds.

    `size` follows the only known national figure (mssante.md §2: 25 MB); `command_time` is RFC 5321 §4.5.3.2.7.
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


async def in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking call of another room without stopping the loop."""
    return await asyncio.to_thread(call, *args, **kwargs)
