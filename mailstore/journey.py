"""Accepting a message: everything it writes, once.

Invariants (DESIGN, journey step 4):
* blobs are synced before the transaction; one transaction holds messages, outgoing rows, deposits and audit. When
  `accept` returns, all of it survives a crash; when it raises, none of it is there. Several messages may share the
  transaction (`accept_all`): each has its own answer;
* the same hand-over (direction, principal, sender, recipients, bytes) is accepted once: a sender that missed our answer
  and repeats itself gets the first answer again. The fingerprint is keyed: it tells nothing of the content.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from mailstore.arrivals import Arrivals
from mailstore.audit import insert_all_events
from mailstore.core import clean, clean_message_id
from mailstore.direct import Direct, DirectAmong
from mailstore.flags import normalise
from mailstore.folders import lock_folders
from mailstore.model import (
    Acceptance,
    Accepted,
    ChangeKind,
    Content,
    DeliveryState,
    DepositState,
    Direction,
    Event,
    LocalDelivery,
    NewDeposit,
    NoSuchFolder,
    Stored,
    StoreError,
    StoreUnavailable,
)
from mailstore.quotas import check_quota
from mailstore.receipts import insert_receipts
from mailstore.tables import deposit_originals, deposits, outgoing, submissions
from mailstore.threads import Links, join_threads

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
class _Draft:
    """An acceptance on its way: what was prepared before the transaction, and what the transaction used of it."""

    acceptance: Acceptance
    submission_id: str
    fingerprint: bytes
    blobs: dict[Content, str] = field(default_factory=dict)
    summaries: dict[Content, bytes] = field(default_factory=dict)
    links: dict[Content, Links] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    first: str = ""
    """The submission that took this very hand-over before; "" when it is new."""

    @property
    def accepted(self) -> Accepted:
        return Accepted(self.first or self.submission_id, duplicate=bool(self.first))

    @property
    def written(self) -> list[str]:
        """Every blob made for it."""
        return list(dict.fromkeys(self.blobs.values()))


@dataclass(slots=True)
class _Touched:
    """The rows that a transaction changes and subscribers are to hear of."""

    folders: dict[int, None] = field(default_factory=dict)
    queue: list[int] = field(default_factory=list)
    deposits: list[int] = field(default_factory=list)


class _Contested(StoreUnavailable):
    """Other writers won several times in a row."""


class JourneyVerbs(Arrivals):
    """The verbs `accept` and `accept_all`."""

    def accepted_before(self, acceptance: Acceptance) -> Accepted | None:
        """The answer already given to this very hand-over, if any; what it is to deliver does not matter. To be asked
        before work that a repetition should not do again, such as using up a send code."""
        fingerprint = self._fingerprint(acceptance)
        with self._db.read() as connection:
            original = _find(connection, [fingerprint]).get(fingerprint)
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
        drafts = [_Draft(one, f"{at:%Y%m%d}-{secrets.token_hex(10)}", self._fingerprint(one)) for one in acceptances]
        try:
            self._commit(drafts, at)
        except Exception as error:
            if len(drafts) == 1 or (isinstance(error, StoreUnavailable) and not isinstance(error, _Contested)):
                return [error] * len(drafts)
            return [answer for one in acceptances for answer in self.accept_all([one], at)]
        return [draft.accepted for draft in drafts]

    def _commit(self, drafts: Sequence[_Draft], at: datetime) -> None:
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

    def _recognise(self, connection: Connection, drafts: Sequence[_Draft]) -> None:
        """Note which hand-overs were accepted before, or come twice in this group."""
        found = _find(connection, [draft.fingerprint for draft in drafts])
        for draft in drafts:
            original = found.setdefault(draft.fingerprint, draft.submission_id)
            draft.first = original if original != draft.submission_id else ""

    def _write_contents(self, drafts: Sequence[_Draft]) -> None:
        """Summaries first (nothing to undo), then the blobs, each distinct content of a message once."""
        clear: list[tuple[_Draft, bytes]] = []
        for draft in drafts:
            acceptance = draft.acceptance
            local = dict.fromkeys(one.content for one in acceptance.local)
            others = (
                *(copy.content for copy in acceptance.outgoing),
                *(new.content for new in acceptance.deposits),
                *(new.original for new in acceptance.deposits if new.original),
            )
            draft.summaries = {content: self._summary_of(content) for content in local}
            draft.links = {content: self._links(content) for content in local}
            for content in dict.fromkeys((*local, *others)):
                if isinstance(content, Stored):
                    draft.blobs[content] = content.blob
                else:
                    clear.append((draft, content))
        written = self._blobs.stage([content for _, content in clear])
        for (draft, content), blob in zip(clear, written, strict=True):
            draft.blobs[content] = blob

    def _transaction(self, drafts: Sequence[_Draft], at: datetime) -> None:
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

    def _write(self, connection: Connection, drafts: Sequence[_Draft], at: datetime, touched: _Touched) -> None:
        if not drafts:
            return
        _INSERT_SUBMISSION.run(connection, [_submission(draft, at) for draft in drafts])
        self._insert_contents(connection, [row for draft in drafts for row in self._content_rows(draft)])
        self._deliver(connection, drafts, at, touched)
        self._queue(connection, drafts, at, touched)
        told = []
        for draft in drafts:
            acceptance = draft.acceptance
            insert_receipts(connection, draft.submission_id, acceptance, at)
            found = [self._deposit(connection, draft, new, at, touched) for new in acceptance.deposits]
            events = [_summary_event(acceptance), *acceptance.events, *filter(None, found)]
            told.append((draft.submission_id, acceptance.message_id, events))
        insert_all_events(connection, told, at)

    def _content_rows(self, draft: _Draft) -> Iterator[dict[str, object]]:
        """The rows of the blobs that messages and outgoing rows of a draft refer to, each once."""
        draft.used.clear()
        acceptance = draft.acceptance
        for content in (*(one.content for one in acceptance.local), *(one.content for one in acceptance.outgoing)):
            blob = draft.blobs[content]
            if blob not in draft.used:
                draft.used.add(blob)
                links = draft.links.get(content)
                message_id = links.message_id if links else ""
                yield self._content_row(blob, _size(content), draft.summaries.get(content), message_id)

    def _deliver(self, connection: Connection, drafts: Sequence[_Draft], at: datetime, touched: _Touched) -> None:
        """The messages of all drafts, folder by folder."""
        arriving: dict[int, list[tuple[int, _Draft, LocalDelivery]]] = {}
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
        rows: dict[int, list[dict[str, object]]] = {}
        for account_id in sorted(arriving):
            group = arriving[account_id]
            digests = [self._thread_digests(account_id, draft.links[local.content]) for _, draft, local in group]
            threads = join_threads(connection, account_id, digests)
            for (folder_id, draft, local), thread_id in zip(group, threads, strict=True):
                rows.setdefault(folder_id, []).append(_message(draft, local, thread_id, at))
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

    def _queue(self, connection: Connection, drafts: Sequence[_Draft], at: datetime, touched: _Touched) -> None:
        rows = [
            {
                "submission_id": draft.submission_id,
                "message_id": clean_message_id(draft.acceptance.message_id),
                "mail_from": clean(draft.acceptance.mail_from, 998),
                "recipient": clean(recipient, 998),
                "domain": clean(recipient.rpartition("@")[2].lower(), 255),
                "blob": draft.blobs[copy.content],
                "state": DeliveryState.QUEUED.value,
                "attempts": 0,
                "accepted_at": at,
                "next_attempt_at": at,
                "lease_owner": "",
                "reply": "",
                "options": json.dumps({clean(key, 64): clean(value, 1000) for key, value in copy.options.items()}),
                "route": "",
            }
            for draft in drafts
            for copy in draft.acceptance.outgoing
            for recipient in copy.recipients
        ]
        if rows:
            touched.queue += connection.execute(_INSERT_OUTGOING, rows).scalars()

    def _deposit(
        self, connection: Connection, draft: _Draft, new: NewDeposit, at: datetime, touched: _Touched
    ) -> Event | None:
        """Write a deposit unless the same document has one; returns the event that tells of a document met before."""
        unique_id, sha1 = clean(new.unique_id, 256), clean(new.sha1.lower(), 40)
        same_id = select(deposits.c.id, deposits.c.sha1).where(deposits.c.unique_id == unique_id)
        known = connection.execute(same_id).all()
        same = next((row.id for row in known if row.sha1 == sha1), None)
        if same is not None:
            return Event("deposit.already_known", {"deposit": str(same), "unique_id": unique_id})
        state, reason, event = new.state, new.reason, None
        if known and unique_id:
            # One uniqueId names one document (IHE ITI TF-3 §4.2.3.2.26): a person has to say which is right.
            state = DepositState.NEEDS_ATTENTION
            reason = " ; ".join(filter(None, [reason, CONFLICT]))
            event = Event("deposit.conflict", {"deposit": str(known[0].id), "unique_id": unique_id})
        blob = self._kept(connection, draft, new.content)
        row = {
            "submission_id": draft.submission_id,
            "message_id": clean_message_id(draft.acceptance.message_id),
            "unique_id": unique_id,
            "sha1": sha1,
            "blob": blob,
            "sealed_context": self._fields.seal(new.context, context_aad(unique_id, sha1)),
            "state": state.value,
            "reason": clean(reason, 2000),
            "attempts": 0,
            "created_at": at,
            "next_attempt_at": at if state in (DepositState.READY, DepositState.RETRY) else None,
            "lease_owner": "",
            "submission_set_id": "",
        }
        statement = insert(deposits).values(row).returning(deposits.c.id)
        number = connection.execute(statement).scalar_one()
        touched.deposits.append(number)
        if new.original:
            kept = self._kept(connection, draft, new.original)
            values = {"deposit_id": number, "mailbox": _mailbox(draft.acceptance), "blob": kept}
            connection.execute(insert(deposit_originals).values(values))
        return event

    def _kept(self, connection: Connection, draft: _Draft, content: bytes) -> str:
        """The blob of a content that a deposit refers to; a message that holds it already shares it."""
        blob = draft.blobs[content]
        if blob not in draft.used:
            draft.used.add(blob)
            self._insert_content(connection, blob, _size(content), None)
        return blob

    def _fingerprint(self, acceptance: Acceptance) -> bytes:
        """HMAC-SHA256 of the hand-over, each part preceded by its length so that no two hand-overs read alike."""
        texts = (
            acceptance.direction.value,
            acceptance.principal,
            acceptance.mail_from,
            *sorted(acceptance.recipients),
        )
        received = acceptance.received
        digest = received.digest if isinstance(received, Stored) else hashlib.sha256(received).digest()
        parts = (
            len(texts).to_bytes(8, "big"),
            *(text.encode("utf-8", "surrogatepass") for text in texts),
            digest,
        )
        whole = b"".join(piece for part in parts for piece in (len(part).to_bytes(8, "big"), part))
        return hmac.digest(self._fingerprint_key, b"acceptance\x00" + whole, hashlib.sha256)


def _mailbox(acceptance: Acceptance) -> str:
    """The mailbox of ours that a message is of: its sender's, or the one it came for."""
    if acceptance.direction is Direction.SUBMISSION:
        return clean(acceptance.mail_from, 998)
    return clean(acceptance.recipients[0] if acceptance.recipients else "", 998)


def _size(content: Content) -> int:
    return content.size if isinstance(content, Stored) else len(content)


CONFLICT = (
    "un autre document porte déjà le même identifiant unique / another document already has the same unique identifier"
)


def context_aad(unique_id: str, sha1: str) -> bytes:
    """What a deposit's sealed context is bound to."""
    return b"deposit\x00" + unique_id.encode("utf-8") + b"\x00" + sha1.encode("utf-8")


def _find(connection: Connection, fingerprints: Sequence[bytes]) -> dict[bytes, str]:
    """The submissions that took these hand-overs."""
    return {bytes(row[0]): row[1] for row in _KNOWN.all(connection, {}, fingerprints)}


def _submission(draft: _Draft, at: datetime) -> dict[str, object]:
    acceptance = draft.acceptance
    return {
        "id": draft.submission_id,
        "fingerprint": draft.fingerprint,
        "direction": acceptance.direction.value,
        "principal": clean(acceptance.principal, 998),
        "mail_from": clean(acceptance.mail_from, 998),
        "message_id": clean_message_id(acceptance.message_id),
        "accepted_at": at,
    }


def _message(draft: _Draft, local: LocalDelivery, thread_id: int, at: datetime) -> dict[str, object]:
    return {
        "flags": normalise(local.flags),
        "size": _size(local.content),
        "date": at,
        "blob": draft.blobs[local.content],
        "saved_at": at,
        "thread_id": thread_id,
    }


def _summary_event(acceptance: Acceptance) -> Event:
    outgoing_count = sum(len(copy.recipients) for copy in acceptance.outgoing)
    detail = {
        "direction": acceptance.direction.value,
        "principal": acceptance.principal,
        "mail_from": acceptance.mail_from,
        "recipients": ", ".join(acceptance.recipients),
        "local": str(len(acceptance.local)),
        "outgoing": str(outgoing_count),
        "deposits": str(len(acceptance.deposits)),
    }
    return Event("accepted", detail)
