"""Any bytes in any state: BAD, NO or BYE, never silence, a crash of the server, or another session's trouble."""

from __future__ import annotations

import asyncio
import random

import pytest

from imap.parser import GRAMMAR
from tests.imap.support import ADDRESS, PASSWORD, Client, House

_PIECES = [
    *(name.encode() for name in GRAMMAR),
    *(b"(", b")", b"[", b"]", b"<0.1>", b'"', b"\\", b"{3}\r\n", b"{3+}\r\n", b"~{5+}\r\n", b"{99999999999+}\r\n"),
    *(b"1:*", b"*", b"$", b"%", b"NOT", b"OR", b"BODY[", b"BINARY.PEEK[1]", b"HEADER.FIELDS (A)", b"\\Seen", b"+FLAGS"),
    *(b"RETURN (SAVE)", b"INBOX", b"&AOk-", b"1-Feb-2026", b" ", b"\x00", b"\xff\xfe", b"\r", b"\n", b"\r\n", b"a"),
    *(b"(QRESYNC (1 1 1:*", b"(CHANGEDSINCE 1 VANISHED)", b"UTF8 (~{1+}\r\nx)", b"x" * 3000, b"=", b"AAAA"),
]


def _line(dice: random.Random) -> bytes:
    if dice.random() < 0.2:
        return dice.randbytes(dice.randrange(200)).replace(b"\n", b"?") + b"\r\n"
    glue = dice.choice((b" ", b" ", b""))
    return b"x " + glue.join(dice.choice(_PIECES) for _ in range(dice.randrange(1, 9))) + b"\r\n"


async def _abuse(house: House, server: object, state: str, dice: random.Random) -> None:
    client = await Client.connect(house, server)  # type: ignore[arg-type]
    if state != "greeted":
        assert (await client.command(f'l LOGIN {ADDRESS} "{PASSWORD}"'))[-1].startswith(b"l OK")
    if state == "selected":
        assert (await client.command("s SELECT INBOX"))[-1].startswith(b"s OK")
    if state == "enabled":
        await client.command("e ENABLE IMAP4rev2 QRESYNC UTF8=ACCEPT")
        await client.command("s SELECT INBOX")
    answer = bytearray()

    async def read() -> None:
        while data := await client.reader.read(65536):
            answer.extend(data)

    reading = asyncio.create_task(read())
    try:
        for _ in range(15):
            client.writer.write(_line(dice))
            await client.writer.drain()
    except ConnectionError:
        pass
    # The server may be waiting for a literal: nothing more comes then.
    quiet = -1
    for turn in range(100):
        if reading.done() or (quiet == len(answer) and (answer or turn == 99)):
            break
        quiet = len(answer)
        await asyncio.wait([reading], timeout=0.1)
    client.writer.transport.abort()
    await asyncio.gather(reading, return_exceptions=True)
    assert answer
    for line in bytes(answer).split(b"\r\n"):
        assert b"SERVERBUG" not in line and b"Traceback" not in line, line


@pytest.mark.slow
@pytest.mark.parametrize("state", ["greeted", "logged in", "selected", "enabled"])
async def test_any_bytes_in_any_state(house: House, state: str) -> None:
    house.deliver()
    house.deliver()
    dice = random.Random(state)
    async with house.serving() as server:
        for _ in range(12):
            await _abuse(house, server, state, dice)
        client = await Client.connect(house, server)
        await client.login()
        assert (await client.command("z STATUS INBOX (MESSAGES)"))[-1].startswith(b"z OK")
        client.close()
