"""CREATE, DELETE, RENAME, SUBSCRIBE, UNSUBSCRIBE, LIST, LSUB, STATUS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from imap import format as fmt
from imap.errors import BadCommand, Refused
from imap.listing import DELIMITER, Listed, listing, subscribed_listing
from imap.states import AFTER_LOGIN, Reply, Verb
from imap.values import Command, ListFolders, Mailbox, Rename, Status
from mailstore.model import Folder, FolderExists, NoSuchFolder

if TYPE_CHECKING:
    from imap.session import Session


def _mailbox(command: Command) -> Mailbox:
    if not isinstance(command.arguments, Mailbox):
        raise BadCommand("expected a mailbox name")
    return command.arguments


async def _create_parents(session: Session, name: str) -> None:
    """RFC 3501 §6.3.3: superior names that are missing are created."""
    levels = name.split(DELIMITER)
    for depth in range(1, len(levels)):
        try:
            await session.call(session.store.create_folder, session.account.id, DELIMITER.join(levels[:depth]))
        except FolderExists:
            continue


def _check_name(name: str) -> None:
    levels = name.split(DELIMITER)
    if any(not level for level in levels) or len(levels) > 20 or any(sign < " " or sign == "\x7f" for sign in name):
        raise Refused("CANNOT", "Nom de dossier invalide. / Invalid folder name.")


async def _create(session: Session, command: Command) -> Reply:
    arguments = _mailbox(command)
    _check_name(arguments.name)
    folders = await session.call(session.store.folders, session.account.id)
    if len(folders) >= session.limits.folders_per_account:
        raise Refused("LIMIT", "Trop de dossiers. / Too many folders.")
    if any(folder.name == arguments.name for folder in folders):
        raise Refused("ALREADYEXISTS", "Ce dossier existe déjà. / This folder exists already.")
    if arguments.special_use and any(folder.special_use == arguments.special_use for folder in folders):
        raise Refused("USEATTR", "Another folder has this special use")
    await _create_parents(session, arguments.name)
    await session.call(session.store.create_folder, session.account.id, arguments.name, arguments.special_use)
    return Reply("CREATE completed")


async def _delete(session: Session, command: Command) -> Reply:
    name = _mailbox(command).name
    if name == "INBOX":
        raise Refused("CANNOT", "INBOX ne peut pas être supprimée. / INBOX cannot be deleted.")
    folder = await session.call(session.store.folder, session.account.id, name)
    if session.selected is not None and session.selected.folder_id == folder.id:
        session.leave_folder()
    await session.call(session.store.delete_folder, session.account.id, name)
    return Reply("DELETE completed")


async def _rename(session: Session, command: Command) -> Reply:
    arguments = command.arguments
    if not isinstance(arguments, Rename):
        raise BadCommand("expected two mailbox names")
    _check_name(arguments.new)
    if arguments.new.startswith(arguments.old + DELIMITER):
        raise Refused("CANNOT", "Un dossier ne peut pas aller dans lui-même. / A folder cannot move into itself.")
    source = await session.call(session.store.folder, session.account.id, arguments.old)
    await _create_parents(session, arguments.new)
    if arguments.old != "INBOX":
        await session.call(session.store.rename_folder, session.account.id, arguments.old, arguments.new)
        return Reply("RENAME completed")
    # RFC 3501 §6.3.5: renaming INBOX moves its messages into a new folder and leaves INBOX empty.
    await session.call(session.store.create_folder, session.account.id, arguments.new)
    target = await session.call(session.store.folder, session.account.id, arguments.new)
    view = await session.call(session.store.view, source.id)
    await session.call(session.store.move, source.id, view.uids, target.id, session.server.clock())
    return Reply("RENAME completed")


async def _subscribe(session: Session, command: Command) -> Reply:
    on = command.name == "SUBSCRIBE"
    try:
        await session.call(session.store.subscribe, session.account.id, _mailbox(command).name, on)
    except NoSuchFolder:
        # Forgetting a name that is gone already is what the client wanted.
        if on:
            raise
    return Reply(f"{command.name} completed")


def _list_line(verb: bytes, listed: Listed) -> bytes:
    name = fmt.mailbox(listed.name)
    attributes = " ".join(listed.attributes).encode("ascii")
    info = b' (CHILDINFO ("' + '" "'.join(listed.child_info).encode("ascii") + b'"))' if listed.child_info else b""
    return b"* " + verb + b" (" + attributes + b') "/" ' + name + info + fmt.CRLF


def _status_line(folder: Folder, items: Sequence[str]) -> bytes:
    numbers = {
        "MESSAGES": folder.total,
        "RECENT": 0,
        "UIDNEXT": folder.uid_next,
        "UIDVALIDITY": folder.uid_validity,
        "UNSEEN": folder.unseen,
        "HIGHESTMODSEQ": folder.highest_modseq,
    }
    text = " ".join(f"{item} {numbers[item]}" for item in items)
    return b"* STATUS " + fmt.mailbox(folder.name) + b" (" + text.encode("ascii") + b")\r\n"


async def _list(session: Session, command: Command) -> Reply:
    arguments = command.arguments
    if not isinstance(arguments, ListFolders):
        raise BadCommand("malformed LIST")
    verb = command.name.encode("ascii")
    if arguments.patterns == ("",) and not arguments.extended:
        # RFC 3501 §6.3.8: an empty pattern asks for the delimiter.
        await session.send(b"* " + verb + b' (\\Noselect) "/" ""\r\n')
        return Reply(f"{command.name} completed")
    folders = await session.call(session.store.folders, session.account.id)
    find = listing if command.name == "LIST" else subscribed_listing
    # Many patterns over many long names take a while: not on the event loop.
    for listed in await session.call(find, folders, arguments):
        await session.send(_list_line(verb, listed))
        if arguments.status_items and listed.folder is not None:
            if "HIGHESTMODSEQ" in arguments.status_items:
                session.condstore = True
            await session.send(_status_line(listed.folder, arguments.status_items))
    return Reply(f"{command.name} completed")


async def _status(session: Session, command: Command) -> Reply:
    arguments = command.arguments
    if not isinstance(arguments, Status):
        raise BadCommand("malformed STATUS")
    if "HIGHESTMODSEQ" in arguments.items:
        session.condstore = True
    folder = await session.call(session.store.folder, session.account.id, arguments.name)
    await session.send(_status_line(folder, arguments.items))
    return Reply("STATUS completed")


VERBS = (
    Verb("CREATE", AFTER_LOGIN, _create),
    Verb("DELETE", AFTER_LOGIN, _delete),
    Verb("RENAME", AFTER_LOGIN, _rename),
    Verb("SUBSCRIBE", AFTER_LOGIN, _subscribe),
    Verb("UNSUBSCRIBE", AFTER_LOGIN, _subscribe),
    Verb("LIST", AFTER_LOGIN, _list),
    Verb("LSUB", AFTER_LOGIN, _list),
    Verb("STATUS", AFTER_LOGIN, _status),
)
