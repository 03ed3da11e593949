"""First schema of the embedded record: submissions, entries, access trace."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the three tables."""
    op.create_table(
        "record_submission",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("unique_id", sa.String(64), nullable=False, unique=True),
        sa.Column("patient_key", sa.LargeBinary(32), nullable=False),
        sa.Column("stored_at", sa.String(32), nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "record_entry",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("submission_id", sa.Integer, sa.ForeignKey("record_submission.id"), nullable=False),
        sa.Column("entry_uuid", sa.String(64), nullable=False, unique=True),
        sa.Column("unique_id", sa.String(64), nullable=False, unique=True),
        sa.Column("patient_key", sa.LargeBinary(32), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("is_signature", sa.Boolean, nullable=False),
        sa.Column("sha1", sa.String(40), nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("blob", sa.String(128), nullable=False),
        sa.Column("stored_at", sa.String(32), nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_record_entry_patient_key", "record_entry", ["patient_key"])
    op.create_table(
        "record_access",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("patient_key", sa.LargeBinary(32), nullable=True),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("outcome", sa.String(64), nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_record_access_patient_key", "record_access", ["patient_key"])


def downgrade() -> None:
    """Drop them again."""
    for table in ("record_access", "record_entry", "record_submission"):
        op.drop_table(table)
