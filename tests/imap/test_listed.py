"""Listing a folder: the header fields that summaries keep are, octet for octet, those of the message; envelopes kept in memory
are those of the messages; what is not kept is read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imap.kept import MOST_KEPT, NAMES, choose, keep, numbers_of
from imap.sections import choose_fields
from imap.summary import compute
from mime import parse
from tests.imap.support import Client, House

_LINE = st.sampled_from(
    [
        *(
            b"From: a@x.fr\r\n",
            b"fRoM :b@x.fr\r\n",
            b"To: c@x.fr,\r\n\td@x.fr\r\n",
            b"Subject: \xe9t\xe9\r\n",
            b"X-Other: 1\r\n",
        ),
        *(
            b"no field at all\r\n",
            b"References: <a@x>\n <b@x>\n",
            b"Date:\r\n",
            b"Received: x\r\n y\r\n",
            b": empty\r\n",
            b"\r",
        ),
        *(b"Content-Type: text/plain\r\n", b"Message-ID: <1@x>", b"X-Priority: 1\r\n", b"To: e@x.fr\r\n", b" fold\r\n"),
    ]
)
_ASKED = st.lists(st.sampled_from([*NAMES, "x-other", "FROM", "Subject"]), min_size=1, max_size=6)


@settings(max_examples=300, deadline=None)
@given(st.lists(_LINE, max_size=8), st.sampled_from([b"\r\n", b"\n", b""]), st.binary(max_size=20), _ASKED)
def test_kept_fields_are_those_of_the_message(lines: list[bytes], blank: bytes, body: bytes, asked: list[str]) -> None:
    raw = b"".join(lines) + blank + body
    root = parse(raw)
    names = [name.encode() for name in asked]
    numbers = numbers_of(names)
    assert (numbers is None) == ("x-other" in asked)
    found = None if numbers is None else choose(keep(root, raw), numbers)
    if found is not None:
        assert found == choose_fields(raw[: root.body_start], names, without=False)


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        (b"Subject: a\r\n\r\nx", True),
        (b"Subject: a\r\n", False),
        (b"\r\nx", False),
        (b"", False),
        (b"To: " + b"a@x.fr, " * (MOST_KEPT // 8) + b"b@x.fr\r\n\r\n", False),
        (b"To: a@x.fr\r\n" * 256 + b"\r\n", False),
        (b"X: " + b"x" * 300_000 + b"\r\nSubject: a\r\n\r\n", False),
        (b"X: " + b"x" * 100_000 + b"\r\nSubject: a\r\n\r\n", True),
    ],
)
def test_what_is_in_doubt_is_not_kept(raw: bytes, kept: bool) -> None:
    assert bool(compute(raw).kept) is kept


LISTED = "UID RFC822.SIZE FLAGS BODY.PEEK[HEADER.FIELDS (From To Cc Bcc Subject Date Message-ID Priority X-Priority References)]"


async def test_a_listing_reads_no_message(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Thunderbird asks; a message whose fields are not kept, and a name that nobody keeps, are answered all the same."""
    house.deliver(b"Subject: un\r\nX-Other: 1\r\nFrom: a@x.fr\r\n\r\ncorps\r\n")
    long = b"To: " + b"a@x.fr,\r\n " * 2000 + b"b@x.fr\r\n"
    house.deliver(long + b"Subject: deux\r\n\r\ncorps\r\n")
    reads: list[str] = []
    read_blob = house.store.read_blob

    def counted(blob: str, start: int = 0, stop: int | None = None) -> bytes:
        reads.append(blob)
        return read_blob(blob, start, stop)

    monkeypatch.setattr(house.store, "read_blob", counted)
    async with house.serving() as server:
        client = await Client.connect(house, server)
        await client.login()
        await client.command("a SELECT INBOX")
        short = await client.command(f"b FETCH 1 ({LISTED})")
        assert short[0].endswith(
            b"(UID 1 RFC822.SIZE 48 FLAGS () %b {%d}\r\nSubject: un\r\nFrom: a@x.fr\r\n\r\n)\r\n" % (_label(), 29)
        )
        assert (await client.command("c FETCH 1 BODY.PEEK[HEADER.FIELDS (from)]<2.4>"))[0].endswith(
            b"<2> {4}\r\nom: )\r\n"
        )
        assert reads == []
        both = await client.command(f"d FETCH 1:2 ({LISTED})")
        assert both[0] == short[0]
        assert long + b"Subject: deux\r\n\r\n" in both[1]
        assert len(reads) == 1
        other = await client.command("e FETCH 1 BODY.PEEK[HEADER.FIELDS (Subject X-Other)]")
        assert b"Subject: un\r\nX-Other: 1\r\n\r\n" in other[0]
        assert len(reads) == 2
        client.close()


def _label() -> bytes:
    start = LISTED.index("BODY.PEEK")
    return LISTED[start:].replace(".PEEK", "").encode()


async def test_envelopes_kept_in_memory_are_those_of_the_messages(house: House) -> None:
    for number in range(3):
        house.deliver(f"Subject: n{number}\r\n\r\nx\r\n".encode())
    async with house.serving() as server:
        client = await Client.connect(house, server)
        await client.login()
        await client.command("a SELECT INBOX")
        first = await client.command("b FETCH 1:2 (FLAGS ENVELOPE)")
        assert len(server.envelopes.values) == 2
        assert (await client.command("c FETCH 1:3 (FLAGS ENVELOPE)"))[:2] == first[:2]
        assert (await client.command("d FETCH 3 ENVELOPE"))[0].startswith(b'* 3 FETCH (ENVELOPE (NIL "n2" ')
        server.envelopes.values.clear()
        assert (await client.command("e FETCH 1:2 (FLAGS ENVELOPE)"))[:2] == first[:2]
        client.close()
