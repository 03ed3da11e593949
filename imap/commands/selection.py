"""SELECT, EXAMINE, CLOSE, UNSELECT, EXPUNGE, UID EXPUNGE (RFC 9051 §6.3.2, §6.4; RFC 7162 §3.2.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imap import format as fmt
from imap.commands.listing import list_line
from imap.errors import BadCommand
from imap.keywords import flags_lines
from imap.listing import Listed
from imap.places import rights_at
from imap.selected import Selected
from imap.sequences import format_numbers
from imap.states import AFTER_LOGIN, IN_FOLDER, Reply, State, Verb
from imap.values import Command, Messages, Resync, Select
from mailstore.model import FolderView

if TYPE_CHECKING:
    from imap.session import Session

_WRITING = frozenset("swite")  # any of these rights makes a folder worth opening for writing


async def _open(session: Session, arguments: Select, *, read_only: bool) -> Selected:
    place, folder = await session.find(arguments.name, "r")
    rights = await session.call(rights_at, session.store, folder, place)
    view = await session.call(session.store.view, folder.id, viewer=place.viewer)
    read_only = read_only or not _WRITING & set(rights)
    # The sets of flags are few and shared: their union is quick, whatever the size of the folder.
    keywords = frozenset().union(*set(view.flags))
    recents: list[tuple[int, int]] = []
    if view.uids and not session.rev2:
        first, end = await session.call(session.store.claim_recent, folder.id, take=not read_only)
        if first < end:
            recents.append((first, end))
    return Selected(place, view, read_only, rights, view.folder.highest_modseq, recents, keywords)


async def _select(session: Session, command: Command) -> Reply:
    """RFC 9051 §6.3.2: a failed SELECT leaves no folder selected."""
    arguments = command.arguments
    if not isinstance(arguments, Select):
        raise BadCommand("expected a mailbox name")
    if arguments.resync is not None and not session.qresync:
        raise BadCommand("QRESYNC is not enabled")
    if session.selected is not None:
        session.leave_folder()
        await session.send(b"* OK [CLOSED] Previous mailbox closed\r\n")
    selected = await _open(session, arguments, read_only=command.name == "EXAMINE")
    if arguments.condstore:
        session.enable("CONDSTORE")
    session.selected = selected
    session.state = State.SELECTED
    session.server.warmer.selected(selected.folder_id, selected.count)
    await _describe(session, selected, arguments)
    if arguments.resync is not None:
        await _resynchronise(session, selected, arguments.resync)
    return Reply(f"{command.name} completed", "READ-ONLY" if selected.read_only else "READ-WRITE")


async def _describe(session: Session, selected: Selected, arguments: Select) -> None:
    view = selected.view
    await session.send(flags_lines(selected) + b"* %d EXISTS\r\n" % len(view.uids))
    if not session.rev2:
        await session.send(b"* %d RECENT\r\n" % selected.recent)
        if unseen := _first_unseen(view):
            await session.send(fmt.status("*", "OK", f"UNSEEN {unseen}", "First unseen"))
    folder = view.folder
    await session.send(fmt.status("*", "OK", f"UIDVALIDITY {folder.uid_validity}", "UIDs valid"))
    await session.send(fmt.status("*", "OK", f"UIDNEXT {folder.uid_next}", "Predicted next UID"))
    await session.send(fmt.status("*", "OK", f"HIGHESTMODSEQ {selected.reached}", "Highest"))
    await session.send(fmt.status("*", "OK", f"MAILBOXID ({folder.object_id})", "Ok"))
    if session.rev2:
        listed = Listed(selected.place.shown, folder, (folder.special_use,) if folder.special_use else ())
        # RFC 9051 §6.3.9.7: the name as it is, and as it was asked for when that is not the same.
        old_name = arguments.written if arguments.written != selected.place.shown else ""
        await session.send(list_line(b"LIST", listed, utf8=session.utf8, old_name=old_name))


def _first_unseen(view: FolderView) -> int:
    """The sequence number of the first message without \\Seen, 0 when there is none."""
    if not view.folder.unseen:
        return 0
    with_seen = {flags for flags in set(view.flags) if "\\Seen" in flags}
    return next((number for number, flags in enumerate(view.flags, 1) if flags not in with_seen), 0)


async def _resynchronise(session: Session, selected: Selected, resync: Resync) -> None:
    """RFC 7162 §3.2.5.2: what vanished and what changed since the client's modseq, when it is still the same folder."""
    if resync.uid_validity != selected.view.folder.uid_validity:
        return
    changes = await session.call(session.store.changes, selected.folder_id, resync.modseq, viewer=selected.place.viewer)
    gone = sorted(uid for uid in changes.expunged if selected.index_of(uid) is None)
    if resync.known is not None:
        gone = [gone[place] for place in resync.known.indices(gone)]
    if gone:
        await session.send(b"* VANISHED (EARLIER) %b\r\n" % format_numbers(gone).encode("ascii"))
    # What happened between the view and this look comes with the synchronisation after the command.
    known = set(resync.known.indices(selected.view.uids)) if resync.known is not None else None
    for change in changes.changed:
        index = selected.index_of(change.uid)
        if index is not None and (known is None or index in known):
            await session.tell_flags(index)


async def _close(session: Session, command: Command) -> Reply:
    """RFC 9051 §6.4.1: removes messages marked deleted, silently."""
    selected = session.folder
    if not selected.read_only and {"e"} <= set(selected.rights):
        await session.call(session.store.expunge, selected.folder_id, None, doer=session.doer)
    session.leave_folder()
    return Reply("CLOSE completed")


async def _unselect(session: Session, command: Command) -> Reply:
    session.leave_folder()
    return Reply("UNSELECT completed")


async def _expunge(session: Session, command: Command) -> Reply:
    """EXPUNGE, and UID EXPUNGE (RFC 4315 §2.1), which only touches messages that are both named and marked deleted.

    The EXPUNGE responses come from the synchronisation after the command.
    """
    selected = session.require("e")
    uids: list[int] | None = None
    if isinstance(command.arguments, Messages):
        # Flags may have changed in another session since the client saw them.
        await session.sync(expunge_allowed=True)
        selected = session.require("e")
        indices = selected.resolve(command.arguments.messages, uid=True)
        uids = [selected.view.uids[index] for index in indices if "\\Deleted" in selected.view.flags[index]]
    await session.call(session.store.expunge, selected.folder_id, uids, doer=session.doer)
    return Reply("EXPUNGE completed", with_modseq=True)


VERBS = (
    Verb("SELECT", AFTER_LOGIN, _select),
    Verb("EXAMINE", AFTER_LOGIN, _select),
    Verb("CLOSE", IN_FOLDER, _close),
    Verb("UNSELECT", IN_FOLDER, _unselect),
    Verb("EXPUNGE", IN_FOLDER, _expunge),
)
