"""Which messages belong to one conversation, for THREADID (RFC 8474 §5.2).

Invariants: Message-IDs are kept as keyed digests, bound to their mailbox; a message joins the thread of the first of its
references that is known, else of its own id (a reply may come first), else begins one; a thread id never changes.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, select

from mailstore.direct import Direct, DirectAmong
from mailstore.sql import insert_missing
from mailstore.tables import threads
from mime import header_end

HEADER_LIMIT = 64 * 1024  # bytes looked at
LINKS_LIMIT = 50  # references of one message: the oldest ones name the thread
_FIELD = re.compile(
    rb"^(message-id|in-reply-to|references)[ \t]*:((?:[^\r\n]|\r?\n[ \t])*)", re.IGNORECASE | re.MULTILINE
)
_ID = re.compile(rb"<([^<>\s]{1,998})>")

_KNOWN = DirectAmong(
    lambda digests: select(threads.c.digest, threads.c.thread_id).where(
        threads.c.account_id == bindparam("account"), threads.c.digest.in_(digests)
    )
)
_INSERT = Direct(lambda connection: insert_missing(connection, threads), "account_id", "digest", "thread_id")


@dataclass(frozen=True, slots=True)
class Links:
    """A message's own id ("" when it has none) and the ids it refers to, the oldest first; without <>."""

    message_id: str
    references: tuple[str, ...]


def links(message: bytes) -> Links:
    """What the header of a message says of its id and its ancestors (RFC 5322 §3.6.4); never raises."""
    head = message[:HEADER_LIMIT]
    end, _ = header_end(head)
    found: dict[bytes, list[bytes]] = {}
    for field in _FIELD.finditer(head, 0, end):
        found.setdefault(field[1].lower(), []).extend(_ID.findall(field[2]))
    own = found.get(b"message-id", [])
    ancestors = dict.fromkeys(
        (*found.get(b"references", [])[:LINKS_LIMIT], *found.get(b"in-reply-to", [])[:LINKS_LIMIT])
    )
    return Links(_text(own[0]) if own else "", tuple(map(_text, ancestors)))


def join_threads(connection: Connection, account_id: int, messages: Sequence[Sequence[bytes]]) -> list[int]:
    """The threads of messages that arrive in a mailbox one after the other; of each, the digests of its references and of
    its own id, in that order."""
    wanted = sorted({digest for digests in messages for digest in digests})
    if all(len(digests) == 1 for digests in messages):
        # No replies: as a rule each begins a thread, and nothing is looked for.
        begun = {digest: _fresh_thread() for digest in wanted}
        rows = [{"account_id": account_id, "digest": digest, "thread_id": begun[digest]} for digest in wanted]
        if _INSERT.run(connection, rows) == len(rows):
            return [begun[digest] for (digest,) in messages]
    known = {row[0]: row[1] for row in _KNOWN.all(connection, {"account": account_id}, wanted)}
    found, threads_of = dict(known), []
    for digests in messages:
        joined = next((found[digest] for digest in digests if digest in found), 0) or _fresh_thread()
        for digest in digests:
            found.setdefault(digest, joined)
        threads_of.append(joined)
    rows = [
        {"account_id": account_id, "digest": digest, "thread_id": found[digest]}
        for digest in wanted  # in one order for all, so that no two transactions wait for each other
        if digest not in known
    ]
    _INSERT.run(connection, rows)
    return threads_of


def _fresh_thread() -> int:
    return secrets.randbits(62) + 1


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
