"""CAPABILITY, NOOP, CHECK, LOGOUT, ID, ENABLE, NAMESPACE, COMPRESS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imap import format as fmt
from imap.errors import BadCommand, Refused
from imap.places import SHARED
from imap.states import AFTER_LOGIN, ANY, IN_FOLDER, Reply, State, Verb
from imap.values import Command, Compress, Enable

if TYPE_CHECKING:
    from imap.session import Session

# What ENABLE knows -> all that it turns on. QRESYNC is CONDSTORE too (RFC 7162 §3.2.3).
_ENABLES = {
    "CONDSTORE": ("CONDSTORE",),
    "QRESYNC": ("QRESYNC", "CONDSTORE"),
    "UTF8=ACCEPT": ("UTF8=ACCEPT",),
    "IMAP4REV2": ("IMAP4REV2",),
}
_SHOWN = {"IMAP4REV2": "IMAP4rev2"}


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
    """RFC 5161: unknown names are passed over; ENABLED tells what this command turned on."""
    if not isinstance(command.arguments, Enable):
        raise BadCommand("malformed ENABLE")
    fresh = [name for name in dict.fromkeys(command.arguments.names) if name in _ENABLES]
    fresh = [name for name in fresh if name not in session.enabled]
    for name in fresh:
        session.enable(*_ENABLES[name])
    shown = "".join(" " + _SHOWN.get(name, name) for name in fresh)
    await session.send(b"* ENABLED" + shown.encode("ascii") + fmt.CRLF)
    return Reply("ENABLE completed")


async def _namespace(session: Session, command: Command) -> Reply:
    """RFC 2342: one's own folders, and those that other mailboxes share."""
    await session.send(b'* NAMESPACE (("" "/")) (("%b/" "/")) NIL\r\n' % SHARED.encode("ascii"))
    return Reply("NAMESPACE completed")


async def _compress(session: Session, command: Command) -> Reply:
    """RFC 4978. The OK is the last thing sent in clear."""
    if not isinstance(command.arguments, Compress):
        raise BadCommand("malformed COMPRESS")
    if not session.server.compress:
        raise BadCommand("COMPRESS is not offered")
    if command.arguments.mechanism != "DEFLATE":
        raise Refused("CANNOT", "Unknown compression mechanism")
    if session.channel.compressed:
        raise Refused("COMPRESSIONACTIVE", "DEFLATE is active already")
    await session.send(fmt.status(command.tag, "OK", "", "DEFLATE active"))
    await session.flush()
    session.channel.compress()
    return Reply("", silent=True)


VERBS = (
    Verb("CAPABILITY", ANY, _capability),
    Verb("NOOP", ANY, _noop),
    Verb("CHECK", IN_FOLDER, _noop),
    Verb("LOGOUT", ANY, _logout),
    Verb("ID", ANY, _id),
    Verb("ENABLE", AFTER_LOGIN, _enable),
    Verb("NAMESPACE", AFTER_LOGIN, _namespace),
    Verb("COMPRESS", AFTER_LOGIN, _compress),
)
