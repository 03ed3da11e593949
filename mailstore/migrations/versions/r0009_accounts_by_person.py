"""Mailboxes are found by their holder too: a token names a person."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """From mailboxes found by address and by key."""
    op.create_index("ix_accounts_national_id", "accounts", ["national_id"], unique=False)
