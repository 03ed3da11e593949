"""The messages that tell what became of a document: MDN, status message, reminder (dmp.md §5.3, §7.5, §8.4; mssante.md §3.5).

Invariants
* A notice holds the document's identifier, codes and fixed sentences: no title, no name, no INS of ours; a receipt gives
  its author their own message back as it came (encrypted when it came encrypted), or its header without the patient's number.
* The same outcome makes the same notice: its key and its Message-ID do not depend on the hour.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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


def outcome_notice(
    deposit: Deposit, context: DepositContext, outcome: Outcome, hostname: str, at: datetime, original: bytes = b""
) -> Notice:
    """What is told of an outcome: an MDN when one was asked for, else a status message. `original` is the whole message that
    the MDN gives back, b"" when its header has to stand for it."""
    code = "" if outcome.state is DepositState.DEPOSITED else application_code(outcome.code)
    lines = _lines(deposit, context, outcome, code, hostname)
    kind = "mdn" if context.wants_mdn else "status"
    if context.wants_mdn and not original:
        lines += _why_not_whole(context)
    body = text = mime.leaf("text/plain", lines.encode(), parameters={"charset": "utf-8"})
    if context.wants_mdn:
        body = _mdn(text, deposit, context, code, hostname, original)
    subject = _subject(context.original if context.wants_mdn else (), code)
    return _message(deposit.id, kind, _news(deposit, outcome), subject, body, context, hostname, at)


def error_notice(
    deposit: Deposit,
    context: DepositContext,
    outcome: Outcome,
    hostname: str,
    at: datetime,
    *,
    to: str,
    original: bytes = b"",
) -> Notice:
    """A failure about which no receipt was asked, for the mailbox of errors `to`: an ordinary message with the original in it
    (mssante.md §3.5, end)."""
    code = application_code(outcome.code)
    lines = _lines(deposit, context, outcome, code, hostname) + ("" if original else _why_not_whole(context))
    text = mime.leaf("text/plain", lines.encode(), parameters={"charset": "utf-8"})
    body = _eight_bit(mime.multipart("mixed", [text, *_returned(context, original)]), original)
    name, asked = f"{_news(deposit, outcome)} errors", replace(context, notify=to)
    return _message(deposit.id, "error", name, _subject(context.original, code), body, asked, hostname, at)


def _news(deposit: Deposit, outcome: Outcome) -> str:
    """What makes two notices the same. Once a person has a deposit tried again, its next end is another piece of news."""
    done = outcome.state is DepositState.DEPOSITED
    return f"deposit {deposit.id} {outcome.state.value} {outcome.code if not done else ''}"


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


def _subject(original: Sequence[str], code: str) -> str:
    """mssante.md §3.5: a success keeps the subject of a document message, a failure puts its code before it."""
    root = mime.parse("".join(original).encode() + b"\r\n", max_depth=1)
    first = root.get("Subject") or ""
    subject = first if first.startswith(_DDM) else _DDM
    if code:
        return f"[KO Intégration système !][{code}] {subject}"
    return first if first.startswith(_DDM) else "Document déposé / Document deposited"


def _mdn(text: bytes, deposit: Deposit, context: DepositContext, code: str, hostname: str, original: bytes) -> bytes:
    """RFC 8098 §3, the whole original as third part (mssante.md §3.5), or its header (RFC 6522 §4)."""
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
    parts = [text, part, *_returned(context, original)]
    report = mime.multipart("report", parts, parameters={"report-type": "disposition-notification"})
    return _eight_bit(report, original)


def _returned(context: DepositContext, original: bytes) -> list[bytes]:
    """The original as a part, octet for octet, or what stands for it; nothing when nothing is known of it."""
    if original:
        return [_eight_bit(b"Content-Type: message/rfc822\r\n\r\n" + original, original)]
    lines = "".join(context.original).encode("ascii")
    return [b"Content-Type: text/rfc822-headers\r\n\r\n" + lines] if lines else []


def _eight_bit(entity: bytes, original: bytes) -> bytes:
    """An entity that says what its inside needs (RFC 2045 §6.4): a message inside is never encoded."""
    return entity if original.isascii() else b"Content-Transfer-Encoding: 8bit\r\n" + entity


def carriable(original: bytes) -> bool:
    """Whether a message can be a part of another as it is: lines of at most 998 octets that end with CRLF, no NUL, an ASCII
    header (RFC 2046 §5.2.1)."""
    if b"\0" in original or not original.count(b"\r\n") == original.count(b"\n") == original.count(b"\r"):
        return False
    end, _ = mime.header_end(original)
    return original[:end].isascii() and _LONG_LINE.search(original) is None


_LONG_LINE = re.compile(rb"[^\n]{1000}")
_WHY_NOT_WHOLE = {
    "size": ("trop volumineux pour être rendu", "is too large to be given back"),
    "form": ("impossible à rendre tel quel", "cannot be given back as it is"),
    "message": ("rendu une fois déjà, ou perdu", "was given back once already, or is lost"),
}


def _why_not_whole(context: DepositContext) -> str:
    """Why the header stands for the message, when the message itself should be there."""
    if context.returned not in _WHY_NOT_WHOLE:
        return ""
    french, english = _WHY_NOT_WHOLE[context.returned]
    return (
        f"\nLe message d'origine, {french}, est représenté par son en-tête.\n"
        f"The original message {english}: its header stands for it.\n"
    )


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
