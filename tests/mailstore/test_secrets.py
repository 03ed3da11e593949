"""Send codes and server-side keys."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from mailstore import Account, SealBroken, Store, StoreError
from tests.mailstore.helpers import LATER, NOW

DAY = timedelta(days=1)


def test_a_code_is_used_as_often_as_allowed(store: Store, account: Account) -> None:
    store.add_send_code(account.id, "ABCD", b"digest", NOW + DAY, 5, NOW)
    with ThreadPoolExecutor(8) as pool:
        allowed = list(pool.map(lambda _: store.use_send_code("ABCD", NOW), range(20)))
    assert sum(allowed) == 5
    (code,) = store.send_codes(account.id)
    assert (code.uses, code.max_uses, code.digest, code.expires_at, code.revoked_at) == (
        5,
        5,
        b"digest",
        NOW + DAY,
        None,
    )


def test_expired_revoked_and_unknown_codes(store: Store, account: Account) -> None:
    store.add_send_code(account.id, "A", b"d", NOW + DAY, None, NOW)
    assert store.use_send_code("A", NOW)
    assert not store.use_send_code("A", NOW + DAY)
    store.revoke_send_code("A", NOW)
    store.revoke_send_code("A", LATER)
    assert not store.use_send_code("A", NOW)
    assert store.send_codes(None)[0].revoked_at == NOW
    assert not store.use_send_code("B", NOW)
    with pytest.raises(StoreError):
        store.revoke_send_code("B", NOW)
    with pytest.raises(StoreError):
        store.add_send_code(account.id, "A", b"d", NOW, None, NOW)
    with pytest.raises(StoreError):
        store.add_send_code(999, "C", b"d", NOW, None, NOW)


def test_keys_come_back_newest_first(store: Store) -> None:
    store.put_key("Alice@medecin.example", "smime", b"chain 1", b"private 1", NOW)
    second = store.put_key("alice@medecin.example", "smime", b"chain 2", b"private 2", LATER)
    keys = store.keys("ALICE@medecin.example")
    assert [(key.chain_pem, key.private_key, key.created_at) for key in keys] == [
        (b"chain 2", b"private 2", LATER),
        (b"chain 1", b"private 1", NOW),
    ]
    assert keys[0].id == second
    assert "private" not in repr(keys[0]).replace("private_key", "")
    assert store.keys("bob@medecin.example") == []
    store.retire_key(second, LATER)
    assert store.keys("alice@medecin.example")[0].retired_at == LATER


def test_a_key_moved_to_another_mailbox_does_not_open(store: Store, tmp_path: Path) -> None:
    store.put_key("alice@medecin.example", "smime", b"chain", b"private", NOW)
    with sqlite3.connect(tmp_path / "mail.db") as database:
        database.execute("UPDATE stored_keys SET address = 'eve@medecin.example'")
    database.close()
    with pytest.raises(SealBroken):
        store.keys("eve@medecin.example")
