"""Addresses of mailboxes that were erased: nobody else may have them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """From mailboxes that may only be closed to mailboxes that may be erased."""
    op.create_table(
        "erased_accounts",
        sa.Column("address", sa.String(length=254), nullable=False),
        sa.Column("national_id", sa.String(length=64), nullable=False),
        sa.Column("erased_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("address", name="pk_erased_accounts"),
    )
