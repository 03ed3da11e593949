"""Counters at the decision points of this room, for Prometheus. Labels are closed sets: never an address or a domain.

Several processes may serve one operator: counters add up, connections too, the queue is what was last seen of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from prometheus_client import Counter, Gauge, Histogram

CONNECTIONS = Gauge("caducee_smtp_connections", "Open connections", ["service"], multiprocess_mode="livesum")
TURNED_AWAY = Counter("caducee_smtp_turned_away_total", "Connections refused at the door", ["service", "reason"])
REPLIES = Counter("caducee_smtp_replies_total", "Negative replies, by code", ["service", "code", "enhanced"])
LOGINS = Counter("caducee_smtp_logins_total", "Logins, by mechanism and outcome", ["mechanism", "outcome"])
ACCEPTED = Counter("caducee_smtp_accepted_total", "Messages accepted for good", ["service"])
ACCEPTED_OCTETS = Counter("caducee_smtp_accepted_octets_total", "Octets of accepted messages", ["service"])
ACCEPTING = Histogram(
    "caducee_smtp_accepting_seconds",
    "From the end of the message to its reply",
    ["service"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
TRUST = Counter("caducee_trust_decisions_total", "May this peer speak for this domain, by rule", ["side", "rule"])
ATTEMPTS = Counter("caducee_queue_attempts_total", "Attempts at a recipient, by outcome", ["outcome"])
NOTICES = Counter("caducee_notices_total", "Notices written, by kind", ["kind"])
QUEUE = Gauge(
    "caducee_queue_recipients",
    "Recipients waiting in the queue, by state",
    ["state"],
    multiprocess_mode="livemostrecent",
)
ERRORS = Counter("caducee_smtp_unexpected_errors_total", "Errors that this program did not foresee")


@dataclass(frozen=True, slots=True)
class Taking:
    """What is counted of every message that a service takes."""

    accepted: Counter
    octets: Counter
    seconds: Histogram


@lru_cache
def taking(service: str) -> Taking:
    """The counters of a service, found once: looking for them costs more than counting."""
    return Taking(ACCEPTED.labels(service), ACCEPTED_OCTETS.labels(service), ACCEPTING.labels(service))
