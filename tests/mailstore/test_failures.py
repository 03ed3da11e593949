"""What the store says when the database cannot."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mailstore import Account, Store, StoreUnavailable, database
from tests.mailstore.helpers import NOW, acceptance, blob_files, open_store


def test_a_locked_database_defers_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_PRAGMAS", ("PRAGMA busy_timeout=50", "PRAGMA foreign_keys=ON"))
    store = open_store(tmp_path, create=True)
    from tests.mailstore.helpers import make_account

    account = make_account(store, "alice@medecin.example")
    other = sqlite3.connect(tmp_path / "mail.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreUnavailable, match="locked"):
        store.accept(acceptance(account, 1), NOW)
    other.execute("ROLLBACK")
    other.close()
    assert blob_files(tmp_path) == []
    assert not store.accept(acceptance(account, 1), NOW).duplicate
    store.close()


@pytest.mark.slow
def test_a_full_disk_defers_and_leaves_nothing(tmp_path: Path) -> None:
    """The kernel refuses a longer database file in a child process: writes fail for real, then succeed again."""
    program = textwrap.dedent("""
        import resource, signal, sys
        from pathlib import Path
        from mailstore import StoreUnavailable
        from tests.mailstore.helpers import NOW, acceptance, blob_files, make_account, open_store
        folder = Path(sys.argv[1])
        store = open_store(folder, create=True)
        account = make_account(store, "alice@medecin.example")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        size = max(path.stat().st_size for path in folder.glob("mail.db*"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 8192, resource.RLIM_INFINITY))
        done = 0
        try:
            while done < 200:
                store.accept(acceptance(account, done), NOW)
                done += 1
        except StoreUnavailable as error:
            assert "disk" in str(error).lower() or "space" in str(error), error
        else:
            sys.exit("no error")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert not store.accept(acceptance(account, done), NOW).duplicate
        assert store.folder(account.id, "INBOX").total == done + 1
        store.close()
    """)
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, cwd=root)


def test_errors_do_not_quote_values(store: Store, account: Account) -> None:
    with store._db.write() as connection:
        connection.exec_driver_sql("DROP TABLE audit")
    with pytest.raises(StoreUnavailable) as caught:
        store.accept(acceptance(account, 1), NOW)
    chain: BaseException | None = caught.value
    while chain is not None:
        assert "medecin.example" not in str(chain)
        chain = chain.__cause__
