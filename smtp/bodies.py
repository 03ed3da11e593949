"""The octets of a message on the wire: a dot-terminated block (DATA), or counted chunks (BDAT).

Invariants: a block is heard to its end whatever becomes of it, so that its lines are never taken for commands; what is heard
is bounded, in octets and in time; nothing is kept of a message that was cut.
"""

from __future__ import annotations

import asyncio

from mailstore import Store, StoreError
from smtp import replies
from smtp.content import Intake
from smtp.intake import DotDecoder, Scan
from smtp.machine import Body, TakeChunk
from smtp.replies import Reply
from smtp.services import Limits
from smtp.wire import HIGH, ConnectionEnded, Wire

_HARD_FACTOR = 4


class Bodies:
    """Takes the messages of one connection."""

    def __init__(self, store: Store, limits: Limits) -> None:
        self._store = store
        self._limits = limits
        self._chunks: Intake | None = None

    def drop(self) -> None:
        """Forget the chunks of a message that will not be."""
        if self._chunks is not None:
            self._chunks.abort()
            self._chunks = None

    async def block(self, wire: Wire) -> tuple[Intake, StoreError | None]:
        """RFC 5321 §4.1.1.4: everything up to CRLF "." CRLF, and what kept it from being stored, if anything did. Raises
        ConnectionEnded, TimeoutError."""
        intake, decoder = Intake(self._store, self._limits.size), DotDecoder()
        heard, failure = 0, None
        try:
            async with asyncio.timeout(self._limits.data_time):
                while not decoder.done:
                    piece = await wire.some(begun=heard > 0)
                    heard += len(piece)
                    if heard > self._limits.size * _HARD_FACTOR:
                        raise ConnectionEnded
                    failure = await _fed(intake, decoder.feed(piece), failure)
        except BaseException:
            intake.abort()
            raise
        wire.push_back(decoder.rest)
        return intake, failure

    async def chunk(self, wire: Wire, step: TakeChunk) -> StoreError | None:
        """RFC 3030 §2: the octets of one chunk; they are read even when it is refused. Raises as `block`."""
        if self._chunks is None and step.refusal is None:
            self._chunks = Intake(self._store, self._limits.size)
        left, failure = step.size, None
        async with asyncio.timeout(self._limits.data_time):
            while left:
                piece = await wire.some(min(left, HIGH), begun=left < step.size)
                left -= len(piece)
                if step.refusal is None and self._chunks is not None:
                    failure = await _fed(self._chunks, piece, failure)
        return failure

    def whole(self) -> Intake:
        """What the chunks made together; they are the caller's from now on."""
        chunks, self._chunks = self._chunks, None
        if chunks is None:
            raise ConnectionEnded
        return chunks


def fault(intake: Intake, body: Body, *, repairs: bool) -> Reply | None:
    """Why a message that was heard whole is not taken: too large, what another server could read differently (SMTP
    smuggling), or what costs too much to read."""
    scan: Scan = intake.scan
    if intake.too_big:
        return replies.TOO_BIG
    if body is not Body.BINARY and (scan.bare or scan.null):
        return replies.BAD_LINE_ENDS
    if scan.long_header:
        return replies.LONG_HEADER
    if body is not Body.BINARY and scan.long_line and not repairs:
        return replies.LONG_LINES
    return None


async def _fed(intake: Intake, piece: bytes, failure: StoreError | None) -> StoreError | None:
    """Feed a piece; a store that fails is told at the end of the block, which must be heard whole all the same."""
    if failure is None and piece:
        try:
            await intake.feed(piece)
        except StoreError as error:
            intake.abort()
            return error
    return failure
