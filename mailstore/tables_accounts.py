"""Accounts, their logins, rights and delegations. Part of `mailstore.tables`, which says what holds for all."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, LargeBinary, String, Table, Text

from mailstore.columns import BigId, Moment, metadata, numbered

accounts = numbered(
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
    Index("ix_accounts_national_id", "national_id"),
)

app_passwords = numbered(
    "app_passwords",
    Column("account_id", BigId, ForeignKey("accounts.id"), nullable=False),
    Column("label", String(64), nullable=False),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("created_at", Moment, nullable=False),
    Column("last_used_at", Moment),
    Column("revoked_at", Moment),
    Index("ix_app_passwords_account_id", "account_id"),
)

login_failures = numbered(
    "login_failures",
    Column("login_digest", LargeBinary(32), nullable=False),
    Column("at", Moment, nullable=False),
    Index("ix_login_failures_login_digest_at", "login_digest", "at"),
    Index("ix_login_failures_at", "at"),
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

erased_accounts = Table(
    "erased_accounts",
    metadata,
    Column("address", String(254), primary_key=True),
    Column("national_id", String(64), nullable=False),
    Column("erased_at", Moment, nullable=False),
)

policies = Table(
    "policies",
    metadata,
    Column("subject", String(254), primary_key=True),
    Column("name", String(32), primary_key=True),
    Column("value", String(32), nullable=False),
    Column("changed_at", Moment, nullable=False),
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

code_failures = numbered(
    "code_failures",
    Column("account_id", BigId, ForeignKey("accounts.id"), nullable=False),
    Column("at", Moment, nullable=False),
    Index("ix_code_failures_account_id_at", "account_id", "at"),
)
