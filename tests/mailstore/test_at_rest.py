"""Nothing a message says is readable on the disk, in any file, whatever was done with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mailstore import (
    DepositEnd,
    DepositState,
    FlagOperation,
    LocalDelivery,
    NewDeposit,
    OutgoingCopy,
    SearchPart,
    Store,
)
from tests.mailstore.helpers import MINUTE, NOW, acceptance, make_account, stored_bytes

BODY, SUBJECT, PASSWORD = "tumeur-canari-body", "Dupont-canari-subject", "canari-mot-de-passe"
DOCUMENT, CONTEXT, KEY, FOLDER = "canari-cda-ins", "canari-context", "canari-private-key", "Patient canari-nom"
RAW = f"Subject: {SUBJECT}\r\n\r\n{BODY}\r\n".encode() * 3


@pytest.mark.slow
def test_no_canary_in_any_file(store: Store, place: Path) -> None:
    account = make_account(store, "alice@medecin.example", PASSWORD)
    assert store.authenticate(account.address, PASSWORD, NOW)
    assert store.authenticate(PASSWORD, "typed in the wrong field", NOW) is None
    store.create_folder(account.id, FOLDER)
    store.append(account.id, FOLDER, RAW, ("\\Seen",), NOW, NOW)
    given = dataclasses.replace(
        acceptance(account, 1),
        received=RAW,
        local=(LocalDelivery(account.id, account.address, RAW),),
        outgoing=(OutgoingCopy(("b@x.fr",), RAW + b"2"),),
        deposits=(NewDeposit("1.2", "a" * 40, DOCUMENT.encode(), CONTEXT.encode()),),
    )
    store.accept(given, NOW)
    store.accept(given, NOW)
    store.put_key(account.address, "smime", b"chain", KEY.encode(), NOW)
    inbox = store.folder(account.id, "INBOX").id
    target = store.folder(account.id, FOLDER).id
    store.copy(inbox, [1], target, NOW)
    store.store_flags(inbox, [1], FlagOperation.ADD, ["\\Deleted"])
    store.expunge(inbox, None)
    [leased] = store.lease_deposits({1: "1.1"}, "w", NOW, MINUTE)
    assert store.open_deposit(leased).content == DOCUMENT.encode()
    store.settle_deposits("w", [DepositEnd(1, DepositState.NEEDS_ATTENTION, "INS")], NOW)
    assert store.summaries(target, [1, 2]) == {1: RAW.split(b"\r\n")[0], 2: RAW.split(b"\r\n")[0]}
    assert store.folder(account.id, FOLDER).total == 2
    assert store.search_text(target, SearchPart.TEXT, "canari-SUBJECT") == [1, 2]
    store.subscribe(account.id, "Patient canari-abonné", True)
    store.add_app_password(account.address, "téléphone", NOW)
    store.set_totp(account.address, "CANARICANARICANARICANARICANARI22")

    def assert_no_canary() -> None:
        kept = stored_bytes(place)
        assert any(name.endswith(("mail.db", "search_index")) for name in kept)
        for name, data in kept.items():
            for canary in (BODY, SUBJECT, PASSWORD, DOCUMENT, CONTEXT, KEY, "canari", "CANARI"):
                assert canary.encode() not in data, (name, canary)

    if (place / "mail.db").exists():
        assert any(path.name.endswith("-wal") for path in place.iterdir()), "the journal is looked at as well"
    assert_no_canary()
    store.close()
    assert_no_canary()


def test_the_search_itself_would_find_a_canary(store: Store, place: Path) -> None:
    store.accept(dataclasses.replace(acceptance(make_account(store, "a@x.fr")), message_id="<canari@x>"), NOW)
    assert any(b"canari" in data for data in stored_bytes(place).values())
