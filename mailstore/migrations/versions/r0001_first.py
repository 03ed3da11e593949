"""Everything of the first version: mailboxes, mail, the journey of messages, audit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """From an empty database to the first version."""
    _accounts()
    _mail()
    _journey()


def _accounts() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", _ID, nullable=False),
        sa.Column("address", sa.String(length=254), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("national_id", sa.String(length=64), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=True),
        sa.Column("client_key", sa.LargeBinary(length=32), nullable=True),
        sa.Column("next_uid_validity", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_accounts"),
        sa.UniqueConstraint("address", name="uq_accounts_address"),
        sa.UniqueConstraint("client_key", name="uq_accounts_client_key"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "login_failures",
        sa.Column("id", _ID, nullable=False),
        sa.Column("login_digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_login_failures"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_login_failures_at", "login_failures", ["at"], unique=False)
    op.create_index("ix_login_failures_login_digest_at", "login_failures", ["login_digest", "at"], unique=False)
    op.create_table(
        "folders",
        sa.Column("id", _ID, nullable=False),
        sa.Column("account_id", _ID, nullable=False),
        sa.Column("name_digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("sealed_name", sa.LargeBinary(), nullable=False),
        sa.Column("special_use", sa.String(length=32), nullable=False),
        sa.Column("subscribed", sa.Boolean(), nullable=False),
        sa.Column("uid_validity", sa.BigInteger(), nullable=False),
        sa.Column("uid_next", sa.BigInteger(), nullable=False),
        sa.Column("highest_modseq", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_folders_account_id"),
        sa.PrimaryKeyConstraint("id", name="pk_folders"),
        sa.UniqueConstraint("account_id", "name_digest", name="uq_folders_account_id_name_digest"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "send_codes",
        sa.Column("code_id", sa.String(length=64), nullable=False),
        sa.Column("account_id", _ID, nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("expires_at", _MOMENT, nullable=False),
        sa.Column("max_uses", sa.Integer(), nullable=True),
        sa.Column("uses", sa.Integer(), nullable=False),
        sa.Column("revoked_at", _MOMENT, nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_send_codes_account_id"),
        sa.PrimaryKeyConstraint("code_id", name="pk_send_codes"),
    )
    op.create_index("ix_send_codes_account_id", "send_codes", ["account_id"], unique=False)
    op.create_table(
        "stored_keys",
        sa.Column("id", _ID, nullable=False),
        sa.Column("address", sa.String(length=254), nullable=False),
        sa.Column("usage", sa.String(length=32), nullable=False),
        sa.Column("chain_pem", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_key", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("retired_at", _MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_stored_keys"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_stored_keys_address_usage", "stored_keys", ["address", "usage"], unique=False)
    op.create_table(
        "meta",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_meta"),
    )


def _mail() -> None:
    op.create_table(
        "contents",
        sa.Column("blob", sa.String(length=32), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sealed_summary", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("blob", name="pk_contents"),
    )
    op.create_table(
        "messages",
        sa.Column("folder_id", _ID, nullable=False),
        sa.Column("uid", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("modseq", sa.BigInteger(), nullable=False),
        sa.Column("flags", sa.Text(), nullable=False),
        sa.Column("seen", sa.Boolean(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("date", _MOMENT, nullable=False),
        sa.Column("blob", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["blob"], ["contents.blob"], name="fk_messages_blob"),
        sa.ForeignKeyConstraint(["folder_id"], ["folders.id"], name="fk_messages_folder_id"),
        sa.PrimaryKeyConstraint("folder_id", "uid", name="pk_messages"),
    )
    op.create_index("ix_messages_blob", "messages", ["blob"], unique=False)
    op.create_index("ix_messages_folder_id_modseq", "messages", ["folder_id", "modseq"], unique=False)
    op.create_index("ix_messages_folder_id_seen", "messages", ["folder_id", "seen"], unique=False)
    op.create_table(
        "expunged",
        sa.Column("folder_id", _ID, nullable=False),
        sa.Column("uid", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("modseq", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["folder_id"], ["folders.id"], name="fk_expunged_folder_id"),
        sa.PrimaryKeyConstraint("folder_id", "uid", name="pk_expunged"),
    )
    op.create_index("ix_expunged_folder_id_modseq", "expunged", ["folder_id", "modseq"], unique=False)
    op.create_table(
        "discarded",
        sa.Column("blob", sa.String(length=32), nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("blob", name="pk_discarded"),
    )
    op.create_index("ix_discarded_at", "discarded", ["at"], unique=False)


def _journey() -> None:
    op.create_table(
        "submissions",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(length=32), nullable=False),
        sa.Column("direction", sa.String(length=16), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("mail_from", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("accepted_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_submissions"),
        sa.UniqueConstraint("fingerprint", name="uq_submissions_fingerprint"),
    )
    op.create_index("ix_submissions_message_id", "submissions", ["message_id"], unique=False)
    op.create_table(
        "outgoing",
        sa.Column("id", _ID, nullable=False),
        sa.Column("submission_id", sa.String(length=64), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("mail_from", sa.Text(), nullable=False),
        sa.Column("recipient", sa.Text(), nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("blob", sa.String(length=32), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("accepted_at", _MOMENT, nullable=False),
        sa.Column("next_attempt_at", _MOMENT, nullable=True),
        sa.Column("lease_owner", sa.Text(), nullable=False),
        sa.Column("lease_until", _MOMENT, nullable=True),
        sa.Column("reply", sa.Text(), nullable=False),
        sa.Column("settled_at", _MOMENT, nullable=True),
        sa.ForeignKeyConstraint(["blob"], ["contents.blob"], name="fk_outgoing_blob"),
        sa.ForeignKeyConstraint(["submission_id"], ["submissions.id"], name="fk_outgoing_submission_id"),
        sa.PrimaryKeyConstraint("id", name="pk_outgoing"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outgoing_blob", "outgoing", ["blob"], unique=False)
    op.create_index("ix_outgoing_state_next_attempt_at", "outgoing", ["state", "next_attempt_at"], unique=False)
    op.create_index("ix_outgoing_submission_id", "outgoing", ["submission_id"], unique=False)
    op.create_table(
        "deposits",
        sa.Column("id", _ID, nullable=False),
        sa.Column("submission_id", sa.String(length=64), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("unique_id", sa.String(length=256), nullable=False),
        sa.Column("sha1", sa.String(length=40), nullable=False),
        sa.Column("blob", sa.String(length=32), nullable=True),
        sa.Column("sealed_context", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("next_attempt_at", _MOMENT, nullable=True),
        sa.Column("lease_owner", sa.Text(), nullable=False),
        sa.Column("lease_until", _MOMENT, nullable=True),
        sa.Column("submission_set_id", sa.String(length=256), nullable=False),
        sa.ForeignKeyConstraint(["blob"], ["contents.blob"], name="fk_deposits_blob"),
        sa.ForeignKeyConstraint(["submission_id"], ["submissions.id"], name="fk_deposits_submission_id"),
        sa.PrimaryKeyConstraint("id", name="pk_deposits"),
        sa.UniqueConstraint("unique_id", "sha1", name="uq_deposits_unique_id_sha1"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_deposits_blob", "deposits", ["blob"], unique=False)
    op.create_index("ix_deposits_state_next_attempt_at", "deposits", ["state", "next_attempt_at"], unique=False)
    op.create_table(
        "audit",
        sa.Column("id", _ID, nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("submission_id", sa.String(length=64), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_at", "audit", ["at"], unique=False)
    op.create_index("ix_audit_message_id", "audit", ["message_id"], unique=False)
    op.create_index("ix_audit_submission_id", "audit", ["submission_id"], unique=False)
