"""Messages in folders: views, flags, arrivals, departures.

Invariants:
* each change takes one new modseq of its folder, under the folder's row lock, in the transaction that makes it: whoever
  has seen modseq m finds everything later in `changes(m)` (RFC 7162);
* a UID is given once; an expunged UID stays in the log with the modseq of its removal;
* a content is stored once per acceptance or append, and copies share it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from mailstore.core import BATCH, AnyRow, Core, batches
from mailstore.crypto import seal, unseal
from mailstore.flags import DELETED, SEEN, apply, from_text, normalise, to_text
from mailstore.folders import FolderVerbs, find_folder, lock_folders, no_such_folder
from mailstore.model import ChangeKind, Changes, FlagOperation, FolderView, MessageChange, StoreError
from mailstore.names import canonical_name
from mailstore.tables import contents, expunged, folders, messages

_COLUMNS = (
    messages.c.uid,
    messages.c.modseq,
    messages.c.flags,
    messages.c.size,
    messages.c.date,
    messages.c.blob,
)


class Deliveries(Core):
    """Writing messages into folders; shared by append and by the journey."""

    def _insert_content(self, connection: Connection, blob: str, size: int, summary: bytes | None) -> None:
        sealed = None if summary is None else seal(self._fields_key, summary, _summary_aad(blob))
        connection.execute(insert(contents).values(blob=blob, size=size, sealed_summary=sealed))

    def _insert_messages(self, connection: Connection, folder_id: int, rows: Sequence[dict[str, Any]]) -> list[int]:
        """Give UIDs and one modseq to `rows` (flags as a set, size, date, blob) in this folder; returns the UIDs."""
        count = len(rows)
        statement = (
            update(folders)
            .where(folders.c.id == folder_id)
            .values(uid_next=folders.c.uid_next + count, highest_modseq=folders.c.highest_modseq + 1)
            .returning(folders.c.uid_next, folders.c.highest_modseq)
        )
        folder = connection.execute(statement).first()
        if folder is None:
            raise no_such_folder()
        uids = list(range(folder.uid_next - count, folder.uid_next))
        values = [
            {
                **row,
                "folder_id": folder_id,
                "uid": uid,
                "modseq": folder.highest_modseq,
                "flags": to_text(row["flags"]),
                "seen": SEEN in row["flags"],
            }
            for uid, row in zip(uids, rows, strict=True)
        ]
        if values:
            connection.execute(insert(messages), values)
        return uids


class MessageVerbs(Deliveries, FolderVerbs):
    """Verbs on the messages of a folder. UIDs that do not exist are passed over, as IMAP wants (RFC 9051 §6.4.9)."""

    def view(self, folder_id: int) -> FolderView:
        """The whole folder as parallel arrays, one snapshot. Raises NoSuchFolder."""
        with self._db.read() as connection:
            folder = self._read_folder(connection, folder_id)
            statement = select(*_COLUMNS).where(messages.c.folder_id == folder_id).order_by(messages.c.uid)
            rows = connection.execute(statement).all()
        return FolderView(
            folder=folder,
            uids=[row[0] for row in rows],
            modseqs=[row[1] for row in rows],
            flags=[from_text(row[2]) for row in rows],
            sizes=[row[3] for row in rows],
            dates=[row[4] for row in rows],
            blobs=[row[5] for row in rows],
        )

    def changes(self, folder_id: int, since_modseq: int) -> Changes:
        """What came, changed or went after `since_modseq`. A UID that came and went meanwhile is among the expunged:
        the caller passes over those it never saw. Raises NoSuchFolder."""
        with self._db.read() as connection:
            head = connection.execute(
                select(folders.c.highest_modseq, folders.c.uid_next).where(folders.c.id == folder_id)
            ).first()
            if head is None:
                raise no_such_folder()
            if head.highest_modseq <= since_modseq:
                return Changes(head.highest_modseq, head.uid_next, (), ())
            changed = connection.execute(
                select(*_COLUMNS)
                .where(messages.c.folder_id == folder_id, messages.c.modseq > since_modseq)
                .order_by(messages.c.uid)
            ).all()
            gone = connection.execute(
                select(expunged.c.uid)
                .where(expunged.c.folder_id == folder_id, expunged.c.modseq > since_modseq)
                .order_by(expunged.c.uid)
            ).scalars()
            return Changes(head.highest_modseq, head.uid_next, tuple(map(_change, changed)), tuple(gone))

    def highest_modseqs(self, folder_ids: Sequence[int]) -> dict[int, int]:
        """The highest modseq of each folder that exists: the cheap poll of IDLE."""
        found: dict[int, int] = {}
        with self._db.read() as connection:
            for batch in batches(folder_ids, BATCH):
                statement = select(folders.c.id, folders.c.highest_modseq).where(folders.c.id.in_(batch))
                found.update((row[0], row[1]) for row in connection.execute(statement))
        return found

    def append(
        self,
        account_id: int,
        folder_name: str,
        content: bytes,
        flags: Iterable[str],
        date: datetime,
        at: datetime,
    ) -> tuple[int, int]:
        """Add a message (IMAP APPEND); returns UIDVALIDITY and UID. `date` is the internal date.

        When this returns, the message survives a crash. Raises NoSuchFolder, StoreUnavailable (nothing added), StoreError.
        """
        kept = normalise(flags)
        name = canonical_name(folder_name)
        with self._db.read() as connection:
            find_folder(connection, self._names, account_id, name)
        summary = self._summary(content)
        blob = self._blobs.write(content)
        row = {"flags": kept, "size": len(content), "date": date, "blob": blob}
        with self._written_blobs([blob]), self._db.write() as connection:
            folder_id = find_folder(connection, self._names, account_id, name)
            folder = lock_folders(connection, [folder_id])[folder_id]
            self._insert_content(connection, blob, len(content), summary)
            uid = self._insert_messages(connection, folder_id, [row])[0]
        self._tell(ChangeKind.FOLDER, [folder_id])
        return folder.uid_validity, uid

    def store_flags(
        self,
        folder_id: int,
        uids: Sequence[int],
        op: FlagOperation,
        flags: Iterable[str],
        *,
        unchanged_since: int | None = None,
    ) -> tuple[list[MessageChange], list[int]]:
        """STORE: change the flags of messages. Returns their state after it, by UID, and the UIDs left alone because they
        changed after `unchanged_since` (RFC 7162 §3.1.3). A message whose flags were so already keeps its modseq.

        Raises NoSuchFolder, StoreError on a bad flag."""
        given = normalise(flags)
        after: list[MessageChange] = []
        refused: list[int] = []
        with self._db.write() as connection:
            modseq = lock_folders(connection, [folder_id])[folder_id].highest_modseq + 1
            touched: dict[frozenset[str], list[int]] = {}
            for row in _rows(connection, folder_id, uids):
                before = from_text(row.flags)
                if unchanged_since is not None and row.modseq > unchanged_since:
                    refused.append(row.uid)
                    continue
                now = apply(before, FlagOperation(op), given)
                if now != before:
                    touched.setdefault(now, []).append(row.uid)
                after.append(
                    MessageChange(row.uid, modseq if now != before else row.modseq, now, row.size, row.date, row.blob)
                )
            for now, those in touched.items():
                values = {"flags": to_text(now), "seen": SEEN in now, "modseq": modseq}
                for batch in batches(those, BATCH):
                    connection.execute(update(messages).where(*_these(folder_id, batch)).values(values))
            if touched:
                _set_modseq(connection, folder_id, modseq)
        if touched:
            self._tell(ChangeKind.FOLDER, [folder_id])
        return after, refused

    def expunge(self, folder_id: int, uids: Sequence[int] | None) -> list[int]:
        """Remove messages for good: those of `uids`, or with None all that carry `\\Deleted`. Returns the UIDs removed,
        ascending. Raises NoSuchFolder."""
        with self._db.write() as connection:
            modseq = lock_folders(connection, [folder_id])[folder_id].highest_modseq + 1
            if uids is None:
                statement = select(*_COLUMNS).where(
                    messages.c.folder_id == folder_id, messages.c.flags.contains(DELETED, autoescape=True)
                )
                rows: list[AnyRow] = [row for row in connection.execute(statement) if DELETED in from_text(row.flags)]
            else:
                rows = _rows(connection, folder_id, uids)
            removed = sorted(row.uid for row in rows)
            self._remove(connection, folder_id, removed, modseq)
            self._discard_unreferenced(connection, (row.blob for row in rows))
        if removed:
            self._tell(ChangeKind.FOLDER, [folder_id])
        return removed

    def copy(
        self, folder_id: int, uids: Sequence[int], target_folder_id: int, at: datetime
    ) -> tuple[int, list[tuple[int, int]]]:
        """Copy messages to a folder of the same mailbox, with flags and internal dates (RFC 9051 §6.4.7). Returns the
        target's UIDVALIDITY and the pairs (UID, UID of the copy). Raises NoSuchFolder, StoreError across mailboxes."""
        return self._transfer(folder_id, uids, target_folder_id, remove=False)

    def move(
        self, folder_id: int, uids: Sequence[int], target_folder_id: int, at: datetime
    ) -> tuple[int, list[tuple[int, int]]]:
        """As `copy`, and the originals are expunged in the same transaction (RFC 6851)."""
        return self._transfer(folder_id, uids, target_folder_id, remove=True)

    def _transfer(
        self, folder_id: int, uids: Sequence[int], target_folder_id: int, *, remove: bool
    ) -> tuple[int, list[tuple[int, int]]]:
        with self._db.write() as connection:
            held = lock_folders(connection, sorted({folder_id, target_folder_id}))
            source, target = held[folder_id], held[target_folder_id]
            if source.account_id != target.account_id:
                raise StoreError("Ces dossiers ne sont pas de la même boîte. / These folders are of two mailboxes.")
            rows = _rows(connection, folder_id, uids)
            if not rows:
                return target.uid_validity, []
            copies = [
                {"flags": from_text(row.flags), "size": row.size, "date": row.date, "blob": row.blob} for row in rows
            ]
            new_uids = self._insert_messages(connection, target_folder_id, copies)
            old_uids = [row.uid for row in rows]
            if remove:
                head = select(folders.c.highest_modseq).where(folders.c.id == folder_id)
                self._remove(connection, folder_id, old_uids, connection.execute(head).scalar_one() + 1)
        self._tell(ChangeKind.FOLDER, sorted({folder_id, target_folder_id}) if remove else [target_folder_id])
        return target.uid_validity, list(zip(old_uids, new_uids, strict=True))

    def _remove(self, connection: Connection, folder_id: int, uids: Sequence[int], modseq: int) -> None:
        if not uids:
            return
        for batch in batches(uids, BATCH):
            connection.execute(delete(messages).where(*_these(folder_id, batch)))
        connection.execute(insert(expunged), [{"folder_id": folder_id, "uid": uid, "modseq": modseq} for uid in uids])
        _set_modseq(connection, folder_id, modseq)

    def summaries(self, folder_id: int, uids: Sequence[int]) -> dict[int, bytes]:
        """The opaque index values of messages, by UID. Raises SealBroken when one was altered."""
        found: dict[int, bytes] = {}
        with self._db.read() as connection:
            for batch in batches(uids, BATCH):
                statement = (
                    select(messages.c.uid, messages.c.blob, contents.c.sealed_summary)
                    .join(contents, contents.c.blob == messages.c.blob)
                    .where(*_these(folder_id, batch))
                )
                for uid, blob, sealed in connection.execute(statement):
                    if sealed is not None:
                        found[uid] = unseal(self._fields_key, sealed, _summary_aad(blob))
        return found

    def read_blob(self, blob: str, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes `start` to `stop` of a content. Raises NoSuchMessage, BlobDamaged, StoreUnavailable."""
        return self._blobs.read(blob, start, stop)

    def blob_size(self, blob: str) -> int:
        """The size of a content in bytes. Raises as `read_blob`."""
        return self._blobs.size(blob)


def _rows(connection: Connection, folder_id: int, uids: Sequence[int]) -> list[AnyRow]:
    """The rows of these UIDs, ascending."""
    rows: list[AnyRow] = []
    for batch in batches(sorted(set(uids)), BATCH):
        statement = select(*_COLUMNS).where(*_these(folder_id, batch))
        rows.extend(connection.execute(statement.order_by(messages.c.uid)))
    return rows


def _these(folder_id: int, uids: Sequence[int]) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return messages.c.folder_id == folder_id, messages.c.uid.in_(uids)


def _set_modseq(connection: Connection, folder_id: int, modseq: int) -> None:
    connection.execute(update(folders).where(folders.c.id == folder_id).values(highest_modseq=modseq))


def _change(row: AnyRow) -> MessageChange:
    return MessageChange(row.uid, row.modseq, from_text(row.flags), row.size, row.date, row.blob)


def _summary_aad(blob: str) -> bytes:
    return b"summary\x00" + blob.encode("ascii")
