"""Messages that leave a folder: EXPUNGE, COPY, MOVE, REPLACE.

Invariants: an expunged UID stays in the log with the modseq of its removal; copies share their content with the original;
a move or a replacement is one transaction: never both, never neither. Between two mailboxes a copy stays one content, now
referred to from both.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select

from mailstore.arrivals import mark_seen
from mailstore.core import Transaction
from mailstore.doings import Doer, trace_doing
from mailstore.entering import Prepared
from mailstore.flags import DELETED, SEEN, from_text, permitted
from mailstore.folders import lock_folders, no_such_folder
from mailstore.mailbox import NewMessage
from mailstore.messages import MessageVerbs, change_counts, forget_seen, ranges, read_rows
from mailstore.model import ChangeKind, NoSuchMessage, StoreError
from mailstore.quotas import check_quota
from mailstore.sharing import ALL_RIGHTS
from mailstore.sql import AnyRow
from mailstore.tables import expunged, folders, messages, seen_by
from mailstore.threads import HEADER_LIMIT, join_threads, links
from mailstore.views import COLUMNS, head


class TransferVerbs(MessageVerbs):
    """Verbs that take messages out of a folder or into another one."""

    def expunge(self, folder_id: int, uids: Sequence[int] | None, *, doer: Doer | None = None) -> list[int]:
        """Remove messages for good: those of `uids`, or with None all that carry `\\Deleted`. Returns the UIDs removed,
        ascending. With a `doer`, here as in the other verbs, the audit trail tells. Raises NoSuchFolder."""
        with self._changing() as transaction:
            connection = transaction.connection
            lock_folders(connection, [folder_id])
            if uids is None:
                statement = select(*COLUMNS).where(
                    messages.c.folder_id == folder_id, messages.c.flags.contains(DELETED, autoescape=True)
                )
                rows: list[AnyRow] = [row for row in connection.execute(statement) if DELETED in from_text(row.flags)]
            else:
                rows = read_rows(connection, folder_id, uids)
            trace_doing(connection, doer, "message.expunged", folder_id, rows)
            self._remove(transaction, folder_id, rows)
            self._discard_unreferenced(connection, (row.blob for row in rows))
        return sorted(row.uid for row in rows)

    def copy(
        self,
        folder_id: int,
        uids: Sequence[int],
        target_folder_id: int,
        at: datetime,
        *,
        viewer: int | None = None,
        rights: str = ALL_RIGHTS,
        doer: Doer | None = None,
    ) -> tuple[int, list[tuple[int, int]]]:
        """Copy messages, with internal dates and those flags that `rights` on the target let one set (RFC 9051 §6.4.7, RFC
        4314 §4). Returns the target's UIDVALIDITY and the pairs (UID, UID of the copy). Raises NoSuchFolder, OverQuota,
        StoreError across mailboxes without a `viewer`."""
        return self._transfer(folder_id, uids, target_folder_id, at, viewer, rights, doer, remove=False)

    def move(
        self,
        folder_id: int,
        uids: Sequence[int],
        target_folder_id: int,
        at: datetime,
        *,
        viewer: int | None = None,
        rights: str = ALL_RIGHTS,
        doer: Doer | None = None,
    ) -> tuple[int, list[tuple[int, int]]]:
        """As `copy`, and the originals are expunged in the same transaction (RFC 6851)."""
        return self._transfer(folder_id, uids, target_folder_id, at, viewer, rights, doer, remove=True)

    def replace(
        self,
        folder_id: int,
        uid: int,
        account_id: int,
        folder_name: str,
        message: NewMessage,
        at: datetime,
        *,
        viewer: int | None = None,
        doer: Doer | None = None,
    ) -> tuple[int, int]:
        """Add a message to a folder and expunge the one it replaces (RFC 8508). Returns UIDVALIDITY and the new UID.
        Raises NoSuchMessage when the old one is gone, and as `append_messages`; nothing is done then."""

        def write(transaction: Transaction, prepared: Sequence[Prepared]) -> tuple[int, int]:
            connection = transaction.connection
            target_id, validity = self._find(connection, account_id, folder_name)
            self._enter_contents(transaction, account_id, prepared)
            lock_folders(connection, sorted({folder_id, target_id}))
            rows = read_rows(connection, folder_id, [uid])
            if not rows:
                raise NoSuchMessage("Ce message n'existe plus. / This message no longer exists.")
            trace_doing(connection, doer, "message.expunged", folder_id, rows)
            self._remove(transaction, folder_id, rows)
            (new_uid,) = self._add(transaction, target_id, account_id, prepared, at, viewer)
            self._discard_unreferenced(connection, [rows[0].blob])
            return validity, new_uid

        return self._arrive(account_id, [message], write)

    def _transfer(
        self,
        folder_id: int,
        uids: Sequence[int],
        target_id: int,
        at: datetime,
        viewer: int | None,
        rights: str,
        doer: Doer | None,
        *,
        remove: bool,
    ) -> tuple[int, list[tuple[int, int]]]:
        with self._changing() as transaction:
            connection = transaction.connection
            threads = self._thread_ids(connection, folder_id, uids, target_id)
            held = lock_folders(connection, sorted({folder_id, target_id}))
            source, target = held[folder_id], held[target_id]
            if source.account_id != target.account_id and viewer is None:
                raise StoreError("Ces dossiers ne sont pas de la même boîte. / These folders are of two mailboxes.")
            rows = read_rows(connection, folder_id, uids)
            if not rows:
                return target.uid_validity, []
            old_uids = [row.uid for row in rows]
            new_uids = self._copies(connection, source, target, rows, threads, at, viewer, rights)
            name = "message.moved" if remove else "message.copied"
            trace_doing(
                connection, doer, name, folder_id, rows, (target_id, dict(zip(old_uids, new_uids, strict=True)))
            )
            transaction.touch(ChangeKind.FOLDER, sorted({folder_id, target_id}) if remove else [target_id])
            if remove:
                self._remove(transaction, folder_id, rows)
            if not remove or source.account_id != target.account_id:
                check_quota(connection, target.account_id)
        return target.uid_validity, list(zip(old_uids, new_uids, strict=True))

    def _copies(
        self,
        connection: Connection,
        source: AnyRow,
        target: AnyRow,
        rows: Sequence[AnyRow],
        threads: Mapping[int, int | None],
        at: datetime,
        viewer: int | None,
        rights: str,
    ) -> list[int]:
        """Write the copies; returns their UIDs."""
        readers = self._readers(connection, source.id, [row.uid for row in rows])
        owners = (source.account_id, target.account_id)
        carried = [_carried(from_text(row.flags), readers.get(row.uid, ()), owners, viewer, rights) for row in rows]
        copies = [
            {
                "flags": flags,
                "size": row.size,
                "date": row.date,
                "blob": row.blob,
                "saved_at": at,
                "thread_id": threads.get(row.uid),
            }
            for row, (flags, _) in zip(rows, carried, strict=True)
        ]
        new_uids = list(self._insert_messages(connection, target.id, copies).uids)
        for (_, seen), new_uid in zip(carried, new_uids, strict=True):
            for reader in seen:
                mark_seen(connection, target.id, reader, [new_uid])
        return new_uids

    def _readers(self, connection: Connection, folder_id: int, uids: Sequence[int]) -> dict[int, list[int]]:
        """Who else than the mailbox has seen these messages, by UID."""
        wanted = set(uids)
        found: dict[int, list[int]] = {}
        statement = select(seen_by.c.uid, seen_by.c.account_id).where(seen_by.c.folder_id == folder_id)
        for uid, reader in connection.execute(statement):
            if uid in wanted:
                found.setdefault(uid, []).append(reader)
        return found

    def _thread_ids(
        self, connection: Connection, folder_id: int, uids: Sequence[int], target_id: int
    ) -> dict[int, int | None]:
        """The threads of copies: the originals' in one mailbox, the other mailbox's own between two. Before the folders are
        held: threads come first (`core`: the order of locks)."""
        statement = select(folders.c.id, folders.c.account_id).where(folders.c.id.in_([folder_id, target_id]))
        owners = {row.id: row.account_id for row in connection.execute(statement)}
        rows = [
            row
            for condition in ranges(folder_id, uids)
            for row in connection.execute(
                select(messages.c.uid, messages.c.thread_id, messages.c.blob).where(*condition).order_by(messages.c.uid)
            )
        ]
        if len(set(owners.values())) < 2:
            return {row.uid: row.thread_id for row in rows}
        account_id = owners[target_id]
        found = [links(self._blobs.read(row.blob, 0, HEADER_LIMIT)) for row in rows]
        joined = join_threads(connection, account_id, [self._thread_digests(account_id, one) for one in found])
        return {row.uid: thread_id for row, thread_id in zip(rows, joined, strict=True)}

    def _remove(self, transaction: Transaction, folder_id: int, rows: Sequence[AnyRow]) -> None:
        """Expunge rows of a folder that is held, with a modseq of their own."""
        if not rows:
            return
        connection = transaction.connection
        row = head(connection, folder_id)
        if row is None:
            raise no_such_folder()
        modseq = row.highest_modseq + 1
        uids = [one.uid for one in rows]
        for condition in ranges(folder_id, uids):
            connection.execute(delete(messages).where(*condition))
        forget_seen(connection, folder_id, uids)
        connection.execute(insert(expunged), [{"folder_id": folder_id, "uid": uid, "modseq": modseq} for uid in uids])
        flags = [from_text(one.flags) for one in rows]
        marked = [one.size for one, those in zip(rows, flags, strict=True) if DELETED in those]
        counts = {
            "total": -len(rows),
            "unseen": -sum(SEEN not in those for those in flags),
            "deleted": -len(marked),
            "size": -sum(one.size for one in rows),
            "deleted_size": -sum(marked),
        }
        change_counts(connection, folder_id, modseq, counts)
        transaction.touch(ChangeKind.FOLDER, [folder_id])


def _carried(
    flags: frozenset[str], readers: Collection[int], owners: tuple[int, int], viewer: int | None, rights: str
) -> tuple[frozenset[str], set[int]]:
    """The flags of a copy, and who else than its mailbox has seen it: each reader inside one mailbox, the viewer alone
    between two. `owners` are the mailboxes of original and copy; `\\Seen` among `flags` is the first one's own."""
    source, target = owners
    if source == target:
        # The owner's own \Seen is not the viewer's to lose.
        return permitted(flags, rights + "s"), {one for one in readers if one != viewer or "s" in rights}
    kept = permitted(flags, rights) - {SEEN}
    if viewer is None or "s" not in rights or not (SEEN in flags if viewer == source else viewer in readers):
        return kept, set()
    return (kept | {SEEN}, set()) if viewer == target else (kept, {viewer})
