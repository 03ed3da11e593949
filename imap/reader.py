"""Reads one command off a channel: lines and literals, each bounded before it is received (RFC 3501 §2.2.1, RFC 7888)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from imap.channel import Channel, LineTooLong
from imap.errors import BadCommand, EndSession, Refused
from imap.limits import Limits
from imap.parser import command_tag

_LITERAL_AT_END = re.compile(rb"~?\{([0-9]{1,10})(\+?)\}\r\n\Z")
_APPEND = re.compile(rb"[^ ]{1,64} APPEND ", re.IGNORECASE)
# LITERAL- (RFC 7888 §5): before login a literal sent without waiting may not be larger.
_MOST_UNASKED = 4096
# A refused literal that is already on its way is read and forgotten up to this factor of the limit; beyond, BYE.
_FORGIVEN = 4


@dataclass(frozen=True, slots=True)
class RawCommand:
    """A command's text without its final CRLF, and the literals taken out of it."""

    line: bytes
    literals: tuple[bytes, ...]


class RefusedLiteral(Refused):
    """A literal larger than allowed; `tag` says which command to answer. Clients show the text of an APPEND's refusal."""

    def __init__(self, start: bytes, allowed: int) -> None:
        text = "Argument trop long. / Literal too large."
        if _APPEND.match(start):
            size = f"{allowed / 1024**2:.3g}"
            text = f"Message trop volumineux ({size} Mo au plus). / Message too large (at most {size} MiB)."
        super().__init__("TOOBIG", text)
        self.tag = command_tag(start)


async def read_command(
    channel: Channel, limits: Limits, *, authenticated: bool, invite: Callable[[], Awaitable[None]]
) -> RawCommand:
    """The next command. `invite` sends the `+` line that asks for a literal.

    Raises BadCommand (line ends with a bare LF), RefusedLiteral, EndSession (nothing sensible can follow),
    ConnectionGone.
    """
    line_limit = limits.line if authenticated else limits.line_before_login
    text = bytearray()
    literals: list[bytes] = []
    total = 0
    refused: RefusedLiteral | None = None
    while True:
        try:
            piece = await channel.read_line(line_limit - len(text))
        except LineTooLong:
            raise EndSession("Command line too long") from None
        text += piece
        if not piece.endswith(b"\r\n"):
            raise BadCommand("lines end with CRLF", tag=command_tag(bytes(text)))
        match = _LITERAL_AT_END.search(piece)
        if match is None:
            break
        size, unasked = int(match[1]), bool(match[2])
        total += size
        allowed = _literal_limit(bytes(text[:80]), limits, authenticated=authenticated)
        if total > allowed or (unasked and not authenticated and size > _MOST_UNASKED):
            if not unasked:
                raise RefusedLiteral(bytes(text), allowed)
            if total > _FORGIVEN * allowed:
                raise EndSession("Literal too large", code="TOOBIG")
            refused = RefusedLiteral(bytes(text), allowed)
        if refused is not None:
            await channel.discard(size)
            continue
        if not unasked:
            await invite()
        literals.append(await channel.read_exactly(size))
    if refused is not None:
        raise refused
    return RawCommand(bytes(text[:-2]), tuple(literals))


def _literal_limit(start: bytes, limits: Limits, *, authenticated: bool) -> int:
    if not authenticated:
        return limits.literal_before_login
    return limits.message_size if _APPEND.match(start) else limits.literal
