"""The record's memory: all or nothing, once, under concurrency; altered files are noticed."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dossier import Caller, NewEntry, NewSubmission, RecordRefusal, RecordStore, RecordUnavailable
from mailstore.model import BlobDamaged
from tests.dossier.house import MASTER_KEY, oid, open_store

CX = "140103523855880^^^&1.2.250.1.213.1.4.10&ISO^NH"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RecordStore]:
    """A record."""
    opened = open_store(tmp_path)
    yield opened
    opened.close()


def entry(unique_id: str, content: bytes = b"contenu") -> NewEntry:
    """A document."""
    return NewEntry("D", unique_id, "Titre", "34112-3", "10", "text/xml", "A", "B", "2026", content, b"{}")


def lot(*entries: NewEntry) -> NewSubmission:
    """A lot of these."""
    return NewSubmission(oid(), oid(), CX, entries)


def test_a_lot_with_one_bad_entry_keeps_nothing(store: RecordStore, tmp_path: Path) -> None:
    bad = replace(entry("1.2.4"), replaces="urn:uuid:unknown")
    with pytest.raises(RecordRefusal):
        store.save(lot(entry("1.2.3"), bad), Caller("x"))
    assert store.show(CX) == []
    assert [path for path in (tmp_path / "documents").rglob("*") if path.is_file()] == []
    assert [access.outcome for access in store.accesses(CX)] == ["XDSRegistryMetadataError"]


def test_the_same_identifier_twice_in_a_lot_is_refused(store: RecordStore) -> None:
    with pytest.raises(RecordRefusal) as refusal:
        store.save(lot(entry("1.2.3"), entry("1.2.3", b"autre")))
    assert refusal.value.code == "XDSRepositoryDuplicateUniqueIdInMessage"


def test_the_same_document_from_eight_threads_is_kept_once(store: RecordStore) -> None:
    results: list[str] = []
    barrier = threading.Barrier(8)

    def deposit() -> None:
        barrier.wait()
        try:
            store.save(lot(entry("1.2.3")), Caller("x"))
            results.append("kept")
        except RecordRefusal as refusal:
            results.append(refusal.code)
        except RecordUnavailable:
            results.append("busy")

    threads = [threading.Thread(target=deposit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count("kept") == 1
    assert set(results) <= {"kept", "XDSDuplicateUniqueIdInRegistry", "busy"}
    assert len(store.show(CX)) == 1


def test_a_document_survives_reopening_and_another_key_opens_nothing(store: RecordStore, tmp_path: Path) -> None:
    store.save(lot(entry("1.2.3")))
    again = open_store(tmp_path)
    assert again.read("1.2.3") == b"contenu"
    again.close()
    stranger = RecordStore(f"sqlite:///{tmp_path / 'record.sqlite'}", tmp_path / "documents", MASTER_KEY[::-1])
    assert stranger.show(CX) == []
    with pytest.raises(BlobDamaged):
        stranger.read("1.2.3")
    stranger.close()


LARGE = b"contenu " * 20_000


def test_an_altered_file_is_noticed(store: RecordStore, tmp_path: Path) -> None:
    store.save(lot(entry("1.2.3", LARGE)))
    assert store.read("1.2.3") == LARGE
    [path] = [path for path in (tmp_path / "documents").rglob("*") if path.is_file()]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BlobDamaged):
        store.read("1.2.3")


def test_a_small_document_in_another_row_is_noticed_and_never_clear(store: RecordStore, tmp_path: Path) -> None:
    store.save(lot(entry("1.2.3"), entry("1.2.4", b"autre contenu")))
    assert [path for path in (tmp_path / "documents").rglob("*") if path.is_file()] == []
    with sqlite3.connect(tmp_path / "record.sqlite") as other:
        other.execute("UPDATE record_entry SET content = (SELECT content FROM record_entry WHERE unique_id = '1.2.4')")
    other.close()
    assert store.read("1.2.4") == b"autre contenu"
    with pytest.raises(BlobDamaged):
        store.read("1.2.3")
    for path in tmp_path.glob("record.sqlite*"):
        assert b"contenu" not in path.read_bytes() and CX.encode() not in path.read_bytes()


def test_a_refused_large_document_leaves_no_file(store: RecordStore, tmp_path: Path) -> None:
    bad = replace(entry("1.2.4", LARGE), replaces="urn:uuid:unknown")
    with pytest.raises(RecordRefusal):
        store.save(lot(entry("1.2.3", LARGE + b"x"), bad), Caller("x"))
    assert [path for path in (tmp_path / "documents").rglob("*") if path.is_file()] == []


def test_migrations_and_tables_say_the_same(store: RecordStore, tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from sqlalchemy import create_engine

    from dossier.tables import metadata

    engine = create_engine(f"sqlite:///{tmp_path / 'record.sqlite'}")
    with engine.connect() as connection:
        options = {"version_table": "record_alembic_version"}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
    engine.dispose()
