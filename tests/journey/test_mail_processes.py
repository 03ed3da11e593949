"""Several processes serve one operator's SMTP: they share the ports, the figures and the work; the death of one is noticed by
nobody but its own clients."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from caducee.demo.running import Service
from tests.journey import support
from tests.smtp.world import free_port

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

PROCESSES = ("mail", "mail-2", "mail-3")
CONNECTIONS = 30


class Session:
    """One open connection to port 465."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int, tls: ssl.SSLContext) -> Session:
        session = cls(*await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname="127.0.0.1"))
        assert (await session.line()).startswith("220 ")
        return session

    async def line(self) -> str:
        async with asyncio.timeout(20):
            return (await self._reader.readline()).decode()

    async def say(self, command: str) -> str:
        self._writer.write(f"{command}\r\n".encode())
        return await self.line()

    async def alive(self) -> bool:
        with contextlib.suppress(ConnectionError):
            return (await self.say("NOOP")).startswith("250 ")
        return False

    def close(self) -> None:
        self._writer.close()


class Served:
    """The doctors' operator, alone."""

    def __init__(self, service: Service, monitor: int, tls: ssl.SSLContext) -> None:
        self.service = service
        self._monitor = monitor
        self._tls = tls

    async def sessions(self, count: int) -> list[Session]:
        port = self.service.place.settings.listen.submissions
        return list(await asyncio.gather(*(Session.open(port, self._tls) for _ in range(count))))

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient() as client:
            return await client.get(f"http://127.0.0.1:{self._monitor}{path}")

    async def figure(self, name: str) -> float:
        """The sum of a figure's samples."""
        lines = (await self.get("/metrics")).text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    async def figure_is(self, name: str, value: float) -> None:
        async with asyncio.timeout(20):
            while await self.figure(name) != value:
                await asyncio.sleep(0.05)

    def sockets(self) -> list[int]:
        """Open sockets of each process."""
        folders = (Path(f"/proc/{self.service.pids[name]}/fd") for name in PROCESSES)
        return [sum(str(one.readlink()).startswith("socket:") for one in list(folder.iterdir())) for folder in folders]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    country = support.new_country(tmp_path_factory.mktemp("processes") / "country")
    monitor = free_port()
    patch = pytest.MonkeyPatch()
    patch.setenv("CADUCEE_SMTP__PROCESSES", str(len(PROCESSES)))
    patch.setenv("CADUCEE_SMTP__CONNECTIONS_PER_ADDRESS", "300")
    patch.setenv("CADUCEE_LISTEN__MONITOR", str(monitor))
    service = Service(country.doctors)
    try:
        await service.start()
        yield Served(service, monitor, support.plain_tls(country))
    finally:
        await service.stop()
        patch.undo()


OPEN = 'caducee_smtp_connections{service="submission-tls"}'
REFUSED = 'caducee_smtp_replies_total{code="500"'


async def test_all_processes_take_connections_and_their_figures_are_read_together(served: Served) -> None:
    before = served.sockets()
    sessions = await served.sessions(CONNECTIONS)
    taken = [now - then for now, then in zip(served.sockets(), before, strict=True)]
    assert max(taken) < CONNECTIONS, taken
    await served.figure_is(OPEN, CONNECTIONS)
    answers = await asyncio.gather(*(session.say("NONSENSE") for session in sessions))
    assert all(answer.startswith("500 5.5.1") for answer in answers)
    await served.figure_is(REFUSED, CONNECTIONS)
    for session in sessions:
        session.close()
    await served.figure_is(OPEN, 0)
    assert (await served.get("/readyz")).status_code == 200


@pytest.mark.parametrize("victim", ["mail-2", "mail"])
async def test_the_death_of_one_leaves_the_others_at_work(served: Served, victim: str) -> None:
    sessions = await served.sessions(CONNECTIONS)
    counted = await served.figure(REFUSED)
    served.service.kill(victim)
    alive = [
        one for one, lives in zip(sessions, await asyncio.gather(*(s.alive() for s in sessions)), strict=True) if lives
    ]
    assert 0 < len(alive) < CONNECTIONS
    late = await served.sessions(5)
    await served.service.wait_serving(victim)
    assert await late[0].alive()
    assert (await served.get("/healthz")).text == "ok\n"
    await served.figure_is(OPEN, len(alive) + len(late))
    assert await served.figure(REFUSED) == counted, "what the dead one had counted still counts"
    for session in (*sessions, *late):
        session.close()


async def test_a_stop_says_421_in_every_process(served: Served) -> None:
    sessions = await served.sessions(CONNECTIONS)
    pids = [served.service.pids[name] for name in PROCESSES]
    stopping = asyncio.create_task(served.service.stop())
    for session in sessions:
        assert (await session.line()).startswith("421 4.3.2")
    for session in sessions:
        session.close()
    await stopping
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
