"""Several processes on one store, and processes that die."""

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

from mailstore import Account, DeliveryState, FlagOperation, Settlement, Store, StoreError
from tests.mailstore.helpers import MINUTE, NOW, acceptance, blob_files, make_account, message, open_store

ROOT = Path(__file__).parents[2]
ACCEPTER = textwrap.dedent("""
    import sys
    from pathlib import Path
    from tests.mailstore.helpers import NOW, acceptance, document, open_store
    store = open_store(Path(sys.argv[1]))
    account = store.find_account("alice@medecin.example")
    for number in range(int(sys.argv[2]), 1_000_000):
        given = acceptance(account, number, copies=(f"r{number}@x.fr",), deposits=(document(f"1.{number}"),))
        store.accept(given, NOW)
        print(number, flush=True)
""")


def test_two_instances_see_each_other(store: Store, account: Account, tmp_path: Path) -> None:
    other = open_store(tmp_path)
    inbox = store.folder(account.id, "INBOX").id
    polled = other.highest_modseqs([inbox])
    store.append(account.id, "INBOX", message(1), (), NOW, NOW)
    assert other.highest_modseqs([inbox]) != polled
    assert [change.uid for change in other.changes(inbox, polled[inbox]).changed] == [1]
    other.store_flags(inbox, [1], FlagOperation.ADD, ["\\Deleted"])
    assert store.expunge(inbox, None) == [1]
    assert other.view(inbox).uids == []
    first = other.accept(acceptance(account, 2, copies=("b@x.fr",)), NOW)
    assert store.accept(acceptance(account, 2, copies=("b@x.fr",)), NOW).submission_id == first.submission_id
    (leased,) = store.lease_outgoing("one", NOW, MINUTE, 5)
    assert other.lease_outgoing("two", NOW, MINUTE, 5) == []
    with pytest.raises(StoreError, match="lost"):
        other.settle_outgoing(leased.row_id, "two", Settlement(DeliveryState.DELIVERED, "250"), NOW)
    other.close()


@pytest.mark.slow
def test_processes_in_parallel_lose_nothing(store: Store, account: Account, tmp_path: Path) -> None:
    """Two processes and this one append to one folder: each UID is given once, no error."""
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        from tests.mailstore.helpers import NOW, message, open_store
        store = open_store(Path(sys.argv[1]))
        account = store.find_account("alice@medecin.example")
        for number in range(40):
            print(store.append(account.id, "INBOX", message(number), (), NOW, NOW)[1])
    """)
    command = [sys.executable, "-c", program, str(tmp_path)]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    uids = [store.append(account.id, "INBOX", message(number), (), NOW, NOW)[1] for number in range(40)]
    for process in running:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        uids += [int(line) for line in out.split()]
    assert sorted(uids) == list(range(1, 121)) == store.view(store.folder(account.id, "INBOX").id).uids


@pytest.mark.slow
def test_kill_9_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """A process that accepts messages is killed at random moments: each acknowledged message is there, once, whole."""
    with_account = open_store(tmp_path, create=True)
    account = make_account(with_account, "alice@medecin.example")
    with_account.close()
    moments = random.Random(20260302)
    acknowledged: list[int] = []
    next_number = 0
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", ACCEPTER, str(tmp_path), str(next_number)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        acknowledged.append(int(process.stdout.readline()))  # it is at work
        time.sleep(moments.uniform(0.0, 0.3))
        os.kill(process.pid, signal.SIGKILL)
        acknowledged += [int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        process.wait()
        process.stdout.close()
        next_number = acknowledged[-1] + 2  # one number was perhaps accepted without our hearing of it
    store = open_store(tmp_path)
    inbox = store.folder(account.id, "INBOX").id
    view = store.view(inbox)
    contents = [store.read_blob(blob) for blob in view.blobs]
    assert len(contents) == len(set(contents))
    assert {message(number) for number in acknowledged} <= set(contents)
    assert len(contents) <= len(acknowledged) + 6
    assert len(store.queue()) == len(store.deposits()) == len(contents)
    # A sender repeats what it knows was accepted: the same answer, and nothing more in the mailbox.
    from tests.mailstore.helpers import document

    for number in acknowledged[-3:]:
        given = acceptance(account, number, copies=(f"r{number}@x.fr",), deposits=(document(f"1.{number}"),))
        assert store.accept(given, NOW).duplicate
    assert store.view(inbox).uids == view.uids
    store.sweep(NOW.replace(year=NOW.year + 100))
    assert not [path for path in blob_files(tmp_path) if path.suffix == ".tmp"]
    assert len(blob_files(tmp_path)) == 3 * len(contents)
    assert [store.read_blob(blob) for blob in view.blobs] == contents
    store.close()
