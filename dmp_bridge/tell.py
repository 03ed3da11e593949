"""Telling what became of a document: its sender, by an MDN or a status message; the hospital's software, by a ZAM;
and, for what was deposited out of the patient's sight, reminders after 14 and 30 days (dmp.md §5.3, §7.5, §8.4).

Invariants
* Told before it is settled, and recognised when told again: an outcome's notice has one fingerprint, whatever its text
or its hour.
* Nobody is told by a road outside the trust space: a notice for another operator is an outgoing copy like any other message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

import structlog

from dmp_bridge import metrics
from dmp_bridge.context import DELETE, DepositContext
from dmp_bridge.notices import PRINCIPAL, Notice, error_notice, french, outcome_notice, reminder_notice
from dmp_bridge.outlet import Outcome
from dmp_bridge.register import Register
from ihe import hl7v2
from mailstore.crypto import SealBroken
from mailstore.model import (
    Acceptance,
    Accepted,
    Account,
    BlobDamaged,
    Deposit,
    DepositJob,
    DepositState,
    Direction,
    Event,
    LocalDelivery,
    NoSuchMessage,
    OutgoingCopy,
    Receipt,
    ReceiptKind,
    ReceiptState,
)

_log = structlog.get_logger()
_SOON, _SELDOM, _NOTHING_CAME = timedelta(seconds=1), timedelta(minutes=10), timedelta(days=1)


class Voice(StrEnum):
    """What is told without being asked: everything, failures, or nothing. An MDN that was asked for is always sent."""

    ALWAYS = "always"
    FAILURES = "failures"
    NEVER = "never"


class Rows(Protocol):
    """The verbs of `mailstore.Store` that telling needs."""

    def find_account(self, address: str) -> Account | None: ...

    def accept(self, acceptance: Acceptance, at: datetime) -> Accepted: ...

    def deposits_from(self, last_id: int, state: DepositState, limit: int) -> list[Deposit]: ...

    def deposit_context(self, deposit_id: int) -> bytes: ...

    def deposit_original(self, deposit_id: int) -> bytes: ...

    def release_original(self, deposit_id: int) -> None: ...

    def receipts(self, reference: str) -> list[Receipt]: ...


@dataclass(frozen=True, slots=True)
class Feed:
    """A hospital's software that hands documents over: how we answer it. `sending` is our application and facility."""

    name: str
    sending: tuple[str, str]
    receiving: tuple[str, str]


class Teller:
    """Tells outcomes; `__call__` is what a Depositor calls before it settles."""

    def __init__(
        self,
        rows: Rows,
        register: Register,
        *,
        hostname: str,
        voice: Voice = Voice.FAILURES,
        feeds: Mapping[str, Feed] | None = None,
        errors: str = "",
    ) -> None:
        """`errors` is the mailbox that hears of failures nobody asked a receipt about, "" for none."""
        self._rows = rows
        self._errors = errors
        self._register = register
        self._hostname = hostname
        self._voice = voice
        self._feeds = feeds or {}

    def __call__(self, job: DepositJob, outcome: Outcome, at: datetime) -> None:
        """Tell the end of an attempt. Raises StoreError or RegisterUnavailable: the deposit is then tried again."""
        context = _context(job.context)
        if context is None:
            return
        self._tell(job.deposit, context, outcome, at)
        done = outcome.state is DepositState.DEPOSITED
        if done and context.action != DELETE and "INVISIBLE_PATIENT" in context.visibility:
            self._register.remind(
                job.deposit.id,
                unique_id=job.deposit.unique_id,
                notify=context.notify or context.sender,
                message_id=context.message_id,
                at=at,
            )

    def held(self, limit: int = 200) -> int:
        """Tell of the documents that were held back when their message was accepted; returns how many were looked at."""
        last = self._register.place("held")
        found = self._rows.deposits_from(last, DepositState.NEEDS_ATTENTION, limit)
        for deposit in found:
            try:
                context = _context(self._rows.deposit_context(deposit.id))
            except SealBroken:
                context = None
            if context is not None and not deposit.attempts:
                code = deposit.reason.partition(":")[0]
                outcome = Outcome(DepositState.NEEDS_ATTENTION, code, deposit.reason)
                self._tell(deposit, context, outcome, deposit.created_at)
                self._rows.release_original(deposit.id)
            self._register.move("held", deposit.id)
        return len(found)

    def remind(self, at: datetime) -> int:
        """Send the reminders that are due; returns how many."""
        due = self._register.due_reminders(at)
        for reminder in due:
            self._send(reminder_notice(reminder, self._hostname, at), reminder.notify, at)
            self._register.reminded(reminder.id, at)
        return len(due)

    def receipts(self, at: datetime) -> int:
        """Pass the mail receipts that came on to the feeds that wait for them, as ZAM Z02 (delivered) and Z03 (read), one a
        recipient (dmp.md §8.4); returns how many messages were looked at. A message is looked at less and less often."""
        due = self._register.due_awaited(at)
        for one in due:
            found = self._rows.receipts(one.message_id)
            feed = self._feeds.get(one.feed)
            if feed is not None:
                for receipt in found:
                    if receipt.state in (ReceiptState.POSITIVE, ReceiptState.NEGATIVE):
                        self._pass_on(feed, one.control_id, receipt, at)
            age = at - one.asked_at
            open_ones = [receipt for receipt in found if receipt.state is ReceiptState.WAITING]
            if feed is None or (not open_ones and (found or age > _NOTHING_CAME)):
                self._register.all_told(one.id, at)
            else:
                self._register.look_again(one.id, at + min(max(age / 10, _SOON), _SELDOM))
        return len(due)

    def _pass_on(self, feed: Feed, control_id: str, receipt: Receipt, at: datetime) -> None:
        event = "Z02" if receipt.kind is ReceiptKind.DELIVERY else "Z03"
        done = receipt.state is ReceiptState.POSITIVE
        code = "" if done else ("450" if " 4." in f" {receipt.detail}" else "550")
        business = hl7v2.Business(
            event, control_id, done, recipient=receipt.recipient, code=code, label="" if done else receipt.detail[:120]
        )
        message = hl7v2.build_zam(
            business, sending=feed.sending, receiving=feed.receiving, control_id=f"{event}-{receipt.row_id}", at=at
        )
        self._register.acknowledge(f"{event} {receipt.row_id} {receipt.state.value}", feed.name, message, at)

    def _tell(self, deposit: Deposit, context: DepositContext, outcome: Outcome, at: datetime) -> None:
        failed = outcome.state is not DepositState.DEPOSITED
        feed = self._feeds.get(context.feed)
        if feed is not None and context.ack_reception:
            self._acknowledge(feed, deposit, context, outcome, at)
        wanted = self._voice is Voice.ALWAYS or (failed and self._voice is Voice.FAILURES)
        original = self._original(deposit, context)
        if context.notify and (wanted or context.wants_mdn):
            self._send(outcome_notice(deposit, context, outcome, self._hostname, at, original), context.notify, at)
        if failed and self._errors and not context.wants_mdn:
            # The whole message stays in this house: its owner never asked for it to go anywhere.
            whole = original if self._rows.find_account(self._errors) is not None else b""
            notice = error_notice(deposit, context, outcome, self._hostname, at, to=self._errors, original=whole)
            self._send(notice, self._errors, at)

    def _original(self, deposit: Deposit, context: DepositContext) -> bytes:
        """The message to give back, b"" when its header has to stand for it."""
        if context.returned != "message":
            return b""
        try:
            return self._rows.deposit_original(deposit.id)
        except (BlobDamaged, NoSuchMessage):
            # Time heals nothing here, and a receipt that is never written would keep the deposit from its end.
            _log.error("original damaged or gone", deposit_id=deposit.id)
            return b""

    def _acknowledge(
        self, feed: Feed, deposit: Deposit, context: DepositContext, outcome: Outcome, at: datetime
    ) -> None:
        """ZAM_Z01, triggered by the record's answer (dmp.md §8.4)."""
        done = outcome.state is DepositState.DEPOSITED
        business = hl7v2.Business(
            "Z01", context.control_id, done, code="" if done else outcome.code, label="" if done else french(outcome)
        )
        message = hl7v2.build_zam(
            business, sending=feed.sending, receiving=feed.receiving, control_id=f"Z01-{deposit.id}", at=at
        )
        self._register.acknowledge(f"Z01 {deposit.id} {outcome.state.value}", feed.name, message, at)

    def _send(self, notice: Notice, to: str, at: datetime) -> None:
        account = self._rows.find_account(to)
        event = Event("deposit.told", {"deposit": str(notice.deposit_id), "recipient": to, "kind": notice.kind})
        self._rows.accept(
            Acceptance(
                direction=Direction.SUBMISSION,
                principal=PRINCIPAL,
                mail_from="",
                recipients=(to,),
                message_id=notice.message_id,
                received=notice.key,
                local=(LocalDelivery(account.id, to, notice.content),) if account is not None else (),
                outgoing=() if account is not None else (OutgoingCopy((to,), notice.content),),
                events=(event,),
            ),
            at,
        )
        metrics.TOLD.labels(notice.kind).inc()
        _log.info("deposit told", deposit_id=notice.deposit_id, kind=notice.kind)


def _context(data: bytes) -> DepositContext | None:
    if not data:
        return None
    try:
        return DepositContext.from_json(data)
    except (ValueError, TypeError):
        return None
