"""What every verb of the store stands on: database, blobs, keys, clock, and the notices to subscribers.

Invariants:
* a subscriber hears of a change only after its commit, and a failing subscriber never makes a committed change fail;
  what is told here is written to the feed in the transaction itself, for the other processes;
* blobs written for a transaction that did not happen are removed, unless the commit itself is in doubt: then they stay
  for the sweep to judge;
* on PostgreSQL every transaction takes its locks in one order, so that none waits for another that waits for it: rows found
  by a digest (contents and holdings of new messages, then threads), each kind in the order of its digests; folders by id;
  messages, `\\Seen` and log of those folders; contents that lose their last reference, by blob.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import structlog
from sqlalchemy import BindParameter, ColumnElement, Connection, and_, bindparam, delete, exists, insert, select, update
from sqlalchemy.exc import IntegrityError

from mailstore.blobjournal import BlobJournal
from mailstore.blobs import BlobStore
from mailstore.caches import Bounded, Room
from mailstore.database import Database
from mailstore.direct import Direct
from mailstore.feed import Feed
from mailstore.groups import CommitUncertain
from mailstore.keyring import Keys
from mailstore.model import ChangeKind, StoreChange, StoreError
from mailstore.names import Names
from mailstore.signatures import Signatures
from mailstore.summariser import Summariser
from mailstore.tables import (
    contents,
    deposit_originals,
    deposits,
    discarded,
    holdings,
    messages,
    outgoing,
    search_index,
)
from mailstore.views import Views

SIGNATURES_KEPT = 256 * 1024 * 1024  # bytes of search signatures in memory
TEXTS_KEPT = 128 * 1024 * 1024  # bytes of search texts in memory
HELD_AT_ONCE = 64 * 1024 * 1024  # octets of small contents on their way, in memory
BATCH = 500  # values per IN list: far under the limits of both databases
_log = structlog.get_logger(__name__)
_T = TypeVar("_T")


@dataclass(slots=True)
class Transaction:
    """A write transaction, what it changes that subscribers are to hear of, and the contents, by blob, that are to be
    summarised while it is committed."""

    connection: Connection
    touched: dict[StoreChange, None] = field(default_factory=dict)
    unsummarised: dict[str, bytes] = field(default_factory=dict)

    def touch(self, kind: ChangeKind, ids: Iterable[int]) -> None:
        """Have these changes told once the transaction is committed."""
        self.touched.update((StoreChange(kind, number), None) for number in ids)


class Core:
    """The shared parts of the store; each family of verbs is a subclass, and `Store` is all of them."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        keys: Keys,
        index: Callable[[bytes], bytes],
        clock: Callable[[], datetime],
    ) -> None:
        self._db = database
        self._blobs = blobs
        self._journal = BlobJournal(database, blobs)
        self._fields = keys.fields
        self._fingerprint_key = keys.fingerprints
        self._names = Names(keys.fields, keys.fingerprints)
        self._index = index
        self._summariser = Summariser(self._summary, self._put_summaries)
        self._clock = clock
        self._feed = Feed(database)
        self._room = Room(HELD_AT_ONCE)
        self._views = Views()
        self._signatures = Signatures(SIGNATURES_KEPT)
        self._readings: dict[tuple[int, int, int, str], Any] = {}
        self._readings_lock = threading.Lock()
        self._readings_timer: threading.Timer | None = None
        self._damaged_blobs = 0
        self._texts: Bounded[str, str] = Bounded(TEXTS_KEPT)

    def subscribe_changes(self, callback: Callable[[StoreChange], None]) -> Callable[[], None]:
        """Have `callback` called after each commit that changed a folder, the outgoing queue or a deposit: in the thread
        that wrote when it was this process, in a thread of the store within a second when it was another. It must be
        quick and thread safe. Returns the function that ends the subscription.

        ChangeKind.RESYNC says that changes of other processes may have been missed (the database was away).
        """
        return self._feed.subscribe(callback)

    @contextmanager
    def _changing(self) -> Iterator[Transaction]:
        """A write transaction whose touched rows are told to every process once it is committed. Raises as
        `Database.write`."""
        with self._db.write() as connection:
            transaction = Transaction(connection)
            yield transaction
            self._feed.publish(connection, transaction.touched)
            self._summariser.add(transaction.unsummarised)
        self._feed.tell(transaction.touched)

    def _summary(self, content: bytes) -> bytes:
        """What `index` makes of a message; empty when it fails, for no message is lost because its summary cannot be made."""
        try:
            return self._index(content)
        except Exception as error:
            _log.error("a message could not be summarised", error=type(error).__name__)
            return b""

    def _put_summaries(self, summaries: Mapping[str, bytes]) -> None:
        rows = [
            {"sought": blob, "sealed_summary": self._fields.seal(summary, summary_aad(blob))}
            for blob, summary in summaries.items()
        ]
        with self._db.write() as connection:
            _SET_SUMMARY.run(connection, rows)

    @contextmanager
    def _written_blobs(self, blobs: Sequence[str]) -> Iterator[None]:
        """Remove these fresh blobs when the block, which holds their transaction, fails for certain."""
        try:
            yield
        except CommitUncertain:
            raise
        except BaseException:
            self._remove_blobs(blobs)
            raise
        finally:
            self._blobs.unstage(blobs)

    def _remove_blobs(self, blobs: Iterable[str]) -> None:
        for blob in blobs:
            with suppress(StoreError):  # the sweep gets what could not be removed now
                self._blobs.delete(blob)

    def _discard_unreferenced(self, connection: Connection, blobs: Iterable[str]) -> None:
        """Forget the contents no message, outgoing row or deposit refers to any more; the sweep removes the files
        after a grace, so that a reader in the middle of a message is not cut."""
        now = self._clock()
        for batch in batches(sorted(set(blobs)), BATCH):
            orphans = list(connection.execute(_ORPHANS, {"blobs": batch}).scalars())
            if not orphans:
                continue
            try:
                with connection.begin_nested():
                    for statement in _FORGET:
                        connection.execute(statement, {"blobs": orphans})
                    connection.execute(_DISCARD, [{"blob": blob, "at": now} for blob in orphans])
            except IntegrityError:
                # Only on PostgreSQL: another transaction has just taken one of them again. The sweep looks once more.
                continue

    def sweep(self, older_than: datetime) -> int:
        """Remove the files of contents discarded before `older_than` and the leftovers of interrupted writes older than
        that. Returns how many files were removed. To be run every hour or so, with an hour or so of grace.
        """
        self._journal.settle()  # what was removed does not stay there either
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
    used = (
        exists().where(table.c.blob == contents.c.blob) for table in (messages, outgoing, deposits, deposit_originals)
    )
    return and_(*(~one for one in used))


# Made once: building a statement costs several times its execution.
_BLOBS: BindParameter[Any] = bindparam("blobs", expanding=True)
_ORPHANS = (
    select(contents.c.blob)
    .where(contents.c.blob.in_(_BLOBS), unreferenced())
    .order_by(contents.c.blob)
    .with_for_update()
)
_FORGET = tuple(delete(table).where(table.c.blob.in_(_BLOBS)) for table in (contents, holdings, search_index))
_DISCARD = insert(discarded)
_SET_SUMMARY = Direct(
    update(contents).where(contents.c.blob == bindparam("sought")).values(sealed_summary=bindparam("sealed_summary"))
)


def summary_aad(blob: str) -> bytes:
    """What a sealed summary is bound to."""
    return b"summary\x00" + blob.encode("ascii")


def batches(values: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """`values` cut into pieces of at most `size`."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def clean(text: str, limit: int) -> str:
    """`text` made fit for a text column: no NUL, no lone surrogate, at most `limit` characters."""
    if text.isascii() and "\x00" not in text:
        return text[:limit]
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")[:limit]


def clean_message_id(message_id: str) -> str:
    """A Message-ID without spaces and angle brackets, as it is stored and looked up (998 is a line's limit, RFC 5322)."""
    return clean(message_id.strip().removeprefix("<").removesuffix(">"), 998)
