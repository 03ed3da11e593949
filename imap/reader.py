"""Reads one command off a channel: lines and literals, each bounded before it is received (RFC 9051 §4.3, RFC 7888).

A message literal goes chunk by chunk into the sink the session opens for it, never whole into memory.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from imap.channel import Channel, LineTooLong
from imap.errors import BadCommand, EndSession, Refused
from imap.grammar_append import another_message, append_target
from imap.limits import Limits
from imap.parser import command_tag
from imap.values import Received

_LITERAL_AT_END = re.compile(rb"(~?)\{([0-9]{1,10})([+-]?)\}\r\n\Z")
_APPEND = re.compile(rb"[^ ]{1,64} (?:APPEND|REPLACE|UID REPLACE) ", re.IGNORECASE)
# LITERAL- (RFC 7888 §5): before login a literal sent without waiting may not be larger.
_MOST_UNASKED = 4096
# A refused literal that is already on its way is read and forgotten up to this factor of the limit; beyond, BYE.
_FORGIVEN = 4
_CHUNK = 256 * 1024


class Sink(Received, Protocol):
    """Where a message literal goes. What is not taken over by APPEND leaves no trace once discarded."""

    async def write(self, data: bytes) -> None:
        """Adds octets. Raises Refused."""

    async def discard(self) -> None:
        """Forgets all of it."""


Opener = Callable[[str, int, bool, bool], Awaitable[Sink]]
"""(mailbox, size, whether binary, whether it comes without waiting) -> a sink. Raises Refused: the message may not come."""


@dataclass(frozen=True, slots=True)
class RawCommand:
    """A command's text without its final CRLF, and the literals taken out of it."""

    line: bytes
    literals: tuple[bytes | Sink, ...]


class RefusedLiteral(Refused):
    """A literal larger than allowed. Clients show the text of an APPEND's refusal."""

    def __init__(self, start: bytes, allowed: int) -> None:
        code, text = "", "Argument trop long. / Literal too large."
        if _APPEND.match(start):
            size = f"{allowed / 1024**2:.3g}"
            code = "TOOBIG"
            text = f"Message trop volumineux ({size} Mo au plus). / Message too large (at most {size} MiB)."
        super().__init__(code or "TOOBIG", text, tag=command_tag(start))


class CommandReader:
    """Reads one command; make a new one for each. `invite` sends the `+` line that asks for a literal."""

    __slots__ = (
        "_authenticated",
        "_channel",
        "_invite",
        "_limits",
        "_literals",
        "_name",
        "_open",
        "_read_up_to",
        "_refused",
        "_text",
        "_total",
        "_utf8",
    )

    def __init__(
        self,
        channel: Channel,
        limits: Limits,
        *,
        authenticated: bool,
        utf8: bool,
        invite: Callable[[], Awaitable[None]],
        open_sink: Opener,
    ) -> None:
        self._channel = channel
        self._limits = limits
        self._authenticated = authenticated
        self._utf8 = utf8
        self._invite = invite
        self._open = open_sink
        self._text = bytearray()
        self._literals: list[bytes | Sink] = []
        self._total = 0
        self._name: str | None = None  # the mailbox of the message before
        self._read_up_to = 0
        self._refused: Refused | None = None

    async def read(self) -> RawCommand:
        """The next command. Raises BadCommand (line ends with a bare LF), Refused (a literal, tag given), EndSession
        (nothing sensible can follow), ConnectionGone. Whatever is raised, no sink stays open."""
        try:
            line = await self._read()
            if self._refused is not None:
                raise self._refused
            return RawCommand(line, tuple(self._literals))
        except BaseException:
            await self.discard()
            raise

    async def discard(self) -> None:
        """Forgets what was received for messages."""
        for literal in self._literals:
            if not isinstance(literal, bytes):
                await literal.discard()
        self._literals.clear()

    async def _read(self) -> bytes:
        limit = self._limits.line if self._authenticated else self._limits.line_before_login
        while True:
            try:
                piece = await self._channel.read_line(limit - len(self._text), begun=bool(self._text))
            except LineTooLong:
                raise EndSession("Command line too long") from None
            self._text += piece
            if not piece.endswith(b"\r\n"):
                raise BadCommand("lines end with CRLF", tag=command_tag(bytes(self._text)))
            match = _LITERAL_AT_END.search(piece)
            if match is None:
                return bytes(self._text[:-2])
            await self._literal(match, bytes(self._text[: len(self._text) - len(match[0])]))

    async def _literal(self, match: re.Match[bytes], before: bytes) -> None:
        size, unasked = int(match[2]), bool(match[3])
        target = self._name = self._target(before)
        self._read_up_to = len(self._text)
        self._total += size
        allowed = self._allowed(target is not None)
        excess = self._total > allowed if target is None else size > allowed
        try:
            if excess or (unasked and not self._authenticated and size > _MOST_UNASKED):
                raise RefusedLiteral(bytes(self._text), allowed)
            if target is not None and self._refused is None:
                await self._message(target, size, binary=bool(match[1]), unasked=unasked)
                return
        except Refused as refused:
            refused.tag = refused.tag or command_tag(bytes(self._text))
            if not unasked:
                raise
            if size > _FORGIVEN * allowed:
                raise EndSession("Literal too large", code="TOOBIG") from None
            self._refused = self._refused or refused
        if self._refused is not None:
            if not unasked:
                raise self._refused
            await self._channel.discard(size)
            return
        if not unasked:
            await self._invite()
        self._literals.append(await self._channel.read_exactly(size))

    def _target(self, before: bytes) -> str | None:
        """The mailbox, when it is a message that comes."""
        if self._name is not None:
            # Only what came since the message before it: reading a hundred from the start each time takes for ever.
            return self._name if another_message(before[self._read_up_to :], utf8=self._utf8) else None
        if not self._authenticated or not _APPEND.match(before):
            return None
        return append_target(before, self._literals, utf8=self._utf8)

    def _allowed(self, message: bool) -> int:
        if message:
            return self._limits.message_size
        return self._limits.literal if self._authenticated else self._limits.literal_before_login

    async def _message(self, target: str, size: int, *, binary: bool, unasked: bool) -> None:
        """Receives a message into a sink. After a refusal in the middle, the rest of the literal is read and forgotten."""
        sink = await self._open(target, size, binary, unasked)
        self._literals.append(sink)
        if not unasked:
            await self._invite()
        left = size
        while left:
            data = await self._channel.read_some(min(left, _CHUNK))
            left -= len(data)
            if self._refused is None:
                try:
                    await sink.write(data)
                except Refused as refused:
                    refused.tag = refused.tag or command_tag(bytes(self._text))
                    self._refused = refused
