"""Small makers shared by the tests of the mail store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine

from mailstore import (
    Acceptance,
    Account,
    Direction,
    LocalDelivery,
    MailboxKind,
    NewDeposit,
    OutgoingCopy,
    Store,
)
from mailstore.tables import metadata

NOW = datetime(2026, 3, 2, 9, 30, 0, 123456, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)
MINUTE = timedelta(minutes=1)
KEY = bytes(range(32))


def url(folder: Path) -> str:
    """Where the tests keep the database of a folder: SQLite beside the blobs, unless `use_database` said otherwise."""
    said = folder / "database.url"
    return said.read_text() if said.exists() else f"sqlite:///{folder / 'mail.db'}"


def use_database(folder: Path, database_url: str) -> None:
    """Have the stores of a folder, in this process and others, keep their rows in this database."""
    (folder / "database.url").write_text(database_url)


def sql(folder: Path, statement: str) -> list[tuple[Any, ...]]:
    """Run one statement on the database of a folder, past the store; its rows, if it gives any."""
    engine = create_engine(url(folder))
    with engine.begin() as connection:
        result = connection.exec_driver_sql(statement)
        rows = [tuple(row) for row in result] if result.returns_rows else []
    engine.dispose()
    return rows


def stored_bytes(folder: Path) -> dict[str, bytes]:
    """Everything a store keeps, by place: its files and, on PostgreSQL, the values of each table."""
    kept = {
        str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "database.url"
    }
    if not url(folder).startswith("sqlite"):
        for table in metadata.sorted_tables:
            values = [value for row in sql(folder, f"SELECT * FROM {table.name}") for value in row]  # noqa: S608
            kept[table.name] = b"\n".join(v if isinstance(v, bytes) else str(v).encode() for v in values)
    return kept


def open_store(folder: Path, *, create: bool = False, key: bytes = KEY) -> Store:
    """A store whose summaries are the message's first line, and whose clock stands at NOW."""
    opener = Store.create if create else Store.open
    return opener(url(folder), folder / "blobs", key, index=lambda raw: raw.split(b"\r\n")[0], clock=lambda: NOW)


def make_account(store: Store, address: str, password: str | None = None) -> Account:
    """A professional's mailbox."""
    return store.add_account(
        address, MailboxKind.PER, display_name="Dr Alice Martin", national_id="810000000012", password=password, at=NOW
    )


def message(number: int = 0, body: str = "Bonjour") -> bytes:
    """A small message with CRLF line ends."""
    return f"Subject: compte rendu {number}\r\nMessage-ID: <{number}@medecin.example>\r\n\r\n{body}\r\n".encode()


def acceptance(
    account: Account,
    number: int = 0,
    *,
    copies: tuple[str, ...] = (),
    local: bool = True,
    deposits: tuple[NewDeposit, ...] = (),
) -> Acceptance:
    """A message of `account` to itself (when `local`) and to `copies` elsewhere."""
    recipients = ((account.address,) if local else ()) + copies
    return Acceptance(
        direction=Direction.SUBMISSION,
        principal=account.address,
        mail_from=account.address,
        recipients=recipients,
        message_id=f"<{number}@medecin.example>",
        received=message(number),
        local=(LocalDelivery(account.id, account.address, message(number)),) if local else (),
        outgoing=(OutgoingCopy(copies, b"Received: here\r\n" + message(number)),) if copies else (),
        deposits=deposits,
    )


def document(unique_id: str = "1.2.3", sha1: str = "a" * 40, content: bytes = b"<ClinicalDocument/>") -> NewDeposit:
    """A document ready for deposit."""
    return NewDeposit(unique_id, sha1, content, b'{"sender": "alice"}')


def settle_summaries(store: Store) -> None:
    """Wait until the summaries that a store makes a moment later are made."""
    thread = store._summariser._thread
    if thread is not None:
        thread.join()


def kept_blobs(folder: Path) -> set[str]:
    """The contents that are kept, in files of their own or in the journal; unfinished files too."""
    return {path.name for path in blob_files(folder)} | {row[0] for row in sql(folder, "SELECT blob FROM blob_journal")}


def blob_files(folder: Path) -> list[Path]:
    """Every blob file."""
    return [path for path in (folder / "blobs").glob("??/*") if path.is_file()]
