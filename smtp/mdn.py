"""Receipts of reading (MDN, RFC 8098) as MSSanté uses them (mssante.md §3.5), and the correlation of receipts that come back.

The bridge writes those that this operator owes, about documents (`dmp_bridge/notices.py`). Invariants: both error forms are read
(field `Error:`, and the old one inside `Disposition:`); what is read is bounded, and none of its free text is kept but an error
code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import mime
from mailstore import ReceiptKind, ReceiptState, Store
from smtp import fields
from smtp.content import IN_MEMORY, Received

_OLD_ERROR = re.compile(r"processed\s*/\s*error\s*:\s*(?P<text>.+)", re.IGNORECASE)
_CODE = re.compile(r"\s*(\d{1,4})\b")
_MAX_REPORT = 64 * 1024
_MAX_GROUPS = 200


@dataclass(frozen=True, slots=True)
class Disposition:
    """What an MDN says. `error` is its code, "" for none; `failed` is True for any error."""

    recipient: str
    original_message_id: str
    failed: bool
    error: str = ""
    disposition: str = ""


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """One recipient of a DSN: action and status (RFC 3464)."""

    recipient: str
    action: str
    status: str


def read(raw: bytes) -> Disposition | None:
    """What an MDN says, in either form; None for anything else. Never raises."""
    found = _report(raw, "disposition-notification")
    if not found:
        return None
    values = found[0]
    disposition = values.get("disposition", "")
    old = _OLD_ERROR.search(disposition)
    error = values.get("error", old["text"] if old else "")
    code = _CODE.match(error)
    failed = bool(error) or bool(
        re.search(r"/\s*(?:error|failure|failed)\b|;\s*(?:failed|denied)\b", disposition, re.IGNORECASE)
    )
    return Disposition(
        _address(values.get("final-recipient") or values.get("original-recipient", "")),
        values.get("original-message-id", "").strip()[:998],
        failed,
        code[1] if code else "",
        re.sub(r"[^A-Za-z/; -]", "", disposition)[:100],
    )


def read_delivery(raw: bytes) -> tuple[str, list[DeliveryReport]]:
    """(ENVID, recipients) of a DSN; ("", []) for anything else. Never raises."""
    groups = _report(raw, "delivery-status")
    if not groups:
        return "", []
    found = [
        DeliveryReport(
            _address(group.get("original-recipient") or group.get("final-recipient", "")),
            group.get("action", "").strip().lower()[:20],
            re.sub(r"[^0-9.]", "", group.get("status", ""))[:12],
        )
        for group in groups[1:]
    ]
    return groups[0].get("original-envelope-id", "").strip()[:100], [one for one in found if one.recipient]


def correlate(store: Store, received: Received, author: str, at: datetime) -> None:
    """Note what a receipt answers, when it is one and somebody waits for it. Blocking; raises StoreError.

    An MDN counts for the mailbox that sent it, a DSN for the recipients it names: what others say of them is not kept.
    """
    if b"multipart/report" not in received.header.lower():
        return
    part = mime.parse(received.header + b"\r\n", max_parts=1)
    if part.media_type != "multipart/report":
        return
    raw = (
        received.content
        if isinstance(received.content, bytes)
        else store.read_blob(received.content.blob, 0, IN_MEMORY)
    )
    disposition = read(raw)
    if disposition is not None:
        state = ReceiptState.NEGATIVE if disposition.failed else ReceiptState.POSITIVE
        detail = f"{disposition.disposition} {disposition.error}".strip()
        for recipient in dict.fromkeys((disposition.recipient, author)):
            if recipient:
                store.answer_receipt(disposition.original_message_id, recipient, ReceiptKind.READING, state, detail, at)
        return
    envelope_id, reports = read_delivery(raw)
    references = [one for one in (envelope_id, _original_id(raw)) if one]
    for report in reports:
        if report.action in ("delivered", "relayed", "expanded", "failed"):
            state = ReceiptState.NEGATIVE if report.action == "failed" else ReceiptState.POSITIVE
            detail = f"{report.action} {report.status}".strip()
            for reference in references:
                if store.answer_receipt(reference, report.recipient, ReceiptKind.DELIVERY, state, detail, at):
                    break


def _original_id(raw: bytes) -> str:
    """The Message-ID of the returned header or message."""
    for part in mime.parse(raw, max_parts=8).children[2:3]:
        # Decoded: a header with long or 8-bit lines is returned as quoted-printable.
        return fields.message_id(part.decoded(raw)[:_MAX_REPORT]) or ""
    return ""


def _report(raw: bytes, kind: str) -> list[dict[str, str]]:
    """The groups of fields of the second part of a multipart/report of this kind."""
    root = mime.parse(raw, max_parts=8)
    if root.media_type != "multipart/report" or root.parameters.get("report-type", "").lower() != kind:
        return []
    for part in root.children[:4]:
        if part.media_type == f"message/{kind}":
            return _groups(part.decoded(raw)[:_MAX_REPORT])
    return []


def _groups(body: bytes) -> list[dict[str, str]]:
    groups: list[dict[str, str]] = []
    for block in re.split(rb"\r?\n(?:[ \t]*\r?\n)+", body.strip(b"\r\n"))[:_MAX_GROUPS]:
        named: Sequence[mime.Field] = list(mime.iter_fields(block, 0, len(block)))
        groups.append({one.name.lower().strip(): one.text.strip() for one in named if one.name})
    return groups


def _address(value: str) -> str:
    """The address of `rfc822; address`, lower case, "" when malformed."""
    _, separator, address = value.rpartition(";")
    text = (address if separator else value).strip().strip("<>").lower()
    return text if "@" in text and len(text) <= 320 and text.isprintable() and " " not in text else ""
