"""STORE (RFC 9051 §6.4.6) with UNCHANGEDSINCE (RFC 7162 §3.1.3) and the rights of RFC 4314."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imap.errors import BadCommand, Refused
from imap.selected import Selected
from imap.sequences import format_numbers
from imap.states import IN_FOLDER, Reply, Verb
from imap.values import SYSTEM_FLAGS, Command, StoreFlags
from mailstore.flags import permitted
from mailstore.model import FlagOperation, MessageChange

if TYPE_CHECKING:
    from imap.session import Session


def _expected(before: frozenset[str], arguments: StoreFlags) -> frozenset[str]:
    """What the client believes the flags are after its command."""
    if arguments.operation is FlagOperation.SET:
        return arguments.flags
    return before | arguments.flags if arguments.operation is FlagOperation.ADD else before - arguments.flags


def _steps(selected: Selected, arguments: StoreFlags) -> list[tuple[FlagOperation, frozenset[str]]]:
    """What to do to the flags, as far as the session's rights go. Raises Refused when they reach none of them."""
    held = set(selected.rights)
    allowed = permitted(arguments.flags, selected.rights)
    if {"s", "t", "w"} <= held:
        return [(arguments.operation, arguments.flags)]
    if not held & {"s", "t", "w"} or (arguments.flags and not allowed):
        raise Refused("NOPERM", "Droit insuffisant sur ce dossier. / Permission denied on this folder.")
    if arguments.operation is not FlagOperation.SET:
        return [(arguments.operation, allowed)]
    # Replacing, but only what one may touch: the others' flags stay.
    touchable = permitted(selected.keywords | frozenset(SYSTEM_FLAGS.values()), selected.rights)
    return [(FlagOperation.REMOVE, touchable - arguments.flags), (FlagOperation.ADD, allowed)]


async def _store(session: Session, command: Command) -> Reply:
    arguments = command.arguments
    if not isinstance(arguments, StoreFlags):
        raise BadCommand("malformed STORE")
    selected = session.require("")
    if arguments.unchanged_since is not None:
        session.enable("CONDSTORE")
    indices = selected.resolve(arguments.messages, uid=command.uid)
    left = selected.uids(indices)
    refused: list[int] = []
    after: dict[int, MessageChange] = {}
    for operation, flags in _steps(selected, arguments):
        changes, modified = await session.call(
            session.store.store_flags,
            selected.folder_id,
            left,
            operation,
            flags,
            unchanged_since=arguments.unchanged_since if not after and not refused else None,
            viewer=selected.place.viewer,
        )
        refused += modified
        after.update((change.uid, change) for change in changes)
        left = list(after)
    await _tell(session, arguments, list(after.values()))
    if refused:
        numbers = refused if command.uid else [index + 1 for index in selected.indices(refused)]
        return Reply("STORE completed", f"MODIFIED {format_numbers(sorted(numbers))}")
    if len(after) < len(indices) and not command.uid:
        raise Refused("EXPUNGEISSUED", "Some messages were expunged meanwhile")
    return Reply("STORE completed")


async def _tell(session: Session, arguments: StoreFlags, changes: list[MessageChange]) -> None:
    selected = session.folder
    await session.tell_keywords(frozenset().union(*{change.flags for change in changes}))
    for change in changes:
        index = selected.index_of(change.uid)
        if index is None:
            continue
        expected = _expected(selected.view.flags[index], arguments)
        unchanged = change.modseq == selected.view.modseqs[index]
        selected.update(change)
        # A silent STORE still tells what the client cannot know: another session's flags, or the modseq, which RFC 7162
        # §3.1.3 wants told of every message that passed UNCHANGEDSINCE.
        if not arguments.silent or change.flags != expected:
            await session.tell_flags(index)
        elif session.condstore and (not unchanged or arguments.unchanged_since is not None):
            await session.send(b"* %d FETCH (UID %d MODSEQ (%d))\r\n" % (index + 1, change.uid, change.modseq))


VERBS = (Verb("STORE", IN_FOLDER, _store, expunge_allowed=False),)
