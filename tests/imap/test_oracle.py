"""The transcripts of `transcripts/`, line by line, on our server over SQLite and over PostgreSQL, and on Dovecot as oracle.

On ours every response must come in order. On Dovecot, whose texts, codes and additions are its own, what a response says
must be there: `essence` takes away what the standard leaves open.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.imap import dovecot
from tests.imap.dovecot import Dovecot
from tests.imap.support import Client, House, play, wire

FOLDER = Path(__file__).parent / "transcripts"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.txt"))
# What only Dovecot, or only the other, does: with the reason.
NOT_ON_ORACLE = {
    "rev2": "Dovecot 2.3 speaks IMAP4rev1 only",
    "extensions": "Dovecot 2.3 lacks REPLACE, OBJECTID and UTF8=ACCEPT",
}


def script(name: str) -> str:
    lines = (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("name", SCRIPTS)
async def test_ours(house: House, name: str) -> None:
    async with house.serving() as server:
        client = await Client.connect(house, server)
        await client.login()
        await play(client, script(name))
        client.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
async def test_ours_on_postgresql(postgres_house: House, name: str) -> None:
    async with postgres_house.serving() as server:
        client = await Client.connect(postgres_house, server)
        await client.login()
        await play(client, script(name))
        client.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in NOT_ON_ORACLE])
async def test_oracle_agrees(oracle: Dovecot, name: str) -> None:
    client = await Client.open("127.0.0.1", oracle.port)
    assert (await client.command(f"login LOGIN {dovecot.USER} {dovecot.PASSWORD}"))[-1].startswith(b"login OK")
    wrong = []
    for command, expected in _exchanges(script(name)):
        answers = [essence(answer.decode("utf-8")) for answer in await client.command(command)]
        for line in expected:
            wanted = essence(line.replace("\\r\\n", "\r\n"))
            if not any(_covers(wanted, answer) for answer in answers):
                wrong.append(f"C: {command!r}\n  wanted {wanted}\n  got {answers}")
    client.close()
    assert not wrong, "\n".join(wrong)


def _exchanges(text: str) -> Iterator[tuple[bytes, list[str]]]:
    command = b""
    expected: list[str] = []
    for line in text.splitlines():
        kind, _, rest = line.partition(": ")
        if kind == "C":
            if command:
                yield command, expected
            command, expected = wire(rest).removesuffix(b"\r\n"), []
        elif kind == "S":
            expected.append(rest)
    yield command, expected


_OPEN = re.compile(
    r"\\recent ?|\\hasnochildren ?|\\haschildren ?|uid \d+ |modseq \((?:\d+|<\.\.\.>)\)|<\.\.\.>", re.IGNORECASE
)


def essence(response: str) -> tuple[str, ...]:
    """A response as words, in lower case and in no order: texts for people, \\Recent, UIDs and modseqs that may be added
    are left out."""
    text = response.strip()
    if status := re.match(r"(\S+ (?:OK|NO|BAD|BYE))(?: \[([A-Z-]+)[^\]]*\])?", text):
        return (status[1].lower(), *((status[2] or "").lower(),))
    text = _OPEN.sub("", text)
    return tuple(sorted(word for word in re.split(r'[\s()"]+', text.lower()) if word))


def _covers(wanted: tuple[str, ...], answer: tuple[str, ...]) -> bool:
    """Whether an answer says all that is wanted; a status may have no code, or another one of its own."""
    if len(wanted) == 2 and wanted[0].endswith((" ok", " no", " bad", " bye")):
        return answer[0] == wanted[0] and (not wanted[1] or wanted[1] in answer or wanted[0].endswith(" no"))
    return set(wanted) <= set(answer)
