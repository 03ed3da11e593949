"""Blocking work done together: one call for all that came while the call before it ran.

A transaction costs about the same for one message and for twenty: the sync, the statements, the thread. What waits is taken
as a whole, so that a busy server makes fewer and larger ones by itself, and an idle one adds no delay.

Invariants: what came first is begun first; every caller gets its own answer, or its own error; a caller that gives up takes
nothing from the others, and its work may still be done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Together(Generic[T, R]):
    """Groups of at most `most`, of which `at_once` may be under way: more than one when the work has parts that can overlap,
    such as computing and waiting for the disk. `work` is blocking and answers one result, or one error, for each of what it
    gets."""

    def __init__(self, work: Callable[[Sequence[T]], Sequence[R | Exception]], most: int, *, at_once: int = 1) -> None:
        self._work = work
        self._most = most
        self._at_once = at_once
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def do(self, one: T) -> R:
        """The result of `one`; raises what `work` answered or raised for it."""
        done: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((one, done))
        if self._running < self._at_once:
            # A task of its own: the caller that began it may give up.
            self._running += 1
            task = asyncio.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await done

    async def _run(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                await self._once(group)
        finally:
            self._running -= 1

    async def _once(self, group: list[tuple[T, asyncio.Future[R]]]) -> None:
        answers: Sequence[R | Exception]
        try:
            answers = await asyncio.to_thread(self._work, [one for one, _ in group])
        except Exception as error:
            answers = [error] * len(group)
        for (_, done), answer in zip(group, answers, strict=True):
            if done.done():
                continue
            if isinstance(answer, Exception):
                done.set_exception(answer)
            else:
                done.set_result(answer)
