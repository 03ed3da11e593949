"""GETACL, SETACL, DELETEACL, LISTRIGHTS, MYRIGHTS (RFC 4314): shared mailboxes, each professional with their own \\Seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imap import format as fmt
from imap.errors import BadCommand, Refused
from imap.places import ALL_RIGHTS, Place, rights_at
from imap.states import AFTER_LOGIN, Reply, Verb
from imap.values import Access, Command, Mailbox
from mailstore.model import Folder

if TYPE_CHECKING:
    from imap.session import Session

# The two rights of RFC 2086 that RFC 4314 §2.1.1 split, and what they stand for here.
_OBSOLETE = {"c": "kx", "d": "te"}


def wire_rights(rights: str) -> str:
    """Rights as sent: with the obsolete `c` and `d` when one of what they stand for is held (RFC 4314 §2.1.1)."""
    return rights + "".join(old for old, new in _OBSOLETE.items() if set(new) & set(rights))


def read_rights(text: str) -> str:
    """Rights as clients write them, in the order of RFC 4314. Raises BadCommand for a letter that is no right."""
    held = set(text)
    if not held <= {*ALL_RIGHTS, *_OBSOLETE} or len(held) != len(text):
        raise BadCommand("unknown right")
    for old, new in _OBSOLETE.items():
        if old in held:
            held |= set(new)
    return "".join(right for right in ALL_RIGHTS if right in held)


async def _administered(session: Session, name: str) -> tuple[Place, Folder]:
    return await session.find(name, "a")


async def _get_acl(session: Session, command: Command) -> Reply:
    if not isinstance(command.arguments, Mailbox):
        raise BadCommand("malformed GETACL")
    _, folder = await _administered(session, command.arguments.name)
    found = await session.call(session.store.acl, folder.id)
    pairs = b"".join(
        b" " + fmt.string(address.encode("utf-8")) + b" " + wire_rights(rights).encode("ascii")
        for address, rights in sorted(found.items())
    )
    await session.send(b"* ACL " + fmt.mailbox(folder.name, utf8=session.utf8) + pairs + b"\r\n")
    return Reply("GETACL completed")


async def _set_acl(session: Session, command: Command) -> Reply:
    arguments = command.arguments
    if not isinstance(arguments, Access):
        raise BadCommand("malformed SETACL")
    asked = read_rights(arguments.rights)
    _, folder = await _administered(session, arguments.name)
    if command.name == "DELETEACL":
        asked, change = "", ""
    else:
        change = arguments.change
    if change:
        held = set((await session.call(session.store.acl, folder.id)).get(arguments.identifier, ""))
        kept = held | set(asked) if change == "+" else held - set(asked)
        asked = "".join(right for right in ALL_RIGHTS if right in kept)
    await session.call(session.store.set_acl, folder.id, arguments.identifier, asked)
    return Reply(f"{command.name} completed")


async def _list_rights(session: Session, command: Command) -> Reply:
    """Every right can be given or not, one by one; the owner holds them all."""
    arguments = command.arguments
    if not isinstance(arguments, Access):
        raise BadCommand("malformed LISTRIGHTS")
    place, folder = await _administered(session, arguments.name)
    is_owner = place.viewer is None and arguments.identifier == session.account.address
    every = wire_rights(ALL_RIGHTS)
    shown = every.encode("ascii") if is_owner else b'"" ' + " ".join(every).encode("ascii")
    name = fmt.mailbox(folder.name, utf8=session.utf8)
    identifier = fmt.string(arguments.identifier.encode("utf-8"))
    await session.send(b"* LISTRIGHTS " + name + b" " + identifier + b" " + shown + b"\r\n")
    return Reply("LISTRIGHTS completed")


async def _my_rights(session: Session, command: Command) -> Reply:
    if not isinstance(command.arguments, Mailbox):
        raise BadCommand("malformed MYRIGHTS")
    place, folder = await session.find(command.arguments.name)
    rights = await session.call(rights_at, session.store, folder, place)
    if not set(rights) & set("lrikxta"):
        raise Refused("NOPERM", "Droit insuffisant sur ce dossier. / Permission denied on this folder.")
    name = fmt.mailbox(folder.name, utf8=session.utf8)
    await session.send(b"* MYRIGHTS " + name + b" " + wire_rights(rights).encode("ascii") + b"\r\n")
    return Reply("MYRIGHTS completed")


VERBS = (
    Verb("GETACL", AFTER_LOGIN, _get_acl),
    Verb("SETACL", AFTER_LOGIN, _set_acl),
    Verb("DELETEACL", AFTER_LOGIN, _set_acl),
    Verb("LISTRIGHTS", AFTER_LOGIN, _list_rights),
    Verb("MYRIGHTS", AFTER_LOGIN, _my_rights),
)
