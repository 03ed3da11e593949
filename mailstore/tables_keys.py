"""Keys: of the store itself, of mailboxes, and who may destroy them. Part of `mailstore.tables`, which says what holds for all."""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, LargeBinary, String, Table, Text

from mailstore.columns import Moment, metadata, numbered

meta = Table(
    "meta",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

keyring = Table(
    "keyring",
    metadata,
    Column("purpose", String(32), primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("sealed_key", LargeBinary, nullable=False),
    Column("created_at", Moment, nullable=False),
)

stored_keys = numbered(
    "stored_keys",
    Column("address", String(254), nullable=False),
    Column("usage", String(32), nullable=False),
    Column("chain_pem", LargeBinary, nullable=False),
    Column("sealed_key", LargeBinary, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("retired_at", Moment),
    Column("place", String(16)),
    Column("destruction_asked_by", String(64)),
    Column("destruction_asked_at", Moment),
    Column("destroyed_by", String(64)),
    Column("destroyed_at", Moment),
    Index("ix_stored_keys_address_usage", "address", "usage"),
)

custodians = Table(
    "custodians",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("passphrase_hash", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
)
