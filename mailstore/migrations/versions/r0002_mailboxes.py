"""Counts kept with folders, quota, retention, sharing, threads, search index, second factors, change feed, key ring."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """From the first version; what can be counted or copied from existing rows is."""
    _columns()
    _accounts()
    _mail()
    _housekeeping()
    _fill()


def _columns() -> None:
    added: dict[str, tuple[sa.Column[Any], ...]] = {
        "accounts": (
            sa.Column("quota_bytes", sa.BigInteger(), nullable=True),
            sa.Column("quota_messages", sa.BigInteger(), nullable=True),
            sa.Column("sealed_totp", sa.LargeBinary(), nullable=True),
            sa.Column("totp_step", sa.BigInteger(), nullable=True),
            sa.Column("locked_until", _MOMENT, nullable=True),
            sa.Column("last_login_at", _MOMENT, nullable=True),
            sa.Column("last_login_service", sa.String(length=16), nullable=True),
            sa.Column("last_login_source", sa.String(length=64), nullable=True),
        ),
        "folders": (
            *(
                sa.Column(name, sa.BigInteger(), nullable=False, server_default="0")
                for name in ("total", "unseen", "deleted", "size", "deleted_size")
            ),
            sa.Column("recent_uid", sa.BigInteger(), nullable=False, server_default="1"),
            sa.Column("retention_days", sa.Integer(), nullable=True),
        ),
        "contents": (sa.Column("message_id", sa.Text(), nullable=True),),
        "messages": (
            sa.Column("saved_at", _MOMENT, nullable=True),
            sa.Column("thread_id", sa.BigInteger(), nullable=True),
        ),
    }
    for table, columns in added.items():
        for column in columns:
            op.add_column(table, column)
    op.drop_index("ix_messages_folder_id_seen", "messages")


def _accounts() -> None:
    op.create_table(
        "app_passwords",
        sa.Column("id", _ID, nullable=False),
        sa.Column("account_id", _ID, nullable=False),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("last_used_at", _MOMENT, nullable=True),
        sa.Column("revoked_at", _MOMENT, nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_app_passwords_account_id"),
        sa.PrimaryKeyConstraint("id", name="pk_app_passwords"),
        sa.UniqueConstraint("digest", name="uq_app_passwords_digest"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_app_passwords_account_id", "app_passwords", ["account_id"], unique=False)
    op.create_table(
        "subscriptions",
        sa.Column("account_id", _ID, nullable=False),
        sa.Column("name_digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("sealed_name", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_subscriptions_account_id"),
        sa.PrimaryKeyConstraint("account_id", "name_digest", name="pk_subscriptions"),
    )
    op.create_table(
        "acl",
        sa.Column("folder_id", _ID, nullable=False),
        sa.Column("account_id", _ID, nullable=False),
        sa.Column("rights", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_acl_account_id"),
        sa.ForeignKeyConstraint(["folder_id"], ["folders.id"], name="fk_acl_folder_id"),
        sa.PrimaryKeyConstraint("folder_id", "account_id", name="pk_acl"),
    )
    op.create_index("ix_acl_account_id", "acl", ["account_id"], unique=False)


def _mail() -> None:
    op.create_table(
        "holdings",
        sa.Column("account_id", _ID, nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("blob", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "digest", name="pk_holdings"),
    )
    op.create_index("ix_holdings_blob", "holdings", ["blob"], unique=False)
    op.create_table(
        "threads",
        sa.Column("account_id", _ID, nullable=False),
        sa.Column("digest", sa.LargeBinary(length=16), nullable=False),
        sa.Column("thread_id", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "digest", name="pk_threads"),
    )
    op.create_table(
        "search_index",
        sa.Column("blob", sa.String(length=32), nullable=False),
        sa.Column("sealed_signature", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_text", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("blob", name="pk_search_index"),
    )
    op.create_table(
        "seen_by",
        sa.Column("folder_id", _ID, nullable=False),
        sa.Column("account_id", _ID, nullable=False),
        sa.Column("uid", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_seen_by_account_id"),
        sa.ForeignKeyConstraint(["folder_id"], ["folders.id"], name="fk_seen_by_folder_id"),
        sa.PrimaryKeyConstraint("folder_id", "account_id", "uid", name="pk_seen_by"),
    )
    op.create_index("ix_seen_by_folder_id_uid", "seen_by", ["folder_id", "uid"], unique=False)


def _housekeeping() -> None:
    op.create_table(
        "feed",
        sa.Column("id", _ID, nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("target", sa.BigInteger(), nullable=False),
        sa.Column("origin", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_feed"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "keyring",
        sa.Column("purpose", sa.String(length=32), nullable=False),
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sealed_key", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("purpose", "generation", name="pk_keyring"),
    )


def _fill() -> None:
    op.execute("UPDATE messages SET saved_at = date")
    op.execute(
        "INSERT INTO subscriptions (account_id, name_digest, sealed_name) "
        "SELECT account_id, name_digest, sealed_name FROM folders WHERE subscribed"
    )
    op.drop_column("folders", "subscribed")
    here = "FROM messages WHERE messages.folder_id = folders.id"
    marked = f"{here} AND messages.flags LIKE '%\\Deleted%' ESCAPE '!'"
    op.execute(
        "UPDATE folders SET "  # noqa: S608 - constants only
        f"total = (SELECT count(*) {here}), "
        f"unseen = (SELECT count(*) {here} AND NOT messages.seen), "
        f"deleted = (SELECT count(*) {marked}), "
        f"deleted_size = (SELECT coalesce(sum(messages.size), 0) {marked}), "
        f"size = (SELECT coalesce(sum(messages.size), 0) {here}), "
        "recent_uid = uid_next"
    )
