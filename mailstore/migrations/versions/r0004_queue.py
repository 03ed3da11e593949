"""Envelope options, routes and attempts of the queue; receipts expected; SCRAM verifiers; who may send for whom."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """From a queue that knows replies to one that knows its history, and what senders asked to be told."""
    op.add_column("outgoing", sa.Column("options", sa.Text(), nullable=False, server_default="{}"))
    op.add_column("outgoing", sa.Column("route", sa.Text(), nullable=False, server_default=""))
    op.add_column("outgoing", sa.Column("delay_told_at", _MOMENT, nullable=True))
    op.create_index("ix_outgoing_domain_state", "outgoing", ["domain", "state"], unique=False)
    op.create_table(
        "attempts",
        sa.Column("id", _ID, nullable=False),
        sa.Column("outgoing_id", _ID, nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("reply", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["outgoing_id"], ["outgoing.id"], name="fk_attempts_outgoing_id"),
        sa.PrimaryKeyConstraint("id", name="pk_attempts"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_attempts_outgoing_id", "attempts", ["outgoing_id"], unique=False)
    _receipts()
    _logins()


def _receipts() -> None:
    op.create_table(
        "receipts",
        sa.Column("id", _ID, nullable=False),
        sa.Column("submission_id", sa.String(length=64), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("recipient", sa.Text(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("deadline", _MOMENT, nullable=False),
        sa.Column("answered_at", _MOMENT, nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["submission_id"], ["submissions.id"], name="fk_receipts_submission_id"),
        sa.PrimaryKeyConstraint("id", name="pk_receipts"),
        sa.UniqueConstraint("submission_id", "recipient", "kind", name="uq_receipts_submission_id_recipient_kind"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_receipts_message_id", "receipts", ["message_id"], unique=False)
    op.create_index("ix_receipts_state_deadline", "receipts", ["state", "deadline"], unique=False)


def _logins() -> None:
    op.create_table(
        "scram_verifiers",
        sa.Column("account_id", _ID, autoincrement=False, nullable=False),
        sa.Column("salt", sa.LargeBinary(length=16), nullable=False),
        sa.Column("iterations", sa.Integer(), nullable=False),
        sa.Column("sealed_keys", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_scram_verifiers_account_id"),
        sa.PrimaryKeyConstraint("account_id", name="pk_scram_verifiers"),
    )
    op.create_table(
        "delegations",
        sa.Column("owner_id", _ID, autoincrement=False, nullable=False),
        sa.Column("delegate_id", _ID, autoincrement=False, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["accounts.id"], name="fk_delegations_owner_id"),
        sa.ForeignKeyConstraint(["delegate_id"], ["accounts.id"], name="fk_delegations_delegate_id"),
        sa.PrimaryKeyConstraint("owner_id", "delegate_id", name="pk_delegations"),
    )
    op.create_index("ix_delegations_delegate_id", "delegations", ["delegate_id"], unique=False)
