"""Several sessions, and several processes' stores, on one folder."""

from __future__ import annotations

import asyncio
import time

import pytest

from imap.wire import Wire
from tests.imap.support import AT, SIMPLE, Client, House


async def _selected(house: House, server: object) -> Client:
    client = await Client.connect(house, server)  # type: ignore[arg-type]
    await client.login()
    await client.command("s SELECT INBOX")
    return client


async def test_idle_sees_a_delivery_by_another_store_instance(house: House) -> None:
    other = house.open_again()
    async with house.serving() as server:
        client = await _selected(house, server)
        await client.send(b"i IDLE\r\n")
        assert (await client.response()).startswith(b"+ ")
        began = time.monotonic()
        await asyncio.to_thread(other.append, house.account.id, "INBOX", SIMPLE, frozenset(), AT, AT)
        assert await client.response() == b"* 1 EXISTS\r\n"
        assert time.monotonic() - began < 1.5
        assert await client.response() == b"* 1 RECENT\r\n"
        await client.send(b"DONE\r\n")
        assert (await client.response()).startswith(b"i OK")
        client.close()
    other.close()


async def test_idle_sees_flags_and_expunges_of_another_session(house: House) -> None:
    house.deliver()
    house.deliver()
    async with house.serving() as server:
        idler, worker = await _selected(house, server), await _selected(house, server)
        await idler.send(b"i IDLE\r\n")
        await idler.response()
        await worker.command("a STORE 1 +FLAGS.SILENT (\\Deleted)")
        assert await idler.response() == b"* 1 FETCH (UID 1 FLAGS (\\Deleted))\r\n"
        await worker.command("b EXPUNGE")
        assert await idler.response() == b"* 1 EXPUNGE\r\n"
        await idler.send(b"nonsense\r\n")
        assert (await idler.response()).startswith(b"i BAD")
        idler.close()
        worker.close()


async def test_what_comes_of_a_command_is_acknowledged_at_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """imaplib sends a literal, then its line end: its system keeps that until our ACK (Nagle), and ours kept the ACK 40 ms.
    Between commands nothing is hastened."""
    hastened: list[str] = []
    now = "between commands"
    monkeypatch.setattr(Wire, "hasten", lambda _wire: hastened.append(now))
    async with house.serving() as server:
        client = await _selected(house, server)
        await client.command("a NOOP")
        assert hastened == []
        for now, octets, answer in (
            ("a line in two", b"b APPEND IN", None),
            ("the rest of it", b"BOX {%d}\r\n" % len(SIMPLE), b"+ "),
            ("before the line end", SIMPLE, None),
        ):
            await client.send(octets)
            if answer:
                assert (await client.response()).startswith(answer)
            async with asyncio.timeout(10):
                while now not in hastened:
                    await asyncio.sleep(0.002)
        await client.send(b"\r\n")
        while not (await client.response()).startswith(b"b OK"):
            pass
        client.close()


async def test_expunge_waits_for_a_command_that_allows_it(house: House) -> None:
    for _ in range(3):
        house.deliver()
    async with house.serving() as server:
        first, second = await _selected(house, server), await _selected(house, server)
        await second.command("a STORE 1 +FLAGS.SILENT (\\Deleted)")
        await second.command("b EXPUNGE")
        # Sequence numbers are still those the client knows: 3 is the third message.
        answer = await first.command("c FETCH 3 UID")
        assert answer == [b"* 3 FETCH (UID 3)\r\n", b"c OK FETCH completed\r\n"]
        assert await first.command("d SEARCH ALL") == [b"* SEARCH 1 2 3\r\n", b"d OK SEARCH completed\r\n"]
        assert (await first.command("e STORE 3 +FLAGS.SILENT (\\Seen)"))[-1].startswith(b"e OK")
        assert await first.command("f NOOP") == [b"* 1 EXPUNGE\r\n", b"f OK NOOP completed\r\n"]
        assert (await first.command("g FETCH 2 (UID FLAGS)"))[0] == b"* 2 FETCH (UID 3 FLAGS (\\Seen))\r\n"
        first.close()
        second.close()


async def test_two_sessions_racing_end_with_the_same_folder(house: House) -> None:
    for _ in range(20):
        house.deliver()
    async with house.serving() as server:
        first, second = await _selected(house, server), await _selected(house, server)

        async def work(client: Client, flag: str, offset: int) -> None:
            for uid in range(1 + offset, 21, 2):
                await client.command(f"a UID STORE {uid} +FLAGS ({flag})")
                await client.command(f"b UID STORE {21 - uid} +FLAGS ({flag})")
                await client.command(f"c UID MOVE {uid} Archives" if uid % 5 == 0 else "c EXPUNGE")

        await asyncio.gather(work(first, "one", 0), work(second, "two", 1))
        for client in (first, second):
            await client.command("n NOOP")
        seen = [await client.command("f UID FETCH 1:* (FLAGS)") for client in (first, second)]
        assert seen[0] == seen[1] and len(seen[0]) == 17
        assert all(b"(one two)" in line for line in seen[0][:-1] if b"UID 5 " not in line)
        first.close()
        second.close()


async def test_a_deleted_folder_ends_the_sessions_in_it(house: House) -> None:
    async with house.serving() as server:
        first, second = await Client.connect(house, server), await Client.connect(house, server)
        await first.login()
        await second.login()
        await first.command("a SELECT Archives")
        await first.send(b"i IDLE\r\n")
        await first.response()
        assert (await second.command("b DELETE Archives"))[-1].startswith(b"b OK")
        assert (await first.response()).startswith(b"* BYE The selected folder was deleted")
        second.close()


async def test_stop_says_goodbye(house: House) -> None:
    async with house.serving() as server:
        client = await _selected(house, server)
    assert (await client.response()).startswith(b"* BYE [UNAVAILABLE]")
