"""STORE (RFC 3501 §6.4.6) with UNCHANGEDSINCE (RFC 7162 §3.1.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imap.errors import BadCommand, Refused
from imap.sequences import format_numbers
from imap.states import IN_FOLDER, Reply, Verb
from imap.values import Command, StoreFlags
from mailstore.model import FlagOperation

if TYPE_CHECKING:
    from imap.session import Session


def _expected(before: frozenset[str], arguments: StoreFlags) -> frozenset[str]:
    """What the client believes the flags are after its command."""
    if arguments.operation is FlagOperation.SET:
        return arguments.flags
    return before | arguments.flags if arguments.operation is FlagOperation.ADD else before - arguments.flags


async def _store(session: Session, command: Command) -> Reply:
    arguments = command.arguments
    if not isinstance(arguments, StoreFlags):
        raise BadCommand("malformed STORE")
    selected = session.folder
    if selected.read_only:
        raise Refused("READ-ONLY", "Dossier en lecture seule. / The folder is read-only.")
    if arguments.unchanged_since is not None:
        session.condstore = True
    indices = selected.resolve(arguments.messages, uid=command.uid)
    uids = [selected.view.uids[index] for index in indices]
    changes, modified = await session.call(
        session.store.store_flags,
        selected.folder_id,
        uids,
        arguments.operation,
        arguments.flags,
        unchanged_since=arguments.unchanged_since,
    )
    for change in changes:
        index = selected.index_of(change.uid)
        if index is None:
            continue
        expected = _expected(selected.view.flags[index], arguments)
        selected.update(change)
        # A silent STORE still tells what the client cannot know: another session's flags, or the modseq.
        if not arguments.silent or change.flags != expected or session.condstore:
            await session.tell_flags(index)
    code = ""
    if modified:
        found = [selected.index_of(uid) for uid in modified]
        numbers = modified if command.uid else [index + 1 for index in found if index is not None]
        code = f"MODIFIED {format_numbers(sorted(numbers))}"
    return Reply("STORE completed", code)


VERBS = (Verb("STORE", IN_FOLDER, _store, expunge_allowed=False),)
