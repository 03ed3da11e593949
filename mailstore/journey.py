"""Accepting a message: everything it writes, once.

Invariants (DESIGN, journey step 4):
* blobs are synced before the transaction; one transaction holds messages, outgoing rows, deposits and audit. When
  `accept` returns, all of it survives a crash; when it raises, none of it is there;
* the same hand-over (direction, principal, sender, recipients, bytes) is accepted once: a sender that missed our answer
  and repeats itself gets the first answer again. The fingerprint is keyed: it tells nothing of the content.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from mailstore.arrivals import Arrivals
from mailstore.audit import insert_events
from mailstore.core import clean, clean_message_id
from mailstore.flags import normalise
from mailstore.folders import lock_folders
from mailstore.model import (
    Acceptance,
    Accepted,
    ChangeKind,
    Content,
    DeliveryState,
    DepositState,
    Event,
    LocalDelivery,
    NewDeposit,
    Stored,
    StoreError,
    StoreUnavailable,
)
from mailstore.names import canonical_name
from mailstore.quotas import check_quota
from mailstore.receipts import insert_receipts
from mailstore.tables import deposits, folders, outgoing, submissions
from mailstore.threads import Links

_ATTEMPTS = 3


@dataclass(slots=True)
class _Draft:
    """An acceptance on its way: what was prepared before the transaction, and what the transaction touched."""

    acceptance: Acceptance
    at: datetime
    submission_id: str
    fingerprint: bytes
    blobs: dict[Content, str] = field(default_factory=dict)
    summaries: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, Links] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    folders: list[int] = field(default_factory=list)
    queue: list[int] = field(default_factory=list)
    deposits: list[int] = field(default_factory=list)


class JourneyVerbs(Arrivals):
    """The verb `accept`."""

    def accepted_before(self, acceptance: Acceptance) -> Accepted | None:
        """The answer already given to this very hand-over, if any; what it is to deliver does not matter. To be asked
        before work that a repetition should not do again, such as using up a send code."""
        with self._db.read() as connection:
            original = _find(connection, self._fingerprint(acceptance))
        return Accepted(original, duplicate=True) if original is not None else None

    def accept(self, acceptance: Acceptance, at: datetime) -> Accepted:
        """Accept a message for good. A copy for a folder that is gone goes to INBOX.

        Returns the submission id, and whether this hand-over was accepted before (then nothing is written). Raises
        StoreUnavailable (nothing written, try again) or StoreError (a mailbox is unknown, a flag malformed)."""
        before = self.accepted_before(acceptance)
        if before is not None:
            return before
        fingerprint = self._fingerprint(acceptance)
        draft = _Draft(acceptance, at, f"{at:%Y%m%d}-{secrets.token_hex(10)}", fingerprint)
        for local in acceptance.local:
            normalise(local.flags)
        try:
            self._write_contents(draft)
        except BaseException:
            self._remove_blobs(draft.blobs.values())
            raise
        with self._written_blobs(list(draft.blobs.values())):
            accepted = self._commit(draft)
        self._remove_blobs(set(draft.blobs.values()) - draft.used)
        return accepted

    def _write_contents(self, draft: _Draft) -> None:
        """Summaries first (nothing to undo), then the blobs, each distinct content once."""
        acceptance = draft.acceptance
        summaries = {
            content: self._summary_of(content) for content in {local.content: None for local in acceptance.local}
        }
        outgoing_contents = (copy.content for copy in acceptance.outgoing)
        documents = (new.content for new in acceptance.deposits)
        for content in dict.fromkeys((*summaries, *outgoing_contents, *documents)):
            draft.blobs[content] = content.blob if isinstance(content, Stored) else self._blobs.write(content)
        draft.summaries = {draft.blobs[content]: summary for content, summary in summaries.items()}
        draft.links = {draft.blobs[content]: self._links(content) for content in summaries}

    def _commit(self, draft: _Draft) -> Accepted:
        for _ in range(_ATTEMPTS):
            for touched in (draft.used, draft.folders, draft.queue, draft.deposits):
                touched.clear()
            try:
                with self._changing() as changing:
                    accepted = self._write(changing.connection, draft)
                    changing.touch(ChangeKind.FOLDER, sorted(set(draft.folders)))
                    changing.touch(ChangeKind.QUEUE, draft.queue)
                    changing.touch(ChangeKind.DEPOSIT, draft.deposits)
                return accepted
            except IntegrityError:
                # Another process wrote the same fingerprint or document between our look and our insertion (only
                # PostgreSQL lets two writers in): look again.
                continue
        raise StoreUnavailable("Écritures concurrentes, réessayez. / Concurrent writes, try again.")

    def _write(self, connection: Connection, draft: _Draft) -> Accepted:
        original = _find(connection, draft.fingerprint)
        if original is not None:
            return Accepted(original, duplicate=True)
        acceptance, at = draft.acceptance, draft.at
        connection.execute(
            insert(submissions).values(
                id=draft.submission_id,
                fingerprint=draft.fingerprint,
                direction=acceptance.direction.value,
                principal=clean(acceptance.principal, 998),
                mail_from=clean(acceptance.mail_from, 998),
                message_id=clean_message_id(acceptance.message_id),
                accepted_at=at,
            )
        )
        for content in (*(one.content for one in acceptance.local), *(one.content for one in acceptance.outgoing)):
            self._content(connection, draft, content)
        self._deliver(connection, draft)
        self._queue(connection, draft)
        insert_receipts(connection, draft.submission_id, acceptance, at)
        found = [self._deposit(connection, draft, new) for new in acceptance.deposits]
        events = [_summary_event(acceptance), *acceptance.events, *(event for event in found if event is not None)]
        insert_events(connection, events, draft.submission_id, acceptance.message_id, at)
        return Accepted(draft.submission_id, duplicate=False)

    def _content(self, connection: Connection, draft: _Draft, content: Content) -> None:
        """Give a blob its row, unless this transaction did so already."""
        blob = draft.blobs[content]
        if blob not in draft.used:
            draft.used.add(blob)
            links = draft.links.get(blob)
            message_id = links.message_id if links else ""
            self._insert_content(connection, blob, _size(content), draft.summaries.get(blob), message_id)

    def _deliver(self, connection: Connection, draft: _Draft) -> None:
        rows: dict[int, list[dict[str, object]]] = {}
        for local in draft.acceptance.local:
            folder_id = self._target(connection, local)
            row = {
                "flags": normalise(local.flags),
                "size": _size(local.content),
                "date": draft.at,
                "blob": draft.blobs[local.content],
                "saved_at": draft.at,
                "thread_id": self._thread(connection, local.account_id, draft.links[draft.blobs[local.content]]),
            }
            self._hold(connection, local.account_id, local.content, draft.blobs[local.content])
            rows.setdefault(folder_id, []).append(row)
        if rows:
            lock_folders(connection, sorted(rows))
        for folder_id in sorted(rows):
            account_id = self._insert_messages(connection, folder_id, rows[folder_id]).account_id
            check_quota(connection, account_id)
            draft.folders.append(folder_id)

    def _target(self, connection: Connection, local: LocalDelivery) -> int:
        """The folder of a delivery, INBOX when it is gone: a message is never lost for a folder's sake."""
        for name in (canonical_name(local.folder), "INBOX"):
            digest = self._names.digest(local.account_id, name)
            statement = select(folders.c.id).where(
                folders.c.account_id == local.account_id, folders.c.name_digest == digest
            )
            folder_id: int | None = connection.execute(statement).scalar()
            if folder_id is not None:
                return folder_id
        raise StoreError("Boîte inconnue. / Unknown mailbox.")

    def _queue(self, connection: Connection, draft: _Draft) -> None:
        acceptance = draft.acceptance
        for copy in acceptance.outgoing:
            blob = draft.blobs[copy.content]
            for recipient in copy.recipients:
                row = {
                    "submission_id": draft.submission_id,
                    "message_id": clean_message_id(acceptance.message_id),
                    "mail_from": clean(acceptance.mail_from, 998),
                    "recipient": clean(recipient, 998),
                    "domain": clean(recipient.rpartition("@")[2].lower(), 255),
                    "blob": blob,
                    "state": DeliveryState.QUEUED.value,
                    "attempts": 0,
                    "accepted_at": draft.at,
                    "next_attempt_at": draft.at,
                    "lease_owner": "",
                    "reply": "",
                    "options": json.dumps({clean(key, 64): clean(value, 1000) for key, value in copy.options.items()}),
                    "route": "",
                }
                statement = insert(outgoing).values(row).returning(outgoing.c.id)
                draft.queue.append(connection.execute(statement).scalar_one())

    def _deposit(self, connection: Connection, draft: _Draft, new: NewDeposit) -> Event | None:
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
        self._content(connection, draft, new.content)
        row = {
            "submission_id": draft.submission_id,
            "message_id": clean_message_id(draft.acceptance.message_id),
            "unique_id": unique_id,
            "sha1": sha1,
            "blob": draft.blobs[new.content],
            "sealed_context": self._fields.seal(new.context, context_aad(unique_id, sha1)),
            "state": state.value,
            "reason": clean(reason, 2000),
            "attempts": 0,
            "created_at": draft.at,
            "next_attempt_at": draft.at if state in (DepositState.READY, DepositState.RETRY) else None,
            "lease_owner": "",
            "submission_set_id": "",
        }
        statement = insert(deposits).values(row).returning(deposits.c.id)
        draft.deposits.append(connection.execute(statement).scalar_one())
        return event

    def _fingerprint(self, acceptance: Acceptance) -> bytes:
        """HMAC-SHA256 of the hand-over, each part preceded by its length so that no two hand-overs read alike."""
        mac = hmac.new(self._fingerprint_key, b"acceptance\x00", hashlib.sha256)
        texts = (
            acceptance.direction.value,
            acceptance.principal,
            acceptance.mail_from,
            *sorted(acceptance.recipients),
        )
        parts = (text.encode("utf-8", "surrogatepass") for text in texts)
        received = acceptance.received
        digest = received.digest if isinstance(received, Stored) else hashlib.sha256(received).digest()
        for part in (len(texts).to_bytes(8, "big"), *parts, digest):
            mac.update(len(part).to_bytes(8, "big"))
            mac.update(part)
        return mac.digest()


def _size(content: Content) -> int:
    return content.size if isinstance(content, Stored) else len(content)


CONFLICT = (
    "un autre document porte déjà le même identifiant unique / another document already has the same unique identifier"
)


def context_aad(unique_id: str, sha1: str) -> bytes:
    """What a deposit's sealed context is bound to."""
    return b"deposit\x00" + unique_id.encode("utf-8") + b"\x00" + sha1.encode("utf-8")


def _find(connection: Connection, fingerprint: bytes) -> str | None:
    return connection.execute(select(submissions.c.id).where(submissions.c.fingerprint == fingerprint)).scalar()


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
