"""The contract of an outlet: one way to one record. The worker knows this only; SOAP (dmp.md §3) and FHIR (§9) implement it.

Invariant: `carry_out` never raises for what a document or a server may do, and may be called again for the same job at any
time: the job's submission set id and the document's own identifier make every attempt the same one.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from mailstore.model import DepositJob, DepositState


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: DEPOSITED, RETRY or NEEDS_ATTENTION, the code that says why, and the sentence kept in the row."""

    state: DepositState
    code: str
    reason: str


class Outlet(Protocol):
    """One way to one record."""

    def carry_out(self, job: DepositJob, at: datetime) -> Outcome:
        """Try once; `at` is the time written in what is sent. Blocking, bounded in time, thread safe."""
        ...


def new_submission_set_id() -> str:
    """A fresh OID for a submission set: the UUID arc (ITU-T X.667, 2.25), so that no counter has to survive a crash."""
    return f"2.25.{uuid.uuid4().int}"


def retry(code: str, text: str) -> Outcome:
    """What may pass by itself."""
    return Outcome(DepositState.RETRY, code, f"{code}: {text}")


def attention(code: str, text: str) -> Outcome:
    """What a person has to look at."""
    return Outcome(DepositState.NEEDS_ATTENTION, code, f"{code}: {text}")


def done(code: str, text: str) -> Outcome:
    """What the record holds, or let go of, as it was asked."""
    return Outcome(DepositState.DEPOSITED, code, text)
