"""Right by right (RFC 4314 §4) on a shared folder: what each lets one do, and what happens when it is taken away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from imap import ImapServer
from mailstore import MailboxKind
from tests.imap.support import ADDRESS, AT, PASSWORD, SIMPLE, Client, House

ORG = "secretariat@cabinet.mssante.fr"
SHOWN = f"Partages/{ORG}/INBOX"
MESSAGE = b"Subject: x\r\n\r\n"
MARKED = b"(\\Seen \\Flagged \\Deleted kw)"


@pytest.fixture
def shared(house: House) -> House:
    org = house.store.add_account(
        ORG, MailboxKind.ORG, display_name="Secrétariat", national_id="1690000000", password=PASSWORD, at=AT
    )
    house.store.append(org.id, "INBOX", SIMPLE, frozenset(), AT, AT)
    return house


def give(house: House, rights: str) -> None:
    org = house.store.find_account(ORG)
    assert org is not None
    house.store.set_acl(house.store.folder(org.id, "INBOX").id, ADDRESS, rights)


@asynccontextmanager
async def guest_of(house: House, server: ImapServer) -> AsyncIterator[Client]:
    client = await Client.connect(house, server)
    await client.login()
    yield client
    client.close()


async def flags_of_last(client: Client) -> set[bytes]:
    await client.command(f"s EXAMINE {SHOWN}")
    line = (await client.command("f FETCH * FLAGS"))[0]
    return set(line.partition(b"FLAGS (")[2].partition(b")")[0].split()) - {b"\\Recent"}


@pytest.mark.parametrize(
    ("rights", "kept"),
    [
        ("lri", set()),
        ("lris", {b"\\Seen"}),
        ("lrit", {b"\\Deleted"}),
        ("lriw", {b"\\Flagged", b"kw"}),
        ("lriswt", {b"\\Seen", b"\\Flagged", b"\\Deleted", b"kw"}),
    ],
)
async def test_flags_come_with_a_message_as_far_as_rights_go(shared: House, rights: str, kept: set[bytes]) -> None:
    give(shared, rights)
    async with shared.serving() as server, guest_of(shared, server) as client:
        literal = b"{%d+}\r\n%b" % (len(MESSAGE), MESSAGE)
        appended = await client.command(b"a APPEND %b %b %b" % (SHOWN.encode(), MARKED, literal))
        assert appended[-1].startswith(b"a OK [APPENDUID")
        assert await flags_of_last(client) == kept
        for verb in ("COPY", "MOVE"):
            await client.command(b"b APPEND Archives %b %b" % (MARKED, literal))
            await client.command("c SELECT Archives")
            moved = await client.command(f"d {verb} * {SHOWN}")
            assert moved[-1].startswith(b"d OK"), moved
            assert await flags_of_last(client) == kept, verb


async def test_who_may_list_and_not_read_is_told_no_counts(shared: House) -> None:
    give(shared, "l")
    async with shared.serving() as server, guest_of(shared, server) as client:
        assert (await client.command(f"a STATUS {SHOWN} (MESSAGES)"))[-1].startswith(b"a NO [NOPERM]")
        listed = await client.command('b LIST "" (INBOX Partages/*) RETURN (STATUS (MESSAGES))')
        assert sum(line.startswith(b"* STATUS") for line in listed) == 1
        assert any(SHOWN.encode() in line for line in listed)


async def test_who_may_read_and_not_list_selects_by_name(shared: House) -> None:
    give(shared, "r")
    async with shared.serving() as server, guest_of(shared, server) as client:
        assert await client.command('a LIST "" Partages*') == [b"a OK LIST completed\r\n"]
        assert (await client.command(f"b SELECT {SHOWN}"))[-1].startswith(b"b OK [READ-ONLY]")


async def test_a_right_that_is_taken_away_is_gone_at_once(shared: House) -> None:
    give(shared, "lrsw")
    async with shared.serving() as server, guest_of(shared, server) as client:
        await client.command(f"a SELECT {SHOWN}")
        give(shared, "lrs")
        assert (await client.command("b STORE 1 +FLAGS (\\Flagged)"))[-1].startswith(b"b NO [NOPERM]")
        assert (await client.command("c STORE 1 +FLAGS (\\Seen)"))[-1].startswith(b"c OK")
        give(shared, "")
        answer = await client.command("d FETCH 1 BODY.PEEK[]")
        assert answer[0].startswith(b"* OK [CLOSED]")
        assert answer[1:] == [
            "d NO [NOPERM] Ce dossier n'est plus partagé. / This folder is no longer shared.\r\n".encode()
        ]
        assert (await client.command("e FETCH 1 FLAGS"))[-1].startswith(b"e BAD")
        assert (await client.command(f"f SELECT {SHOWN}"))[-1].startswith(b"f NO [NONEXISTENT]")


async def test_an_idle_reader_is_told_nothing_more(shared: House) -> None:
    give(shared, "lr")
    org = shared.store.find_account(ORG)
    assert org is not None
    async with shared.serving() as server, guest_of(shared, server) as client:
        await client.command(f"a SELECT {SHOWN}")
        await client.send(b"b IDLE\r\n")
        assert await client.response() == b"+ idling\r\n"
        shared.store.append(org.id, "INBOX", SIMPLE, frozenset(), AT, AT)
        assert await client.response() == b"* 2 EXISTS\r\n"
        assert (await client.response()).endswith(b" RECENT\r\n")
        give(shared, "")
        shared.store.append(org.id, "INBOX", SIMPLE, frozenset(), AT, AT)
        assert (await client.response()).startswith(b"* OK [CLOSED]")
        await client.send(b"DONE\r\n")
        assert (await client.response()).startswith(b"b OK")


async def test_a_shared_folder_that_goes_is_left(shared: House) -> None:
    org = shared.store.find_account(ORG)
    assert org is not None
    shared.store.set_acl(shared.store.create_folder(org.id, "Projet").id, ADDRESS, "lr")
    async with shared.serving() as server, guest_of(shared, server) as client:
        assert (await client.command(f"a SELECT Partages/{ORG}/Projet"))[-1].startswith(b"a OK")
        shared.store.delete_folder(org.id, "Projet")
        answer = await client.command("b NOOP")
        assert answer[0].startswith(b"* OK [CLOSED]")
        assert answer[-1].startswith(b"b OK")
