"""Replacing the master key: nothing is lost at any instant, and the old key opens nothing afterwards."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from sqlalchemy import LargeBinary

from mailstore import Account, Store, StoreError, StoreUnavailable
from mailstore.rotation import SEALED, replace_master_key
from mailstore.tables import metadata
from tests.mailstore.helpers import KEY, NOW, acceptance, document, message, open_store, settle_summaries, url

NEW = bytes(range(100, 132))
ROOT = Path(__file__).parents[2]
SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"


def fill(store: Store, account: Account) -> None:
    store.create_folder(account.id, "Patients")
    store.subscribe(account.id, "Ailleurs", True)
    for number in range(5):
        store.append(account.id, "Patients", message(number, "x" * 70_000 * (number % 2)), (), NOW, NOW)
    store.accept(acceptance(account, 9, copies=("b@x.fr",), deposits=(document(),)), NOW)
    store.put_key(account.address, "smime", b"chain", b"private", NOW)
    store.set_totp(account.address, SECRET)
    settle_summaries(store)
    assert store.index_pending(100) == 6


def assert_whole(store: Store, account: Account) -> None:
    folder = store.folder(account.id, "Patients")
    view = store.view(folder.id)
    assert [store.read_blob(blob) for blob in view.blobs] == [
        message(number, "x" * 70_000 * (number % 2)) for number in range(5)
    ]
    assert len(store.summaries(folder.id, view.uids)) == 5
    assert "Ailleurs" in store.subscriptions(account.id)
    assert [key.private_key for key in store.keys(account.address)] == [b"private"]
    assert store.accept(acceptance(account, 9, copies=("b@x.fr",), deposits=(document(),)), NOW).duplicate


def test_a_rotated_store_opens_with_the_new_key_only(store: Store, account: Account, place: Path) -> None:
    fill(store, account)
    store.close()
    assert replace_master_key(url(place), KEY, NEW, NOW)
    assert not replace_master_key(url(place), KEY, NEW, NOW), "a second time changes nothing"
    with pytest.raises(StoreError, match="master key"):
        open_store(place)
    with pytest.raises(StoreError, match="master key"):
        replace_master_key(url(place), bytes(32), bytes(32), NOW)
    rotated = open_store(place, key=NEW)
    assert_whole(rotated, account)
    assert rotated.keys_to_retire() == 1
    told: list[tuple[int, int]] = []
    assert rotated.rewrap(lambda done, total: told.append((done, total))) > 10
    assert told[-1][0] == told[-1][1]
    assert rotated.rewrap() == 0
    assert rotated.retire_old_keys()
    assert rotated.keys_to_retire() == 0
    rotated.close()
    again = open_store(place, key=NEW)
    assert_whole(again, account)
    again.close()


def test_a_process_with_the_old_keys_no_longer_writes(store: Store, account: Account, place: Path) -> None:
    """It would seal what others cannot open, once the old keys are gone."""
    fill(store, account)
    replace_master_key(url(place), KEY, NEW, NOW)
    with pytest.raises(StoreUnavailable, match="restart"):
        store.append(account.id, "INBOX", message(77), (), NOW, NOW)
    other = open_store(place, key=NEW)
    assert other.folder(account.id, "INBOX").total == 1
    other.close()


def test_a_damaged_content_keeps_the_old_keys(store: Store, account: Account, place: Path) -> None:
    store.append(account.id, "INBOX", message(1), (), NOW, NOW)
    (blob,) = store.view(store.folder(account.id, "INBOX").id).blobs
    store._journal.settle()
    path = place / "blobs" / blob[:2] / blob
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    store.close()
    replace_master_key(url(place), KEY, NEW, NOW)
    rotated = open_store(place, key=NEW)
    rotated.rewrap()
    assert not rotated.retire_old_keys(), "a backup of that content may still need them"
    rotated.close()


def test_every_sealed_column_is_rotated() -> None:
    named = {
        f"{table.name}.{column.name}"
        for table in metadata.sorted_tables
        for column in table.columns
        if isinstance(column.type, LargeBinary) and column.name.startswith("sealed_") and table.name != "keyring"
    }
    assert named == {f"{one.table.name}.{one.column.name}" for one in SEALED}


@pytest.mark.slow
def test_kill_9_while_rewrapping(store: Store, account: Account, place: Path) -> None:
    fill(store, account)
    store.close()
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        from mailstore.rotation import replace_master_key
        from tests.mailstore.helpers import KEY, NOW, open_store, url
        from tests.mailstore.test_rotation import NEW
        folder = Path(sys.argv[1])
        print("ready", flush=True)
        replace_master_key(url(folder), KEY, NEW, NOW)
        open_store(folder, key=NEW).rewrap()
    """)
    moments = random.Random(7)
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(place)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0.0, 0.25))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        replace_master_key(url(place), KEY, NEW, NOW)
        halfway = open_store(place, key=NEW)
        assert_whole(halfway, account)
        halfway.close()
    last = open_store(place, key=NEW)
    last.rewrap()
    assert last.retire_old_keys()
    assert_whole(last, account)
    last.close()
