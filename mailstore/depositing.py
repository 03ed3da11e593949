"""The documents of an accepted message become deposits, in its transaction.

Invariants:
* one document (uniqueId and SHA-1) has one deposit, whatever the number of messages that carried it;
* one uniqueId names one document: another document under the same one waits for a person.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, insert, select

from mailstore.core import clean, clean_message_id
from mailstore.drafts import Draft, size_of
from mailstore.entering import Entering
from mailstore.model import DepositState, Event, NewDeposit
from mailstore.tables import deposit_originals, deposits

CONFLICT = (
    "un autre document porte déjà le même identifiant unique / another document already has the same unique identifier"
)


class Depositing(Entering):
    """Writing the deposits of drafts."""

    def _deposit(
        self, connection: Connection, draft: Draft, new: NewDeposit, at: datetime
    ) -> tuple[int | None, Event | None]:
        """Write a deposit unless the same document has one; returns its row id, and the event that tells of a document or
        an identifier met before."""
        unique_id, sha1 = clean(new.unique_id, 256), clean(new.sha1.lower(), 40)
        same_id = select(deposits.c.id, deposits.c.sha1).where(deposits.c.unique_id == unique_id)
        known = connection.execute(same_id).all()
        same = next((row.id for row in known if row.sha1 == sha1), None)
        if same is not None:
            return None, Event("deposit.already_known", {"deposit": str(same), "unique_id": unique_id})
        state, reason, event = new.state, new.reason, None
        if known and unique_id:
            # One uniqueId names one document (IHE ITI TF-3 §4.2.3.2.26): a person has to say which is right.
            state = DepositState.NEEDS_ATTENTION
            reason = " ; ".join(filter(None, [reason, CONFLICT]))
            event = Event("deposit.conflict", {"deposit": str(known[0].id), "unique_id": unique_id})
        row = {
            "submission_id": draft.submission_id,
            "message_id": clean_message_id(draft.acceptance.message_id),
            "unique_id": unique_id,
            "sha1": sha1,
            "blob": self._kept(connection, draft, new.content),
            "sealed_context": self._fields.seal(new.context, context_aad(unique_id, sha1)),
            "state": state.value,
            "reason": clean(reason, 2000),
            "attempts": 0,
            "created_at": at,
            "next_attempt_at": at if state in (DepositState.READY, DepositState.RETRY) else None,
            "lease_owner": "",
            "submission_set_id": "",
        }
        number: int = connection.execute(insert(deposits).values(row).returning(deposits.c.id)).scalar_one()
        if new.original:
            kept = self._kept(connection, draft, new.original)
            values = {"deposit_id": number, "mailbox": draft.mailbox, "blob": kept}
            connection.execute(insert(deposit_originals).values(values))
        return number, event

    def _kept(self, connection: Connection, draft: Draft, content: bytes) -> str:
        """The blob of a content that a deposit refers to; a message that holds it already shares it."""
        blob = draft.blobs[content]
        if blob not in draft.used:
            draft.used.add(blob)
            self._insert_content(connection, blob, size_of(content), None)
        return blob


def context_aad(unique_id: str, sha1: str) -> bytes:
    """What a deposit's sealed context is bound to."""
    return b"deposit\x00" + unique_id.encode("utf-8") + b"\x00" + sha1.encode("utf-8")
