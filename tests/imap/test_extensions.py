"""Extensions that need more than one mailbox, more than a password, or another wire: ACL, EXTERNAL, bearer tokens, COMPRESS."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ssl
import zlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from imap import ImapServer
from mailstore import Account, MailboxKind
from mailstore.model import SeveralMailboxes
from tests.imap.support import ADDRESS, AT, PASSWORD, SIMPLE, Client, House, make_certificate

OTHER = "secretariat@cabinet.mssante.fr"


def _shared(house: House) -> Account:
    """An ORG mailbox whose INBOX our professional may read and mark."""
    org = house.store.add_account(
        OTHER, MailboxKind.ORG, display_name="Secrétariat", national_id="1690000000", password=PASSWORD, at=AT
    )
    house.store.append(org.id, "INBOX", SIMPLE, frozenset(), AT, AT)
    return org


async def _log_in(house: House, server: ImapServer, address: str) -> Client:
    client = await Client.connect(house, server)
    assert (await client.command(f'l LOGIN {address} "{PASSWORD}"'))[-1].startswith(b"l OK")
    return client


async def test_a_shared_mailbox_each_with_their_own_seen(house: House) -> None:
    _shared(house)
    async with house.serving() as server:
        owner, guest = await _log_in(house, server, OTHER), await _log_in(house, server, ADDRESS)
        shown = f"Partages/{OTHER}/INBOX"
        assert (await guest.command(f'a SELECT "{shown}"'))[-1].startswith(b"a NO [NONEXISTENT]")
        assert (await owner.command(f"a SETACL INBOX {ADDRESS} lrs"))[-1].startswith(b"a OK")
        listed = await guest.command('b LIST "" "Partages/*"')
        assert f'* LIST (\\HasNoChildren) "/" Partages/{OTHER}/INBOX\r\n'.encode() in listed
        assert (await guest.command(f"c MYRIGHTS {shown}"))[0] == f"* MYRIGHTS {shown} lrs\r\n".encode()
        assert (await guest.command(f"d SELECT {shown}"))[-1].startswith(b"d OK [READ-WRITE]")
        assert (await guest.command("e FETCH 1 BODY[TEXT]"))[-1].startswith(b"e OK")
        assert b"\\Seen" in (await guest.command("f FETCH 1 FLAGS"))[0]
        await owner.command("g SELECT INBOX")
        assert b"\\Seen" not in (await owner.command("h FETCH 1 FLAGS"))[0]
        # No right: not to delete, nor to add, nor to administer, nor to flag.
        for command in (
            "STORE 1 +FLAGS (\\Deleted)",
            "STORE 1 +FLAGS (\\Flagged)",
            "EXPUNGE",
            "UID MOVE 1 INBOX",
            f"GETACL {shown}",
            f"DELETE {shown}",
            f"CREATE Partages/{OTHER}/x",
        ):
            assert (await guest.command(f"i {command}"))[-1].startswith(b"i NO [NOPERM]"), command
        assert (await guest.command(f"j APPEND {shown} {{14+}}\r\nSubject: x\r\n\r\n"))[-1].startswith(b"j NO [NOPERM]")
        # To copy out is to read.
        assert (await guest.command("k COPY 1 Archives"))[-1].startswith(b"k OK [COPYUID")
        assert (await owner.command(f"l SETACL INBOX {ADDRESS} +t"))[-1].startswith(b"l OK")
        assert (await owner.command(f"m DELETEACL INBOX {ADDRESS}"))[-1].startswith(b"m OK")
        assert (await guest.command(f"n STATUS {shown} (MESSAGES)"))[-1].startswith(b"n NO [NONEXISTENT]")
        owner.close()
        guest.close()


def _context_asking(house: House) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(house.folder / "server.pem", house.folder / "server.key")
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


async def test_external_is_bound_to_the_key(house: House, tmp_path: Path) -> None:
    make_certificate(tmp_path)
    certificate = x509.load_pem_x509_certificate((tmp_path / "server.pem").read_bytes())
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    context = _context_asking(house)
    context.load_verify_locations(tmp_path / "server.pem")
    async with house.serving(context=context) as server:
        plain = await Client.connect(house, server)
        assert b"AUTH=EXTERNAL" not in (await plain.command("a CAPABILITY"))[0]
        assert (await plain.command("b AUTHENTICATE EXTERNAL ="))[-1].startswith(b"b NO [AUTHENTICATIONFAILED]")
        plain.close()
        client_context = house.client_context()
        client_context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
        # A certificate the server finds good, and no mailbox has its key.
        for registered, identity, expected in (
            (False, b"", b"c NO [AUTHENTICATIONFAILED]"),
            (True, b"other@medecin.mssante.fr", b"c NO [AUTHENTICATIONFAILED]"),
            (True, b"", b"c OK [CAPABILITY"),
            (True, ADDRESS.encode(), b"c OK [CAPABILITY"),
        ):
            if registered:
                house.store.set_client_key(ADDRESS, hashlib.sha256(key).digest())
            client = await Client.open("127.0.0.1", server.ports[0], client_context)
            assert b"AUTH=EXTERNAL" in (await client.command("a CAPABILITY"))[0]
            response = base64.b64encode(identity).decode() or "="
            assert (await client.command(f"c AUTHENTICATE EXTERNAL {response}"))[-1].startswith(expected)
            client.close()


@pytest.mark.parametrize("mechanism", ["OAUTHBEARER", "XOAUTH2"])
async def test_bearer_tokens(house: House, mechanism: str) -> None:
    def verify(address: str, token: str, at: datetime) -> Account | None:
        assert at == AT
        if token == "several.token":
            raise SeveralMailboxes("Plusieurs boîtes. / Several mailboxes.")
        return house.account if token == "good.token" and address in ("", ADDRESS) else None

    def response(token: str, address: str = ADDRESS) -> str:
        text = f"user={address}\x01auth=Bearer {token}\x01\x01"
        if mechanism == "OAUTHBEARER":
            text = f"n,a={address},\x01host=x\x01port=993\x01auth=Bearer {token}\x01\x01"
        return base64.b64encode(text.encode()).decode()

    async with house.serving(tokens=verify) as server:
        client = await Client.connect(house, server)
        assert f"AUTH={mechanism}".encode() in (await client.command("a CAPABILITY"))[0]
        await client.send(f"b AUTHENTICATE {mechanism} {response('bad')}\r\n".encode())
        challenge = await client.response()
        assert challenge.startswith(b"+ ") and b"invalid_token" in base64.b64decode(challenge[2:])
        await client.send(b"AQ==\r\n")
        assert (await client.response()).startswith(b"b NO [AUTHENTICATIONFAILED]")
        for malformed in ("AAAA", base64.b64encode(b"n,,\x01auth=Basic x\x01\x01").decode()):
            assert (await client.command(f"c AUTHENTICATE {mechanism} {malformed}"))[-1].startswith(b"c BAD")
        refused = (await client.command(f"e AUTHENTICATE {mechanism} {response('several.token', '')}"))[-1]
        assert refused.startswith("e NO [AUTHORIZATIONFAILED] Plusieurs boîtes".encode())
        await client.send(f"d AUTHENTICATE {mechanism}\r\n".encode())
        assert await client.response() == b"+ \r\n"
        await client.send(response("good.token", "").encode() + b"\r\n")
        assert (await client.response()).startswith(b"d OK [CAPABILITY")
        client.close()


async def test_bearer_tokens_are_not_offered_without_a_verifier(house: House) -> None:
    async with house.serving() as server:
        client = await Client.connect(house, server)
        assert b"BEARER" not in (await client.command("a CAPABILITY"))[0]
        assert (await client.command("b AUTHENTICATE XOAUTH2 dXNlcj14AWF1dGg9QmVhcmVyIHgBAQ=="))[-1].startswith(b"b NO")
        client.close()


class Deflated:
    """The client's side of COMPRESS."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.out = zlib.compressobj(wbits=-15)
        self.into = zlib.decompressobj(wbits=-15)
        self.text = b""

    async def command(self, text: bytes) -> bytes:
        await self.client.send(self.out.compress(text + b"\r\n") + self.out.flush(zlib.Z_SYNC_FLUSH))
        tag = text.split(b" ", 1)[0]
        async with asyncio.timeout(10):
            while not any(line.startswith(tag + b" ") for line in self.text.splitlines()):
                data = await self.client.reader.read(65536)
                assert data
                self.text += self.into.decompress(data)
        text, self.text = self.text, b""
        return text


async def test_compress(house: House) -> None:
    house.deliver()
    async with house.serving(compress=True) as server:
        client = await Client.connect(house, server)
        await client.login()
        assert b"COMPRESS=DEFLATE" in (await client.command("a CAPABILITY"))[0]
        assert (await client.command("b COMPRESS LZ4"))[-1].startswith(b"b NO")
        assert (await client.command("c COMPRESS DEFLATE"))[-1].startswith(b"c OK")
        deflated = Deflated(client)
        assert b"COMPRESS" not in await deflated.command(b"d CAPABILITY")
        assert b"* 1 EXISTS" in await deflated.command(b"e SELECT INBOX")
        assert SIMPLE in await deflated.command(b"f FETCH 1 BODY.PEEK[]")
        assert b"g NO [COMPRESSIONACTIVE]" in await deflated.command(b"g COMPRESS DEFLATE")
        client.close()


async def test_a_compressed_flood_is_bounded(house: House) -> None:
    """A kilobyte that stands for a megabyte of one line ends the session, as the line itself would."""
    async with house.serving(compress=True) as server:
        client = await Client.connect(house, server)
        await client.login()
        await client.command("c COMPRESS DEFLATE")
        flood = zlib.compressobj(wbits=-15)
        await client.send(flood.compress(b"a" * 300_000_000) + flood.flush())
        answer = zlib.decompressobj(wbits=-15).decompress(await client.reader.read())
        assert answer.startswith(b"* BYE")
    async with house.serving(compress=True) as server:
        client = await Client.connect(house, server)
        await client.login()
        await client.command("c COMPRESS DEFLATE")
        await client.send(b"\xff" * 100)
        assert await client.eof()


async def test_reading_is_traced_and_listing_is_not(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.deliver()
    house.deliver()
    noted: list[tuple[object, ...]] = []
    note = house.store.note_reading

    def note_reading(reader: int, folder: int, uids: Sequence[int], at: datetime, *, source: str) -> None:
        noted.append((reader, tuple(uids), at, source))
        note(reader, folder, uids, at, source=source)

    monkeypatch.setattr(house.store, "note_reading", note_reading)
    async with house.serving() as server:
        client = await Client.connect(house, server)
        await client.login()
        await client.command("a SELECT INBOX")
        await client.command("b FETCH 1:* (FLAGS ENVELOPE BODYSTRUCTURE PREVIEW)")
        await client.command("b FETCH 1:* (UID BODY.PEEK[HEADER.FIELDS (Subject)] BODY.PEEK[HEADER] BINARY.SIZE[1])")
        assert not noted
        await client.command("c UID FETCH 2 BODY.PEEK[TEXT]")
        await client.command("d FETCH 1:2 RFC822")
        client.close()
    assert noted == [(house.account.id, (2,), AT, "127.0.0.1"), (house.account.id, (1, 2), AT, "127.0.0.1")]


async def test_what_is_done_to_messages_is_traced(house: House) -> None:
    """Who, which message, what, from where: copies, moves, removals and deleted folders."""
    for number in range(4):
        house.deliver(f"Subject: {number}\r\nMessage-ID: <n{number}@x.fr>\r\n\r\nx\r\n".encode())
    async with house.serving() as server:
        client = await Client.connect(house, server)
        await client.login()
        for command in (
            "CREATE Dossier",
            "SELECT INBOX",
            "UID COPY 1 Dossier",
            "UID MOVE 2 Dossier",
            "UID STORE 3 +FLAGS (\\Deleted)",
            "UID EXPUNGE 3",
            "UID STORE 4 +FLAGS (\\Deleted)",
            "CLOSE",
            "DELETE Dossier",
        ):
            assert (await client.command(f"a {command}"))[-1].startswith(b"a OK"), command
        client.close()

    def told(number: int) -> list[tuple[str, str]]:
        events = [one.event for one in house.store.trace(f"<n{number}@x.fr>") if one.event.name.startswith("message.")]
        assert all(one.detail["who"] == ADDRESS == one.detail["mailbox"] for one in events)
        assert all(one.detail["source"] == "127.0.0.1" for one in events)
        return [(one.name.removeprefix("message."), one.detail["uid"]) for one in events]

    assert told(0) == [("copied", "1"), ("expunged", "1")]
    assert told(1) == [("moved", "2"), ("expunged", "2")]
    assert told(2) == [("expunged", "3")]
    assert told(3) == [("expunged", "4")]
