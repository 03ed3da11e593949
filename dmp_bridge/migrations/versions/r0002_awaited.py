"""Messages made of HL7 v2 hand-overs whose mail receipts their feed waits for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "b0002"
down_revision = "b0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "bridge_awaited",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("message_id", sa.String(256), nullable=False, unique=True),
        sa.Column("feed", sa.String(64), nullable=False),
        sa.Column("control_id", sa.String(199), nullable=False),
        sa.Column("asked_at", sa.String(32), nullable=False),
        sa.Column("due_at", sa.String(32), nullable=False),
        sa.Column("done_at", sa.String(32), nullable=False),
    )
    op.create_index("ix_bridge_awaited_done_at_due_at", "bridge_awaited", ["done_at", "due_at"])


def downgrade() -> None:
    """Drop it again."""
    op.drop_table("bridge_awaited")
