"""The confirmation a sender may ask for: how their message left, for whom it was encrypted and for whom not.

Invariant: it names the message by its Message-ID and its recipients, and quotes nothing of it, not even the subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from email.utils import format_datetime

import mime
from mailstore import Account, Event

_HOW = {
    "message.signed": ("signé par l'opérateur en votre nom", "signed by the operator in your name"),
    "message.signed_by_sender": ("signé par vous", "signed by you"),
    "message.unsigned": ("non signé, selon la règle de votre boîte", "unsigned, as your mailbox's policy says"),
}


def confirmation(
    raw: bytes, event: Event, sender: Account, encrypted: Sequence[str], clear: Sequence[str], at: datetime
) -> bytes:
    """A message for the sender's own mailbox (RFC 5322, CRLF; RFC 3834 auto-generated). `event` is how it was signed;
    `encrypted` and `clear` are its recipients with and without a certificate."""
    message_id = mime.parse(raw, max_parts=1).get("Message-ID") or ""
    french, english = _HOW[event.name]
    domain = sender.address.rpartition("@")[2]
    lines = [
        f"Votre message {message_id} est parti, {french}.",
        *(f"  chiffré pour {name}" for name in encrypted),
        *(f"  non chiffré, dans le seul espace de confiance, pour {name}" for name in clear),
        "",
        f"Your message {message_id} left, {english}.",
        *(f"  encrypted to {name}" for name in encrypted),
        *(f"  not encrypted, inside the trust space only, to {name}" for name in clear),
        "",
    ]
    fields = [
        ("From", f"postmaster@{domain}"),
        ("To", sender.address),
        ("Subject", "Confirmation d'envoi / sending confirmed"),
        ("Date", format_datetime(at)),
        ("Auto-Submitted", "auto-generated"),
    ]
    if message_id:
        fields.append(("In-Reply-To", message_id))
    return mime.message(
        fields, mime.leaf("text/plain", "\r\n".join(lines).encode(), parameters={"charset": "utf-8"}, disposition=None)
    )
