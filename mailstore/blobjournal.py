"""Small contents made durable by the very transaction that refers to them (ADR 0056).

A content in a file of its own costs two syncs, the file's and its folder's, before the commit's own. The octets of a small one
go into a table instead, by the transaction that first refers to it: one commit, one sync. Readers find them there. When the
table has grown, a thread gives each its file and removes the rows.

Invariants:
* what the table holds is the files' own octets: encrypted, each under its own data key;
* a content is durable from the commit on: by its row until it has its file, by its file then. A transaction that did not
  happen leaves no row;
* a row goes only once its file is whole and synced. Any process may do so for any row.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

import structlog
from sqlalchemy import Connection, bindparam, delete, func, insert, select

from mailstore.blobs import BlobStore
from mailstore.database import Database
from mailstore.direct import Direct
from mailstore.model import StoreError
from mailstore.tables import blob_journal

LIMIT = 8 * 1024 * 1024
"""Octets after which the files are synced and the rows removed."""
_AT_ONCE = 500
"""Rows in hand: the folders of their files, 256 at most, are synced once for all of them."""
_INSERT = Direct(insert(blob_journal).inline(), "blob", "octets")
_FIND = Direct(select(blob_journal.c.octets).where(blob_journal.c.blob == bindparam("sought")))
_log = structlog.get_logger(__name__)


class BlobJournal:
    """The journal of a store, as one process uses it; `blobs` find in it what has no file. Thread safe."""

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        """Raises StoreUnavailable."""
        self._db = database
        self._blobs = blobs
        self._lock = threading.Lock()
        self._settling: threading.Thread | None = None
        with database.read() as connection:  # what processes left that are no more
            self._size = connection.execute(select(func.sum(func.length(blob_journal.c.octets)))).scalar() or 0
        blobs.journaled = self.find

    def enter(self, connection: Connection, blobs: Iterable[str]) -> None:
        """In the transaction that refers to them first, make durable those of these contents that are staged."""
        rows = [{"blob": blob, "octets": octets} for blob in blobs if (octets := self._blobs.staged(blob)) is not None]
        if not rows:
            return
        _INSERT.run(connection, rows)
        with self._lock:
            self._size += sum(len(row["octets"]) for row in rows)
            if self._size > LIMIT and self._settling is None:
                self._settling = threading.Thread(target=self._settle_aside, name="blob-journal", daemon=True)
                self._settling.start()

    def find(self, blob: str) -> bytes | None:
        """The octets of a blob that is here. Raises StoreUnavailable."""
        with self._db.read() as connection:
            row = _FIND.first(connection, {"sought": blob})
        return None if row is None else bytes(row[0])

    def settle(self) -> None:
        """Have every content that is here durable by its file, and forget it here. Raises StoreUnavailable."""
        with self._lock:
            self._size = 0
        for batch in self._batches():
            self._blobs.place(batch)
            names = [blob for blob, _ in batch]
            with self._db.write() as connection:
                connection.execute(delete(blob_journal).where(blob_journal.c.blob.in_(names)))

    def close(self) -> None:
        """Leave nothing to do for the next opening. Never raises: what could not be done is done then."""
        settling = self._settling
        if settling is not None:
            settling.join()
        with suppress(StoreError):
            self.settle()

    def _batches(self) -> Iterator[Sequence[tuple[str, bytes]]]:
        """The rows, a few at a time, by name."""
        last = ""
        while True:
            statement = select(blob_journal.c.blob, blob_journal.c.octets).where(blob_journal.c.blob > last)
            with self._db.read() as connection:
                rows = connection.execute(statement.order_by(blob_journal.c.blob).limit(_AT_ONCE)).all()
            if not rows:
                return
            yield [(row[0], row[1]) for row in rows]
            last = rows[-1][0]

    def _settle_aside(self) -> None:
        try:
            self.settle()
        except StoreError as error:
            _log.warning("small contents stay in their journal", error=type(error).__name__)
        finally:
            self._settling = None
