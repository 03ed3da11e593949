"""The tables of the mail store, for SQLite and PostgreSQL alike.

Invariants:
* nothing a patient or a message says is in clear: contents are blobs; folder names, summaries, search texts, private
  keys, second factors and deposit contexts are sealed; logins that failed, contents already held and the ids that
  threads are made of are kept as keyed digests only;
* `messages.uid` is unique in its folder and never given twice (folders.uid_next only grows);
* `folders.highest_modseq` grows with every change of the folder, inside the transaction that makes the change; its
  counts (`total`, `unseen`, `deleted`, `size`) change in that transaction too;
* the migrations of `mailstore/migrations` lead exactly to this description (tested).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)


class Moment(TypeDecorator[datetime]):
    """An aware UTC datetime. SQLite keeps no zone: it is taken off on the way in and put back on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuses naive datetimes (ValueError): they would be stored at the wrong instant."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("naive datetime given to the store")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Always aware, always UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


BigId = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers rows only under INTEGER PRIMARY KEY
CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = MetaData(naming_convention=CONVENTION)


def _numbered(name: str, *columns: Any) -> Table:
    """A table whose integer ids are never given twice, even after a deletion."""
    return Table(name, metadata, Column("id", BigId, primary_key=True), *columns, sqlite_autoincrement=True)


meta = Table(
    "meta",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

accounts = _numbered(
    "accounts",
    Column("address", String(254), nullable=False, unique=True),
    Column("kind", String(8), nullable=False),
    Column("display_name", Text, nullable=False),
    Column("national_id", String(64), nullable=False),
    Column("active", Boolean, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("password_hash", Text),
    Column("client_key", LargeBinary(32), unique=True),
    Column("next_uid_validity", BigInteger, nullable=False),
    Column("quota_bytes", BigInteger),
    Column("quota_messages", BigInteger),
    Column("sealed_totp", LargeBinary),
    Column("totp_step", BigInteger),
    Column("locked_until", Moment),
    Column("last_login_at", Moment),
    Column("last_login_service", String(16)),
    Column("last_login_source", String(64)),
)

app_passwords = _numbered(
    "app_passwords",
    Column("account_id", BigId, ForeignKey("accounts.id"), nullable=False),
    Column("label", String(64), nullable=False),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("created_at", Moment, nullable=False),
    Column("last_used_at", Moment),
    Column("revoked_at", Moment),
    Index("ix_app_passwords_account_id", "account_id"),
)

login_failures = _numbered(
    "login_failures",
    Column("login_digest", LargeBinary(32), nullable=False),
    Column("at", Moment, nullable=False),
    Index("ix_login_failures_login_digest_at", "login_digest", "at"),
    Index("ix_login_failures_at", "at"),
)

folders = _numbered(
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

outgoing = _numbered(
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

attempts = _numbered(
    "attempts",
    Column("outgoing_id", BigId, ForeignKey("outgoing.id"), nullable=False),
    Column("at", Moment, nullable=False),
    Column("number", Integer, nullable=False),
    Column("reply", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Index("ix_attempts_outgoing_id", "outgoing_id"),
)

receipts = _numbered(
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

scram_verifiers = Table(
    "scram_verifiers",
    metadata,
    Column("account_id", BigId, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("salt", LargeBinary(16), nullable=False),
    Column("iterations", Integer, nullable=False),
    Column("sealed_keys", LargeBinary, nullable=False),
)

delegations = Table(
    "delegations",
    metadata,
    Column("owner_id", BigId, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("delegate_id", BigId, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("created_at", Moment, nullable=False),
    Index("ix_delegations_delegate_id", "delegate_id"),
)

deposits = _numbered(
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

audit = _numbered(
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

send_codes = Table(
    "send_codes",
    metadata,
    Column("code_id", String(64), primary_key=True),
    Column("account_id", BigId, ForeignKey("accounts.id"), nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=False),
    Column("max_uses", Integer),
    Column("uses", Integer, nullable=False),
    Column("revoked_at", Moment),
    Column("label", Text),
    Column("scope", Text),
    Column("last_used_at", Moment),
    Index("ix_send_codes_account_id", "account_id"),
)

code_failures = _numbered(
    "code_failures",
    Column("account_id", BigId, ForeignKey("accounts.id"), nullable=False),
    Column("at", Moment, nullable=False),
    Index("ix_code_failures_account_id_at", "account_id", "at"),
)

policies = Table(
    "policies",
    metadata,
    Column("subject", String(254), primary_key=True),
    Column("name", String(32), primary_key=True),
    Column("value", String(32), nullable=False),
    Column("changed_at", Moment, nullable=False),
)

custodians = Table(
    "custodians",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("passphrase_hash", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
)

stored_keys = _numbered(
    "stored_keys",
    Column("address", String(254), nullable=False),
    Column("usage", String(32), nullable=False),
    Column("chain_pem", LargeBinary, nullable=False),
    Column("sealed_key", LargeBinary, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("retired_at", Moment),
    Column("place", String(16)),
    Column("destruction_asked_by", String(64)),
    Column("destruction_asked_at", Moment),
    Column("destroyed_by", String(64)),
    Column("destroyed_at", Moment),
    Index("ix_stored_keys_address_usage", "address", "usage"),
)

discarded = Table(
    "discarded",
    metadata,
    Column("blob", String(32), primary_key=True),
    Column("at", Moment, nullable=False),
    Index("ix_discarded_at", "at"),
)

feed = _numbered(
    "feed",
    Column("kind", String(8), nullable=False),
    Column("target", BigInteger, nullable=False),
    Column("origin", String(16), nullable=False),
)

keyring = Table(
    "keyring",
    metadata,
    Column("purpose", String(32), primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("sealed_key", LargeBinary, nullable=False),
    Column("created_at", Moment, nullable=False),
)
