"""An acceptance on its way: what is prepared before the transaction, and the rows that the transaction makes of it.

Pure: nothing here touches the database or the blobs.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mailstore.core import clean, clean_message_id
from mailstore.flags import normalise
from mailstore.model import Acceptance, Accepted, Content, DeliveryState, Direction, Event, LocalDelivery, Stored
from mailstore.threads import Links

Row = dict[str, Any]


@dataclass(slots=True)
class Draft:
    """One acceptance, and what the transaction used of what was made for it."""

    acceptance: Acceptance
    submission_id: str
    fingerprint: bytes
    blobs: dict[Content, str] = field(default_factory=dict)
    summaries: dict[Content, bytes] = field(default_factory=dict)
    links: dict[Content, Links] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    first: str = ""
    """The submission that took this very hand-over before; "" when it is new."""

    @property
    def accepted(self) -> Accepted:
        return Accepted(self.first or self.submission_id, duplicate=bool(self.first))

    @property
    def written(self) -> list[str]:
        """Every blob made for it."""
        return list(dict.fromkeys(self.blobs.values()))

    @property
    def local_contents(self) -> list[Content]:
        """What goes into mailboxes of ours, each content once."""
        return list(dict.fromkeys(one.content for one in self.acceptance.local))

    @property
    def contents(self) -> list[Content]:
        """Everything it stores, each content once, those of mailboxes first."""
        acceptance = self.acceptance
        others = (
            *(copy.content for copy in acceptance.outgoing),
            *(new.content for new in acceptance.deposits),
            *(new.original for new in acceptance.deposits if new.original),
        )
        return list(dict.fromkeys((*self.local_contents, *others)))

    @property
    def mailbox(self) -> str:
        """The mailbox of ours that the message is of: its sender's, or the one it came for."""
        acceptance = self.acceptance
        if acceptance.direction is Direction.SUBMISSION:
            return clean(acceptance.mail_from, 998)
        return clean(acceptance.recipients[0] if acceptance.recipients else "", 998)

    def submission_row(self, at: datetime) -> Row:
        """The row that recognises the hand-over when it is repeated."""
        acceptance = self.acceptance
        return {
            "id": self.submission_id,
            "fingerprint": self.fingerprint,
            "direction": acceptance.direction.value,
            "principal": clean(acceptance.principal, 998),
            "mail_from": clean(acceptance.mail_from, 998),
            "message_id": clean_message_id(acceptance.message_id),
            "accepted_at": at,
        }

    def message_row(self, local: LocalDelivery, thread_id: int, at: datetime) -> Row:
        """A copy in a mailbox, as `Arrivals._insert_messages` takes it."""
        return {
            "flags": normalise(local.flags),
            "size": size_of(local.content),
            "date": at,
            "blob": self.blobs[local.content],
            "saved_at": at,
            "thread_id": thread_id,
        }

    def outgoing_rows(self, at: datetime) -> Iterator[Row]:
        """A row for each recipient at another operator."""
        acceptance = self.acceptance
        for copy in acceptance.outgoing:
            options = json.dumps({clean(key, 64): clean(value, 1000) for key, value in copy.options.items()})
            for recipient in copy.recipients:
                yield {
                    "submission_id": self.submission_id,
                    "message_id": clean_message_id(acceptance.message_id),
                    "mail_from": clean(acceptance.mail_from, 998),
                    "recipient": clean(recipient, 998),
                    "domain": clean(recipient.rpartition("@")[2].lower(), 255),
                    "blob": self.blobs[copy.content],
                    "state": DeliveryState.QUEUED.value,
                    "attempts": 0,
                    "accepted_at": at,
                    "next_attempt_at": at,
                    "lease_owner": "",
                    "reply": "",
                    "options": options,
                    "route": "",
                }


def size_of(content: Content) -> int:
    """Octets of a content, wherever it is."""
    return content.size if isinstance(content, Stored) else len(content)


def fingerprint(acceptance: Acceptance, key: bytes) -> bytes:
    """HMAC-SHA256 of the hand-over, each part preceded by its length so that no two hand-overs read alike."""
    texts = (
        acceptance.direction.value,
        acceptance.principal,
        acceptance.mail_from,
        *sorted(acceptance.recipients),
    )
    received = acceptance.received
    digest = received.digest if isinstance(received, Stored) else hashlib.sha256(received).digest()
    parts = (
        len(texts).to_bytes(8, "big"),
        *(text.encode("utf-8", "surrogatepass") for text in texts),
        digest,
    )
    whole = b"".join(piece for part in parts for piece in (len(part).to_bytes(8, "big"), part))
    return hmac.digest(key, b"acceptance\x00" + whole, hashlib.sha256)


def summary_event(acceptance: Acceptance) -> Event:
    """The audit line that every acceptance begins with."""
    detail = {
        "direction": acceptance.direction.value,
        "principal": acceptance.principal,
        "mail_from": acceptance.mail_from,
        "recipients": ", ".join(acceptance.recipients),
        "local": str(len(acceptance.local)),
        "outgoing": str(sum(len(copy.recipients) for copy in acceptance.outgoing)),
        "deposits": str(len(acceptance.deposits)),
    }
    return Event("accepted", detail)
