"""What was accepted, where it goes, what became of it. Part of `mailstore.tables`, which says what holds for all."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from mailstore.columns import BigId, Moment, metadata, numbered

submissions = Table(
    "submissions",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("fingerprint", LargeBinary(32), nullable=False, unique=True),
    Column("direction", String(16), nullable=False),
    Column("principal", Text, nullable=False),
    Column("mail_from", Text, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("accepted_at", Moment, nullable=False),
    Index("ix_submissions_message_id", "message_id"),
)

outgoing = numbered(
    "outgoing",
    Column("submission_id", String(64), ForeignKey("submissions.id"), nullable=False),
    Column("message_id", Text, nullable=False),
    Column("mail_from", Text, nullable=False),
    Column("recipient", Text, nullable=False),
    Column("domain", Text, nullable=False),
    Column("blob", String(32), ForeignKey("contents.blob")),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("accepted_at", Moment, nullable=False),
    Column("next_attempt_at", Moment),
    Column("lease_owner", Text, nullable=False),
    Column("lease_until", Moment),
    Column("reply", Text, nullable=False),
    Column("settled_at", Moment),
    Column("options", Text, nullable=False, server_default="{}"),
    Column("route", Text, nullable=False, server_default=""),
    Column("delay_told_at", Moment),
    Index("ix_outgoing_state_next_attempt_at", "state", "next_attempt_at"),
    Index("ix_outgoing_domain_state", "domain", "state"),
    Index("ix_outgoing_submission_id", "submission_id"),
    Index("ix_outgoing_blob", "blob"),
)

attempts = numbered(
    "attempts",
    Column("outgoing_id", BigId, ForeignKey("outgoing.id"), nullable=False),
    Column("at", Moment, nullable=False),
    Column("number", Integer, nullable=False),
    Column("reply", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Index("ix_attempts_outgoing_id", "outgoing_id"),
)

receipts = numbered(
    "receipts",
    Column("submission_id", String(64), ForeignKey("submissions.id"), nullable=False),
    Column("message_id", Text, nullable=False),
    Column("sender", Text, nullable=False),
    Column("recipient", Text, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("deadline", Moment, nullable=False),
    Column("answered_at", Moment),
    Column("detail", Text, nullable=False),
    UniqueConstraint("submission_id", "recipient", "kind"),
    Index("ix_receipts_message_id", "message_id"),
    Index("ix_receipts_state_deadline", "state", "deadline"),
)

deposits = numbered(
    "deposits",
    Column("submission_id", String(64), ForeignKey("submissions.id"), nullable=False),
    Column("message_id", Text, nullable=False),
    Column("unique_id", String(256), nullable=False),
    Column("sha1", String(40), nullable=False),
    Column("blob", String(32), ForeignKey("contents.blob")),
    Column("sealed_context", LargeBinary, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("next_attempt_at", Moment),
    Column("lease_owner", Text, nullable=False),
    Column("lease_until", Moment),
    Column("submission_set_id", String(256), nullable=False),
    UniqueConstraint("unique_id", "sha1"),
    Index("ix_deposits_state_next_attempt_at", "state", "next_attempt_at"),
    Index("ix_deposits_blob", "blob"),
)

deposit_originals = Table(
    "deposit_originals",
    metadata,
    Column("deposit_id", BigId, ForeignKey("deposits.id"), primary_key=True),
    Column("mailbox", Text, nullable=False),
    Column("blob", String(32), ForeignKey("contents.blob"), nullable=False),
    Index("ix_deposit_originals_blob", "blob"),
    Index("ix_deposit_originals_mailbox", "mailbox"),
)

audit = numbered(
    "audit",
    Column("at", Moment, nullable=False),
    Column("submission_id", String(64), nullable=False),
    Column("message_id", Text, nullable=False),
    Column("name", String(64), nullable=False),
    Column("detail", Text, nullable=False),
    Index("ix_audit_submission_id", "submission_id"),
    Index("ix_audit_message_id", "message_id"),
    Index("ix_audit_at", "at"),
)

feed = numbered(
    "feed",
    Column("kind", String(8), nullable=False),
    Column("target", BigInteger, nullable=False),
    Column("origin", String(16), nullable=False),
)
