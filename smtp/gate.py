"""The door of a service: how many connections, from where, from which operator, and how fast.

Invariants: what is counted in is counted out once; limits refuse, they never wait; an operator is its certificate's full
name, whatever address it comes from.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Protocol

from smtp import metrics
from smtp.services import Limits

_MINUTE = 60.0
_KEPT = 4096


class Door(Protocol):
    """A connection, as the door sees it."""

    busy: bool

    def abandon(self) -> None:
        """Cut the connection now."""
        ...


class Gate:
    """Counts the connections of one service, in all and by address, and knows them for the shutdown."""

    def __init__(self, limits: Limits, service: str = "") -> None:
        self._limits = limits
        self._service = service
        self._by_address: Counter[str] = Counter()
        self.open: dict[Door, str] = {}
        self.closing = False
        self.empty = asyncio.Event()
        self.empty.set()

    def enter(self, door: Door, address: str) -> bool:
        """Register a connection; False when there are too many."""
        self.open[door] = address
        self.empty.clear()
        self._by_address[address] += 1
        metrics.CONNECTIONS.labels(self._service).set(len(self.open))
        limits = self._limits
        full = len(self.open) > limits.connections or self._by_address[address] > limits.connections_per_address
        if full:
            metrics.TURNED_AWAY.labels(self._service, "connections").inc()
        return not full and not self.closing

    def move(self, door: Door, address: str) -> bool:
        """The connection comes from elsewhere than it seemed (PROXY protocol); answers as `enter`."""
        self.leave(door)
        return self.enter(door, address)

    def leave(self, door: Door) -> None:
        """Forget a connection."""
        address = self.open.pop(door, None)
        if address is None:
            return
        if not self.open:
            self.empty.set()
        self._by_address[address] -= 1
        if self._by_address[address] <= 0:
            del self._by_address[address]
        metrics.CONNECTIONS.labels(self._service).set(len(self.open))


class PeerLimits:
    """How many connections, and messages a minute, one operator may have. Times are the loop's, in seconds."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: Counter[str] = Counter()
        self._left: dict[str, tuple[float, float]] = {}

    def connected(self, peer: str) -> bool:
        """Count a connection in; False when there are too many (it is counted all the same)."""
        self._open[peer] += 1
        return self._open[peer] <= self._limits.peer_connections

    def gone(self, peer: str) -> None:
        """Count a connection out."""
        self._open[peer] -= 1
        if self._open[peer] <= 0:
            del self._open[peer]

    def may_send(self, peer: str, now: float) -> bool:
        """Take one message from the peer's minute; False when it is used up."""
        whole = float(self._limits.peer_messages)
        left, since = self._left.pop(peer, (whole, now))
        left = min(whole, left + (now - since) * whole / _MINUTE)
        allowed = left >= 1.0
        self._left[peer] = (left - 1.0 if allowed else left, now)
        if len(self._left) > _KEPT:
            del self._left[next(iter(self._left))]
        return allowed
