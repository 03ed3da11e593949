"""The folder a session has selected, as the client knows it: arrays, and what the client has not been told yet.

Invariants: sequence number = index + 1 in these arrays, and the arrays lose a message only when EXPUNGE is being sent; the
columns are those of the whole process until this session has to change them, so that thousands idle in large folders.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field

from imap.errors import BadCommand
from imap.places import Place
from imap.sequences import SequenceSet
from mailstore.model import Changes, FolderView, MessageChange

_FLAGS = frozenset({"flags", "modseqs"})
_ALL = _FLAGS | {"uids", "sizes", "dates", "blobs"}


@dataclass(frozen=True, slots=True)
class News:
    """What to tell the client after `Selected.apply`: sequence numbers to expunge (each valid after those before it was
    removed) and their UIDs, whether the count grew, the indices whose flags changed, and all flags of what is new or
    changed."""

    expunged: tuple[int, ...]
    vanished: tuple[int, ...]
    grown: bool
    changed: tuple[int, ...]
    flags: frozenset[str]


@dataclass(slots=True)
class Selected:
    """One session's view of one folder. `reached` is the modseq up to which changes have been fetched, `settled` the one up to
    which they were told, removals too; `rights` those of
    RFC 4314, `recents` the ranges of UIDs that are \\Recent here, `found` the UIDs that `$` stands for."""

    place: Place
    view: FolderView
    read_only: bool
    rights: str
    reached: int
    recents: list[tuple[int, int]]
    keywords: frozenset[str]
    pending: set[int] = field(default_factory=set)
    found: tuple[int, ...] = ()
    settled: int = 0
    _own: frozenset[str] = frozenset()
    """The columns of the view that are this session's own; others read the rest, which is copied before a change."""

    def __post_init__(self) -> None:
        self.settled = self.reached

    @property
    def folder_id(self) -> int:
        """The store's id of the folder."""
        return self.view.folder.id

    @property
    def count(self) -> int:
        """How many messages the client knows."""
        return len(self.view.uids)

    @property
    def recent(self) -> int:
        """How many messages are \\Recent."""
        uids = self.view.uids
        return sum(bisect_left(uids, end) - bisect_left(uids, first) for first, end in self.recents)

    def is_recent(self, index: int) -> bool:
        """Whether this message is \\Recent."""
        uid = self.view.uids[index]
        return any(first <= uid < end for first, end in self.recents)

    def index_of(self, uid: int) -> int | None:
        """Where the message with this UID is, or None."""
        index = bisect_left(self.view.uids, uid)
        return index if index < self.count and self.view.uids[index] == uid else None

    def resolve(self, messages: SequenceSet, *, uid: bool) -> list[int]:
        """Indices of the messages named. Unknown UIDs are ignored; an unknown sequence number is BAD."""
        if messages.saved:
            return self.indices(self.found)
        if uid:
            return messages.indices(self.view.uids)
        if messages.beyond(self.count) or (not self.count and any(None in span for span in messages.ranges)):
            raise BadCommand("no message has that number")
        return messages.indices(range(1, self.count + 1))

    def indices(self, uids: Iterable[int]) -> list[int]:
        """Where these messages are, those that still are."""
        return [index for index in map(self.index_of, uids) if index is not None]

    def uids(self, indices: Iterable[int]) -> list[int]:
        """The UIDs at these places."""
        column = self.view.uids
        return [column[index] for index in indices]

    def share(self) -> FolderView:
        """The view, for a reader in another thread: what the session changes from here on, it copies first."""
        self._own = frozenset()
        view = self.view
        return FolderView(view.folder, view.uids, view.modseqs, view.flags, view.sizes, view.dates, view.blobs)

    def _take(self, columns: frozenset[str]) -> None:
        """Makes these columns the session's own."""
        for name in columns - self._own:
            setattr(self.view, name, getattr(self.view, name)[:])
        self._own |= columns

    def update(self, change: MessageChange) -> int | None:
        """Takes over flags and modseq the store has just given us; the index, or None when the message is unknown."""
        index = self.index_of(change.uid)
        if index is not None:
            self._take(_FLAGS)
            self.view.flags[index] = change.flags
            self.view.modseqs[index] = change.modseq
        return index

    def apply(self, changes: Changes, *, expunge_allowed: bool) -> News:
        """Takes over what happened in the store. Expunged messages stay until EXPUNGE may be sent."""
        self.reached = max(self.reached, changes.highest_modseq)
        self.pending.update(uid for uid in changes.expunged if self.index_of(uid) is not None)
        numbers, vanished = self._remove_pending() if expunge_allowed and self.pending else ((), ())
        if not self.pending:
            self.settled = self.reached
        gone = set(changes.expunged)
        before = self.count
        changed: list[int] = []
        flags: set[frozenset[str]] = set()
        for change in changes.changed:
            index = self.index_of(change.uid)
            if index is not None:
                if change.modseq > self.view.modseqs[index]:
                    self.update(change)
                    changed.append(index)
                    flags.add(change.flags)
            elif change.uid not in gone and (not self.count or change.uid > self.view.uids[-1]):
                self._append(change)
                flags.add(change.flags)
        return News(numbers, vanished, self.count > before, tuple(changed), frozenset().union(*flags))

    def _append(self, change: MessageChange) -> None:
        self._take(_ALL)
        view = self.view
        view.uids.append(change.uid)
        view.modseqs.append(change.modseq)
        view.flags.append(change.flags)
        view.sizes.append(change.size)
        view.dates.append(change.date)
        view.blobs.append(change.blob)

    def _remove_pending(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        self._take(_ALL)
        view = self.view
        gone = sorted(index for index in map(self.index_of, self.pending) if index is not None)
        uids = tuple(view.uids[index] for index in gone)
        self.pending.clear()
        for column in (view.uids, view.modseqs, view.flags, view.sizes, view.dates, view.blobs):
            values: list[object] = column  # type: ignore[assignment]
            if len(gone) <= 8:
                for index in reversed(gone):
                    del values[index]
                continue
            kept: list[object] = []
            reached = 0
            for index in gone:
                kept += values[reached:index]
                reached = index + 1
            values[:] = kept + values[reached:]
        # RFC 9051 §7.5.1: each EXPUNGE renumbers the messages after it.
        return tuple(index + 1 - earlier for earlier, index in enumerate(gone)), uids
