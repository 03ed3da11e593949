"""IDLE (RFC 2177, RFC 9051 §6.3.13): tells changes as they come, until DONE or the autologout.

An idle session holds one coroutine and no task, timer or buffer of its own but the autologout's: thousands wait at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from imap.channel import LineTooLong
from imap.errors import BadCommand, EndSession
from imap.states import AFTER_LOGIN, Reply, Verb
from imap.values import Command
from imap.watcher import Watch

if TYPE_CHECKING:
    from imap.session import Session


async def _idle(session: Session, command: Command) -> Reply:
    await session.send(b"+ idling\r\n")
    await session.flush()
    selected, channel = session.selected, session.channel
    watching: contextlib.AbstractContextManager[Watch | None] = contextlib.nullcontext()
    if selected is not None:
        watching = session.server.watcher.watching(selected.folder_id, channel.bell)
    try:
        with watching as watch:
            async with asyncio.timeout(session.limits.idle_time):
                await _tell_until_done(session, watch)
        line = await channel.read_line(session.limits.line_before_login)
    except LineTooLong:
        raise EndSession("Command line too long") from None
    if line.strip().upper() != b"DONE":
        raise BadCommand("expected DONE")
    return Reply("IDLE terminated")


async def _tell_until_done(session: Session, watch: Watch | None) -> None:
    channel = session.channel
    while True:
        channel.bell.clear()
        if channel.line_waiting:
            return
        if watch is not None and watch.changed:
            watch.changed = False
            await session.check_access()
            if session.selected is not None:
                await session.sync(expunge_allowed=True, idle=True)
            await session.flush()
            continue
        channel.listen()
        await channel.bell.wait()


VERBS = (Verb("IDLE", AFTER_LOGIN, _idle),)
