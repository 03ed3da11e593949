"""The words of mailboxes: what their verbs take and give. Values only; see `mailstore.model` for the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from mailstore.model import Content
from mailstore.uploads import Upload


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to add. `content` is the whole RFC 5322 message with CRLF line ends, what `spool().commit()` gave, or an
    upload, which is consumed;     `date` is the internal date; `summary` spares a call of `index` when the caller has made it."""

    content: Content | Upload = field(repr=False)
    flags: frozenset[str]
    date: datetime
    summary: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Details:
    """What few clients ask of a message: SAVEDATE (RFC 8514), EMAILID and THREADID (RFC 8474)."""

    saved_at: datetime
    email_id: str
    thread_id: str


@dataclass(frozen=True, slots=True)
class Quota:
    """Usage and limits of a mailbox; None is no limit."""

    bytes_used: int
    bytes_limit: int | None
    messages_used: int
    messages_limit: int | None

    @property
    def exceeded(self) -> bool:
        """Whether the mailbox holds more than it may."""
        too_big = self.bytes_limit is not None and self.bytes_used > self.bytes_limit
        return too_big or (self.messages_limit is not None and self.messages_used > self.messages_limit)


class SearchPart(StrEnum):
    """Where a text is looked for: TEXT is header and body; BODY is everything after the header, with the headers of
    parts and the names of attachments; HEADER is the fields of one name; ATTACHMENT is the names of attachments only."""

    TEXT = "text"
    BODY = "body"
    HEADER = "header"
    ATTACHMENT = "attachment"


class SearchStopped(Exception):
    """Whoever asked for the search no longer waits for it."""


@dataclass(frozen=True, slots=True)
class AppPassword:
    """A password drawn for one mail client, as it is listed: never the password."""

    id: int
    label: str
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class LoginState:
    """What is known of a mailbox's logins. `service` is the last one's (`imap`, `submission`), `source` its address."""

    at: datetime | None
    service: str
    source: str
    locked_until: datetime | None
    second_factor: bool


def email_id(blob: str) -> str:
    """EMAILID of a content: equal for all its copies (RFC 8474 §5.1)."""
    return f"M{blob}"
