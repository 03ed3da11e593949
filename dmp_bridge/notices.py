"""The messages that tell what became of a document: MDN, status message, reminder (dmp.md §5.3, §7.5, §8.4; mssante.md §3.5).

Invariants
* A notice holds the document's identifier, codes and fixed sentences: no title, no name, no INS of ours; a receipt gives
  its author the header of their own message back, without the patient's number.
* The same outcome makes the same notice: its key and its Message-ID do not depend on the hour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import format_datetime

import mime
from dmp_bridge.context import DELETE, DepositContext
from dmp_bridge.outlet import Outcome
from dmp_bridge.register import Reminder
from mailstore.model import Deposit, DepositState

PRINCIPAL = "pont-dmp"

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


@dataclass(frozen=True, slots=True)
class Notice:
    """A message to send. `key` is the same for the same thing told."""

    deposit_id: int
    kind: str
    key: bytes
    message_id: str
    content: bytes


def french(outcome: Outcome) -> str:
    """The French half of an outcome's reason, at most 120 characters."""
    return outcome.reason.partition(": ")[2].partition(" / ")[0][:120] or outcome.code


def outcome_notice(deposit: Deposit, context: DepositContext, outcome: Outcome, hostname: str, at: datetime) -> Notice:
    """What is told of an outcome: an MDN when one was asked for, else a status message."""
    done = outcome.state is DepositState.DEPOSITED
    # Once a person has it tried again, its next end is another piece of news.
    name = f"deposit {deposit.id} {outcome.state.value} {outcome.code if not done else ''}"
    code = "" if done else application_code(outcome.code)
    lines = _lines(deposit, context, outcome, code, hostname)
    kind = "mdn" if context.wants_mdn else "status"
    text = mime.leaf("text/plain", lines.encode(), parameters={"charset": "utf-8"})
    body = _mdn(text, deposit, context, code, hostname) if context.wants_mdn else text
    subject = _subject(context, code)
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
) -> Notice:
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
    return Notice(deposit_id, kind, name.encode(), message_id, content)


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


_GIVEN_BACK = ("Date", "From", "To", "Cc", "Subject", "Message-ID", "In-Reply-To", "References", "X-MSS-CODECDA")
_MAX_GIVEN_BACK = 4096
_DDM = "XDM/1.0/DDM"


def given_back(original: mime.Part) -> tuple[str, ...]:
    """The header lines of a message that its receipt gives back: ASCII, bounded, without X-MSS-INS nor fields of the way."""
    found: list[str] = []
    size = 0
    for name in _GIVEN_BACK:
        value = original.get(name)
        if value is None:
            continue
        try:
            line = mime.header_field(name, value).decode("ascii")
        except ValueError:
            continue
        size += len(line)
        if size <= _MAX_GIVEN_BACK:
            found.append(line)
    return tuple(found)


def _subject(context: DepositContext, code: str) -> str:
    """mssante.md §3.5: a success keeps the subject of a document message, a failure puts its code before it."""
    root = mime.parse("".join(context.original).encode() + b"\r\n", max_depth=1)
    first = root.get("Subject") or ""
    subject = first if first.startswith(_DDM) else _DDM
    if code:
        return f"[KO Intégration système !][{code}] {subject}"
    return first if first.startswith(_DDM) else "Document déposé / Document deposited"


def _mdn(text: bytes, deposit: Deposit, context: DepositContext, code: str, hostname: str) -> bytes:
    """RFC 8098 §3; the third part is the original's header (RFC 6522 §4): the bridge keeps no copy of messages."""
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
    original = "".join(context.original).encode("ascii")
    parts = [text, part]
    if original:
        parts.append(b"Content-Type: text/rfc822-headers\r\n\r\n" + original)
    return mime.multipart("report", parts, parameters={"report-type": "disposition-notification"})


def _ascii(text: str) -> str:
    return text.partition(" / ")[2]


def reminder_notice(reminder: Reminder, hostname: str, at: datetime) -> Notice:
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
