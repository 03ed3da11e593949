"""Texts are searched without regard to accents: the index is made anew, from the messages, as searches ask for it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forget what was indexed with accents."""
    op.execute(sa.text("DELETE FROM search_index"))
