"""Scope of send codes and their failures, protection policies, custodians, life cycle of server-side keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """From the first version to codes with a scope, policies by mailbox, and keys that two persons may destroy."""
    op.add_column("send_codes", sa.Column("label", sa.Text(), nullable=True))
    op.add_column("send_codes", sa.Column("scope", sa.Text(), nullable=True))
    op.add_column("send_codes", sa.Column("last_used_at", _MOMENT, nullable=True))
    op.create_table(
        "code_failures",
        sa.Column("id", _ID, nullable=False),
        sa.Column("account_id", _ID, nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_code_failures_account_id"),
        sa.PrimaryKeyConstraint("id", name="pk_code_failures"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_code_failures_account_id_at", "code_failures", ["account_id", "at"], unique=False)
    op.create_table(
        "policies",
        sa.Column("subject", sa.String(length=254), nullable=False),
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("value", sa.String(length=32), nullable=False),
        sa.Column("changed_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("subject", "name", name="pk_policies"),
    )
    op.create_table(
        "custodians",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("passphrase_hash", sa.Text(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_custodians"),
    )
    op.add_column("stored_keys", sa.Column("place", sa.String(length=16), nullable=True))
    op.add_column("stored_keys", sa.Column("destruction_asked_by", sa.String(length=64), nullable=True))
    op.add_column("stored_keys", sa.Column("destruction_asked_at", _MOMENT, nullable=True))
    op.add_column("stored_keys", sa.Column("destroyed_by", sa.String(length=64), nullable=True))
    op.add_column("stored_keys", sa.Column("destroyed_at", _MOMENT, nullable=True))
