"""Second factor, application passwords, guessing, locks and traces of logins."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pyotp
import pytest

from mailstore import Account, Store, StoreError
from mailstore.logins import LOCK_AFTER, LOCK_WINDOW, SOURCE_FAILURES_ALLOWED
from tests.mailstore.helpers import MINUTE, NOW, make_account, open_store

SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
ADDRESS = "bob@medecin.example"


@pytest.fixture
def bob(store: Store) -> Account:
    return make_account(store, ADDRESS, "corps gras 42")


def test_a_second_factor_is_asked_for_and_serves_once(store: Store, bob: Account, place: Path) -> None:
    store.set_totp(ADDRESS, SECRET)
    code = pyotp.TOTP(SECRET).at(NOW)
    assert store.authenticate(ADDRESS, "corps gras 42", NOW) is None, "the password alone"
    assert store.authenticate(ADDRESS, "corps gras 42", NOW, code="000000") is None
    assert store.authenticate(ADDRESS, "faux", NOW, code=code) is None
    assert store.authenticate(ADDRESS, "corps gras 42", NOW, code=code) == bob
    other = open_store(place)
    assert other.authenticate(ADDRESS, "corps gras 42", NOW, code=code) is None, "used already, in any process"
    other.close()
    later = NOW + MINUTE
    assert store.authenticate(ADDRESS, "corps gras 42" + pyotp.TOTP(SECRET).at(later), later) == bob
    assert store.login_state(ADDRESS).second_factor
    assert store.scram(ADDRESS) is None, "SCRAM cannot carry the code"
    store.set_totp(ADDRESS, None)
    assert store.scram(ADDRESS) is not None
    assert store.authenticate(ADDRESS, "corps gras 42", later) == bob
    with pytest.raises(StoreError):
        store.set_totp(ADDRESS, "short")


def test_application_passwords(store: Store, bob: Account) -> None:
    store.set_totp(ADDRESS, SECRET)
    password = store.add_app_password(ADDRESS, "téléphone", NOW)
    other = make_account(store, "eve@medecin.example", "autre")
    assert store.authenticate(ADDRESS, password, NOW) == bob
    assert store.authenticate(ADDRESS, password.replace("-", "").upper(), NOW) == bob, "however it is typed"
    assert store.authenticate(other.address, password, NOW) is None, "of one mailbox only"
    (listed,) = store.app_passwords(ADDRESS)
    assert (listed.label, listed.last_used_at, listed.revoked_at) == ("téléphone", NOW, None)
    store.revoke_app_password(ADDRESS, listed.id, NOW)
    assert store.authenticate(ADDRESS, password, NOW) is None
    with pytest.raises(StoreError):
        store.revoke_app_password(other.address, listed.id, NOW)
    store.set_active(ADDRESS, False)
    fresh = store.add_app_password(ADDRESS, "", NOW)
    assert store.authenticate(ADDRESS, fresh, NOW) is None, "a closed mailbox"


def test_a_network_address_that_guesses_is_closed(store: Store, bob: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailstore.logins.verify", lambda hashed, password: password == "corps gras 42")
    for number in range(SOURCE_FAILURES_ALLOWED):
        assert store.authenticate(f"u{number}@medecin.example", "x", NOW, source="192.0.2.1") is None
    assert store.authenticate(ADDRESS, "corps gras 42", NOW, source="192.0.2.1") is None
    assert store.authenticate(ADDRESS, "corps gras 42", NOW, source="192.0.2.2") == bob


def test_a_day_of_guesses_locks_the_password_alone(store: Store, bob: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailstore.logins.verify", lambda hashed, password: password == "corps gras 42")
    app = store.add_app_password(ADDRESS, "", NOW)
    for number in range(LOCK_AFTER):
        assert store.authenticate(ADDRESS, "x", NOW + number * timedelta(minutes=2)) is None
    later = NOW + LOCK_AFTER * timedelta(minutes=2) + timedelta(minutes=30)
    locked = store.login_state(ADDRESS).locked_until
    assert locked is not None
    assert store.authenticate(ADDRESS, "corps gras 42", later) is None
    assert store.authenticate(ADDRESS, app, later) == bob, "nobody is kept from their mail by guesses"
    assert store.scram(ADDRESS) is None
    assert store.authenticate(ADDRESS, "corps gras 42", locked) == bob
    assert store.login_state(ADDRESS).locked_until is None
    store.unlock(ADDRESS)
    assert store.authenticate(ADDRESS, "corps gras 42", later) == bob
    assert locked - NOW > LOCK_WINDOW


def test_logins_are_traced(store: Store, bob: Account) -> None:
    assert store.login_state(ADDRESS).at is None
    assert store.authenticate(ADDRESS, "corps gras 42", NOW, service="submission", source="192.0.2.7") == bob
    assert store.authenticate(ADDRESS, "corps gras 42", NOW + MINUTE, service="submission", source="192.0.2.7") == bob
    state = store.login_state(ADDRESS)
    assert (state.at, state.service, state.source) == (NOW, "submission", "192.0.2.7")
    store.note_login(bob.id, NOW + MINUTE, service="imap", source="192.0.2.8")
    assert store.login_state(ADDRESS).service == "imap"
    assert store.authenticate(ADDRESS, "faux", NOW, source="192.0.2.9") is None
    with store._db.read() as connection:
        rows = connection.exec_driver_sql("SELECT name, detail FROM audit ORDER BY id").all()
    assert [row[0] for row in rows] == ["login.accepted", "login.accepted", "login.refused"]
    assert "192.0.2.9" in rows[2][1]
    assert "faux" not in rows[2][1]
