"""Small documents are sealed in their row; `blob` is then empty."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0003"
down_revision = "r0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("record_entry", sa.Column("content", sa.LargeBinary, nullable=True))


def downgrade() -> None:
    """Drop it again: only when no document is in a row."""
    inline = op.get_bind().execute(sa.text("SELECT 1 FROM record_entry WHERE content IS NOT NULL LIMIT 1")).first()
    if inline is not None:
        raise RuntimeError("documents are kept in their rows: this version is needed to read them")
    op.drop_column("record_entry", "content")
