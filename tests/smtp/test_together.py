"""Work done together: groups by themselves, an answer for each."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from smtp.together import Together


async def test_what_waits_is_done_at_once_and_in_order() -> None:
    groups: list[list[int]] = []
    gate = threading.Event()

    def work(group: Sequence[int]) -> list[int | Exception]:
        groups.append(list(group))
        gate.wait(10)
        return [ValueError(str(one)) if one == 3 else one * 10 for one in group]

    together: Together[int, int] = Together(work, most=4)
    tasks = [asyncio.create_task(together.do(0))]
    while not groups:
        await asyncio.sleep(0.001)
    tasks += [asyncio.create_task(together.do(number)) for number in range(1, 7)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    gate.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert groups == [[0], [1, 2, 3, 4], [5, 6]]
    assert [one for one in found if isinstance(one, int)] == [0, 10, 40, 50, 60]
    assert isinstance(found[2], asyncio.CancelledError) and isinstance(found[3], ValueError)


async def test_a_call_that_fails_fails_its_group_only() -> None:
    calls = iter([OSError("first"), None])

    def work(group: Sequence[int]) -> list[int | Exception]:
        error = next(calls)
        if error is not None:
            raise error
        return list(group)

    together: Together[int, int] = Together(work, most=4)
    with pytest.raises(OSError, match="first"):
        await together.do(1)
    assert await together.do(2) == 2


async def test_groups_may_overlap_and_nobody_waits_for_ever() -> None:
    under_way = threading.Barrier(2)

    def work(group: Sequence[int]) -> list[int | Exception]:
        under_way.wait(10)  # ends only when two groups are at work at once
        return list(group)

    together: Together[int, int] = Together(work, most=1, at_once=2)
    assert await asyncio.gather(*(together.do(number) for number in range(4))) == [0, 1, 2, 3]
    assert await asyncio.gather(*(together.do(number) for number in range(2))) == [0, 1]
