"""What becomes of a recipient after an attempt, and when it is tried again.

Invariants: a temporary failure is tried again with a capped, jittered back-off until `give_up`; a permanent one is never
retried.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from mailstore import DeliveryState, Leased, Settlement
from smtp import metrics, replies
from smtp.dialogue import Answer, ClientError
from smtp.notices import Kind


@dataclass(frozen=True, slots=True)
class SenderSettings:
    """How patient the sender is. `batch` is how many rows are leased at once; `connections` how many may be open to one
    domain; `tell_delay` after how long a sender is told that a message waits. Of several workers over one store, one
    `tells_silences`: receipts that did not come."""

    concurrency: int = 20
    connections: int = 5
    batch: int = 200
    lease: timedelta = timedelta(minutes=20)
    first_retry: timedelta = timedelta(minutes=1)
    longest_retry: timedelta = timedelta(hours=1)
    tell_delay: timedelta = timedelta(hours=4)
    give_up: timedelta = timedelta(hours=48)
    poll: timedelta = timedelta(seconds=30)
    tells_silences: bool = True


def verdict(settings: SenderSettings, row: Leased, answer: Answer, now: datetime) -> Kind | None:
    """What becomes of a recipient; None when it waits, as it did before."""
    if answer.ok:
        return Kind.DELIVERED
    age = now - row.accepted_at
    if answer.permanent or age >= settings.give_up:
        return Kind.FAILED
    return Kind.DELAYED if age >= settings.tell_delay and row.delay_told_at is None else None


def settlement(verdict: Kind | None, answer: Answer, detail: dict[str, str], retry_at: datetime) -> Settlement:
    """What the queue keeps of a verdict; it is counted."""
    metrics.ATTEMPTS.labels("deferred" if verdict in (None, Kind.DELAYED) else verdict.value).inc()
    if verdict is Kind.DELIVERED:
        return Settlement(DeliveryState.DELIVERED, str(answer), detail=detail)
    if verdict is Kind.FAILED:
        return Settlement(DeliveryState.FAILED, str(answer), detail=detail)
    return Settlement(DeliveryState.QUEUED, str(answer), retry_at, detail, delay_told=verdict is Kind.DELAYED)


def delay(settings: SenderSettings, attempts: int, chance: random.Random) -> timedelta:
    """How long to wait after `attempts` earlier attempts: doubling, capped, between three quarters and the whole."""
    doubled: timedelta = settings.first_retry * (1 << min(attempts, 20))
    whole = min(settings.longest_retry, doubled)
    return whole * (0.75 + 0.25 * chance.random())


def broken(error: Exception) -> Answer:
    """What recipients get when the hand-over broke: later, whatever it was. One bad message never holds up its domain."""
    if isinstance(error, TimeoutError):
        error = ClientError("serveur trop lent en face / the peer is too slow")
    if isinstance(error, ClientError):
        return Answer(451, "4.4.2", replies.to_ascii(str(error)))
    reply = replies.reply_for(error)
    return Answer(reply.code, reply.enhanced, replies.to_ascii(f"{reply.text_fr} / {reply.text_en}"))
