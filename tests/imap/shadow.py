"""What a client knows of its folder from responses alone, checked as they come: an impossible view fails at once."""

from __future__ import annotations

import re

from tests.imap.support import Client

_NUMBER = re.compile(rb"\* (\d+) (EXISTS|EXPUNGE|FETCH)")
_UID = re.compile(rb"\bUID (\d+)")
_FLAGS = re.compile(rb"FLAGS \(([^)]*)\)")


class Shadow:
    """A selected client. `uids` holds a UID, or None while it is not known, at each sequence number; `flags` by UID."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.uids: list[int | None] = []
        self.flags: dict[int, frozenset[str]] = {}
        self._tag = 0

    async def select(self, folder: str) -> None:
        self.uids.clear()
        self.flags.clear()
        assert b" OK " in (await self.command(f"SELECT {folder}"))[-1]
        await self.command("FETCH 1:* (UID FLAGS)" if self.uids else "NOOP")

    async def command(self, text: str | bytes) -> list[bytes]:
        self._tag += 1
        raw = text.encode() if isinstance(text, str) else text
        answers = await self.client.command(b"s%d %b" % (self._tag, raw))
        silent = raw.split(b" ")[0] in (b"FETCH", b"STORE", b"SEARCH")
        for answer in answers:
            self._take(answer, expunge_allowed=not silent)
        return answers

    def _take(self, answer: bytes, *, expunge_allowed: bool) -> None:
        match = _NUMBER.match(answer)
        if match is None:
            return
        number, kind = int(match[1]), match[2]
        if kind == b"EXISTS":
            assert number >= len(self.uids), "EXISTS shrank without EXPUNGE"
            self.uids += [None] * (number - len(self.uids))
            return
        assert 1 <= number <= len(self.uids), f"{answer!r} with {len(self.uids)} messages"
        if kind == b"EXPUNGE":
            assert expunge_allowed, "EXPUNGE during FETCH, STORE or SEARCH (RFC 9051 §7.5.1)"
            uid = self.uids.pop(number - 1)
            if uid is not None:
                self.flags.pop(uid, None)
            return
        if found := _UID.search(answer):
            uid = int(found[1])
            assert self.uids[number - 1] in (None, uid), "a sequence number changed its message"
            self.uids[number - 1] = uid
            known = [one for one in self.uids if one is not None]
            assert known == sorted(set(known)), "UIDs are not ascending"
        if (flags := _FLAGS.search(answer)) and (uid := self.uids[number - 1]):
            self.flags[uid] = frozenset(flags[1].decode().split()) - {"\\Recent"}

    async def check(self) -> None:
        """What the client believes equals what the server says when asked for everything."""
        await self.command("NOOP")
        believed, before = list(self.uids), dict(self.flags)
        if not believed:
            return
        await self.command("FETCH 1:* (UID FLAGS)")
        assert len(believed) == len(self.uids)
        assert all(was in (None, now) for was, now in zip(believed, self.uids, strict=True))
        assert all(self.flags[uid] == flags for uid, flags in before.items()), "a change of flags was never told"
