"""Has what the first search of a large folder needs brought into memory while its session still reads: once for each folder
in a process, a folder at a time, behind the searches that somebody waits for.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from mailstore import Store, StoreError

FROM = 1000
"""Messages of the smallest folder that is worth it."""


class Warmer:
    """`turns` are the places of searches that run at once, which warming shares."""

    def __init__(self, store: Store, turns: asyncio.Semaphore) -> None:
        self._store = store
        self._turns = turns
        self._one = asyncio.Lock()
        self._folders: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def selected(self, folder_id: int, count: int) -> None:
        """To be told of each folder that a session selects, and of how many messages it has."""
        if count < FROM or folder_id in self._folders:
            return
        self._folders.add(folder_id)
        task = asyncio.get_running_loop().create_task(self._warm(folder_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _warm(self, folder_id: int) -> None:
        async with self._one, self._turns:
            # The search itself will meet the error, and tell it.
            with suppress(StoreError):
                await asyncio.to_thread(self._store.warm_search, folder_id)

    async def stop(self) -> None:
        """Ends what has not begun, waits for what has."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
