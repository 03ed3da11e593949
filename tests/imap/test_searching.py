"""What a professional looks for, asked over the wire: words of a text, names of attachments; and what BINARY takes in."""

from __future__ import annotations

import asyncio

import pytest

from imap import warming
from tests.imap.support import MULTIPART, SIMPLE, Client, House

NAMED = (
    b"Subject: envoi\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: application/pdf\r\n"
    b"Content-Disposition: attachment; filename*=utf-8''biopsie%20h%C3%A9patique.pdf\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\nJVBERg==\r\n--b--\r\n"
)


async def _find(client: Client, keys: str) -> bytes:
    *_, answer, done = await client.command(f"s UID SEARCH {keys}")
    assert done.startswith(b"s OK"), done
    return answer.removeprefix(b"* SEARCH").strip()


async def test_attachments_are_found_by_their_names(house: House) -> None:
    for content in (SIMPLE, MULTIPART, NAMED):
        house.deliver(content)
    async with house.serving() as server:
        client = await Client.connect(house, server)
        await client.login()
        await client.command("a SELECT INBOX")
        for asked in range(2):  # the first search reads the messages, the second asks the index
            assert await _find(client, "TEXT cr.pdf") == b"2", asked
            assert await _find(client, "BODY CR.PDF") == b"2"
            assert await _find(client, "CHARSET UTF-8 TEXT {16+}\r\nbiopsie h\u00e9patiq") == b"3"
            assert await _find(client, "BODY .pdf") == b"2 3"
            assert await _find(client, "HEADER Subject .pdf") == b""
            assert await _find(client, "NOT TEXT .pdf") == b"1"
        client.close()


async def test_a_large_folder_is_warmed_when_it_is_selected(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warming, "FROM", 2)
    house.deliver(SIMPLE)
    house.deliver(MULTIPART)
    house.store.index_pending(10)
    blobs = house.store.view(house.store.folder(house.account.id, "INBOX").id).blobs
    async with house.serving() as server:
        client = await Client.connect(house, server)
        await client.login()
        assert house.store._signatures.missing(blobs) == blobs
        await client.command("a SELECT INBOX")
        async with asyncio.timeout(10):
            while house.store._signatures.missing(blobs):
                await asyncio.sleep(0.01)
        client.close()


async def test_binary_content_comes_exactly_or_not_at_all(house: House) -> None:
    """RFC 3516 §4.3.1: a literal8 is taken octet for octet; with NUL it is refused by UNKNOWN-CTE, and nothing stays."""
    octets = b"Content-Transfer-Encoding: binary\r\n\r\n" + bytes(range(1, 256)) + b"\n\r\xff\r\n"
    async with house.serving() as server:
        client = await Client.connect(house, server)
        await client.login()
        answer = await client.command(b"a APPEND INBOX ~{%d+}\r\n%b" % (len(octets), octets))
        assert answer[-1].startswith(b"a OK [APPENDUID")
        for literal, code in ((b"~{%d+}", b"UNKNOWN-CTE"), (b"{%d+}", b"CANNOT")):
            bad = octets + b"\x00"
            answer = await client.command(b"b APPEND INBOX " + literal % len(bad) + b"\r\n" + bad)
            assert answer[-1].startswith(b"b NO [" + code + b"]"), answer
        assert b"1 EXISTS" in b"".join(await client.command("c SELECT INBOX"))
        assert octets in (await client.command("d FETCH 1 BODY.PEEK[]"))[0]
        body = octets.partition(b"\r\n\r\n")[2]
        found = (await client.command("e FETCH 1 BINARY.PEEK[1]"))[0]
        assert found.endswith(b"{%d}\r\n%b)\r\n" % (len(body), body)), found
        client.close()


async def test_a_folded_field_is_one_line(house: House) -> None:
    """Some programs fold with tabs; the words on both sides of a fold follow each other (RFC 5322 §2.2.3)."""
    house.deliver(b"Subject: R\xc3\xa9sultats\r\n\tdu bilan\r\nX-List: a\tb\r\n\r\nglyc\xc3\xa9mie\tnormale\r\n")
    async with house.serving() as server:
        client = await Client.connect(house, server)
        await client.login()
        await client.command("a SELECT INBOX")
        for key, found in (
            ('SUBJECT "resultats du bilan"', True),
            ('TEXT "resultats du bilan"', True),
            ('HEADER X-List "a b"', True),
            ('HEADER X-List "a\tb"', True),
            ('BODY "glycemie\tnormale"', True),
            ('BODY "glycemie normale"', False),
        ):
            answer = b"* SEARCH 1\r\n" if found else b"* SEARCH\r\n"
            assert (await client.command(f"b SEARCH {key}"))[0] == answer, key
        client.close()
