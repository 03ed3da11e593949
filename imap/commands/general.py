"""CAPABILITY, NOOP, CHECK, LOGOUT, ID, ENABLE, NAMESPACE, IDLE."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from imap import format as fmt
from imap.channel import LineTooLong
from imap.errors import BadCommand, EndSession
from imap.states import AFTER_LOGIN, ANY, IN_FOLDER, Reply, State, Verb
from imap.values import Command, Enable

if TYPE_CHECKING:
    from imap.session import Session


async def _capability(session: Session, command: Command) -> Reply:
    await session.send(b"* " + session.capabilities().encode("ascii") + fmt.CRLF)
    return Reply("CAPABILITY completed")


async def _noop(session: Session, command: Command) -> Reply:
    return Reply(f"{command.name} completed")


async def _logout(session: Session, command: Command) -> Reply:
    session.leave_folder()
    session.state = State.LOGOUT
    await session.send(fmt.status("*", "BYE", "", "Logging out"))
    return Reply("LOGOUT completed")


async def _id(session: Session, command: Command) -> Reply:
    # RFC 2971: no version is given away.
    await session.send(b'* ID ("name" "Caducee")\r\n')
    return Reply("ID completed")


async def _enable(session: Session, command: Command) -> Reply:
    if not isinstance(command.arguments, Enable):
        raise BadCommand("malformed ENABLE")
    enabled = b""
    if "CONDSTORE" in command.arguments.names:
        session.condstore = True
        enabled = b" CONDSTORE"
    await session.send(b"* ENABLED" + enabled + fmt.CRLF)
    return Reply("ENABLE completed")


async def _namespace(session: Session, command: Command) -> Reply:
    await session.send(b'* NAMESPACE (("" "/")) NIL NIL\r\n')
    return Reply("NAMESPACE completed")


async def _idle(session: Session, command: Command) -> Reply:
    """RFC 2177: tells changes as they come, until DONE or the autologout."""
    await session.send(b"+ idling\r\n")
    await session.flush()
    reading = asyncio.create_task(session.channel.read_line(session.limits.line_before_login))
    try:
        async with asyncio.timeout(session.limits.idle_time):
            await _tell_until(session, reading)
        line = reading.result()
    except LineTooLong:
        raise EndSession("Command line too long") from None
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    if line.strip().upper() != b"DONE":
        raise BadCommand("expected DONE")
    return Reply("IDLE terminated")


async def _tell_until(session: Session, reading: asyncio.Task[bytes]) -> None:
    selected = session.selected
    if selected is None:
        await asyncio.wait([reading])
        return
    with session.server.watcher.watching(selected.folder_id, selected.reached) as changed:
        while not reading.done():
            changed.clear()
            await session.check_account()
            await session.sync(expunge_allowed=True)
            await session.flush()
            waking = asyncio.create_task(changed.wait())
            try:
                await asyncio.wait([reading, waking], return_when=asyncio.FIRST_COMPLETED)
            finally:
                waking.cancel()


VERBS = (
    Verb("CAPABILITY", ANY, _capability),
    Verb("NOOP", ANY, _noop),
    Verb("CHECK", IN_FOLDER, _noop),
    Verb("LOGOUT", ANY, _logout),
    Verb("ID", ANY, _id),
    Verb("ENABLE", AFTER_LOGIN, _enable),
    Verb("NAMESPACE", AFTER_LOGIN, _namespace),
    Verb("IDLE", AFTER_LOGIN, _idle),
)
