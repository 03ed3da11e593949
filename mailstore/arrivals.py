"""Messages that come into folders: APPEND, MULTIAPPEND, and what the journey shares with them.

Invariants:
* a UID is given once, and a batch of messages takes one modseq of its folder;
* a content that the mailbox holds already is not stored again: its copies share blob, summary and EMAILID. Contents are
  recognised by a digest keyed for their mailbox, so that the database tells nobody who else has them;
* blobs are synced before the transaction; when a verb raises, none of its messages is there.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import BigInteger, Connection, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from mailstore.core import BATCH, Core, Transaction, batches, clean_message_id, summary_aad
from mailstore.direct import Direct, DirectAmong
from mailstore.flags import DELETED, SEEN, normalise, to_text
from mailstore.folders import no_such_folder
from mailstore.mailbox import NewMessage
from mailstore.model import ChangeKind, Content, Stored, StoreUnavailable
from mailstore.names import canonical_name
from mailstore.quotas import check_quota
from mailstore.spool import ContentWriter
from mailstore.sql import insert_missing
from mailstore.tables import contents, folders, holdings, messages, seen_by
from mailstore.threads import HEADER_LIMIT, Links, join_threads, links
from mailstore.uploads import Upload

SUMMARY_LIMIT = 8 * 1024 * 1024
"""Bytes of the largest streamed content that is read back at once; a larger one is summarised by its first reader."""
_ATTEMPTS = 3
_T = TypeVar("_T")

_FIND = Direct(
    select(folders.c.id, folders.c.uid_validity).where(
        folders.c.account_id == bindparam("account"), folders.c.name_digest == bindparam("named")
    )
)
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
_INSERT_MESSAGE = Direct(
    insert(messages).inline(),
    *("folder_id", "uid", "modseq", "flags", "seen", "size", "date", "blob", "saved_at", "thread_id"),
)
_ARRIVE = Direct(
    update(folders)
    .where(folders.c.id == bindparam("folder"))
    .values(
        uid_next=folders.c.uid_next + bindparam("count", type_=BigInteger),
        highest_modseq=folders.c.highest_modseq + 1,
        total=folders.c.total + bindparam("count", type_=BigInteger),
        unseen=folders.c.unseen + bindparam("more_unseen", type_=BigInteger),
        deleted=folders.c.deleted + bindparam("more_deleted", type_=BigInteger),
        size=folders.c.size + bindparam("more_size", type_=BigInteger),
        deleted_size=folders.c.deleted_size + bindparam("more_deleted_size", type_=BigInteger),
    )
    .returning(folders.c.uid_next, folders.c.highest_modseq, folders.c.account_id)
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


class Arrivals(Core):
    """Writing messages into folders."""

    def upload(self, limit: int) -> Upload:
        """Begin a content of at most `limit` bytes that a client sends."""
        return Upload(self._fresh_writer, limit, self._room)

    def _fresh_writer(self) -> ContentWriter:
        return ContentWriter(*self._blobs.fresh())

    def append(
        self,
        account_id: int,
        folder_name: str,
        content: bytes,
        flags: Iterable[str],
        date: datetime,
        at: datetime,
    ) -> tuple[int, int]:
        """Add one message: see `append_messages`. Returns UIDVALIDITY and UID."""
        message = NewMessage(content, frozenset(flags), date)
        validity, (uid,) = self.append_messages(account_id, folder_name, [message], at)
        return validity, uid

    def append_messages(
        self,
        account_id: int,
        folder_name: str,
        new: Sequence[NewMessage],
        at: datetime,
        *,
        viewer: int | None = None,
    ) -> tuple[int, list[int]]:
        """Add messages (APPEND, RFC 3502), all or none, in one transaction; returns UIDVALIDITY and the UIDs in order.

        With a `viewer` that is not the mailbox, `\\Seen` is set for that viewer only. When this returns, the messages
        survive a crash. Raises NoSuchFolder, OverQuota, StoreError on a bad flag, StoreUnavailable (nothing added; the
        streamed contents are gone too)."""

        def write(transaction: Transaction, prepared: Sequence[Prepared]) -> tuple[int, list[int]]:
            folder_id, validity = self._find(transaction.connection, account_id, folder_name)
            self._enter_contents(transaction, account_id, prepared)
            return validity, self._add(transaction, folder_id, account_id, prepared, at, viewer)

        return self._arrive(account_id, new, write)

    def present(self, account_id: int, folder_name: str, raws: Sequence[bytes]) -> list[bool]:
        """Whether a folder holds each of these contents already: an import that was cut and begun again. Raises
        NoSuchFolder."""
        digests = [self._content_digest(account_id, raw) for raw in raws]
        found: set[bytes] = set()
        with self._db.read() as connection:
            folder_id, _ = self._find(connection, account_id, folder_name)
            for batch in batches(digests, BATCH):
                statement = (
                    select(holdings.c.digest)
                    .join(messages, messages.c.blob == holdings.c.blob)
                    .where(
                        holdings.c.account_id == account_id,
                        holdings.c.digest.in_(batch),
                        messages.c.folder_id == folder_id,
                    )
                )
                found.update(connection.execute(statement).scalars())
        return [digest in found for digest in digests]

    def _arrive(
        self, account_id: int, new: Sequence[NewMessage], write: Callable[[Transaction, Sequence[Prepared]], _T]
    ) -> _T:
        """Prepare messages for a mailbox and have `write` add them in one transaction. Blobs that were made and are not
        used are removed, whatever happens."""
        made = [one.content.blob for one in new if isinstance(one.content, Stored)]
        with self._written_blobs(made), ExitStack() as uploads:
            for one in new:
                if isinstance(one.content, Upload):
                    uploads.callback(one.content.discard)
            prepared = [self._prepare(account_id, one, made) for one in new]
            self._write_distinct(prepared, made)
            for attempt in range(_ATTEMPTS):
                try:
                    with self._changing() as transaction:
                        result = write(transaction, prepared)
                    break
                except IntegrityError:
                    # Only on PostgreSQL: a shared content was dropped, or taken, at the same time.
                    if attempt == _ATTEMPTS - 1:
                        raise StoreUnavailable("Écritures concurrentes. / Concurrent writes.") from None
        self._remove_blobs(set(made) - {one.blob for one in prepared})
        return result

    def _find(self, connection: Connection, account_id: int, name: str) -> tuple[int, int]:
        """The id and UIDVALIDITY of a folder. Raises NoSuchFolder."""
        digest = self._names.digest(account_id, canonical_name(name))
        row = _FIND.first(connection, {"account": account_id, "named": digest})
        if row is None:
            raise no_such_folder()
        return row[0], row[1]

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

    def _add(
        self,
        transaction: Transaction,
        folder_id: int,
        account_id: int,
        prepared: Sequence[Prepared],
        at: datetime,
        viewer: int | None,
    ) -> list[int]:
        """Write the rows of settled messages; returns their UIDs."""
        connection = transaction.connection
        own = viewer is None or viewer == account_id
        rows = [
            {
                "flags": one.flags if own else one.flags - {SEEN},
                "size": one.size,
                "date": one.message.date,
                "blob": one.blob,
                "saved_at": at,
                "thread_id": one.thread_id,
            }
            for one in prepared
        ]
        uids = list(self._insert_messages(connection, folder_id, rows).uids)
        check_quota(connection, account_id)
        if not own:
            read = [uid for uid, one in zip(uids, prepared, strict=True) if SEEN in one.flags]
            mark_seen(connection, folder_id, viewer or 0, read)
        transaction.touch(ChangeKind.FOLDER, [folder_id])
        return uids

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

    def _insert_messages(self, connection: Connection, folder_id: int, rows: Sequence[dict[str, Any]]) -> Inserted:
        """Give UIDs and one modseq to `rows` (flags as a set, size, date, blob, saved_at, thread_id) in this folder, whose
        row is held from here to the end of the transaction. Raises NoSuchFolder."""
        count = len(rows)
        marked = [row for row in rows if DELETED in row["flags"]]
        change = {
            "folder": folder_id,
            "count": count,
            "more_unseen": sum(SEEN not in row["flags"] for row in rows),
            "more_deleted": len(marked),
            "more_size": sum(row["size"] for row in rows),
            "more_deleted_size": sum(row["size"] for row in marked),
        }
        folder = _ARRIVE.first(connection, change)
        if folder is None:
            raise no_such_folder()
        uid_next, modseq, account_id = folder
        uids = range(uid_next - count, uid_next)
        values = [
            {
                **row,
                "folder_id": folder_id,
                "uid": uid,
                "modseq": modseq,
                "flags": to_text(row["flags"]),
                "seen": SEEN in row["flags"],
            }
            for uid, row in zip(uids, rows, strict=True)
        ]
        _INSERT_MESSAGE.run(connection, values)
        return Inserted(uids, account_id, modseq)


@dataclass(frozen=True, slots=True)
class Inserted:
    """The UIDs given, in the order of the rows, the mailbox they are in, and the modseq of all of them."""

    uids: range
    account_id: int
    modseq: int


def mark_seen(connection: Connection, folder_id: int, account_id: int, uids: Iterable[int]) -> None:
    """Set a viewer's own `\\Seen`."""
    rows = [{"folder_id": folder_id, "account_id": account_id, "uid": uid} for uid in uids]
    if rows:
        connection.execute(insert_missing(connection, seen_by), rows)
