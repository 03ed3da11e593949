"""Header fields folded with tabs are searched as those folded with spaces: the index is made anew, as searches ask for it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forget what was indexed with the tabs of folds."""
    op.execute(sa.text("DELETE FROM search_index"))
