"""Small contents are made durable by their own transaction."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """From a journal in files to one in the database."""
    op.create_table(
        "blob_journal",
        sa.Column("blob", sa.String(length=32), nullable=False),
        sa.Column("octets", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("blob", name="pk_blob_journal"),
    )
