"""`kill -9` of any process at any step of the journey, then restart: exactly one message, exactly one document.

The instants are spread over the time a journey takes. The gateway does what RFC 5321 asks of it: without a 250 it sends
the same bytes again. Whatever was killed, it gets its 250, each GP has one message and the record one document.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from caducee.demo.running import Running, Service
from tests.journey import support

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

INSTANTS = (0.02, 0.1, 0.2, 0.35)
"""Seconds after the gateway began; a journey takes about 0.3 s, a deposit ends within 0.5 s."""
ROLES = (
    ("hospital", "mail"),
    ("hospital", "deposits"),
    ("hospital", "supervisor"),
    ("doctors", "mail"),
    ("doctors", "supervisor"),
    ("national", "directory"),
    ("national", "record"),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    root: Path = tmp_path_factory.mktemp("kill") / "country"
    patch = pytest.MonkeyPatch()
    patch.setenv("CADUCEE_LIMITS__RETRY_SECONDS", "1")
    async with Running(support.new_country(root)) as running:
        yield running
    patch.undo()


_REPORTS = support.reports()
_SENT: list[support.Sent] = []


@pytest.mark.parametrize("instant", INSTANTS)
@pytest.mark.parametrize(("place", "role"), ROLES, ids=lambda value: str(value))
async def test_a_killed_process_loses_and_doubles_nothing(
    running: Running, place: str, role: str, instant: float
) -> None:
    service: Service = getattr(running, place)
    sent = next(_REPORTS)
    _SENT.append(sent)
    handing_over = asyncio.create_task(support.hand_over(running.country, sent))
    await asyncio.sleep(instant)
    service.kill(role)
    if role == "supervisor":
        await service.wait_ended()
        await service.start()
    else:
        await service.wait_serving(role)
    assert (await handing_over).startswith("250 ")
    await support.settled(running.country)
    await running.doctors.wait_serving("mail")
    assert await support.copies(running.country, sent.message_id) == [1, 1]
    assert [one.unique_id for one in support.entries(running.country, sent)] == [sent.report.header.unique_id]


async def test_nothing_was_doubled_afterwards(running: Running) -> None:
    """Late retries may come after each test above was done: look at all of them again."""
    await support.settled(running.country)
    for sent in _SENT:
        assert await support.copies(running.country, sent.message_id) == [1, 1]
        assert len(support.entries(running.country, sent)) == 1
