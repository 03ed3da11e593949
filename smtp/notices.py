"""Non-delivery notices (RFC 3464) for senders of ours, in French then English.

Invariants: a notice carries the header of the message and never its body; the same failure gives the same
fingerprint, so that a notice repeated after a crash is recognised by the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import mime
from mailstore import Acceptance, Account, Direction, Event, Leased, LocalDelivery
from smtp import fields
from smtp.client import Answer

PRINCIPAL = "mailer-daemon"
_MAX_HEADER = 32 * 1024


@dataclass(frozen=True, slots=True)
class Failure:
    """A recipient that will not get the message, and the last answer about it."""

    row: Leased
    answer: Answer


def notice(
    sender: Account, failures: Sequence[Failure], start: bytes, *, hostname: str, gave_up: bool, at: datetime
) -> Acceptance:
    """The acceptance that puts a failure notice in the sender's INBOX.

    `failures` (at least one) are of one message; `start` is the beginning of that message, its header at least.
    """
    rows = sorted(failure.row.row_id for failure in failures)
    first = failures[0].row
    identifier = f"dsn.{first.submission_id}.{rows[0]}"
    report = mime.multipart(
        "report",
        [
            mime.leaf("text/plain", _text(failures, gave_up, hostname).encode(), parameters={"charset": "utf-8"}),
            # Written here, not by mime.leaf: this type must stay 7bit (RFC 3464 §2.1).
            b"Content-Type: message/delivery-status\r\n\r\n" + _status(failures, hostname, at).encode("ascii"),
            mime.leaf("text/rfc822-headers", _header(start)),
        ],
        parameters={"report-type": "delivery-status"},
    )
    about = [("References", f"<{first.message_id.strip('<>')}>")] if first.message_id else []
    content = mime.message(
        [
            ("Return-Path", "<>"),
            ("Date", fields.rfc5322_date(at)),
            ("From", f"Messagerie <{PRINCIPAL}@{hostname}>"),
            ("To", sender.address),
            ("Subject", "Message non distribué / Undelivered message"),
            ("Message-ID", f"<{identifier}@{hostname}>"),
            *about,
            ("Auto-Submitted", "auto-replied"),
        ],
        report,
    )
    names = ", ".join(failure.row.recipient for failure in failures)
    event = Event("notice.failure", {"recipients": names, "about": first.submission_id, "account": sender.address})
    return Acceptance(
        direction=Direction.SUBMISSION,
        principal=PRINCIPAL,
        mail_from="",
        recipients=(sender.address,),
        message_id=f"<{identifier}@{hostname}>",
        received=f"failure {first.submission_id} {rows}".encode("ascii"),
        local=(LocalDelivery(sender.id, sender.address, content),),
        events=(event,),
    )


def _text(failures: Sequence[Failure], gave_up: bool, hostname: str) -> str:
    why_fr = "Le délai de remise est dépassé." if gave_up else "Le refus est définitif."
    why_en = "Delivery was given up after too long." if gave_up else "The refusal is final."
    lines = "\n".join(f"  {failure.row.recipient}\n    {failure.answer}" for failure in failures)
    return (
        f"Votre message n'a pas pu être remis aux destinataires ci-dessous. {why_fr}\n\n{lines}\n\n"
        "Vérifiez l'adresse, puis renvoyez le message si nécessaire.\n\n--\n\n"
        f"Your message could not be delivered to the recipients below. {why_en}\n\n{lines}\n\n"
        f"Check the address, then send the message again if needed.\n\n{hostname}\n"
    )


def _status(failures: Sequence[Failure], hostname: str, at: datetime) -> str:
    """RFC 3464 §2: per-message fields, then one group for each recipient."""
    groups = [f"Reporting-MTA: dns; {hostname}\r\nArrival-Date: {fields.rfc5322_date(failures[0].row.accepted_at)}\r\n"]
    for failure in failures:
        answer = failure.answer
        status = answer.enhanced if answer.enhanced.startswith("5") else "5.4.7" if not answer.permanent else "5.0.0"
        groups.append(
            f"Final-Recipient: rfc822; {failure.row.recipient}\r\n"
            f"Action: failed\r\nStatus: {status}\r\n"
            f"Diagnostic-Code: smtp; {fields.diagnostic(str(answer))}\r\n"
            f"Last-Attempt-Date: {fields.rfc5322_date(at)}\r\n"
        )
    return "\r\n".join(groups)


def _header(start: bytes) -> bytes:
    end, _ = mime.header_end(start)
    return start[: min(end, _MAX_HEADER)]
