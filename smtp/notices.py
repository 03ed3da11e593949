"""Notices to senders (RFC 3464): failed, delayed, delivered, relayed; and the status message about a silent receipt. In French
then English.

Invariants: a notice goes to nobody for the null sender (RFC 5321 §6.1), and to nobody who asked for none (NOTIFY=NEVER); it
carries the header of the message, and its whole only when the sender asked for that (RET=FULL), it failed, and what left was an
S/MIME envelope: never the clear text of an encrypted message; the same event gives the same fingerprint, so that a notice
repeated after a crash is recognised by the store.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import mime
from mailstore import (
    Acceptance,
    Account,
    Direction,
    Event,
    Leased,
    LocalDelivery,
    OutgoingCopy,
    Receipt,
    ReceiptKind,
    ReceiptState,
)
from smtp import fields, grammar, metrics
from smtp.dialogue import Answer
from smtp.routes import parse_route
from smtp.services import Services
from smtp.session import Transaction

PRINCIPAL = "mailer-daemon"
MAX_RETURNED = 1024 * 1024
_MAX_HEADER = 32 * 1024


class Kind(StrEnum):
    """The action of a delivery status (RFC 3464 §2.3.3)."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    RELAYED = "relayed"


_WORDS = {
    Kind.FAILED: ("Message non distribué", "Undelivered message", "n'a pas pu être remis", "could not be delivered"),
    Kind.DELAYED: ("Message retardé", "Delayed message", "n'a pas encore pu être remis", "has not been delivered yet"),
    Kind.DELIVERED: ("Message distribué", "Delivered message", "a été remis", "was delivered"),
    Kind.RELAYED: (
        "Message relayé",
        "Relayed message",
        "a été remis à un opérateur qui ne rend pas d'accusés",
        "was handed to an operator that returns no receipts",
    ),
}


@dataclass(frozen=True, slots=True)
class Status:
    """One recipient of a notice. `status` is an RFC 3463 code; `diagnostic` the last reply, "" without one."""

    recipient: str
    status: str
    diagnostic: str = ""
    original: str = ""
    mta: str = ""


@dataclass(frozen=True, slots=True)
class About:
    """The message a notice is about. `start` is its beginning, its header at least; `full` the whole, if it may be returned."""

    mail_from: str
    submission_id: str
    message_id: str
    accepted_at: datetime
    start: bytes
    envelope_id: str = ""
    require_tls: bool = False
    full: bytes = b""
    until: datetime | None = None


def options_of(transaction: Transaction, recipient: str) -> dict[str, str]:
    """What the queue keeps of the envelope for one recipient; only what was asked for."""
    mail, asked = transaction.options, transaction.asked[recipient]
    every = {
        "notify": ",".join(sorted(asked.notify)),
        "orcpt": asked.original,
        "ret": mail.ret,
        "envid": mail.envelope_id,
        "requiretls": "yes" if mail.require_tls else "",
        "utf8": "yes" if mail.utf8 else "",
    }
    return {name: value for name, value in every.items() if value}


def by_options(copy: OutgoingCopy, transaction: Transaction) -> list[OutgoingCopy]:
    """One copy for each distinct set of options."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for recipient in copy.recipients:
        groups.setdefault(tuple(options_of(transaction, recipient).items()), []).append(recipient)
    return [OutgoingCopy(tuple(names), copy.content, dict(options)) for options, names in groups.items()]


def wants(options: Mapping[str, str], kind: Kind) -> bool:
    """Whether a sender is to be told: of failures and delays unless said otherwise, of success when asked (RFC 3461 §4.1)."""
    asked = set(options.get("notify", "FAILURE,DELAY").split(","))
    return {Kind.FAILED: "FAILURE", Kind.DELAYED: "DELAY"}.get(kind, "SUCCESS") in asked


def about_row(row: Leased, start: bytes, full: bytes = b"", until: datetime | None = None) -> About:
    """The message of a queue row."""
    options = row.options
    return About(
        row.mail_from,
        row.submission_id,
        row.message_id,
        row.accepted_at,
        start,
        options.get("envid", ""),
        bool(options.get("requiretls")),
        full if options.get("ret") == "FULL" else b"",
        until,
    )


def notice(
    kind: Kind, about: About, statuses: Sequence[Status], sender: Account | None, *, hostname: str, at: datetime
) -> Acceptance:
    """The acceptance that sends a notice: to the sender's INBOX when `sender` is a mailbox here, by the queue otherwise."""
    names = sorted(status.recipient for status in statuses)
    mark = f"{kind} {about.submission_id} {' '.join(names)}"
    identifier = f"dsn.{kind}.{about.submission_id}.{_short(mark)}"
    subject_fr, subject_en, _, _ = _WORDS[kind]
    parts = [
        mime.leaf("text/plain", _text(kind, about, statuses, hostname).encode(), parameters={"charset": "utf-8"}),
        # Written here, not by mime.leaf: this type must stay 7bit (RFC 3464 §2.1).
        b"Content-Type: message/delivery-status\r\n\r\n" + _status(kind, about, statuses, hostname, at).encode("ascii"),
        _returned(kind, about),
    ]
    content = _message(
        about,
        f"{subject_fr} / {subject_en}",
        identifier,
        mime.multipart("report", parts, parameters={"report-type": "delivery-status"}),
        hostname,
        at,
    )
    metrics.NOTICES.labels(kind.value).inc()
    event = Event(f"notice.{_EVENT[kind]}", {"recipients": ", ".join(names), "about": about.submission_id})
    return _acceptance(about, identifier, mark.encode(), content, sender, event, hostname)


_EVENT = {Kind.FAILED: "failure", Kind.DELAYED: "delay", Kind.DELIVERED: "delivered", Kind.RELAYED: "relayed"}


def _acceptance(
    about: About,
    identifier: str,
    mark: bytes,
    content: bytes,
    sender: Account | None,
    event: Event,
    hostname: str,
) -> Acceptance:
    # Only a final delivery writes Return-Path (RFC 5321 §4.4).
    home = mime.prepend_fields(content, [("Return-Path", "<>")])
    local = (LocalDelivery(sender.id, sender.address, home),) if sender is not None else ()
    options = {"notify": "NEVER", **({"requiretls": "yes"} if about.require_tls else {})}
    outgoing = () if sender is not None else (OutgoingCopy((about.mail_from,), content, options),)
    return Acceptance(
        direction=Direction.SUBMISSION,
        principal=PRINCIPAL,
        mail_from="",
        recipients=(about.mail_from,),
        message_id=f"<{identifier}@{hostname}>",
        received=mark,
        local=local,
        outgoing=outgoing,
        events=(event,),
    )


def tell(services: Services, kind: Kind, about: About, statuses: Sequence[Status], at: datetime) -> None:
    """Store a notice for a sender, here or elsewhere; nobody is told for the null sender. Blocking; raises StoreError."""
    if not about.mail_from or not statuses:
        return
    sender = services.store.find_account(about.mail_from)
    if sender is None and about.mail_from.rpartition("@")[2] in services.local_domains:
        return  # a mailbox that is gone
    services.store.accept(notice(kind, about, statuses, sender, hostname=services.hostname, at=at), at)


def tell_delivered(
    services: Services,
    transaction: Transaction,
    recipients: Sequence[str],
    header: bytes,
    submission_id: str,
    message_id: str,
    at: datetime,
) -> None:
    """Tell of deliveries to mailboxes here, for the recipients of which the sender asked it (NOTIFY=SUCCESS). Blocking."""
    asked = [one for one in recipients if "SUCCESS" in transaction.asked[one].notify]
    for recipient in asked:
        services.store.answer_receipt(
            submission_id, recipient, ReceiptKind.DELIVERY, ReceiptState.POSITIVE, "delivered 2.0.0", at
        )
    mail = transaction.options
    about = About(transaction.sender or "", submission_id, message_id, at, header, mail.envelope_id, mail.require_tls)
    statuses = [Status(one, "2.0.0", original=transaction.asked[one].original) for one in asked]
    tell(services, Kind.DELIVERED, about, statuses, at)


def silence(receipts: Sequence[Receipt], sender: Account, *, hostname: str, at: datetime) -> Acceptance:
    """The status message about receipts of one message that never came (at least one)."""
    first = receipts[0]
    names = {ReceiptKind.DELIVERY: ("remise", "delivery"), ReceiptKind.READING: ("lecture", "reading")}
    lines = "\n".join(f"  {one.recipient} ({names[one.kind][0]} / {names[one.kind][1]})" for one in receipts)
    text = (
        f"Aucun accusé n'est parvenu pour ces destinataires dans le délai prévu ({first.deadline:%d/%m/%Y %H:%M} UTC) :\n\n"
        f"{lines}\n\nLe message a peut-être été lu : un accusé n'est jamais garanti. En cas de doute, appelez.\n\n--\n\n"
        f"No receipt came from these recipients in time. It may have been read all the same: a receipt is never\n"
        f"guaranteed. If in doubt, call.\n\n{hostname}\n"
    )
    about = About(first.sender, first.submission_id, first.message_id, at, b"")
    mark = f"silence {first.submission_id} {[one.row_id for one in receipts]}"
    identifier = f"status.{first.submission_id}.{_short(mark)}"
    leaf = mime.leaf("text/plain", text.encode(), parameters={"charset": "utf-8"})
    content = _message(about, "Accusé non reçu / Receipt not received", identifier, leaf, hostname, at)
    metrics.NOTICES.labels("silence").inc()
    event = Event("notice.silence", {"about": first.submission_id, "account": sender.address})
    return _acceptance(about, identifier, mark.encode(), content, sender, event, hostname)


def _message(about: About, subject: str, identifier: str, entity: bytes, hostname: str, at: datetime) -> bytes:
    reference = [("References", f"<{about.message_id.strip('<>')}>")] if about.message_id else []
    return mime.message(
        [
            ("Date", fields.rfc5322_date(at)),
            ("From", f"Messagerie <{PRINCIPAL}@{hostname}>"),
            ("To", about.mail_from),
            ("Subject", subject),
            ("Message-ID", f"<{identifier}@{hostname}>"),
            *reference,
            ("Auto-Submitted", "auto-replied"),
        ],
        entity,
    )


def _text(kind: Kind, about: About, statuses: Sequence[Status], hostname: str) -> str:
    _, _, what_fr, what_en = _WORDS[kind]
    lines = "\n".join(f"  {one.recipient}\n    {one.diagnostic or one.status}" for one in statuses)
    until = f"{about.until:%d/%m/%Y %H:%M} UTC" if about.until is not None else ""
    next_fr, next_en = {
        Kind.FAILED: (
            "Vérifiez l'adresse, puis renvoyez le message si nécessaire.",
            "Check the address, then send the message again if needed.",
        ),
        Kind.DELAYED: (
            f"Il n'y a rien à faire : les essais continuent jusqu'au {until}.",
            f"Nothing to do: delivery is tried until {until}.",
        ),
    }.get(kind, ("", ""))
    return (
        f"Votre message {what_fr} aux destinataires ci-dessous.\n\n{lines}\n\n{next_fr}\n\n--\n\n"
        f"Your message {what_en} to the recipients below.\n\n{lines}\n\n{next_en}\n\n{hostname}\n"
    )


def _status(kind: Kind, about: About, statuses: Sequence[Status], hostname: str, at: datetime) -> str:
    """RFC 3464 §2: per-message fields, then one group for each recipient. What the envelope had in xtext is decoded."""
    head = f"Original-Envelope-Id: {_plainly(about.envelope_id)}\r\n" if about.envelope_id else ""
    groups = [f"{head}Reporting-MTA: dns; {hostname}\r\nArrival-Date: {fields.rfc5322_date(about.accepted_at)}\r\n"]
    for one in statuses:
        kind_of = "rfc822" if one.recipient.isascii() else "utf-8"
        address = grammar.in_ascii(one.recipient)
        lines = [f"Original-Recipient: {_plainly(one.original)}"] if one.original else []
        lines += [f"Final-Recipient: {kind_of}; {address}", f"Action: {kind.value}", f"Status: {one.status}"]
        lines += [f"Remote-MTA: dns; {one.mta}"] if one.mta else []
        lines += [f"Diagnostic-Code: smtp; {fields.diagnostic(one.diagnostic)}"] if one.diagnostic else []
        lines += [f"Last-Attempt-Date: {fields.rfc5322_date(at)}"]
        if kind is Kind.DELAYED and about.until is not None:
            lines += [f"Will-Retry-Until: {fields.rfc5322_date(about.until)}"]
        groups.append("".join(f"{line}\r\n" for line in lines))
    return "\r\n".join(groups)


def _plainly(text: str) -> str:
    """A value of the envelope as a field's: rows of the queue may be older than the check of their xtext."""
    return fields.diagnostic(grammar.from_xtext(text))


def mta_name(place: str) -> str:
    """`host:port` of a route as the name of an MTA (RFC 3464 §2.3.5); an address in brackets."""
    if not place:
        return ""
    host = parse_route(place).host
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        return fields.token(host)
    return f"[IPv6:{literal}]" if literal.version == 6 else f"[{literal}]"


def _returned(kind: Kind, about: About) -> bytes:
    """The message itself only when it failed, was asked back, is small, and is an envelope; its header otherwise."""
    if kind is Kind.FAILED and about.full and len(about.full) <= MAX_RETURNED and fields.is_enveloped(about.full):
        return b"Content-Type: message/rfc822\r\n\r\n" + about.full
    end, _ = mime.header_end(about.start)
    return mime.leaf("text/rfc822-headers", about.start[: min(end, _MAX_HEADER)])


def status_of(answer: Answer) -> str:
    """The RFC 3463 status of a failed recipient: the peer's when it is a permanent one, 5.4.7 when time ran out."""
    if answer.enhanced.startswith("5"):
        return answer.enhanced
    return "5.0.0" if answer.permanent else "5.4.7"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
