"""Many unlike messages, the same questions to our server and to Dovecot, the same answers.

Left out, because the standard leaves it open or Dovecot 2.3 differs from it: sections that do not exist (NIL or empty), the
charset that Dovecot adds to a text that names none, one language alone or in a list, domains of addresses without one, zero
padding of dates, texts of BINARY for multiparts, words in comments, accents (both fold them, each its way)."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from tests.imap import dovecot
from tests.imap.dovecot import Dovecot
from tests.imap.letters import Letters
from tests.imap.support import Client, House

pytestmark = pytest.mark.slow
COUNT = 60
ITEMS = (
    "ENVELOPE", "BODYSTRUCTURE", "BODY", "RFC822.SIZE", "RFC822.HEADER", "BODY.PEEK[TEXT]", "BODY.PEEK[1]",
    "BODY.PEEK[1.MIME]", "BODY.PEEK[2]", "BODY.PEEK[2.MIME]", "BODY.PEEK[1.1]", "BODY.PEEK[1.HEADER]", "BODY.PEEK[1.TEXT]",
    "BODY.PEEK[2.1.1]", "BODY.PEEK[1.2.MIME]", "BODY.PEEK[2]<3.20>", "BODY.PEEK[]<10.50>",
    "BODY.PEEK[HEADER.FIELDS (Subject From X-Test)]", "BODY.PEEK[HEADER.FIELDS.NOT (Subject From)]",
    "BODY.PEEK[1.HEADER.FIELDS (Subject)]",
)  # fmt: skip
KEYS = (
    "FROM claire", "TO petit", "CC zoe", "SUBJECT bilan", 'SUBJECT "compte rendu operatoire"', "SUBJECT [liste]",
    "BODY bonjour", "BODY suite", 'TEXT "line two"', "TEXT claire", "HEADER X-Test deux", 'HEADER X-Test ""',
    "HEADER Message-ID 1@t", "SEEN", "UNSEEN", "FLAGGED", "KEYWORD $label", "UNKEYWORD Mot", "DELETED", "DRAFT", "ANSWERED",
    "LARGER 500", "SMALLER 400", "SINCE 10-Nov-2020", "BEFORE 10-Nov-2020", "ON 12-Nov-2020", "SENTSINCE 18-Nov-2020",
    "SENTBEFORE 17-Nov-2020", "SENTON 14-Nov-2020", "UID 3:17", "1:10", "*", "5:*", "NOT SEEN", "OR SEEN FLAGGED",
    "(SEEN FLAGGED)", "NOT FROM zoe", 'FROM "claire martin"', 'TO "@b.fr"',
)  # fmt: skip
ORDERS = (
    "ARRIVAL", "CC", "DATE", "FROM", "SIZE", "SUBJECT", "TO", "REVERSE DATE", "DISPLAYFROM", "DISPLAYTO", "SUBJECT REVERSE DATE",
    "FROM SUBJECT", "REVERSE SUBJECT",
)  # fmt: skip
FLAGS = ("\\Seen", "\\Flagged", "\\Answered", "\\Draft", "\\Deleted", "$label", "Mot")


class Pair:
    """The two servers, asked the same."""

    def __init__(self, ours: Client, theirs: Client) -> None:
        self.ours, self.theirs = ours, theirs

    async def ask(self, command: str | bytes) -> tuple[list[bytes], list[bytes]]:
        answers = await self.ours.command(command), await self.theirs.command(command)
        for lines in answers:
            assert re.match(rb"\S+ OK", lines[-1]), (command, lines)
        return answers


@pytest.mark.parametrize("seed", [1, 2])
async def test_the_same_answers(house: House, oracle: Dovecot, seed: int) -> None:
    async with house.serving() as server:
        ours, theirs = await Client.connect(house, server), await Client.open("127.0.0.1", oracle.port)
        await ours.login()
        await theirs.command(f"l LOGIN {dovecot.USER} {dovecot.PASSWORD}")
        pair = Pair(ours, theirs)
        await _fill(pair, seed)
        await pair.ask("s SELECT INBOX")
        wrong = [*await _fetches(pair), *await _searches(pair, seed), *await _orders(pair)]
        ours.close()
        theirs.close()
    assert not wrong, "\n".join(wrong[:20])


async def _fill(pair: Pair, seed: int) -> None:
    letters, chance = Letters(seed), random.Random(seed)
    for number in range(COUNT):
        raw = letters.message(number)
        flags = " ".join(chance.sample(FLAGS, chance.randint(0, 3))).encode()
        date = b"%02d-Nov-2020 %02d:%02d:00 +0100" % (chance.randint(1, 28), chance.randint(0, 23), number)
        await pair.ask(b'a APPEND INBOX (%b) "%b" {%d+}\r\n%b' % (flags, date, len(raw), raw))


async def _fetches(pair: Pair) -> list[str]:
    wrong = []
    for item in ITEMS:
        answers = await pair.ask(f"f FETCH 1:* ({item})")
        for number, (mine, other) in enumerate(zip(*map(_fetched, answers), strict=True), 1):
            is_part = "[" in item
            if is_part and not mine and not other:
                continue
            if is_part and not mine:
                continue  # a section that does not exist: some servers answer with the part above it
            if mine != other:
                wrong.append(f"{number} {item}\n  ours   {mine}\n  theirs {other}")
    return wrong


def _fetched(lines: list[bytes]) -> list[object]:
    return [_plain(Values(line).read()[3][1]) for line in lines[:-1] if b" FETCH (" in line[:30]]


def _plain(value: Any) -> Any:
    """Without what the standard leaves open."""
    if isinstance(value, list):
        found = [_plain(one) for one in value]
        for place, one in enumerate(found):
            if one == [b"charset", b"us-ascii"]:
                found[place] = b""
            elif isinstance(one, list) and one[-2:] == [b"charset", b"us-ascii"] and len(one) > 2:
                found[place] = one[:-2]
        return found
    return b"" if value in (None, b"MISSING_DOMAIN", b"missing_domain") else value


async def _searches(pair: Pair, seed: int) -> list[str]:
    wrong, chance = [], random.Random(seed)
    pairs = [f"{chance.choice(KEYS)} {chance.choice(KEYS)}" for _ in range(30)]
    for key in [*KEYS, *pairs, *(f"OR {chance.choice(KEYS)} {chance.choice(KEYS)}" for _ in range(30))]:
        mine, other = (_numbers(lines) for lines in await pair.ask(f"q SEARCH CHARSET UTF-8 {key}"))
        if mine != other:
            wrong.append(f"SEARCH {key}: only ours {sorted(mine - other)}, only theirs {sorted(other - mine)}")
    return wrong


def _numbers(lines: list[bytes]) -> set[int]:
    return {int(word) for line in lines if line.startswith(b"* SEARCH") for word in line.split()[2:]}


async def _orders(pair: Pair) -> list[str]:
    wrong = []
    for order in ORDERS:
        mine, other = (lines[0].split()[2:] for lines in await pair.ask(f"q SORT ({order}) UTF-8 ALL"))
        if mine != other:
            wrong.append(f"SORT {order}\n  ours   {mine}\n  theirs {other}")
    for way in ("REFERENCES", "ORDEREDSUBJECT"):
        mine, other = (
            Values(lines[0].partition(b"THREAD")[2]).read() for lines in await pair.ask(f"q THREAD {way} UTF-8 ALL")
        )
        if mine != other:
            wrong.append(f"THREAD {way}\n  only ours   {[one for one in mine if one not in other]}")
            wrong.append(f"  only theirs {[one for one in other if one not in mine]}")
    return wrong


class Values:
    """A response as nested lists, octets (lower case within BODY and BODYSTRUCTURE), numbers, None for NIL."""

    _LITERAL = re.compile(rb"~?\{(\d+)\}\r\n")
    _QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
    _ATOM = re.compile(rb"[^ ()\r\n\[\"]+(?:\[[^\]]*\](?:<\d+>)?)?")

    def __init__(self, octets: bytes) -> None:
        self.octets, self.place = octets, 0
        self.lower = b"BODY (" in octets[:40] or b"BODYSTRUCTURE (" in octets[:40]

    def read(self) -> list[Any]:
        found: list[Any] = []
        while self.place < len(self.octets):
            start = self.octets[self.place]
            if start in b" \r\n":
                self.place += 1
            elif start == ord(")"):
                self.place += 1
                return found
            elif start == ord("("):
                self.place += 1
                found.append(self.read())
            else:
                found.append(self._word())
        return found

    def _word(self) -> bytes | int | None:
        if match := self._LITERAL.match(self.octets, self.place):
            self.place = match.end() + int(match[1])
            return self._cased(self.octets[match.end() : self.place])
        if match := self._QUOTED.match(self.octets, self.place):
            self.place = match.end()
            return self._cased(re.sub(rb"\\(.)", rb"\1", match[1]))
        match = self._ATOM.match(self.octets, self.place)
        assert match is not None, self.octets[self.place :]
        self.place = match.end()
        if match[0].upper() == b"NIL":
            return None
        return int(match[0]) if match[0].isdigit() else match[0]

    def _cased(self, octets: bytes) -> bytes:
        return octets.lower() if self.lower else octets
