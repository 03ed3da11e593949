"""APPEND (RFC 9051 §6.3.12, RFC 3502) and REPLACE (RFC 8508), with the APPENDUID of RFC 4315."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from imap import format as fmt
from imap.errors import BadCommand, Refused
from imap.places import Place, rights_at
from imap.sequences import format_numbers
from imap.sinks import UploadSink, no_target, target_of
from imap.states import AFTER_LOGIN, IN_FOLDER, Reply, Verb
from imap.values import Append, Command, Incoming, Replace
from mailstore import NewMessage, Store
from mailstore.flags import permitted
from mailstore.model import NoSuchFolder

if TYPE_CHECKING:
    from imap.session import Session


def _new_message(session: Session, incoming: Incoming) -> NewMessage:
    """The message as the store takes it, octet for octet: it may be signed."""
    if not isinstance(incoming.content, UploadSink):
        # Its literal was not seen as a message when it came: the command around it is malformed.
        raise BadCommand("malformed message literal")
    return NewMessage(incoming.content.upload, incoming.flags, incoming.date or session.server.clock())


def _as_permitted(store: Store, place: Place, message: NewMessage) -> NewMessage:
    """Without the flags that one may not set there: RFC 4314 §4 has them passed over."""
    if place.viewer is None or not message.flags:
        return message
    rights = rights_at(store, store.folder(place.owner, place.name), place)
    return replace(message, flags=permitted(message.flags, rights))


async def _append(session: Session, command: Command) -> Reply:
    arguments = command.arguments
    if not isinstance(arguments, Append):
        raise BadCommand("malformed APPEND")
    store, account, now = session.store, session.account, session.server.clock()
    new = [_new_message(session, message) for message in arguments.messages]

    def add() -> tuple[int, list[int]]:
        # Rights were checked before the client was asked for its messages; others' may have been taken away since.
        place = target_of(store, account, arguments.name, again=True)
        kept = [_as_permitted(store, place, message) for message in new]
        return store.append_messages(place.owner, place.name, kept, now, viewer=place.viewer)

    try:
        validity, uids = await session.call(add)
    except NoSuchFolder:
        raise no_target() from None
    return Reply("APPEND completed", f"APPENDUID {validity} {format_numbers(uids)}")


async def _replace(session: Session, command: Command) -> Reply:
    """The new message in and the old one out, in one transaction. APPENDUID goes out before the EXPUNGE, which the
    synchronisation sends (RFC 8508 §3.4)."""
    arguments = command.arguments
    if not isinstance(arguments, Replace):
        raise BadCommand("malformed REPLACE")
    selected = session.require("te")
    indices = selected.resolve(arguments.old, uid=command.uid)
    if len(indices) != 1:
        raise Refused("NONEXISTENT" if not indices else "CANNOT", "REPLACE takes exactly one message")
    place = await session.call(target_of, session.store, session.account, arguments.name)
    message = _new_message(session, arguments.message)
    validity, uid = await session.call(
        session.store.replace,
        selected.folder_id,
        selected.view.uids[indices[0]],
        place.owner,
        place.name,
        await session.call(_as_permitted, session.store, place, message),
        session.server.clock(),
        viewer=place.viewer,
        doer=session.doer,
    )
    await session.send(fmt.status("*", "OK", f"APPENDUID {validity} {uid}", "Replacement message ready"))
    return Reply("REPLACE completed", with_modseq=True)


VERBS = (
    Verb("APPEND", AFTER_LOGIN, _append),
    Verb("REPLACE", IN_FOLDER, _replace),
)
