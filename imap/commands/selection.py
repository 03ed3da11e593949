"""SELECT, EXAMINE, CLOSE, UNSELECT, EXPUNGE, UID EXPUNGE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imap import format as fmt
from imap.errors import BadCommand, Refused
from imap.selected import Selected
from imap.states import AFTER_LOGIN, IN_FOLDER, Reply, State, Verb
from imap.values import SYSTEM_FLAGS, Command, Mailbox, Messages

if TYPE_CHECKING:
    from imap.session import Session

MOST_KEYWORDS_SHOWN = 200


async def _select(session: Session, command: Command) -> Reply:
    """RFC 3501 §6.3.1: a failed SELECT leaves no folder selected."""
    arguments = command.arguments
    if not isinstance(arguments, Mailbox):
        raise BadCommand("expected a mailbox name")
    session.leave_folder()
    folder = await session.call(session.store.folder, session.account.id, arguments.name)
    view = await session.call(session.store.view, folder.id)
    read_only = command.name == "EXAMINE"
    session.condstore = session.condstore or arguments.condstore
    session.selected = Selected.open(view, read_only=read_only)
    session.state = State.SELECTED
    keywords = sorted({flag for flags in view.flags for flag in flags} - set(SYSTEM_FLAGS.values()))
    flags = fmt.flags([*SYSTEM_FLAGS.values(), *keywords[:MOST_KEYWORDS_SHOWN]])
    permanent = b"()" if read_only else flags[:-1] + b" \\*)"
    await session.send(
        b"* FLAGS %b\r\n* OK [PERMANENTFLAGS %b] Flags kept\r\n* %d EXISTS\r\n* 0 RECENT\r\n"
        % (flags, permanent, len(view.uids))
    )
    unseen = next((number for number, found in enumerate(view.flags, 1) if "\\Seen" not in found), 0)
    if unseen:
        await session.send(fmt.status("*", "OK", f"UNSEEN {unseen}", "First unseen"))
    await session.send(fmt.status("*", "OK", f"UIDVALIDITY {view.folder.uid_validity}", "UIDs valid"))
    await session.send(fmt.status("*", "OK", f"UIDNEXT {view.folder.uid_next}", "Predicted next UID"))
    await session.send(fmt.status("*", "OK", f"HIGHESTMODSEQ {view.folder.highest_modseq}", "Highest"))
    return Reply(f"{command.name} completed", "READ-ONLY" if read_only else "READ-WRITE")


async def _close(session: Session, command: Command) -> Reply:
    """RFC 3501 §6.4.2: removes messages marked deleted, silently."""
    selected = session.folder
    if not selected.read_only:
        await session.call(session.store.expunge, selected.folder_id, None)
    session.leave_folder()
    return Reply("CLOSE completed")


async def _unselect(session: Session, command: Command) -> Reply:
    session.leave_folder()
    return Reply("UNSELECT completed")


async def _expunge(session: Session, command: Command) -> Reply:
    """EXPUNGE, and UID EXPUNGE (RFC 4315 §2.1), which only touches messages that are both named and marked deleted.

    The EXPUNGE responses come from the synchronisation after the command.
    """
    selected = session.folder
    if selected.read_only:
        raise Refused("READ-ONLY", "Dossier en lecture seule. / The folder is read-only.")
    uids: list[int] | None = None
    if isinstance(command.arguments, Messages):
        # Flags may have changed in another session since the client saw them.
        await session.sync(expunge_allowed=True)
        indices = selected.resolve(command.arguments.messages, uid=True)
        uids = [selected.view.uids[index] for index in indices if "\\Deleted" in selected.view.flags[index]]
    await session.call(session.store.expunge, selected.folder_id, uids)
    return Reply("EXPUNGE completed")


VERBS = (
    Verb("SELECT", AFTER_LOGIN, _select),
    Verb("EXAMINE", AFTER_LOGIN, _select),
    Verb("CLOSE", IN_FOLDER, _close),
    Verb("UNSELECT", IN_FOLDER, _unselect),
    Verb("EXPUNGE", IN_FOLDER, _expunge),
)
