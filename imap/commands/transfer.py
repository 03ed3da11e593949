"""COPY (RFC 9051 §6.4.7) and MOVE (RFC 6851), with the COPYUID of RFC 4315."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imap import format as fmt
from imap.errors import BadCommand, Refused
from imap.places import rights_at
from imap.sequences import format_numbers
from imap.states import IN_FOLDER, Reply, Verb
from imap.values import Command, Copy
from mailstore.model import NoSuchFolder

if TYPE_CHECKING:
    from imap.session import Session


def _copy_uid(validity: int, pairs: list[tuple[int, int]]) -> str:
    if not pairs:
        return ""
    # Old and new UIDs correspond by position (RFC 4315 §3).
    pairs = sorted(pairs)
    old, new = format_numbers(pair[0] for pair in pairs), format_numbers(pair[1] for pair in pairs)
    return f"COPYUID {validity} {old} {new}"


async def _transfer(session: Session, command: Command) -> Reply:
    arguments = command.arguments
    if not isinstance(arguments, Copy):
        raise BadCommand(f"malformed {command.name}")
    moving = command.name == "MOVE"
    selected = session.require("te") if moving else session.folder
    indices = selected.resolve(arguments.messages, uid=command.uid)
    uids = selected.uids(indices)
    try:
        place, target = await session.find(arguments.name, "i")
    except NoSuchFolder:
        raise Refused("TRYCREATE", "Ce dossier n'existe pas. / No such folder.") from None
    if not uids:
        return Reply(f"{command.name} completed, nothing to do")
    if moving and target.id == selected.folder_id:
        raise Refused("CANNOT", "The messages are in that folder already")
    verb = session.store.move if moving else session.store.copy
    validity, pairs = await session.call(
        verb,
        selected.folder_id,
        uids,
        target.id,
        session.server.clock(),
        viewer=selected.place.viewer or place.viewer,
        rights=await session.call(rights_at, session.store, target, place),
        doer=session.doer,
    )
    code = _copy_uid(validity, pairs)
    if len(pairs) < len(uids) and not pairs:
        raise Refused("EXPUNGEISSUED", "Ces messages n'existent plus. / These messages no longer exist.")
    if not moving:
        return Reply("COPY completed", code)
    # RFC 6851 §4.3: COPYUID comes before the EXPUNGE responses, which the synchronisation sends.
    await session.send(fmt.status("*", "OK", code, "Moved"))
    return Reply("MOVE completed", with_modseq=True)


VERBS = (
    Verb("COPY", IN_FOLDER, _transfer),
    Verb("MOVE", IN_FOLDER, _transfer),
)
