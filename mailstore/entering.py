"""Contents that come into mailboxes: each is written once, recognised when it comes again, summarised, and given its thread.

Invariants:
* a content that the mailbox holds already is not stored again: its copies share blob, summary and EMAILID. Contents are
  recognised by a digest keyed for their mailbox, so that the database tells nobody who else has them;
* large contents are synced before the transaction, small ones are durable with it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select

from mailstore.core import Core, Transaction, clean_message_id, summary_aad
from mailstore.direct import Direct, DirectAmong
from mailstore.flags import normalise
from mailstore.mailbox import NewMessage
from mailstore.model import Content, Stored
from mailstore.sql import insert_missing
from mailstore.tables import contents, holdings
from mailstore.threads import HEADER_LIMIT, Links, join_threads, links
from mailstore.uploads import Upload

SUMMARY_LIMIT = 8 * 1024 * 1024
"""Bytes of the largest streamed content that is read back at once; a larger one is summarised by its first reader."""

_HELD = DirectAmong(
    lambda digests: (
        select(holdings.c.digest, holdings.c.blob)
        .join(contents, contents.c.blob == holdings.c.blob)
        .where(holdings.c.account_id == bindparam("account"), holdings.c.digest.in_(digests))
    )
)
_INSERT_CONTENT = Direct(insert(contents).inline(), "blob", "size", "sealed_summary", "message_id")
_INSERT_MISSING_HOLDING = Direct(
    lambda connection: insert_missing(connection, holdings), "account_id", "digest", "blob"
)


@dataclass(slots=True)
class Prepared:
    """A message made ready before the transaction. `own` is the blob written for it, "" when an equal one of its batch has
    it; `blob` is what the transaction settles."""

    message: NewMessage
    content: Content
    flags: frozenset[str]
    size: int
    digest: bytes
    links: Links
    own: str = ""
    blob: str = ""
    summary: bytes | None = None
    thread_id: int = 0


class Entering(Core):
    """Writing contents, in files or for the journal, and their rows."""

    def _prepare(self, account_id: int, new: NewMessage, made: list[str]) -> Prepared:
        flags, content = normalise(new.flags), new.content
        if isinstance(content, Upload):
            content = content.finish()
            if isinstance(content, Stored):
                made.append(content.blob)
        size = len(content) if isinstance(content, bytes) else content.size
        digest = self._content_digest(account_id, content)
        return Prepared(new, content, flags, size, digest, self._links(content))

    def _write_distinct(self, prepared: Sequence[Prepared], made: list[str]) -> None:
        """Write each content once, and summarise it unless that can be done while the transaction is committed. One that
        the mailbox holds already is rare: the transaction finds out."""
        distinct = {one.digest: one for one in reversed(prepared)}
        clear = [(one, one.content) for one in distinct.values() if isinstance(one.content, bytes)]
        written = self._blobs.stage([content for _, content in clear])
        made.extend(written)
        for (one, _), blob in zip(clear, written, strict=True):
            one.own = blob
        for one in distinct.values():
            if isinstance(one.content, Stored):
                one.own = one.content.blob
            one.summary = one.message.summary
            if one.summary is None and (isinstance(one.content, Stored) or not self._summariser.room(one.size)):
                one.summary = self._summary_of(one.content)

    def _enter_contents(self, transaction: Transaction, account_id: int, prepared: Sequence[Prepared]) -> None:
        """Settle which blob each message has (one that the mailbox holds, or its own, which then gets its row) and which
        thread. To be called before any folder is held (`core`: the order of locks)."""
        connection = transaction.connection
        fresh = sorted((one for one in prepared if one.own), key=lambda one: one.digest)
        holding = [{"account_id": account_id, "digest": one.digest, "blob": one.own} for one in fresh]
        blobs: dict[bytes, str] = {}
        if _INSERT_MISSING_HOLDING.run(connection, holding) < len(fresh):
            # Those that the mailbox holds are those whose content is there: the others' comes with the next statement.
            blobs = self._held(connection, account_id, [one.digest for one in fresh])
            fresh = [one for one in fresh if one.digest not in blobs]
        found = [self._content_row(one.own, one.size, one.summary, one.links.message_id) for one in fresh]
        self._insert_contents(connection, found)
        for one in fresh:
            blobs[one.digest] = one.own
            if one.summary is None and isinstance(one.content, bytes):
                transaction.unsummarised[one.own] = one.content
        digests = [self._thread_digests(account_id, one.links) for one in prepared]
        for one, thread_id in zip(prepared, join_threads(connection, account_id, digests), strict=True):
            one.blob, one.thread_id = blobs[one.digest], thread_id

    def _held(self, connection: Connection, account_id: int, digests: Iterable[bytes]) -> dict[bytes, str]:
        return {row[0]: row[1] for row in _HELD.all(connection, {"account": account_id}, list(digests))}

    def _hold(self, connection: Connection, held: Iterable[tuple[int, Content, str]]) -> None:
        """Remember which mailboxes hold which contents delivered to them: (account, content, blob)."""
        rows = [
            {"account_id": account_id, "digest": self._content_digest(account_id, content), "blob": blob}
            for account_id, content, blob in held
        ]
        rows.sort(key=lambda row: (row["account_id"], row["digest"]))  # one order for all writers
        _INSERT_MISSING_HOLDING.run(connection, rows)

    def _content_digest(self, account_id: int, content: Content) -> bytes:
        plain = content.digest if isinstance(content, Stored) else hashlib.sha256(content).digest()
        return hmac.digest(self._fingerprint_key, b"content\x00%d\x00" % account_id + plain, hashlib.sha256)

    def _links(self, content: Content) -> Links:
        return links(content if isinstance(content, bytes) else self._blobs.read(content.blob, 0, HEADER_LIMIT))

    def _thread_digests(self, account_id: int, found: Links) -> list[bytes]:
        return [
            hmac.digest(self._fingerprint_key, b"thread\x00%d\x00" % account_id + one.encode(), hashlib.sha256)[:16]
            for one in (*found.references, *filter(None, [found.message_id]))
        ]

    def _summary_of(self, content: Content) -> bytes:
        """The summary of a content; empty for one too large to be held in memory, which its first reader summarises."""
        if isinstance(content, bytes):
            return self._summary(content)
        return self._summary(self._blobs.read(content.blob)) if content.size <= SUMMARY_LIMIT else b""

    def _insert_content(
        self, connection: Connection, blob: str, size: int, summary: bytes | None, message_id: str = ""
    ) -> None:
        self._insert_contents(connection, [self._content_row(blob, size, summary, message_id)])

    def _content_row(self, blob: str, size: int, summary: bytes | None, message_id: str) -> dict[str, Any]:
        sealed = None if summary is None else self._fields.seal(summary, summary_aad(blob))
        return {"blob": blob, "size": size, "sealed_summary": sealed, "message_id": clean_message_id(message_id)}

    def _insert_contents(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        """Rows of `_content_row`; what of these contents is staged becomes durable with the transaction."""
        _INSERT_CONTENT.run(connection, rows)
        self._journal.enter(connection, [row["blob"] for row in rows])
