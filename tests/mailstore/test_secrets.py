"""Send codes and server-side keys."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from mailstore import Account, SealBroken, Store, StoreError
from tests.mailstore.helpers import LATER, NOW, sql

DAY = timedelta(days=1)


def test_a_code_is_used_as_often_as_allowed(store: Store, account: Account) -> None:
    store.add_send_code(account.id, "ABCD", b"digest", NOW + DAY, 5, NOW)
    with ThreadPoolExecutor(8) as pool:
        allowed = list(pool.map(lambda _: store.use_send_code("ABCD", NOW), range(20)))
    assert sum(allowed) == 5
    (code,) = store.send_codes(account.id)
    assert (code.uses, code.max_uses, code.expires_at, code.revoked_at) == (5, 5, NOW + DAY, None)
    assert code.last_used_at == NOW


def test_a_code_is_found_by_its_very_digest_and_kept_under_a_key(
    store: Store, account: Account, tmp_path: Path
) -> None:
    store.add_send_code(account.id, "ABCD", b"digest", NOW + DAY, None, NOW, label="scanner", scope="{}")
    assert store.find_send_codes({"ABCD": b"other"}) == {}
    found = store.find_send_codes({"ABCD": b"digest", "EFGH": b"digest"})
    assert [(one.code_id, one.label, one.scope) for one in found.values()] == [("ABCD", "scanner", "{}")]
    ((kept,),) = sql(tmp_path, "SELECT digest FROM send_codes")
    assert kept != b"digest"
    assert len(kept) == 32


def test_a_code_may_be_shortened_but_never_lengthened(store: Store, account: Account) -> None:
    store.add_send_code(account.id, "ABCD", b"d", NOW + DAY, None, NOW)
    store.shorten_send_code("ABCD", NOW + 2 * DAY)
    assert store.send_codes()[0].expires_at == NOW + DAY
    store.shorten_send_code("ABCD", LATER)
    assert store.send_codes()[0].expires_at == LATER


def test_wrong_codes_are_counted_for_ten_minutes(store: Store, account: Account) -> None:
    assert [store.add_code_failure(account.id, NOW) for _ in range(3)] == [1, 2, 3]
    assert store.count_code_failures(account.id, NOW + timedelta(minutes=9)) == 3
    assert store.count_code_failures(account.id, NOW + timedelta(minutes=11)) == 0
    assert store.add_code_failure(account.id, NOW + timedelta(minutes=11)) == 1


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
    sql(tmp_path, "UPDATE stored_keys SET address = 'eve@medecin.example'")
    with pytest.raises(SealBroken):
        store.keys("eve@medecin.example")


def test_a_key_waits_for_its_certificate(store: Store) -> None:
    key = store.put_key("chu.example", "smime", b"", b"private", NOW)
    assert store.keys("chu.example") == []
    store.complete_key(key, b"chain")
    assert (store.keys("chu.example")[0].chain_pem, store.private_key(key)) == (b"chain", b"private")
    with pytest.raises(StoreError):
        store.complete_key(key, b"another")


def test_a_key_is_destroyed_by_two_people_and_its_history_stays(store: Store, tmp_path: Path) -> None:
    key = store.put_key("alice@medecin.example", "smime", b"chain", b"private", NOW)
    with pytest.raises(StoreError):
        store.ask_destruction(key, "Anne", NOW)  # in force
    store.retire_key(key, NOW)
    with pytest.raises(StoreError):
        store.destroy_key(key, "Anne", NOW)  # nobody asked
    store.ask_destruction(key, "Anne", NOW)
    with pytest.raises(StoreError):
        store.destroy_key(key, "anne", NOW)  # the same person
    store.destroy_key(key, "Bruno", LATER)
    (record,) = store.key_records("alice@medecin.example")
    assert (record.destruction_asked_by, record.destroyed_by, record.destroyed_at) == ("Anne", "Bruno", LATER)
    assert store.keys("alice@medecin.example") == []
    with pytest.raises(StoreError):
        store.private_key(key)
    assert sql(tmp_path, "SELECT sealed_key FROM stored_keys") == [(b"",)]


def test_custodians_are_known_by_their_passphrase(store: Store) -> None:
    store.add_custodian("Anne", "une phrase assez longue", NOW)
    with pytest.raises(StoreError):
        store.add_custodian("anne", "une autre", NOW)
    assert store.custodians() == ["Anne"]
    assert store.is_custodian("Anne", "une phrase assez longue")
    assert not store.is_custodian("Anne", "une autre")
    assert not store.is_custodian("Bruno", "une phrase assez longue")


def test_a_policy_is_set_changed_and_inherited_again(store: Store) -> None:
    store.set_policy("Alice@medecin.example", "sign", "always", NOW)
    store.set_policy("alice@medecin.example", "sign", "never", NOW)
    store.set_policy("medecin.example", "encrypt", "required", NOW)
    both = ("alice@medecin.example", "medecin.example")
    assert store.policies(both) == {both[0]: {"sign": "never"}, both[1]: {"encrypt": "required"}}
    store.set_policy("alice@medecin.example", "sign", None, NOW)
    assert store.policies(both[:1]) == {both[0]: {}}
