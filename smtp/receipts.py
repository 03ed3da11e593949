"""What a submitted message asks to be told of its recipients (RFC 3461 NOTIFY, RFC 8098 Disposition-Notification-To). Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from mailstore import NewReceipt, ReceiptKind
from smtp import fields
from smtp.session import Transaction


def wanted(header: bytes, transaction: Transaction, patience: timedelta, at: datetime) -> tuple[NewReceipt, ...]:
    """The receipts expected of each recipient until `at + patience`; none for a notice (null sender)."""
    if not transaction.sender:
        return ()
    reading = fields.has(header, "disposition-notification-to")
    found = []
    for recipient in transaction.recipients:
        if "SUCCESS" in transaction.asked[recipient].notify:
            found.append(NewReceipt(recipient, ReceiptKind.DELIVERY, at + patience))
        if reading:
            found.append(NewReceipt(recipient, ReceiptKind.READING, at + patience))
    return tuple(found)
