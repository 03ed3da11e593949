"""Telling what became of a document: its sender, by an MDN or a status message; the hospital's software, by a ZAM;
and, for what was
deposited out of the patient's sight, reminders after 14 and 30 days (dmp.md §5.3, §7.5, §8.4).

Invariants
* Told before it is settled, and recognised when told again: an outcome's notice has one fingerprint, whatever its text
or its hour.
* A notice holds the document's identifier, codes and fixed sentences: no title, no name, no INS.
* Nobody is told by a road outside the trust space: a notice for another operator is an outgoing copy like any other message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import format_datetime
from enum import StrEnum
from typing import Protocol

import structlog

import mime
from dmp_bridge.context import DELETE, DepositContext
from dmp_bridge.outlet import Outcome
from dmp_bridge.register import Register, Reminder
from ihe import hl7v2
from mailstore.crypto import SealBroken
from mailstore.model import (
    Acceptance,
    Accepted,
    Account,
    Deposit,
    DepositJob,
    DepositState,
    Direction,
    Event,
    LocalDelivery,
    OutgoingCopy,
)

PRINCIPAL = "pont-dmp"
_log = structlog.get_logger()


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


@dataclass(frozen=True, slots=True)
class Feed:
    """A hospital's software that hands documents over: how we answer it. `sending` is our application and facility."""

    name: str
    sending: tuple[str, str]
    receiving: tuple[str, str]


_APPLICATION = {
    "900": "version incorrecte / wrong version",
    "901": "auteur non habilité à remplacer ou supprimer / author not allowed to replace or delete",
    "902": "identifiant de patient inconnu / unknown patient identifier",
    "903": "INS absente du document / INS absent from the document",
    "904": "INS non concordante / INS does not match",
    "905": "INS incomplète ou non qualifiée / INS incomplete or not qualified",
    "906": "autre cause / other cause",
}
_CODES: Mapping[str, str] = {
    "replacement-unknown": "900",
    "replacement": "900",
    "delete-unknown": "900",
    "XDSRegistryDeprecatedDocumentError": "900",
    "sender-mismatch": "901",
    "structure-unknown": "901",
    "XDSMetadataUpdateError": "901",
    "XDSMetadataUpdateOperationError": "901",
    "FailedAuthentication": "901",
    "DMPClosed": "902",
    "no-record": "902",
    "XDSUnknownPatientId": "902",
    "ins-missing": "903",
    "ins-key": "904",
    "ins-environment": "904",
    "ins-inconsistent": "904",
    "XDSPatientIdDoesNotMatch": "904",
    "xdm-other-patient": "904",
    "hl7-other-patient": "904",
    "recipient-mismatch": "904",
    "two-patients": "904",
    "several-patients": "904",
    "ins-traits": "905",
    "identity": "905",
}


def application_code(code: str) -> str:
    """The code of dmp.md §8.4 (900 to 906) for one of ours."""
    return _CODES.get(code, "906")


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
    ) -> None:
        self._rows = rows
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
            self._register.move("held", deposit.id)
        return len(found)

    def remind(self, at: datetime) -> int:
        """Send the reminders that are due; returns how many."""
        due = self._register.due_reminders(at)
        for reminder in due:
            self._send(_reminder(reminder, self._hostname, at), reminder.notify, at)
            self._register.reminded(reminder.id, at)
        return len(due)

    def _tell(self, deposit: Deposit, context: DepositContext, outcome: Outcome, at: datetime) -> None:
        failed = outcome.state is not DepositState.DEPOSITED
        feed = self._feeds.get(context.feed)
        if feed is not None and context.ack_reception:
            self._acknowledge(feed, deposit, context, outcome, at)
        wanted = self._voice is Voice.ALWAYS or (failed and self._voice is Voice.FAILURES)
        if context.notify and (wanted or context.wants_mdn):
            self._send(_notice(deposit, context, outcome, self._hostname, at), context.notify, at)

    def _acknowledge(
        self, feed: Feed, deposit: Deposit, context: DepositContext, outcome: Outcome, at: datetime
    ) -> None:
        """ZAM_Z01, triggered by the record's answer (dmp.md §8.4)."""
        done = outcome.state is DepositState.DEPOSITED
        business = hl7v2.Business(
            "Z01", context.control_id, done, code="" if done else outcome.code, label="" if done else _french(outcome)
        )
        message = hl7v2.build_zam(
            business, sending=feed.sending, receiving=feed.receiving, control_id=f"Z01-{deposit.id}", at=at
        )
        self._register.acknowledge(f"Z01 {deposit.id} {outcome.state.value}", feed.name, message, at)

    def _send(self, notice: _Notice, to: str, at: datetime) -> None:
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
        _log.info("deposit told", deposit_id=notice.deposit_id, kind=notice.kind)


@dataclass(frozen=True, slots=True)
class _Notice:
    """A message to send. `key` is the same for the same thing told."""

    deposit_id: int
    kind: str
    key: bytes
    message_id: str
    content: bytes


def _context(data: bytes) -> DepositContext | None:
    if not data:
        return None
    try:
        return DepositContext.from_json(data)
    except (ValueError, TypeError):
        return None


def _french(outcome: Outcome) -> str:
    return outcome.reason.partition(": ")[2].partition(" / ")[0][:120] or outcome.code


def _notice(deposit: Deposit, context: DepositContext, outcome: Outcome, hostname: str, at: datetime) -> _Notice:
    done = outcome.state is DepositState.DEPOSITED
    # Once a person has it tried again, its next end is another piece of news.
    name = f"deposit {deposit.id} {outcome.state.value} {outcome.code if not done else ''}"
    code = "" if done else application_code(outcome.code)
    lines = _lines(deposit, context, outcome, code, hostname)
    kind = "mdn" if context.wants_mdn else "status"
    text = mime.leaf("text/plain", lines.encode(), parameters={"charset": "utf-8"})
    body = _mdn(text, deposit, context, code, hostname) if context.wants_mdn else text
    subject = "Document déposé / Document deposited" if done else f"[KO Intégration système !][{code}] XDM/1.0/DDM"
    return _message(deposit.id, kind, name, subject, body, context, hostname, at)


def _message(
    deposit_id: int,
    kind: str,
    name: str,
    subject: str,
    body: bytes,
    context: DepositContext,
    hostname: str,
    at: datetime,
) -> _Notice:
    message_id = f"<{name.replace(' ', '.').rstrip('.')}@{hostname}>"
    about = [("In-Reply-To", context.message_id), ("References", context.message_id)] if context.message_id else []
    content = mime.message(
        [
            ("Return-Path", "<>"),
            ("Date", format_datetime(at)),
            ("From", f"Pont DMP <{context.addressed or f'{PRINCIPAL}@{hostname}'}>"),
            ("To", context.notify),
            ("Subject", subject),
            ("Message-ID", message_id),
            *about,
            ("Auto-Submitted", "auto-replied"),
        ],
        body,
    )
    return _Notice(deposit_id, kind, name.encode(), message_id, content)


def _lines(deposit: Deposit, context: DepositContext, outcome: Outcome, code: str, hostname: str) -> str:
    what = f"  {deposit.unique_id}\n"
    if outcome.state is DepositState.DEPOSITED:
        deleted = context.action == DELETE
        return (
            f"Le document suivant a été {'supprimé du' if deleted else 'déposé dans le'} dossier du patient (DMP) :\n\n{what}\n"
            f"The following document was {'deleted from' if deleted else 'deposited in'} the patient's record.\n\n{hostname}\n"
        )
    reasons = "\n".join(f"  {part}" for part in outcome.reason.split(" ; "))
    return (
        "Le document suivant n'a pas été déposé dans le dossier du patient (DMP). Votre message, lui, suit son cours.\n\n"
        f"{what}\n  {code} {_APPLICATION[code]}\n{reasons}\n\n"
        f"L'opérateur garde le document ; il peut le faire reprendre ou l'abandonner (dépôt n° {deposit.id}).\n\n--\n\n"
        "The document above was not deposited in the patient's record; your message goes its way. The operator keeps the\n"
        f"document, and may have it tried again or given up (deposit {deposit.id}).\n\n{hostname}\n"
    )


def _mdn(text: bytes, deposit: Deposit, context: DepositContext, code: str, hostname: str) -> bytes:
    """RFC 8098 §3; the third part, the original, is left out: the bridge keeps no copy of messages."""
    disposition = "automatic-action/MDN-sent-automatically; processed" + ("/error" if code else "")
    fields = [
        f"Reporting-UA: {hostname}; Caducee",
        f"Final-Recipient: rfc822; {context.addressed or PRINCIPAL + '@' + hostname}",
        *([f"Original-Message-ID: {context.message_id}"] if context.message_id else []),
        f"Disposition: {disposition}",
        *([f"Error: {code}^{_ascii(_APPLICATION[code])}^{deposit.unique_id}"] if code else []),
    ]
    status = ("\r\n".join(fields) + "\r\n").encode("ascii", "replace")
    part = b"Content-Type: message/disposition-notification\r\n\r\n" + status
    return mime.multipart("report", [text, part], parameters={"report-type": "disposition-notification"})


def _ascii(text: str) -> str:
    return text.partition(" / ")[2]


def _reminder(reminder: Reminder, hostname: str, at: datetime) -> _Notice:
    """R1111-53: what the patient does not see must be announced; after one month it becomes visible by itself."""
    passed = (at - reminder.deposited_at) // timedelta(days=1)
    late = reminder.days >= 30
    french = (
        "Le délai d'un mois est passé : le document devient visible par le patient."
        if late
        else "Après deux semaines sans consultation d'annonce, le patient est averti qu'un document existe."
    )
    english = (
        "One month has passed: the document becomes visible to the patient."
        if late
        else "After two weeks without an announcement, the patient is told that a document exists."
    )
    lines = (
        f"Le document suivant a été déposé il y a {passed} jours, non visible par le patient (INVISIBLE_PATIENT) :\n\n"
        f"  {reminder.unique_id}\n\n{french}\n\n--\n\n{english}\n\n{hostname}\n"
    )
    context = DepositContext(reminder.notify, "", "", notify=reminder.notify, message_id=reminder.message_id)
    text = mime.leaf("text/plain", lines.encode(), parameters={"charset": "utf-8"})
    name = f"reminder {reminder.deposit_id} {reminder.days}"
    subject = f"Document non visible par le patient : {reminder.days} jours / Hidden document: {reminder.days} days"
    return _message(reminder.deposit_id, "reminder", name, subject, text, context, hostname, at)
