"""Who copied, moved or removed which message, when, from where: lines of the audit trail, written in the transaction that does it.

Invariants: a copy, a move or a removal that a person or a rule asked for is in the trail if and only if it happened; a line
names the message by its UID and its Message-ID, never by what it says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, bindparam, select

from mailstore.audit import insert_all_events
from mailstore.direct import Direct, DirectAmong
from mailstore.model import Event
from mailstore.sql import AnyRow
from mailstore.tables import accounts, contents, folders

_OWNER = Direct(
    select(accounts.c.address)
    .join(folders, folders.c.account_id == accounts.c.id)
    .where(folders.c.id == bindparam("folder"))
)
_MESSAGE_IDS = DirectAmong(
    lambda blobs: select(contents.c.blob, contents.c.message_id).where(contents.c.blob.in_(blobs))
)


@dataclass(frozen=True, slots=True)
class Doer:
    """Who does something to messages (the address of a mailbox, or the name of a rule), from which network address ("" when it
    is this program), when (aware)."""

    who: str
    source: str
    at: datetime


def trace_doing(
    connection: Connection,
    doer: Doer | None,
    name: str,
    folder_id: int,
    rows: Sequence[AnyRow],
    target: tuple[int, Mapping[int, int]] | None = None,
) -> None:
    """Write what `doer` does to these rows of a folder (`message.expunged`, `message.copied`, `message.moved`), one line a
    message; nothing without a doer. `target` is a folder and the UID that each message gets there. To be called before
    the rows' contents are forgotten."""
    if doer is None or not rows:
        return
    owner = _owner(connection, folder_id)
    common = {"who": doer.who, "mailbox": owner, "folder": f"F{folder_id}"}
    found = _MESSAGE_IDS.all(connection, {}, sorted({row.blob for row in rows}))
    known: dict[str, str | None] = {row[0]: row[1] for row in found}
    told = []
    for row in rows:
        detail = {**common, "uid": str(row.uid), "source": doer.source}
        if target is not None:
            detail |= {"to": f"F{target[0]}", "to_uid": str(target[1][row.uid])}
        told.append(("", known.get(row.blob) or "", [Event(name, detail)]))
    insert_all_events(connection, told, doer.at)


def _owner(connection: Connection, folder_id: int) -> str:
    row = _OWNER.first(connection, {"folder": folder_id})
    return "" if row is None else str(row[0])
