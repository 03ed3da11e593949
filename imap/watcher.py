"""Wakes idle sessions when their folder changes, whoever changed it: this process (told at once) or another (polled).

One task per process asks the store for the highest modseqs of all watched folders every half second; nothing runs while
nobody is idle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from mailstore import Store
from mailstore.model import ChangeKind, StoreChange

_log = structlog.get_logger()


class Watcher:
    """Start with `start`, end with `stop`, both on the event loop that serves the sessions."""

    def __init__(self, store: Store, interval: float) -> None:
        self._store = store
        self._interval = interval
        self._events: dict[int, set[asyncio.Event]] = {}
        self._seen: dict[int, int] = {}
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] | None = None

    def start(self) -> None:
        """Begins to watch."""
        loop = asyncio.get_running_loop()

        def told(change: StoreChange) -> None:
            if change.kind is ChangeKind.FOLDER and not loop.is_closed():
                loop.call_soon_threadsafe(self._wake, change.id)

        self._unsubscribe = self._store.subscribe_changes(told)
        self._task = loop.create_task(self._poll())

    async def stop(self) -> None:
        """Ends the watch."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @contextmanager
    def watching(self, folder_id: int, reached: int) -> Iterator[asyncio.Event]:
        """An event that is set whenever the folder goes past `reached`; the caller clears it."""
        event = asyncio.Event()
        self._events.setdefault(folder_id, set()).add(event)
        self._seen[folder_id] = min(reached, self._seen.get(folder_id, reached))
        self._wanted.set()
        try:
            yield event
        finally:
            events = self._events[folder_id]
            events.discard(event)
            if not events:
                del self._events[folder_id]
                self._seen.pop(folder_id, None)
            if not self._events:
                self._wanted.clear()

    def _wake(self, folder_id: int) -> None:
        for event in self._events.get(folder_id, ()):
            event.set()

    async def _poll(self) -> None:
        while True:
            await self._wanted.wait()
            await asyncio.sleep(self._interval)
            watched = list(self._events)
            try:
                highest = await asyncio.to_thread(self._store.highest_modseqs, watched)
            except Exception as error:
                # The store is away for a moment: the watch must outlive it; sessions notice at their next command.
                _log.warning("change poll failed", error=type(error).__name__)
                continue
            for folder_id in watched:
                # A folder that is gone wakes its sessions too: they must be told.
                reached = highest.get(folder_id, -1)
                if self._seen.get(folder_id) != reached and folder_id in self._seen:
                    self._seen[folder_id] = reached
                    self._wake(folder_id)
