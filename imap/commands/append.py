"""APPEND (RFC 3501 §6.3.11) with the APPENDUID of RFC 4315."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imap.errors import BadCommand, Refused
from imap.states import AFTER_LOGIN, Reply, Verb
from imap.values import Append, Command
from mailstore.model import NoSuchFolder

if TYPE_CHECKING:
    from imap.session import Session


async def _append(session: Session, command: Command) -> Reply:
    """The message is stored octet for octet: it may be signed."""
    arguments = command.arguments
    if not isinstance(arguments, Append):
        raise BadCommand("malformed APPEND")
    if not arguments.content:
        raise Refused("CANNOT", "An empty message is not stored")
    if b"\x00" in arguments.content:
        raise Refused("CANNOT", "A message with NUL octets is not stored")
    now = session.server.clock()
    try:
        validity, uid = await session.call(
            session.store.append,
            session.account.id,
            arguments.name,
            arguments.content,
            arguments.flags,
            arguments.date or now,
            now,
        )
    except NoSuchFolder:
        raise Refused("TRYCREATE", "Ce dossier n'existe pas. / No such folder.") from None
    return Reply("APPEND completed", f"APPENDUID {validity} {uid}")


VERBS = (Verb("APPEND", AFTER_LOGIN, _append),)
