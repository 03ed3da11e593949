"""What every verb of the store stands on: database, blobs, keys, clock, and the notices to subscribers.

Invariants:
* a subscriber hears of a change only after its commit, and a failing subscriber never makes a committed change fail;
* blobs written for a transaction that did not happen are removed, unless the commit itself is in doubt: then they stay
  for the sweep to judge.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, TypeVar

import structlog
from sqlalchemy import ColumnElement, Connection, Row, and_, delete, exists, insert, select

from mailstore.blobs import BlobStore
from mailstore.crypto import Purpose, derive_key
from mailstore.database import CommitUncertain, Database
from mailstore.model import ChangeKind, StoreChange, StoreError
from mailstore.names import Names
from mailstore.tables import contents, deposits, discarded, messages, outgoing

BATCH = 500  # values per IN list: far under the limits of both databases
_log = structlog.get_logger(__name__)
_T = TypeVar("_T")
AnyRow = Row[*tuple[Any, ...]]


class Core:
    """The shared parts of the store; each family of verbs is a subclass, and `Store` is all of them."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        master_key: bytes,
        index: Callable[[bytes], bytes],
        clock: Callable[[], datetime],
    ) -> None:
        self._db = database
        self._blobs = blobs
        self._fields_key = derive_key(master_key, Purpose.FIELDS)
        self._fingerprint_key = derive_key(master_key, Purpose.FINGERPRINTS)
        self._names = Names(self._fields_key, self._fingerprint_key)
        self._index = index
        self._clock = clock
        self._subscribers: list[Callable[[StoreChange], None]] = []
        self._subscribers_lock = threading.Lock()

    def subscribe_changes(self, callback: Callable[[StoreChange], None]) -> Callable[[], None]:
        """Have `callback` called, in the thread that wrote, after each commit that changed a folder, the outgoing queue
        or a deposit. It must be quick and thread safe. Returns the function that ends the subscription.

        Only changes made through this instance are told: other processes' changes show in `highest_modseqs`,
        `next_due` and `due_deposits`.
        """
        with self._subscribers_lock:
            self._subscribers.append(callback)

        def unsubscribe() -> None:
            with self._subscribers_lock, suppress(ValueError):
                self._subscribers.remove(callback)

        return unsubscribe

    def _tell(self, kind: ChangeKind, ids: Iterable[int]) -> None:
        with self._subscribers_lock:
            subscribers = tuple(self._subscribers)
        for number in ids:
            for callback in subscribers:
                try:
                    callback(StoreChange(kind, number))
                except Exception as error:
                    _log.error("change subscriber failed", state=kind.value, error=type(error).__name__)

    def _summary(self, content: bytes) -> bytes:
        """What `index` makes of a message; empty when it fails, for no message is lost because its summary cannot be made."""
        try:
            return self._index(content)
        except Exception as error:
            _log.error("a message could not be summarised", error=type(error).__name__)
            return b""

    @contextmanager
    def _written_blobs(self, blobs: Sequence[str]) -> Iterator[None]:
        """Remove these fresh blobs when the block fails for certain."""
        try:
            yield
        except CommitUncertain:
            raise
        except BaseException:
            self._remove_blobs(blobs)
            raise

    def _remove_blobs(self, blobs: Iterable[str]) -> None:
        for blob in blobs:
            with suppress(StoreError):  # the sweep gets what could not be removed now
                self._blobs.delete(blob)

    def _discard_unreferenced(self, connection: Connection, blobs: Iterable[str]) -> None:
        """Forget the contents no message, outgoing row or deposit refers to any more; the sweep removes the files
        after a grace, so that a reader in the middle of a message is not cut."""
        now = self._clock()
        for batch in batches(sorted(set(blobs)), BATCH):
            orphans = list(
                connection.execute(select(contents.c.blob).where(contents.c.blob.in_(batch), unreferenced())).scalars()
            )
            if orphans:
                connection.execute(delete(contents).where(contents.c.blob.in_(orphans)))
                connection.execute(insert(discarded), [{"blob": blob, "at": now} for blob in orphans])

    def sweep(self, older_than: datetime) -> int:
        """Remove the files of contents discarded before `older_than` and the leftovers of interrupted writes older than
        that. Returns how many files were removed. To be run every hour or so, with an hour or so of grace.
        """
        with self._db.write() as connection:
            # Two PostgreSQL transactions that drop the last two references at once each see the other's.
            orphans = select(contents.c.blob).where(unreferenced())
            self._discard_unreferenced(connection, connection.execute(orphans).scalars())
        with self._db.read() as connection:
            referenced = set(connection.execute(select(contents.c.blob)).scalars())
            recent = select(discarded.c.blob, discarded.c.at)
            past = []
            for blob, at in connection.execute(recent):
                referenced.add(blob)
                if at < older_than:
                    past.append(blob)
        for blob in past:
            self._blobs.delete(blob)
        removed = len(past) + self._blobs.sweep(referenced, older_than)
        with self._db.write() as connection:
            for batch in batches(past, BATCH):
                connection.execute(delete(discarded).where(discarded.c.blob.in_(batch)))
        return removed


def unreferenced() -> ColumnElement[bool]:
    """The condition that nothing refers to a row of `contents`."""
    used = (exists().where(table.c.blob == contents.c.blob) for table in (messages, outgoing, deposits))
    return and_(*(~one for one in used))


def batches(values: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """`values` cut into pieces of at most `size`."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def clean(text: str, limit: int) -> str:
    """`text` made fit for a text column: no NUL, no lone surrogate, at most `limit` characters."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")[:limit]


def clean_message_id(message_id: str) -> str:
    """A Message-ID without spaces and angle brackets, as it is stored and looked up (998 is a line's limit, RFC 5322)."""
    return clean(message_id.strip().removeprefix("<").removesuffix(">"), 998)
