"""Counters at the decision points of this room, for Prometheus. Labels are closed sets: never an address, a name or an
identifier."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

PLANNED = Counter("caducee_deposits_planned_total", "Documents found in messages, by what was decided", ["outcome"])
ATTEMPTS = Counter("caducee_deposits_attempts_total", "Attempts at a deposit, by outcome", ["outcome"])
ATTEMPT_SECONDS = Histogram(
    "caducee_deposits_attempt_seconds",
    "From the lease of a deposit to its outcome",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
TOLD = Counter("caducee_deposits_told_total", "Notices about documents, by kind", ["kind"])
HAND_OVERS = Counter("caducee_hl7_hand_overs_total", "HL7 v2 hand-overs, by acknowledgement", ["answer"])
ACKNOWLEDGEMENTS = Counter(
    "caducee_hl7_acknowledgements_total", "Business acknowledgements handed to feeds, by outcome", ["outcome"]
)
