"""The folder a session has selected, as the client knows it: arrays, and what the client has not been told yet.

Invariant: sequence number = index + 1 in these arrays, and the arrays lose a message only when EXPUNGE is being sent.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from imap.errors import BadCommand
from imap.sequences import SequenceSet
from mailstore.model import Changes, FolderView, MessageChange


@dataclass(frozen=True, slots=True)
class News:
    """What to tell the client after `Selected.apply`: sequence numbers to expunge (each valid after those before it was
    removed), whether the count grew, and the indices whose flags changed."""

    expunged: tuple[int, ...]
    grown: bool
    changed: tuple[int, ...]


@dataclass(slots=True)
class Selected:
    """One session's view of one folder. `reached` is the modseq up to which changes have been fetched."""

    view: FolderView
    read_only: bool
    reached: int
    pending: set[int] = field(default_factory=set)

    @classmethod
    def open(cls, view: FolderView, *, read_only: bool) -> Selected:
        """A view fresh from the store."""
        return cls(view, read_only, view.folder.highest_modseq)

    @property
    def folder_id(self) -> int:
        """The store's id of the folder."""
        return self.view.folder.id

    @property
    def count(self) -> int:
        """How many messages the client knows."""
        return len(self.view.uids)

    def index_of(self, uid: int) -> int | None:
        """Where the message with this UID is, or None."""
        index = bisect_left(self.view.uids, uid)
        return index if index < self.count and self.view.uids[index] == uid else None

    def resolve(self, messages: SequenceSet, *, uid: bool) -> list[int]:
        """Indices of the messages named. Unknown UIDs are ignored; an unknown sequence number is BAD."""
        if uid:
            return messages.indices(self.view.uids)
        if messages.beyond(self.count) or (not self.count and any(None in span for span in messages.ranges)):
            raise BadCommand("no message has that number")
        return messages.indices(range(1, self.count + 1))

    def update(self, change: MessageChange) -> int | None:
        """Takes over flags and modseq the store has just given us; the index, or None when the message is unknown."""
        index = self.index_of(change.uid)
        if index is not None:
            self.view.flags[index] = change.flags
            self.view.modseqs[index] = change.modseq
        return index

    def apply(self, changes: Changes, *, expunge_allowed: bool) -> News:
        """Takes over what happened in the store. Expunged messages stay until EXPUNGE may be sent."""
        self.reached = max(self.reached, changes.highest_modseq)
        self.pending.update(uid for uid in changes.expunged if self.index_of(uid) is not None)
        expunged = self._remove_pending() if expunge_allowed and self.pending else ()
        gone = set(changes.expunged)
        before = self.count
        changed: list[int] = []
        for change in changes.changed:
            index = self.index_of(change.uid)
            if index is not None:
                if change.modseq > self.view.modseqs[index]:
                    self.update(change)
                    changed.append(index)
            elif change.uid not in gone and (not self.count or change.uid > self.view.uids[-1]):
                self._append(change)
        return News(expunged, self.count > before, tuple(changed))

    def _append(self, change: MessageChange) -> None:
        view = self.view
        view.uids.append(change.uid)
        view.modseqs.append(change.modseq)
        view.flags.append(change.flags)
        view.sizes.append(change.size)
        view.dates.append(change.date)
        view.blobs.append(change.blob)

    def _remove_pending(self) -> tuple[int, ...]:
        view = self.view
        gone = [index for index, uid in enumerate(view.uids) if uid in self.pending]
        self.pending.clear()
        removed = set(gone)
        kept = [index for index in range(self.count) if index not in removed]
        for column in (view.uids, view.modseqs, view.flags, view.sizes, view.dates, view.blobs):
            values: list[object] = column  # type: ignore[assignment]
            values[:] = [values[index] for index in kept]
        # RFC 3501 §7.4.1: each EXPUNGE renumbers the messages after it.
        return tuple(index + 1 - earlier for earlier, index in enumerate(gone))
