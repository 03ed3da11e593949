"""Opening: migrations, foreign and damaged files, and keys of another store."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from mailstore import Store, StoreError, StoreUnavailable
from mailstore.tables import metadata
from tests.mailstore.helpers import KEY, make_account, open_store, url


def test_the_migrations_lead_to_the_tables(store: Store, tmp_path: Path) -> None:
    engine = create_engine(url(tmp_path))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_the_migrations_build_the_same_sql_as_the_tables(store: Store, tmp_path: Path) -> None:
    """What `compare_metadata` does not look at (keys, AUTOINCREMENT) shows in SQLite's own text."""
    reference = sqlite3.connect(":memory:")
    engine = create_engine("sqlite://", creator=lambda: reference)
    metadata.create_all(engine)
    statement = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name != 'alembic_version'"
    built = sqlite3.connect(tmp_path / "mail.db")
    assert {name: set(_words(sql)) for name, sql in built.execute(statement)} == {
        name: set(_words(sql)) for name, sql in reference.execute(statement)
    }
    built.close()
    engine.dispose()


def _words(sql: str) -> list[str]:
    return sql.replace(",", " ").replace("(", " ").replace(")", " ").split()


def test_the_tables_can_be_written_for_postgresql() -> None:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    for table in metadata.sorted_tables:
        text = str(CreateTable(table).compile(dialect=dialect))
        assert "AUTOINCREMENT" not in text
        if "id" in table.c and table.name != "submissions":
            assert "id BIGSERIAL NOT NULL" in text
        for index in table.indexes:
            assert str(CreateIndex(index).compile(dialect=dialect))


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_sqlite_is_set_for_durability(store: Store) -> None:
    with store._db.read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_the_files_are_private(store: Store, tmp_path: Path) -> None:
    make_account(store, "alice@medecin.example")
    for path in tmp_path.glob("mail.db*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_store_opens_again_and_is_created_once(tmp_path: Path) -> None:
    first = open_store(tmp_path, create=True)
    account = make_account(first, "alice@medecin.example")
    first.close()
    for create in (False, True):
        again = open_store(tmp_path, create=create)
        assert again.accounts() == [account]
        again.close()


def test_a_store_that_is_not_there_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        open_store(tmp_path)
    assert not (tmp_path / "mail.db").exists()


@pytest.mark.parametrize("create", [True, False])
def test_another_master_key_is_refused(tmp_path: Path, create: bool) -> None:
    open_store(tmp_path, create=True).close()
    with pytest.raises(StoreError, match="master key"):
        open_store(tmp_path, create=create, key=bytes(32))
    with pytest.raises(StoreError, match="32 bytes"):
        open_store(tmp_path, create=create, key=b"short")


@pytest.mark.parametrize("create", [True, False])
def test_a_file_that_is_no_database_is_refused_untouched(tmp_path: Path, create: bool) -> None:
    (tmp_path / "mail.db").write_bytes(b"Dear diary, " * 1000)
    with pytest.raises(StoreError, match="not an SQLite database"):
        open_store(tmp_path, create=create)
    assert (tmp_path / "mail.db").read_bytes() == b"Dear diary, " * 1000


@pytest.mark.parametrize("create", [True, False])
def test_another_programs_database_is_refused_untouched(tmp_path: Path, create: bool) -> None:
    with sqlite3.connect(tmp_path / "mail.db") as database:
        database.execute("CREATE TABLE diary (day TEXT)")
    database.close()
    with pytest.raises(StoreError, match="not a mail store"):
        open_store(tmp_path, create=create)
    database = sqlite3.connect(tmp_path / "mail.db")
    assert [name for (name,) in database.execute("SELECT name FROM sqlite_master")] == ["diary"]
    database.close()


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    open_store(tmp_path, create=True).close()
    with sqlite3.connect(tmp_path / "mail.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    with pytest.raises(StoreError, match="later version"):
        open_store(tmp_path)


def test_a_damaged_database_is_told(tmp_path: Path) -> None:
    store = open_store(tmp_path, create=True)
    for number in range(20):
        make_account(store, f"a{number}@medecin.example")
    store.close()
    path = tmp_path / "mail.db"
    pages = path.read_bytes()
    path.write_bytes(pages[:4096] + b"\xee" * (len(pages) - 4096))
    with pytest.raises(StoreUnavailable, match="damaged"):
        open_store(tmp_path).accounts()


@pytest.mark.parametrize("address", ["sqlite://", "sqlite:///:memory:", "no url"])
def test_addresses_that_cannot_hold_a_store(tmp_path: Path, address: str) -> None:
    with pytest.raises(StoreError):
        Store.create(address, tmp_path / "blobs", KEY)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="Cannot create"):
        Store.create(f"sqlite:///{tmp_path}/none/mail.db", tmp_path / "blobs", KEY)


@pytest.mark.slow
def test_processes_that_create_at_once_agree(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from tests.mailstore.helpers import open_store\n"
    program += "open_store(Path(sys.argv[1]), create=True).close()"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", program, str(tmp_path)]
    running = [subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE) for _ in range(3)]
    for process in running:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
    open_store(tmp_path).close()
