"""CREATE, DELETE, RENAME, SUBSCRIBE, UNSUBSCRIBE (RFC 9051 §6.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imap.errors import BadCommand, Refused
from imap.listing import DELIMITER
from imap.places import SHARED, Place
from imap.states import AFTER_LOGIN, Reply, Verb
from imap.values import Command, Create, Mailbox, Rename
from mailstore.model import FolderExists, NoSuchFolder

if TYPE_CHECKING:
    from imap.session import Session

MOST_LEVELS = 20


def _mailbox(command: Command) -> Mailbox:
    if not isinstance(command.arguments, Mailbox):
        raise BadCommand("expected a mailbox name")
    return command.arguments


async def _create_parents(session: Session, place: Place) -> None:
    """RFC 9051 §6.3.4: superior names that are missing are created."""
    levels = place.name.split(DELIMITER)
    for depth in range(1, len(levels)):
        try:
            await session.call(session.store.create_folder, place.owner, DELIMITER.join(levels[:depth]))
        except FolderExists:
            continue


async def _new_place(session: Session, name: str) -> Place:
    """Where a new folder may go. In a mailbox that another shares, RFC 4314 §4 asks for `k` on the folder above (at the
    top, on INBOX)."""
    levels = name.split(DELIMITER)
    if any(not level for level in levels) or len(levels) > MOST_LEVELS or any(c < " " or c == "\x7f" for c in name):
        raise Refused("CANNOT", "Nom de dossier invalide. / Invalid folder name.")
    if name == SHARED:
        raise Refused("CANNOT", "Ce nom est réservé. / This name is reserved.")
    place = await session.locate(name)
    if place.viewer is not None:
        above = DELIMITER.join(levels[:-1]) if DELIMITER in place.name else DELIMITER.join((*levels[:2], "INBOX"))
        await session.find(above, "k")
    return place


async def _create(session: Session, command: Command) -> Reply:
    arguments = command.arguments
    if not isinstance(arguments, Create):
        raise BadCommand("expected a mailbox name")
    place = await _new_place(session, arguments.name)
    folders = await session.call(session.store.folders, place.owner)
    if len(folders) >= session.limits.folders_per_account:
        raise Refused("LIMIT", "Trop de dossiers. / Too many folders.")
    if any(folder.name == place.name for folder in folders):
        raise Refused("ALREADYEXISTS", "Ce dossier existe déjà. / This folder exists already.")
    if len(arguments.special_uses) > 1 or (arguments.special_uses and place.viewer is not None):
        raise Refused("USEATTR", "One special use for each folder")
    use = "".join(arguments.special_uses)
    if use and any(folder.special_use == use for folder in folders):
        raise Refused("USEATTR", "Another folder has this special use")
    await _create_parents(session, place)
    created = await session.call(session.store.create_folder, place.owner, place.name, use)
    return Reply("CREATE completed", f"MAILBOXID ({created.object_id})")


async def _delete(session: Session, command: Command) -> Reply:
    name = _mailbox(command).name
    place, folder = await session.find(name, "x")
    if place.name == "INBOX":
        raise Refused("CANNOT", "INBOX ne peut pas être supprimée. / INBOX cannot be deleted.")
    if session.selected is not None and session.selected.folder_id == folder.id:
        session.leave_folder()
    await session.call(session.store.delete_folder, place.owner, place.name, doer=session.doer)
    return Reply("DELETE completed")


async def _rename(session: Session, command: Command) -> Reply:
    arguments = command.arguments
    if not isinstance(arguments, Rename):
        raise BadCommand("expected two mailbox names")
    target = await _new_place(session, arguments.new)
    if arguments.new.startswith(arguments.old + DELIMITER):
        raise Refused("CANNOT", "Un dossier ne peut pas aller dans lui-même. / A folder cannot move into itself.")
    source = await session.locate(arguments.old)
    if source.owner != target.owner:
        raise Refused("CANNOT", "Un dossier reste dans sa boîte. / A folder stays in its mailbox.")
    folders = {folder.name: folder for folder in await session.call(session.store.folders, source.owner)}
    if target.name in folders:
        raise FolderExists("Un dossier porte déjà ce nom. / A folder of that name already exists.")
    if source.name != "INBOX":
        # A name that exists only as the parent of others is renamed with them.
        below = [name for name in folders if name == source.name or name.startswith(source.name + DELIMITER)]
        if not below:
            raise NoSuchFolder("Ce dossier n'existe pas. / This folder does not exist.")
        if source.viewer is not None:
            await session.find(arguments.old, "x")
        await _create_parents(session, target)
        if source.name in folders:
            await session.call(session.store.rename_folder, source.owner, source.name, target.name)
        else:
            for name in sorted(below):
                if not any(name.startswith(other + DELIMITER) for other in below):
                    renamed = target.name + name[len(source.name) :]
                    await _create_parents(session, Place(target.owner, renamed, renamed, None))
                    await session.call(session.store.rename_folder, source.owner, name, renamed)
        return Reply("RENAME completed")
    # RFC 9051 §6.3.6: renaming INBOX moves its messages into a new folder and leaves INBOX empty.
    await _create_parents(session, target)
    await session.find(arguments.old, "te")
    created = await session.call(session.store.create_folder, target.owner, target.name)
    view = await session.call(session.store.view, folders["INBOX"].id)
    await session.call(
        session.store.move, folders["INBOX"].id, view.uids, created.id, session.server.clock(), doer=session.doer
    )
    return Reply("RENAME completed")


async def _subscribe(session: Session, command: Command) -> Reply:
    """RFC 9051 §6.3.7: a name is subscribed to, whether it has a folder or not."""
    await session.call(session.store.subscribe, session.account.id, _mailbox(command).name, command.name == "SUBSCRIBE")
    return Reply(f"{command.name} completed")


VERBS = (
    Verb("CREATE", AFTER_LOGIN, _create),
    Verb("DELETE", AFTER_LOGIN, _delete),
    Verb("RENAME", AFTER_LOGIN, _rename),
    Verb("SUBSCRIBE", AFTER_LOGIN, _subscribe),
    Verb("UNSUBSCRIBE", AFTER_LOGIN, _subscribe),
)
