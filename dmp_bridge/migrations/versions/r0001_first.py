"""First schema of the bridge's register: oppositions, reminders, business acknowledgements, places in lists."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "b0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the four tables."""
    op.create_table(
        "bridge_opposition",
        sa.Column("patient_key", sa.LargeBinary(32), primary_key=True),
        sa.Column("opposed", sa.Boolean, nullable=False),
        sa.Column("since", sa.String(32), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
    )
    op.create_table(
        "bridge_reminder",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("deposit_id", sa.Integer, nullable=False),
        sa.Column("days", sa.Integer, nullable=False),
        sa.Column("due_at", sa.String(32), nullable=False),
        sa.Column("done_at", sa.String(32), nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("deposit_id", "days", name="uq_bridge_reminder_deposit_id_days"),
    )
    op.create_index("ix_bridge_reminder_done_at_due_at", "bridge_reminder", ["done_at", "due_at"])
    op.create_table(
        "bridge_acknowledgement",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(128), nullable=False, unique=True),
        sa.Column("feed", sa.String(64), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due_at", sa.String(32), nullable=False),
        sa.Column("done_at", sa.String(32), nullable=False),
        sa.Column("reason", sa.String(200), nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_bridge_acknowledgement_done_at_due_at", "bridge_acknowledgement", ["done_at", "due_at"])
    op.create_table(
        "bridge_place",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.Integer, nullable=False),
    )


def downgrade() -> None:
    """Drop them again."""
    for table in ("bridge_place", "bridge_acknowledgement", "bridge_reminder", "bridge_opposition"):
        op.drop_table(table)
