"""Originals of messages, kept until the receipt about their documents is told."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """From receipts that give back the header alone to receipts that give back the message."""
    op.create_table(
        "deposit_originals",
        sa.Column("deposit_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("mailbox", sa.Text(), nullable=False),
        sa.Column("blob", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["blob"], ["contents.blob"], name="fk_deposit_originals_blob"),
        sa.ForeignKeyConstraint(["deposit_id"], ["deposits.id"], name="fk_deposit_originals_deposit_id"),
        sa.PrimaryKeyConstraint("deposit_id", name="pk_deposit_originals"),
    )
    op.create_index("ix_deposit_originals_blob", "deposit_originals", ["blob"], unique=False)
    op.create_index("ix_deposit_originals_mailbox", "deposit_originals", ["mailbox"], unique=False)
