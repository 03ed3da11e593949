"""Accepting a message: everything it writes, once.

Invariants (DESIGN, journey step 4):
* blobs are synced before the transaction; one transaction holds messages, outgoing rows, deposits and audit. When
  `accept` returns, all of it survives a crash; when it raises, none of it is there. Several messages may share the
  transaction (`accept_all`): each has its own answer;
* the same hand-over (direction, principal, sender, recipients, bytes) is accepted once: a sender that missed our answer
  and repeats itself gets the first answer again. The fingerprint is keyed: it tells nothing of the content.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from mailstore.arrivals import Arrivals
from mailstore.audit import insert_all_events
from mailstore.depositing import Depositing
from mailstore.direct import Direct, DirectAmong
from mailstore.drafts import Draft, Row, fingerprint, size_of, summary_event
from mailstore.flags import normalise
from mailstore.folders import lock_folders
from mailstore.model import (
    Acceptance,
    Accepted,
    ChangeKind,
    LocalDelivery,
    NoSuchFolder,
    Stored,
    StoreError,
    StoreUnavailable,
)
from mailstore.quotas import check_quota
from mailstore.receipts import insert_receipts
from mailstore.tables import outgoing, submissions
from mailstore.threads import join_threads

_ATTEMPTS = 3
_KNOWN = DirectAmong(
    lambda among: select(submissions.c.fingerprint, submissions.c.id).where(submissions.c.fingerprint.in_(among))
)
_INSERT_SUBMISSION = Direct(
    insert(submissions).inline(),
    "id",
    "fingerprint",
    "direction",
    "principal",
    "mail_from",
    "message_id",
    "accepted_at",
)
_INSERT_OUTGOING = insert(outgoing).returning(outgoing.c.id)


@dataclass(slots=True)
class _Touched:
    """The rows that a transaction changes and subscribers are to hear of."""

    folders: dict[int, None] = field(default_factory=dict)
    queue: list[int] = field(default_factory=list)
    deposits: list[int] = field(default_factory=list)


class _Contested(StoreUnavailable):
    """Other writers won several times in a row."""


class JourneyVerbs(Arrivals, Depositing):
    """The verbs `accept` and `accept_all`."""

    def accepted_before(self, acceptance: Acceptance) -> Accepted | None:
        """The answer already given to this very hand-over, if any; what it is to deliver does not matter. To be asked
        before work that a repetition should not do again, such as using up a send code."""
        sought = fingerprint(acceptance, self._fingerprint_key)
        with self._db.read() as connection:
            original = _find(connection, [sought]).get(sought)
        return Accepted(original, duplicate=True) if original is not None else None

    def accept(self, acceptance: Acceptance, at: datetime) -> Accepted:
        """Accept a message for good. A copy for a folder that is gone goes to INBOX.

        Returns the submission id, and whether this hand-over was accepted before (then nothing is written). Raises
        StoreUnavailable (nothing written, try again) or StoreError (a mailbox is unknown, a flag malformed)."""
        (answer,) = self.accept_all([acceptance], at)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def accept_all(self, acceptances: Sequence[Acceptance], at: datetime) -> list[Accepted | Exception]:
        """Accept several messages in one transaction, hence with one sync: an answer for each, in their order, which is
        what `accept` would have returned or raised. One that cannot be accepted takes nothing from the others."""
        key = self._fingerprint_key
        drafts = [Draft(one, f"{at:%Y%m%d}-{secrets.token_hex(10)}", fingerprint(one, key)) for one in acceptances]
        try:
            self._commit(drafts, at)
        except Exception as error:
            if len(drafts) == 1 or (isinstance(error, StoreUnavailable) and not isinstance(error, _Contested)):
                return [error] * len(drafts)
            return [answer for one in acceptances for answer in self.accept_all([one], at)]
        return [draft.accepted for draft in drafts]

    def _commit(self, drafts: Sequence[Draft], at: datetime) -> None:
        """Blobs, then the transaction. Whatever happens, no blob stays that nothing refers to, unless the commit is in
        doubt. Repetitions are recognised in the transaction alone: they are too rare to be looked for twice."""
        for draft in drafts:
            for local in draft.acceptance.local:
                normalise(local.flags)
        try:
            self._write_contents(drafts)
        except BaseException:
            self._remove_blobs(blob for draft in drafts for blob in draft.written)
            raise
        with self._written_blobs([blob for draft in drafts for blob in draft.written]):
            self._transaction(drafts, at)
        self._remove_blobs(blob for draft in drafts for blob in draft.written if blob not in draft.used)

    def _recognise(self, connection: Connection, drafts: Sequence[Draft]) -> None:
        """Note which hand-overs were accepted before, or come twice in this group."""
        found = _find(connection, [draft.fingerprint for draft in drafts])
        for draft in drafts:
            original = found.setdefault(draft.fingerprint, draft.submission_id)
            draft.first = original if original != draft.submission_id else ""

    def _write_contents(self, drafts: Sequence[Draft]) -> None:
        """Summaries first (nothing to undo), then the blobs, each distinct content of a message once."""
        clear: list[tuple[Draft, bytes]] = []
        for draft in drafts:
            local = draft.local_contents
            draft.summaries = {content: self._summary_of(content) for content in local}
            draft.links = {content: self._links(content) for content in local}
            for content in draft.contents:
                if isinstance(content, Stored):
                    draft.blobs[content] = content.blob
                else:
                    clear.append((draft, content))
        written = self._blobs.stage([content for _, content in clear])
        for (draft, content), blob in zip(clear, written, strict=True):
            draft.blobs[content] = blob

    def _transaction(self, drafts: Sequence[Draft], at: datetime) -> None:
        for _ in range(_ATTEMPTS):
            touched = _Touched()
            try:
                with self._changing() as changing:
                    self._recognise(changing.connection, drafts)
                    self._write(changing.connection, [draft for draft in drafts if not draft.first], at, touched)
                    changing.touch(ChangeKind.FOLDER, sorted(touched.folders))
                    changing.touch(ChangeKind.QUEUE, touched.queue)
                    changing.touch(ChangeKind.DEPOSIT, touched.deposits)
                return
            except IntegrityError:
                # Another process wrote the same fingerprint or document between our look and our insertion (only
                # PostgreSQL lets two writers in): look again.
                continue
        raise _Contested("Écritures concurrentes, réessayez. / Concurrent writes, try again.")

    def _write(self, connection: Connection, drafts: Sequence[Draft], at: datetime, touched: _Touched) -> None:
        if not drafts:
            return
        _INSERT_SUBMISSION.run(connection, [draft.submission_row(at) for draft in drafts])
        self._insert_contents(connection, [row for draft in drafts for row in self._content_rows(draft)])
        self._deliver(connection, drafts, at, touched)
        self._queue(connection, drafts, at, touched)
        told = []
        for draft in drafts:
            acceptance = draft.acceptance
            insert_receipts(connection, draft.submission_id, acceptance, at)
            events = [summary_event(acceptance), *acceptance.events]
            for new in acceptance.deposits:
                number, event = self._deposit(connection, draft, new, at)
                touched.deposits += [] if number is None else [number]
                events += [] if event is None else [event]
            told.append((draft.submission_id, acceptance.message_id, events))
        insert_all_events(connection, told, at)

    def _content_rows(self, draft: Draft) -> Iterator[Row]:
        """The rows of the blobs that messages and outgoing rows of a draft refer to, each once."""
        draft.used.clear()
        acceptance = draft.acceptance
        for content in (*(one.content for one in acceptance.local), *(one.content for one in acceptance.outgoing)):
            blob = draft.blobs[content]
            if blob not in draft.used:
                draft.used.add(blob)
                links = draft.links.get(content)
                message_id = links.message_id if links else ""
                yield self._content_row(blob, size_of(content), draft.summaries.get(content), message_id)

    def _deliver(self, connection: Connection, drafts: Sequence[Draft], at: datetime, touched: _Touched) -> None:
        """The messages of all drafts, folder by folder."""
        arriving: dict[int, list[tuple[int, Draft, LocalDelivery]]] = {}
        targets: dict[tuple[int, str], int] = {}
        for draft in drafts:
            for local in draft.acceptance.local:
                key = (local.account_id, local.folder)
                if key not in targets:
                    targets[key] = self._target(connection, local)
                arriving.setdefault(local.account_id, []).append((targets[key], draft, local))
        self._hold(
            connection,
            [
                (account_id, local.content, draft.blobs[local.content])
                for account_id, group in arriving.items()
                for _, draft, local in group
            ],
        )
        rows: dict[int, list[Row]] = {}
        for account_id in sorted(arriving):
            group = arriving[account_id]
            digests = [self._thread_digests(account_id, draft.links[local.content]) for _, draft, local in group]
            threads = join_threads(connection, account_id, digests)
            for (folder_id, draft, local), thread_id in zip(group, threads, strict=True):
                rows.setdefault(folder_id, []).append(draft.message_row(local, thread_id, at))
        if len(rows) > 1:
            lock_folders(connection, sorted(rows))
        for folder_id in sorted(rows):
            self._insert_messages(connection, folder_id, rows[folder_id])
            touched.folders[folder_id] = None
        for account_id in sorted(arriving):
            check_quota(connection, account_id)

    def _target(self, connection: Connection, local: LocalDelivery) -> int:
        """The folder of a delivery, INBOX when it is gone: a message is never lost for a folder's sake."""
        for name in (local.folder, "INBOX"):
            with suppress(NoSuchFolder):
                return self._find(connection, local.account_id, name)[0]
        raise StoreError("Boîte inconnue. / Unknown mailbox.")

    def _queue(self, connection: Connection, drafts: Sequence[Draft], at: datetime, touched: _Touched) -> None:
        rows = [row for draft in drafts for row in draft.outgoing_rows(at)]
        if rows:
            touched.queue += connection.execute(_INSERT_OUTGOING, rows).scalars()


def _find(connection: Connection, fingerprints: Sequence[bytes]) -> dict[bytes, str]:
    """The submissions that took these hand-overs."""
    return {bytes(row[0]): row[1] for row in _KNOWN.all(connection, {}, fingerprints)}
