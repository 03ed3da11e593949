"""`kill -9` under load: two operators in processes of their own, six clients handing in messages, and 20 kills at random
instants of either side. Whatever was answered 250 is in the other operator's mailbox, once."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

import mime
from smtp import ClientError, SmtpClient
from tests.journey import smtp_victim
from tests.smtp.transcript import client_tls
from tests.smtp.world import PASSWORD, World, build, free_port, make_template, message

pytestmark = pytest.mark.slow

MESSAGES = 500
KILLS = 20
CLIENTS = 6
SEED = 20261121
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.journey.smtp_victim"])


class Victim:
    """One operator's process."""

    def __init__(self, folder: Path, name: str, port: int, peer_port: int) -> None:
        self._arguments = (str(folder), name, port, peer_port)
        self._port = port
        self._process: BaseProcess | None = None

    async def start(self) -> None:
        self._process = _FORKS.Process(target=smtp_victim.serve, args=self._arguments, daemon=True)
        self._process.start()
        async with asyncio.timeout(60):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self._port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return

    async def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        await asyncio.to_thread(self._process.join)


async def _client(world: World, port: int, numbers: list[int]) -> None:
    """A gateway: sends each message again, byte for byte, until it hears 250."""
    tls, login = client_tls(world.a.services.trust), "alice@a.mssante.fr"
    client: SmtpClient | None = None
    for number in numbers:
        content = message(login, "x", message_id=f"k{number}@test", body=f"corps {number}\r\n" * 20)
        while True:
            try:
                if client is None:
                    client = await SmtpClient.connect("127.0.0.1", port, hostname="g", tls=tls)
                    await client.login_plain(login, PASSWORD)
                answers = await client.send(login, ["bob@b.mssante.fr"], content)
                if answers["bob@b.mssante.fr"].ok:
                    break
                assert not answers["bob@b.mssante.fr"].permanent, answers
            except ClientError:
                if client is not None:
                    client.close()
                client = None
            await asyncio.sleep(0.02)
    if client is not None:
        await client.quit()


async def test_every_250_is_delivered_once(tmp_path: Path) -> None:
    template = tmp_path / "template"
    template.mkdir()
    make_template(template)
    world = build(template, tmp_path / "world")
    ports = {"a": free_port(), "b": free_port()}
    victims = [Victim(tmp_path / "world", name, ports[name], ports["b"]) for name in "ab"]
    for victim in victims:
        await victim.start()
    chance = random.Random(SEED)
    shares = [list(range(first, MESSAGES, CLIENTS)) for first in range(CLIENTS)]
    work = [asyncio.create_task(_client(world, ports["a"], share)) for share in shares]
    for number in range(KILLS):
        await asyncio.sleep(chance.uniform(0.05, 0.4))
        victim = victims[number % 2]
        await victim.kill()
        await victim.start()
    async with asyncio.timeout(120):
        await asyncio.gather(*work)
        while world.a.store.queue():
            for row in world.a.store.queue():
                world.a.store.retry_now([row.row_id], "test", world.clock.now)
            await asyncio.sleep(0.2)
    for victim in victims:
        await victim.kill()
    found = Counter(mime.parse(raw).get("message-id") for raw in world.b.inbox("bob"))
    assert found == Counter(f"<k{number}@test>" for number in range(MESSAGES))
    world.a.store.close()
    world.b.store.close()
