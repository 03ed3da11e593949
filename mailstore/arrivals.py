"""Messages that come into folders: APPEND, MULTIAPPEND, and what the journey shares with them.

Invariants:
* a UID is given once, and a batch of messages takes one modseq of its folder;
* when a verb raises, none of its messages is there, and nothing of their contents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import BigInteger, Connection, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from mailstore.core import BATCH, Transaction, batches
from mailstore.direct import Direct
from mailstore.entering import Entering, Prepared
from mailstore.flags import DELETED, SEEN, to_text
from mailstore.folders import no_such_folder
from mailstore.mailbox import NewMessage
from mailstore.model import ChangeKind, Stored, StoreUnavailable
from mailstore.names import canonical_name
from mailstore.quotas import check_quota
from mailstore.spool import ContentWriter
from mailstore.sql import insert_missing
from mailstore.tables import folders, holdings, messages, seen_by
from mailstore.uploads import Upload

_ATTEMPTS = 3
_T = TypeVar("_T")

_FIND = Direct(
    select(folders.c.id, folders.c.uid_validity).where(
        folders.c.account_id == bindparam("account"), folders.c.name_digest == bindparam("named")
    )
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


class Arrivals(Entering):
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
