"""Folders, messages, and what is known of their contents. Part of `mailstore.tables`, which says what holds for all."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
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

folders = numbered(
    "folders",
    Column("account_id", BigId, ForeignKey("accounts.id"), nullable=False),
    Column("name_digest", LargeBinary(32), nullable=False),
    Column("sealed_name", LargeBinary, nullable=False),
    Column("special_use", String(32), nullable=False),
    Column("uid_validity", BigInteger, nullable=False),
    Column("uid_next", BigInteger, nullable=False),
    Column("highest_modseq", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False, server_default="0"),
    Column("unseen", BigInteger, nullable=False, server_default="0"),
    Column("deleted", BigInteger, nullable=False, server_default="0"),
    Column("size", BigInteger, nullable=False, server_default="0"),
    Column("deleted_size", BigInteger, nullable=False, server_default="0"),
    Column("recent_uid", BigInteger, nullable=False, server_default="1"),
    Column("retention_days", Integer),
    UniqueConstraint("account_id", "name_digest"),
)

subscriptions = Table(
    "subscriptions",
    metadata,
    Column("account_id", BigId, ForeignKey("accounts.id"), primary_key=True),
    Column("name_digest", LargeBinary(32), primary_key=True),
    Column("sealed_name", LargeBinary, nullable=False),
)

acl = Table(
    "acl",
    metadata,
    Column("folder_id", BigId, ForeignKey("folders.id"), primary_key=True),
    Column("account_id", BigId, ForeignKey("accounts.id"), primary_key=True),
    Column("rights", String(16), nullable=False),
    Index("ix_acl_account_id", "account_id"),
)

contents = Table(
    "contents",
    metadata,
    Column("blob", String(32), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("sealed_summary", LargeBinary),
    Column("message_id", Text),
)

holdings = Table(
    "holdings",
    metadata,
    Column("account_id", BigId, primary_key=True),
    Column("digest", LargeBinary(32), primary_key=True),
    Column("blob", String(32), nullable=False),
    Index("ix_holdings_blob", "blob"),
)

threads = Table(
    "threads",
    metadata,
    Column("account_id", BigId, primary_key=True),
    Column("digest", LargeBinary(16), primary_key=True),
    Column("thread_id", BigInteger, nullable=False),
)

search_index = Table(
    "search_index",
    metadata,
    Column("blob", String(32), primary_key=True),
    Column("sealed_signature", LargeBinary, nullable=False),
    Column("sealed_text", LargeBinary),
)

messages = Table(
    "messages",
    metadata,
    Column("folder_id", BigId, ForeignKey("folders.id"), primary_key=True),
    Column("uid", BigInteger, primary_key=True, autoincrement=False),
    Column("modseq", BigInteger, nullable=False),
    Column("flags", Text, nullable=False),
    Column("seen", Boolean, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("date", Moment, nullable=False),
    Column("blob", String(32), ForeignKey("contents.blob"), nullable=False),
    Column("saved_at", Moment),
    Column("thread_id", BigInteger),
    Index("ix_messages_folder_id_modseq", "folder_id", "modseq"),
    Index("ix_messages_blob", "blob"),
)

seen_by = Table(
    "seen_by",
    metadata,
    Column("folder_id", BigId, ForeignKey("folders.id"), primary_key=True),
    Column("account_id", BigId, ForeignKey("accounts.id"), primary_key=True),
    Column("uid", BigInteger, primary_key=True, autoincrement=False),
    Index("ix_seen_by_folder_id_uid", "folder_id", "uid"),
)

expunged = Table(
    "expunged",
    metadata,
    Column("folder_id", BigId, ForeignKey("folders.id"), primary_key=True),
    Column("uid", BigInteger, primary_key=True, autoincrement=False),
    Column("modseq", BigInteger, nullable=False),
    Index("ix_expunged_folder_id_modseq", "folder_id", "modseq"),
)

discarded = Table(
    "discarded",
    metadata,
    Column("blob", String(32), primary_key=True),
    Column("at", Moment, nullable=False),
    Index("ix_discarded_at", "at"),
)

blob_journal = Table(
    "blob_journal",
    metadata,
    Column("blob", String(32), primary_key=True),
    Column("octets", LargeBinary, nullable=False),
)
