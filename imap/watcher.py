"""Wakes idle sessions when their folder changes, whoever changed it: this process or another, as the store tells.

Nothing runs while nothing changes. The sessions that idle in one folder ask the store once for all of them: what the
first one finds after a bell serves the others, until the next bell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from imap.bell import Bell
from mailstore import Store
from mailstore.model import ChangeKind, Changes, StoreChange


class Watch:
    """One idle session: `changed` is true when its folder may have changed since it was last made false."""

    __slots__ = ("_bell", "changed")

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self.changed = True

    def ring(self) -> None:
        """Wakes the session."""
        self.changed = True
        self._bell.ring()


@dataclass(slots=True)
class _Folder:
    """The watches of one folder, and what was asked of the store since its last bell: changes by (modseq, viewer), and
    whether what is \\Recent was claimed."""

    watches: set[Watch] = field(default_factory=set)
    asked: dict[tuple[int, int | None], asyncio.Future[Changes]] = field(default_factory=dict)
    claimed: bool = False


class Watcher:
    """Start with `start`, end with `stop`, both on the event loop that serves the sessions."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._watches: dict[int, _Folder] = {}
        self._unsubscribe: Callable[[], None] | None = None

    def start(self) -> None:
        """Begins to watch."""
        loop = asyncio.get_running_loop()

        def told(change: StoreChange) -> None:
            # Called in any thread. Folders nobody idles in are passed over here, before the loop is woken.
            if loop.is_closed():
                return
            if change.kind is ChangeKind.FOLDER and change.id in self._watches:
                loop.call_soon_threadsafe(self._wake, change.id)
            elif change.kind is ChangeKind.RESYNC:
                loop.call_soon_threadsafe(self._wake_all)

        self._unsubscribe = self._store.subscribe_changes(told)

    def stop(self) -> None:
        """Ends the watch."""
        if self._unsubscribe is not None:
            self._unsubscribe()

    @contextmanager
    def watching(self, folder_id: int, bell: Bell) -> Iterator[Watch]:
        """A watch whose bell is rung whenever the folder changes."""
        watch = Watch(bell)
        # A list cannot have been asked for before this watch began and hold less than it wants: a bell clears it.
        self._watches.setdefault(folder_id, _Folder()).watches.add(watch)
        try:
            yield watch
        finally:
            folder = self._watches[folder_id]
            folder.watches.discard(watch)
            if not folder.watches:
                del self._watches[folder_id]

    async def changes(self, folder_id: int, since: int, viewer: int | None) -> Changes:
        """The store's `changes` for an idle session: at least all that happened before the last bell."""
        folder, key = self._watches[folder_id], (since, viewer)
        asked = folder.asked.get(key)
        if asked is None or (asked.done() and (asked.cancelled() or asked.exception() is not None)):
            work = asyncio.to_thread(self._store.changes, folder_id, since, viewer=viewer)
            asked = folder.asked[key] = asyncio.ensure_future(work)
        return asked.result() if asked.done() else await asyncio.shield(asked)

    def claim(self, folder_id: int) -> bool:
        """Whether the caller is the first, since the last bell, to ask what is \\Recent in a folder watched."""
        folder = self._watches.get(folder_id)
        if folder is None:
            return True
        first, folder.claimed = not folder.claimed, True
        return first

    def _wake(self, folder_id: int) -> None:
        folder = self._watches.get(folder_id)
        if folder is not None:
            folder.asked.clear()
            folder.claimed = False
            for watch in folder.watches:
                watch.ring()

    def _wake_all(self) -> None:
        for folder_id in self._watches:
            self._wake(folder_id)
