"""Mailboxes and logins."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from mailstore import Account, MailboxKind, Store, StoreError, accounts
from mailstore.logins import FAILURE_WINDOW, FAILURES_ALLOWED
from tests.hashes import REAL
from tests.mailstore.helpers import MINUTE, NOW, make_account, sql


@pytest.fixture
def real_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hasher that serves professionals, not the quick one of the other tests."""
    monkeypatch.setattr(accounts, "_hasher", REAL)
    accounts.nobody.cache_clear()


def test_an_account_and_its_default_folders(store: Store, account: Account) -> None:
    assert account.address == "alice@medecin.example"
    assert account.kind is MailboxKind.PER
    assert account.created_at == NOW
    assert store.find_account("ALICE@medecin.example") == account
    assert store.find_account("nobody@medecin.example") is None
    assert {(folder.name, folder.special_use) for folder in store.folders(account.id)} == {
        ("INBOX", ""),
        ("Brouillons", "\\Drafts"),
        ("Envoyés", "\\Sent"),
        ("Corbeille", "\\Trash"),
        ("Archives", "\\Archive"),
        ("Indésirables", "\\Junk"),
    }


def test_accounts_are_listed_by_address(store: Store) -> None:
    for address in ("zoe@a.example", "abel@a.example"):
        make_account(store, address)
    assert [one.address for one in store.accounts()] == ["abel@a.example", "zoe@a.example"]


@pytest.mark.parametrize("address", ["", "alice", "a b@x.fr", "a@b@c.fr", "é@x.fr", "a@x.fr\n", "a" * 250 + "@x.fr"])
def test_malformed_addresses_are_refused(store: Store, address: str) -> None:
    if address.strip() != address:
        assert make_account(store, address).address == address.strip()
        return
    with pytest.raises(StoreError):
        make_account(store, address)


def test_an_address_is_taken_once(store: Store, account: Account) -> None:
    with pytest.raises(StoreError, match="exists"):
        make_account(store, "Alice@Medecin.example")
    assert len(store.folders(account.id)) == 6


def test_passwords(store: Store) -> None:
    account = make_account(store, "bob@medecin.example", "corps gras 42")
    assert store.authenticate("bob@medecin.example", "corps gras 42", NOW) == account
    assert store.authenticate("BOB@medecin.example", "corps gras 42", NOW) == account
    assert store.authenticate("bob@medecin.example", "corps gras 43", NOW) is None
    assert store.authenticate("eve@medecin.example", "corps gras 42", NOW) is None
    store.set_password("bob@medecin.example", "nouveau")
    assert store.authenticate("bob@medecin.example", "corps gras 42", NOW) is None
    assert store.authenticate("bob@medecin.example", "nouveau", NOW) == account


def test_passwords_are_kept_as_argon2id(store: Store, tmp_path: Path, real_hashes: None) -> None:
    account = make_account(store, "bob@medecin.example", "corps gras 42")
    assert store.authenticate("bob@medecin.example", "corps gras 42", NOW) == account
    ((hashed,),) = sql(tmp_path, "SELECT password_hash FROM accounts")
    assert hashed.startswith("$argon2id$v=19$m=65536,t=3,p=4$")  # RFC 9106 §4, second option


def test_no_password_no_login(store: Store, account: Account) -> None:
    for password in ("", "None", "x" * 2000, "\ud800"):
        assert store.authenticate(account.address, password, NOW) is None
    with pytest.raises(StoreError):
        store.set_password(account.address, "")
    with pytest.raises(StoreError):
        store.set_password(account.address, "x" * 2000)
    with pytest.raises(StoreError):
        store.set_password("nobody@medecin.example", "good enough")


def test_a_closed_mailbox_does_not_open(store: Store) -> None:
    make_account(store, "bob@medecin.example", "secret")
    store.set_client_key("bob@medecin.example", bytes(32))
    store.set_active("bob@medecin.example", False)
    assert store.authenticate("bob@medecin.example", "secret", NOW) is None
    assert store.account_for_client_key(bytes(32)) is None
    store.set_active("bob@medecin.example", True)
    assert store.authenticate("bob@medecin.example", "secret", NOW) is not None


def test_ten_failures_close_a_login_for_ten_minutes(store: Store) -> None:
    make_account(store, "bob@medecin.example", "secret")
    other = make_account(store, "carl@medecin.example", "secret")
    for number in range(FAILURES_ALLOWED):
        assert store.authenticate("bob@medecin.example", "wrong", NOW + timedelta(seconds=number)) is None
    assert store.authenticate("bob@medecin.example", "secret", NOW + MINUTE) is None
    assert store.authenticate("carl@medecin.example", "secret", NOW + MINUTE) == other
    assert store.authenticate("bob@medecin.example", "secret", NOW + FAILURE_WINDOW) is not None


def test_an_unknown_login_costs_the_same(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One password hash of the same cost each, so that the time of a refusal does not tell who has a mailbox here."""
    make_account(store, "bob@medecin.example", "secret")
    verified: list[str] = []
    real = accounts.verify

    def counted(digest: str, password: str) -> bool:
        verified.append(digest.rpartition("$")[0].rpartition("$")[0])
        return real(digest, password)

    monkeypatch.setattr("mailstore.logins.verify", counted)
    for address in ("bob@medecin.example", "eve@medecin.example"):
        assert store.authenticate(address, "wrong", NOW) is None
    assert len(verified) == 2 and verified[0] == verified[1]


def test_client_keys(store: Store, account: Account) -> None:
    store.set_client_key(account.address, b"k" * 32)
    assert store.account_for_client_key(b"k" * 32) == account
    assert store.account_for_client_key(b"j" * 32) is None
    make_account(store, "bob@medecin.example")
    with pytest.raises(StoreError, match="Another mailbox"):
        store.set_client_key("bob@medecin.example", b"k" * 32)
    with pytest.raises(StoreError):
        store.set_client_key(account.address, b"short")
    store.set_client_key(account.address, None)
    assert store.account_for_client_key(b"k" * 32) is None
