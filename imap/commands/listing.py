"""LIST, LSUB, STATUS (RFC 9051 §6.3.9, §6.3.11; RFC 5258, 5819, 6154, 8438, 8474, 9208)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from imap import format as fmt
from imap.errors import BadCommand, Refused
from imap.listing import DELIMITER, Listed, Listing
from imap.places import SHARED, all_folders
from imap.states import AFTER_LOGIN, Reply, Verb
from imap.values import Command, ListFolders, Status
from mailstore.model import Folder, NoSuchFolder

if TYPE_CHECKING:
    from imap.session import Session


def list_line(verb: bytes, listed: Listed, *, utf8: bool, old_name: str = "") -> bytes:
    """One LIST or LSUB response, with the extended data items of RFC 5258 and RFC 9051 §6.3.9.7."""
    attributes = " ".join(listed.attributes).encode("ascii")
    items: list[bytes] = []
    if listed.child_info:
        items.append(b'"CHILDINFO" ("' + '" "'.join(listed.child_info).encode("ascii") + b'")')
    if old_name:
        items.append(b'"OLDNAME" (' + fmt.mailbox(old_name, utf8=utf8) + b")")
    extended = b" (" + b" ".join(items) + b")" if items else b""
    return b"* " + verb + b" (" + attributes + b') "/" ' + fmt.mailbox(listed.name, utf8=utf8) + extended + fmt.CRLF


async def status_line(session: Session, folder: Folder, items: Sequence[str]) -> bytes:
    """One STATUS response."""
    if "HIGHESTMODSEQ" in items:
        session.enable("CONDSTORE")
    values: dict[str, object] = {
        "MESSAGES": folder.total,
        "UIDNEXT": folder.uid_next,
        "UIDVALIDITY": folder.uid_validity,
        "UNSEEN": folder.unseen,
        "HIGHESTMODSEQ": folder.highest_modseq,
        "SIZE": folder.size,
        "DELETED": folder.deleted,
        "APPENDLIMIT": session.limits.message_size,
        "MAILBOXID": f"({folder.object_id})",
    }
    if "RECENT" in items:
        first, end = await session.call(session.store.claim_recent, folder.id, take=False)
        values["RECENT"] = min(folder.total, end - first)
    if "DELETED-STORAGE" in items:
        view = await session.call(session.store.view, folder.id)
        deleted = (size for size, flags in zip(view.sizes, view.flags, strict=True) if "\\Deleted" in flags)
        values["DELETED-STORAGE"] = sum(deleted)
    text = " ".join(f"{item} {values[item]}" for item in items)
    return b"* STATUS " + fmt.mailbox(folder.name, utf8=session.utf8) + b" (" + text.encode("ascii") + b")\r\n"


def _listing(session: Session) -> Listing:
    store, account = session.store, session.account
    return Listing(all_folders(store, account), frozenset(store.subscriptions(account.id)), session.rev2)


async def _may_count(session: Session, name: str) -> bool:
    """Whether the session may ask for the STATUS of a folder it may list: `r` (RFC 4314 §4, RFC 5819 §2)."""
    if not name.startswith(SHARED + DELIMITER):
        return True
    try:
        await session.find(name, "r")
    except (NoSuchFolder, Refused):
        return False
    return True


async def _list(session: Session, command: Command) -> Reply:
    arguments = command.arguments
    if not isinstance(arguments, ListFolders):
        raise BadCommand("malformed LIST")
    verb = command.name.encode("ascii")
    if arguments.patterns == ("",) and not arguments.extended:
        # RFC 9051 §6.3.9: an empty pattern asks for the delimiter.
        await session.send(b"* " + verb + b' (\\Noselect) "/" ""\r\n')
        return Reply(f"{command.name} completed")
    listing = await session.call(_listing, session)
    find = listing.find if command.name == "LIST" else listing.find_subscribed
    # Many patterns over many long names take a while: not on the event loop.
    for listed in await session.call(find, arguments):
        await session.send(list_line(verb, listed, utf8=session.utf8))
        if arguments.status_items and listed.folder is not None and await _may_count(session, listed.name):
            await session.send(await status_line(session, listed.folder, arguments.status_items))
    return Reply(f"{command.name} completed")


async def _status(session: Session, command: Command) -> Reply:
    arguments = command.arguments
    if not isinstance(arguments, Status):
        raise BadCommand("malformed STATUS")
    _, folder = await session.find(arguments.name, "r")
    await session.send(await status_line(session, folder, arguments.items))
    return Reply("STATUS completed")


VERBS = (
    Verb("LIST", AFTER_LOGIN, _list),
    Verb("LSUB", AFTER_LOGIN, _list),
    Verb("STATUS", AFTER_LOGIN, _status),
)
