"""Rules of the standards that ordinary clients seldom meet, and that a strict reader of the standards tries first."""

from __future__ import annotations

import pytest

from tests.imap.support import MULTIPART, Client, House


async def test_a_conditional_store_tells_each_modseq(house: House) -> None:
    """RFC 7162 §3.1.3: with .SILENT too, and when the flags were so already."""
    house.deliver(flags=frozenset({"\\Seen"}))
    async with house.serving() as server:
        client = await Client.connect(house, server)
        await client.login()
        await client.command("a SELECT INBOX (CONDSTORE)")
        modseq = (await client.command("b FETCH 1 MODSEQ"))[0].partition(b"MODSEQ (")[2].partition(b")")[0].decode()
        answer = await client.command(f"c STORE 1 (UNCHANGEDSINCE {modseq}) +FLAGS.SILENT (\\Seen)")
        assert answer == [f"* 1 FETCH (UID 1 MODSEQ ({modseq}))\r\n".encode(), b"c OK STORE completed\r\n"]
        assert await client.command("d STORE 1 +FLAGS.SILENT (\\Seen)") == [b"d OK STORE completed\r\n"]
        client.close()


async def test_an_unknown_charset_forgets_what_was_saved(house: House) -> None:
    """RFC 5182 §2.1: a SEARCH with SAVE that is answered NO leaves `$` empty; one that is BAD leaves it as it was."""
    house.deliver()
    async with house.serving() as server:
        client = await Client.connect(house, server)
        await client.login()
        await client.command("a SELECT INBOX")
        await client.command("b SEARCH RETURN (SAVE) ALL")
        assert (await client.command("c SEARCH RETURN (SAVE) CHARSET x-none FOO"))[-1].startswith(b"c BAD")
        assert (await client.command("d SEARCH CHARSET x-none ALL"))[-1].startswith(b"d NO [BADCHARSET (")
        assert (await client.command("e SEARCH $"))[0] == b"* SEARCH 1\r\n"
        answer = await client.command(b'f SEARCH RETURN (SAVE) CHARSET x-none SUBJECT "\xff"')
        assert answer[-1].startswith(b"f NO [BADCHARSET (US-ASCII UTF-8)]")
        assert (await client.command("g SEARCH $"))[0] == b"* SEARCH\r\n"
        client.close()


@pytest.mark.parametrize(("enabled", "expected"), [("UTF8=ACCEPT", b"b BAD"), ("IMAP4rev2", b"b OK")])
async def test_no_charset_after_utf8_accept(house: House, enabled: str, expected: bytes) -> None:
    """RFC 6855 §3; RFC 9051 §6.4.4 keeps CHARSET."""
    async with house.serving() as server:
        client = await Client.connect(house, server)
        await client.login()
        await client.command(f"e ENABLE {enabled}")
        await client.command("a SELECT INBOX")
        assert (await client.command("b SEARCH CHARSET UTF-8 ALL"))[-1].startswith(expected)
        assert (await client.command("c SORT (DATE) UTF-8 ALL"))[-1].startswith(b"c OK")
        client.close()


async def test_binary_takes_part_numbers_only(house: House) -> None:
    """RFC 3516 §7: `section-binary`."""
    house.deliver(MULTIPART)
    async with house.serving() as server:
        client = await Client.connect(house, server)
        await client.login()
        await client.command("a SELECT INBOX")
        for item in ("BINARY[HEADER]", "BINARY.PEEK[1.MIME]", "BINARY.SIZE[TEXT]", "BINARY.SIZE[1]<0.1>", "BINARY[1.]"):
            assert (await client.command(f"b FETCH 1 {item}"))[-1].startswith(b"b BAD"), item
        assert await client.command("c FETCH 1 BINARY.SIZE[3]") == [
            b"* 1 FETCH (BINARY.SIZE[3] 4)\r\n",
            b"c OK FETCH completed\r\n",
        ]
        client.close()


async def test_list_tells_of_what_is_below(house: House) -> None:
    """RFC 5258 §3.5: parents are told of whether they exist or not, and by which option their children were chosen."""
    async with house.serving() as server:
        client = await Client.connect(house, server)
        await client.login()
        for command in ("SUBSCRIBE absent/deux/trois", "CREATE haut/bas (USE (\\All))", "SUBSCRIBE haut/bas"):
            assert (await client.command(f"a {command}"))[-1].startswith(b"a OK")
        for selection, line in (
            ("SUBSCRIBED", b'* LIST (\\HasNoChildren \\NonExistent) "/" absent ("CHILDINFO" ("SUBSCRIBED"))\r\n'),
            ("SPECIAL-USE", b'* LIST (\\HasChildren) "/" haut ("CHILDINFO" ("SPECIAL-USE"))\r\n'),
            (
                "SUBSCRIBED SPECIAL-USE",
                b'* LIST (\\HasChildren) "/" haut ("CHILDINFO" ("SUBSCRIBED" "SPECIAL-USE"))\r\n',
            ),
        ):
            assert line in await client.command(f'b LIST ({selection} RECURSIVEMATCH) "" "%"'), selection
        assert (await client.command('c LIST "" "*" RETURN (STATUS ())'))[-1].startswith(b"c BAD")
        client.close()


async def test_a_removal_that_may_not_be_told_yet_is_not_lost(house: House) -> None:
    """RFC 7162 §3.2: while VANISHED waits, modseqs beyond its own are told; HIGHESTMODSEQ says from where to resume."""
    house.deliver()
    house.deliver()
    folder = house.store.folder(house.account.id, "INBOX")
    async with house.serving() as server:
        client = await Client.connect(house, server)
        await client.login()
        await client.command("a ENABLE QRESYNC")
        selected = b"".join(await client.command("b SELECT INBOX"))
        validity, modseq = (
            int(selected.partition(name)[2].partition(b"]")[0]) for name in (b"UIDVALIDITY", b"HIGHESTMODSEQ")
        )
        house.store.expunge(folder.id, [1])
        answer = await client.command("c STORE 2 +FLAGS (\\Flagged)")
        assert b"MODSEQ (%d)" % (modseq + 2) in answer[0]
        assert answer[1:] == [
            b"* OK [HIGHESTMODSEQ %d] Removals are still to be told\r\n" % modseq,
            b"c OK STORE completed\r\n",
        ]
        client.close()
        again = await Client.connect(house, server)
        await again.login()
        await again.command("a ENABLE QRESYNC")
        assert b"* VANISHED (EARLIER) 1\r\n" in await again.command(f"b SELECT INBOX (QRESYNC ({validity} {modseq}))")
        house.store.expunge(folder.id, [2])
        assert (await again.command("c NOOP"))[0] == b"* VANISHED 2\r\n"
        again.close()
