"""Messages in folders: views, changes, flags, summaries.

Invariants:
* each change takes one new modseq of its folder, under the folder's row lock, in the transaction that makes it: whoever
  has seen modseq m finds everything later in `changes(m)` (RFC 7162);
* a folder's counts change with its messages, by what the transaction itself found;
* `viewer` is the account that looks: `\\Seen` is then its own, unless it is the mailbox itself or nobody (None).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, delete, select, update

from mailstore.arrivals import Arrivals, mark_seen
from mailstore.core import BATCH, batches, summary_aad
from mailstore.direct import Direct, DirectAmong, Row
from mailstore.flags import DELETED, SEEN, apply, from_text, normalise, to_text
from mailstore.folders import FolderVerbs, lock_folders, no_such_folder
from mailstore.mailbox import Details, email_id
from mailstore.model import ChangeKind, Changes, FlagOperation, FolderView, MessageChange
from mailstore.sql import AnyRow
from mailstore.tables import contents, folders, messages, seen_by
from mailstore.views import COLUMNS, head, read_changes, to_change

_RUN = 64  # UIDs asked for one by one below this; a longer run is read as a range
_SUMMARIES = (
    select(messages.c.uid, messages.c.blob, contents.c.sealed_summary)
    .join(contents, contents.c.blob == messages.c.blob)
    .where(messages.c.folder_id == bindparam("folder"))
)
_SUMMARIES_IN = Direct(_SUMMARIES.where(messages.c.uid.between(bindparam("first"), bindparam("last"))))
_SUMMARIES_OF = DirectAmong(lambda uids: _SUMMARIES.where(messages.c.uid.in_(uids)))


class MessageVerbs(Arrivals, FolderVerbs):
    """Verbs on the messages of a folder. UIDs that do not exist are passed over, as IMAP wants (RFC 9051 §6.4.9)."""

    def view(self, folder_id: int, viewer: int | None = None) -> FolderView:
        """The whole folder as parallel arrays, one snapshot. They are shared by all who look: a caller that changes them
        copies them first. Raises NoSuchFolder."""
        kept = self._views.arrays(folder_id)
        with kept.lock, self._db.read() as connection:
            folder = self._read_folder(connection, folder_id, viewer)
            kept.refresh(connection, folder_id, folder.highest_modseq)
            view = FolderView(folder, *kept.show())
            own = self._own_seen(connection, folder_id, folder.account_id, viewer)
        if own is not None:
            view.flags = [_with_seen(flags, uid in own) for uid, flags in zip(view.uids, view.flags, strict=True)]
        return view

    def changes(self, folder_id: int, since_modseq: int, viewer: int | None = None) -> Changes:
        """What came, changed or went after `since_modseq`. A UID that came and went meanwhile is among the expunged:
        the caller passes over those it never saw. The log goes back to the folder's creation. Raises NoSuchFolder."""
        with self._db.read() as connection:
            row = head(connection, folder_id)
            if row is None:
                self._views.forget(folder_id)
                raise no_such_folder()
            if row.highest_modseq <= since_modseq:
                return Changes(row.highest_modseq, row.uid_next, (), ())
            rows, gone = read_changes(connection, folder_id, since_modseq)
            uids = [one.uid for one in rows]
            own = self._own_seen(connection, folder_id, row.account_id, viewer, uids)
        changed = [to_change(one) for one in rows]
        if own is not None:
            changed = [_seen_change(one, one.uid in own) for one in changed]
        return Changes(row.highest_modseq, row.uid_next, tuple(changed), tuple(gone))

    def _own_seen(
        self,
        connection: Connection,
        folder_id: int,
        account_id: int,
        viewer: int | None,
        uids: Sequence[int] | None = None,
    ) -> set[int] | None:
        """What a viewer has seen of a folder (or of `uids`); None when the flags of the rows count."""
        if viewer is None or viewer == account_id:
            return None
        mine = (seen_by.c.folder_id == folder_id, seen_by.c.account_id == viewer)
        statement = select(seen_by.c.uid).where(*mine)
        if uids is None or len(uids) > BATCH:
            return set(connection.execute(statement).scalars())
        return set(connection.execute(statement.where(seen_by.c.uid.in_(uids))).scalars())

    def highest_modseqs(self, folder_ids: Sequence[int]) -> dict[int, int]:
        """The highest modseq of each folder that exists."""
        found: dict[int, int] = {}
        with self._db.read() as connection:
            for batch in batches(folder_ids, BATCH):
                statement = select(folders.c.id, folders.c.highest_modseq).where(folders.c.id.in_(batch))
                found.update((row[0], row[1]) for row in connection.execute(statement))
        return found

    def claim_recent(self, folder_id: int, *, take: bool) -> tuple[int, int]:
        """The UIDs that no session was told of as `\\Recent` (RFC 3501 §2.3.2), as a half-open range; with `take` they
        are now told. Raises NoSuchFolder."""
        statement = select(folders.c.recent_uid, folders.c.uid_next).where(folders.c.id == folder_id)
        with self._db.read() as connection:
            row = connection.execute(statement).first()
        if row is not None and take and row.recent_uid < row.uid_next:
            with self._db.write() as connection:
                row = connection.execute(statement.with_for_update()).first()
                told = update(folders).where(folders.c.id == folder_id).values(recent_uid=folders.c.uid_next)
                connection.execute(told)
        if row is None:
            raise no_such_folder()
        return row.recent_uid, row.uid_next

    def store_flags(
        self,
        folder_id: int,
        uids: Sequence[int],
        op: FlagOperation,
        flags: Iterable[str],
        *,
        unchanged_since: int | None = None,
        viewer: int | None = None,
    ) -> tuple[list[MessageChange], list[int]]:
        """STORE: change the flags of messages. Returns their state after it, by UID, and the UIDs left alone because they
        changed after `unchanged_since` (RFC 7162 §3.1.3). A message whose flags were so already keeps its modseq.

        Raises NoSuchFolder, StoreError on a bad flag."""
        given = normalise(flags)
        after: list[MessageChange] = []
        refused: list[int] = []
        with self._changing() as transaction:
            connection = transaction.connection
            folder = lock_folders(connection, [folder_id])[folder_id]
            modseq = folder.highest_modseq + 1
            rows = read_rows(connection, folder_id, uids)
            own = self._own_seen(connection, folder_id, folder.account_id, viewer)
            work = _Flagging(folder_id, modseq, viewer, own)
            for row in rows:
                if unchanged_since is not None and row.modseq > unchanged_since:
                    refused.append(row.uid)
                else:
                    after.append(work.take(row, FlagOperation(op), given))
            if work.write(connection):
                transaction.touch(ChangeKind.FOLDER, [folder_id])
        return after, refused

    def summaries(self, folder_id: int, uids: Sequence[int]) -> dict[int, bytes]:
        """The opaque index values of messages, by UID. Raises SealBroken when one was altered."""
        runs, single = runs_of(uids)
        found: list[Row] = []
        made, waiting = self._summariser.unkept()
        with self._db.read() as connection:
            for first, last in runs:
                found += _SUMMARIES_IN.all(connection, {"folder": folder_id, "first": first, "last": last})
            found += _SUMMARIES_OF.all(connection, {"folder": folder_id}, single)
        kept = [row for row in found if row[2] is not None]
        values = self._fields.unseal_all([(sealed, summary_aad(blob)) for _, blob, sealed in kept])
        summaries = dict(zip([row[0] for row in kept], values, strict=True))
        for uid, blob, sealed in found if made or waiting else ():
            if sealed is None and (blob in made or blob in waiting):
                summaries[uid] = made[blob] if blob in made else self._summary(waiting[blob])
        return summaries

    def put_summaries(self, summaries: Mapping[str, bytes]) -> None:
        """Replace the index values of contents, by blob, when the caller makes them otherwise than before."""
        self._put_summaries(summaries)

    def details(self, folder_id: int, uids: Sequence[int]) -> dict[int, Details]:
        """SAVEDATE, EMAILID and THREADID of messages, by UID. A message older than threads is its own thread."""
        columns = (messages.c.uid, messages.c.date, messages.c.blob, messages.c.saved_at, messages.c.thread_id)
        found: dict[int, Details] = {}
        with self._db.read() as connection:
            for condition in ranges(folder_id, uids):
                for row in connection.execute(select(*columns).where(*condition)):
                    thread = f"T{row.thread_id}" if row.thread_id is not None else f"T{row.blob}"
                    found[row.uid] = Details(row.saved_at or row.date, email_id(row.blob), thread)
        return found

    def read_blob(self, blob: str, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes `start` to `stop` of a content. Raises NoSuchMessage, BlobDamaged, StoreUnavailable."""
        return self._blobs.read(blob, start, stop)

    def blob_size(self, blob: str) -> int:
        """The size of a content in bytes. Raises as `read_blob`."""
        return self._blobs.size(blob)


class _Flagging:
    """The flags of one STORE: what each row becomes, then a few statements for all of them."""

    def __init__(self, folder_id: int, modseq: int, viewer: int | None, own: set[int] | None) -> None:
        self._folder_id = folder_id
        self._modseq = modseq
        self._viewer = viewer
        self._own = own
        self._rows: dict[frozenset[str], list[int]] = {}
        self._seen: dict[bool, list[int]] = {True: [], False: []}
        self._counts = {"unseen": 0, "deleted": 0, "deleted_size": 0}

    def take(self, row: AnyRow, op: FlagOperation, given: frozenset[str]) -> MessageChange:
        """The state of a message after the STORE."""
        stored = from_text(row.flags)
        before = stored if self._own is None else _with_seen(stored, row.uid in self._own)
        now = apply(before, op, given)
        if now != before:
            kept = now if self._own is None else _with_seen(now, SEEN in stored)
            self._rows.setdefault(kept, []).append(row.uid)
            self._count(stored, kept, row.size)
            if self._own is not None and (SEEN in now) != (SEEN in before):
                self._seen[SEEN in now].append(row.uid)
        modseq = self._modseq if now != before else row.modseq
        return MessageChange(row.uid, modseq, now, row.size, row.date, row.blob)

    def _count(self, before: frozenset[str], now: frozenset[str], size: int) -> None:
        marked = (DELETED in now) - (DELETED in before)
        self._counts["unseen"] += (SEEN in before) - (SEEN in now)
        self._counts["deleted"] += marked
        self._counts["deleted_size"] += marked * size

    def write(self, connection: Connection) -> bool:
        """Carry the changes out; whether there were any."""
        for now, those in self._rows.items():
            values = {"flags": to_text(now), "seen": SEEN in now, "modseq": self._modseq}
            for condition in ranges(self._folder_id, those):
                connection.execute(update(messages).where(*condition).values(values))
        if self._viewer is not None:
            mark_seen(connection, self._folder_id, self._viewer, self._seen[True])
            forget_seen(connection, self._folder_id, self._seen[False], self._viewer)
        if self._rows:
            change_counts(connection, self._folder_id, self._modseq, self._counts)
        return bool(self._rows)


def change_counts(connection: Connection, folder_id: int, modseq: int, counts: Mapping[str, int]) -> None:
    """Set a folder's modseq and add to its counts, by column."""
    values: dict[str, Any] = {name: folders.c[name] + change for name, change in counts.items() if change}
    connection.execute(update(folders).where(folders.c.id == folder_id).values(highest_modseq=modseq, **values))


def forget_seen(connection: Connection, folder_id: int, uids: Sequence[int], viewer: int | None = None) -> None:
    """Take a viewer's `\\Seen` off messages, or everybody's when they go."""
    mine = () if viewer is None else (seen_by.c.account_id == viewer,)
    for batch in batches(uids, BATCH):
        connection.execute(delete(seen_by).where(seen_by.c.folder_id == folder_id, seen_by.c.uid.in_(batch), *mine))


def ranges(folder_id: int, uids: Iterable[int]) -> list[tuple[ColumnElement[bool], ...]]:
    """Conditions that together name exactly these UIDs of a folder: long runs as ranges, the rest in lists."""
    here = messages.c.folder_id == folder_id
    runs, single = runs_of(uids)
    conditions: list[tuple[ColumnElement[bool], ...]]
    conditions = [(here, messages.c.uid.between(first, last)) for first, last in runs]
    conditions.extend((here, messages.c.uid.in_(batch)) for batch in batches(single, BATCH))
    return conditions


def runs_of(uids: Iterable[int]) -> tuple[list[tuple[int, int]], list[int]]:
    """The long runs among these UIDs, as first and last, and the others."""
    runs: list[tuple[int, int]] = []
    single: list[int] = []
    for first, last in _runs(sorted(set(uids))):
        if last - first + 1 < _RUN:
            single.extend(range(first, last + 1))
        else:
            runs.append((first, last))
    return runs, single


def _runs(uids: Sequence[int]) -> Iterable[tuple[int, int]]:
    """Consecutive UIDs as first and last."""
    if uids and uids[-1] - uids[0] + 1 == len(uids):
        yield uids[0], uids[-1]
        return
    start = 0
    for place in range(1, len(uids) + 1):
        if place == len(uids) or uids[place] != uids[place - 1] + 1:
            yield uids[start], uids[place - 1]
            start = place


def read_rows(connection: Connection, folder_id: int, uids: Sequence[int]) -> list[AnyRow]:
    """The rows of these UIDs, ascending."""
    rows: list[AnyRow] = []
    for condition in ranges(folder_id, uids):
        rows.extend(connection.execute(select(*COLUMNS).where(*condition)))
    return sorted(rows, key=lambda row: row[0])


def _with_seen(flags: frozenset[str], seen: bool) -> frozenset[str]:
    if seen is (SEEN in flags):
        return flags
    return flags | {SEEN} if seen else flags - {SEEN}


def _seen_change(one: MessageChange, seen: bool) -> MessageChange:
    return MessageChange(one.uid, one.modseq, _with_seen(one.flags, seen), one.size, one.date, one.blob)
