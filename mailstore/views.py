"""The folders this process has looked at, as arrays, kept up to date by modseq and shared by all sessions.

Invariants:
* the arrays of a folder are those of one snapshot of the database; they are brought forward by what changed since, under
  the folder's own lock, and read again from the start only when nothing is known;
* callers share the arrays, which are never changed once shown: who changes them copies them first, here as in a session;
* at most FOLDERS folders, and MESSAGES messages in all, are kept; the folders used the longest ago go first.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Text, bindparam, select, type_coerce

from mailstore.flags import from_text
from mailstore.model import MessageChange
from mailstore.sql import AnyRow
from mailstore.tables import expunged, folders, messages

MESSAGES = 1_000_000
FOLDERS = 5000
COLUMNS = (
    messages.c.uid,
    messages.c.modseq,
    messages.c.flags,
    messages.c.size,
    messages.c.date,
    messages.c.blob,
)

_HEAD = select(folders.c.highest_modseq, folders.c.uid_next, folders.c.account_id).where(
    folders.c.id == bindparam("folder")
)


@dataclass(slots=True)
class Arrays:
    """A folder's messages in UID order, and the modseq up to which they are known."""

    reached: int = 0
    uids: list[int] = field(default_factory=list)
    modseqs: list[int] = field(default_factory=list)
    flags: list[frozenset[str]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    dates: list[datetime] = field(default_factory=list)
    blobs: list[str] = field(default_factory=list)
    shown: bool = False
    """Whether somebody reads these very lists: they are then replaced by copies before a change."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def columns(self) -> tuple[list[Any], ...]:
        """The arrays, in the order of COLUMNS."""
        return self.uids, self.modseqs, self.flags, self.sizes, self.dates, self.blobs

    def refresh(self, connection: Connection, folder_id: int, highest_modseq: int) -> None:
        """Bring the arrays to the connection's snapshot, whose modseq is `highest_modseq`."""
        if self.reached >= highest_modseq:
            return
        if self.reached == 0:
            self._load(connection, folder_id)
        else:
            changed, gone = read_changes(connection, folder_id, self.reached)
            if self.shown:
                self._replace()
            self._remove(gone)
            for row in changed:
                self._put(row)
        self.reached = highest_modseq

    def show(self) -> tuple[list[Any], ...]:
        """The arrays, in the order of COLUMNS, for readers: never changed from here on."""
        self.shown = True
        return self.columns()

    def _replace(self) -> None:
        self.uids, self.modseqs, self.flags = self.uids[:], self.modseqs[:], self.flags[:]
        self.sizes, self.dates, self.blobs = self.sizes[:], self.dates[:], self.blobs[:]
        self.shown = False

    def _load(self, connection: Connection, folder_id: int) -> None:
        # The driver's own values: a hundred thousand moments are not made one by one by the type's decorator.
        raw = (*COLUMNS[:4], type_coerce(messages.c.date, Text), messages.c.blob)
        statement = select(*raw).where(messages.c.folder_id == folder_id).order_by(messages.c.uid)
        rows = connection.execute(statement).all()
        if not rows:
            return
        uids, modseqs, texts, sizes, dates, blobs = zip(*rows, strict=True)
        self.uids, self.modseqs, self.sizes, self.blobs = list(uids), list(modseqs), list(sizes), list(blobs)
        self.flags = list(map(from_text, texts))
        self.dates = [_moment(value) for value in dates]
        self.shown = False

    def _remove(self, uids: Iterable[int]) -> None:
        gone = set(uids)
        if not gone:
            return
        kept = [index for index, uid in enumerate(self.uids) if uid not in gone]
        if len(kept) < len(self.uids):
            for column in self.columns():
                column[:] = [column[index] for index in kept]

    def _put(self, row: AnyRow) -> None:
        values = (row.uid, row.modseq, from_text(row.flags), row.size, row.date, row.blob)
        index = bisect_left(self.uids, row.uid)
        known = index < len(self.uids) and self.uids[index] == row.uid
        for column, value in zip(self.columns(), values, strict=True):
            if known:
                column[index] = value
            else:
                column.insert(index, value)


class Views:
    """The folders kept in memory. Thread safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Arrays] = OrderedDict()

    def arrays(self, folder_id: int) -> Arrays:
        """The arrays of a folder, to be refreshed under their lock."""
        with self._lock:
            found = self._kept.get(folder_id)
            if found is None:
                found = self._kept[folder_id] = Arrays()
                self._drop_oldest()
            self._kept.move_to_end(folder_id)
            return found

    def _drop_oldest(self) -> None:
        total = sum(len(one.uids) for one in self._kept.values())
        while len(self._kept) > 1 and (total > MESSAGES or len(self._kept) > FOLDERS):
            _, dropped = self._kept.popitem(last=False)
            total -= len(dropped.uids)

    def forget(self, folder_id: int) -> None:
        """Drop a folder that is gone."""
        with self._lock:
            self._kept.pop(folder_id, None)


def read_changes(connection: Connection, folder_id: int, since: int) -> tuple[Sequence[AnyRow], list[int]]:
    """The rows that changed after a modseq, by UID, and the UIDs expunged after it, ascending."""
    changed = connection.execute(
        select(*COLUMNS).where(messages.c.folder_id == folder_id, messages.c.modseq > since).order_by(messages.c.uid)
    ).all()
    gone = connection.execute(
        select(expunged.c.uid)
        .where(expunged.c.folder_id == folder_id, expunged.c.modseq > since)
        .order_by(expunged.c.uid)
    ).scalars()
    return changed, list(gone)


def head(connection: Connection, folder_id: int) -> AnyRow | None:
    """Highest modseq, next UID and mailbox of a folder; None when it is gone."""
    return connection.execute(_HEAD, {"folder": folder_id}).first()


def to_change(row: AnyRow) -> MessageChange:
    """A row of COLUMNS as a value."""
    return MessageChange(row.uid, row.modseq, from_text(row.flags), row.size, row.date, row.blob)


def _moment(value: Any) -> datetime:
    """What a driver gives for a moment: SQLite's text, without zone, or PostgreSQL's value."""
    if isinstance(value, str):
        return datetime.fromisoformat(value + "+00:00")
    moment: datetime = value
    return moment.astimezone(UTC)
