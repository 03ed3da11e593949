"""Several clients at once: any interleaving of two sessions, a random crowd whose end is known, and kill -9 in the middle.

`CADUCEE_IMAP_STRESS=7200` makes the crowd work for two hours; the suite gives it a few seconds.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import multiprocessing.connection
import os
import random
import re
import signal
import ssl
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imap import ImapServer
from tests.imap.shadow import Shadow
from tests.imap.support import ADDRESS, AT, PASSWORD, Client, House, make_house, open_house

SECONDS = float(os.environ.get("CADUCEE_IMAP_STRESS", "4"))
_COMMANDS = (
    "NOOP",
    "STORE 1 +FLAGS (\\Deleted)",
    "STORE 1:* FLAGS (\\Seen)",
    "STORE 2 -FLAGS.SILENT (\\Deleted)",
    "UID STORE 3 +FLAGS (one)",
    "EXPUNGE",
    "UID EXPUNGE 1:3",
    "FETCH 1:* (FLAGS)",
    "UID FETCH 1:* (FLAGS)",
    "FETCH 1 BODY[TEXT]",
    "SEARCH DELETED",
    "UID SEARCH UNSEEN",
    "MOVE 1 Archives",
    "UID MOVE 2 Archives",
    "COPY 1 INBOX",
    "APPEND INBOX {14+}\r\nSubject: x\r\n\r\n",
    "CHECK",
)


async def _shadow(house: House, server: ImapServer, folder: str = "INBOX") -> Shadow:
    client = await Client.connect(house, server)
    await client.login()
    shadow = Shadow(client)
    await shadow.select(folder)
    return shadow


@pytest.mark.slow
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(st.tuples(st.booleans(), st.sampled_from(_COMMANDS)), max_size=25))
def test_any_interleaving_of_two_sessions(model_house: Path, steps: list[tuple[bool, str]]) -> None:
    asyncio.run(_interleave(model_house, steps))


async def _interleave(model: Path, steps: list[tuple[bool, str]]) -> None:
    import shutil

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "house"
        shutil.copytree(model, folder)
        house = open_house(folder)
        for _ in range(4):
            house.deliver()
        async with house.serving() as server:
            pair = [await _shadow(house, server), await _shadow(house, server)]
            for second, command in steps:
                await pair[second].command(command)
            for shadow in pair:
                await shadow.check()
            assert pair[0].uids == pair[1].uids and pair[0].flags == pair[1].flags
            for shadow in pair:
                shadow.client.close()
        house.store.close()


class Worker:
    """A client of the crowd. It flags any message with its own keyword, and moves and removes its own ones only: what must
    be at the end is therefore known, whatever the order of things."""

    def __init__(self, number: int, shadow: Shadow, crowd: Crowd) -> None:
        self.number = number
        self.shadow = shadow
        self.crowd = crowd
        self.random = random.Random(number)
        self.serial = 0

    async def step(self) -> None:
        action = self.random.choice((self.append, self.append, self.flag, self.flag, self.move, self.remove, self.look))
        await action()

    async def append(self) -> None:
        self.serial += 1
        name = f"w{self.number}m{self.serial}"
        raw = f"Subject: {name}\r\n\r\n".encode()
        answer = await self.shadow.command(b"APPEND INBOX {%d+}\r\n%b" % (len(raw), raw))
        found = re.search(rb"APPENDUID \d+ (\d+)", answer[-1])
        assert found, answer
        self.crowd.mine[self.number][int(found[1])] = name
        self.crowd.present[name] = "INBOX"

    async def flag(self) -> None:
        known = [uid for uid in self.shadow.uids if uid is not None]
        if known:
            await self.shadow.command(f"UID STORE {self.random.choice(known)} +FLAGS (k{self.number})")

    def _own(self) -> int | None:
        mine = list(self.crowd.mine[self.number])
        return self.random.choice(mine) if mine else None

    async def move(self) -> None:
        uid = self._own()
        if uid is not None:
            answer = await self.shadow.command(f"UID MOVE {uid} Archives")
            assert any(b"COPYUID" in line for line in answer), answer
            self.crowd.present[self.crowd.mine[self.number].pop(uid)] = "Archives"

    async def remove(self) -> None:
        uid = self._own()
        if uid is not None:
            for command in (f"UID STORE {uid} +FLAGS.SILENT (\\Deleted)", f"UID EXPUNGE {uid}"):
                assert b" OK " in (await self.shadow.command(command))[-1]
            del self.crowd.present[self.crowd.mine[self.number].pop(uid)]

    async def look(self) -> None:
        await self.shadow.command(self.random.choice(("NOOP", "UID FETCH 1:* (FLAGS)", "SEARCH UNDELETED", "CHECK")))


class Crowd:
    """The model: which message is where, and whose."""

    def __init__(self, size: int) -> None:
        self.mine: list[dict[int, str]] = [{} for _ in range(size)]
        self.present: dict[str, str] = {}


def _in_store(house: House) -> dict[str, str]:
    """Subject to folder, of every message; fails on a double."""
    found: list[tuple[str, str]] = []
    for name in ("INBOX", "Archives"):
        view = house.store.view(house.store.folder(house.account.id, name).id)
        found += [(house.store.read_blob(blob).decode()[9:].strip(), name) for blob in view.blobs]
    assert max(Counter(subject for subject, _ in found).values(), default=1) == 1
    return dict(found)


@pytest.mark.slow
async def test_a_crowd_ends_as_the_model_says(house: House) -> None:
    crowd = Crowd(5)
    async with house.serving() as server:
        workers = [Worker(number, await _shadow(house, server), crowd) for number in range(5)]
        end = time.monotonic() + SECONDS

        async def work(worker: Worker) -> None:
            while time.monotonic() < end:
                await worker.step()

        await asyncio.gather(*map(work, workers))
        for worker in workers:
            await worker.shadow.check()
        assert all(worker.shadow.uids == workers[0].shadow.uids for worker in workers)
        assert all(worker.shadow.flags == workers[0].shadow.flags for worker in workers)
        for worker in workers:
            worker.shadow.client.close()
    assert _in_store(house) == crowd.present


def _serve(folder: str, ready: multiprocessing.connection.Connection) -> None:
    house = open_house(Path(folder))

    async def run() -> None:
        server = ImapServer(house.store, house.context, port_tls=0, clock=lambda: AT)
        await server.start()
        ready.send(server.ports[0])
        await asyncio.Event().wait()

    asyncio.run(run())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_kill_9_loses_and_doubles_nothing(tmp_path: Path, seed: int) -> None:
    """What was answered OK is there; what was under way is done wholly or not at all; nothing is there twice."""
    make_house(tmp_path)
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(str(tmp_path), theirs))
    process.start()
    port = await asyncio.to_thread(ours.recv)
    context = ssl.create_default_context(cafile=str(tmp_path / "server.pem"))
    crowd = Crowd(3)
    workers = []
    for number in range(3):
        client = await Client.open("127.0.0.1", port, context)
        assert (await client.command(f'l LOGIN {ADDRESS} "{PASSWORD}"'))[-1].startswith(b"l OK")
        shadow = Shadow(client)
        await shadow.select("INBOX")
        workers.append(Worker(number * 10 + seed, shadow, crowd))
        workers[-1].number = number
    under_way: set[str] = set()

    async def work(worker: Worker) -> None:
        try:
            while True:
                await worker.step()
        except (AssertionError, ConnectionError, IndexError, asyncio.IncompleteReadError):
            # The command that the kill met: its message may be in either state.
            under_way.add(f"w{worker.number}m{worker.serial}")
            under_way.update(crowd.mine[worker.number].values())

    tasks = [asyncio.create_task(work(worker)) for worker in workers]
    await asyncio.sleep(1.0 + seed * 0.37)
    os.kill(process.pid or 0, signal.SIGKILL)
    await asyncio.gather(*tasks)
    process.join(10)
    house = open_house(tmp_path)
    found = _in_store(house)
    certain = {name: folder for name, folder in crowd.present.items() if name not in under_way}
    assert certain and all(found.get(name) == folder for name, folder in certain.items())
    # Of each client, one command at most was under way: its message is the only one that may differ.
    both = {name: (found.get(name), crowd.present.get(name)) for name in found.keys() | crowd.present.keys()}
    differing = {name: pair for name, pair in both.items() if pair[0] != pair[1]}
    assert all(sum(name.startswith(f"w{number}m") for name in differing) <= 1 for number in range(3)), differing
    house.store.close()


@pytest.mark.slow
async def test_a_client_that_disappears_in_the_middle_of_a_message_leaves_nothing(house: House) -> None:
    async with house.serving() as server:
        for _ in range(5):
            client = await Client.connect(house, server)
            await client.login()
            await client.send(b"a APPEND INBOX {1000000+}\r\n" + b"x" * 300_000)
            await asyncio.sleep(0.05)
            client.writer.transport.abort()
        async with asyncio.timeout(10):
            while server._sessions:
                await asyncio.sleep(0.02)
    assert house.store.folder(house.account.id, "INBOX").total == 0
    assert [path for path in (house.folder / "blobs").glob("??/*") if path.is_file()] == []
