"""The header fields that mail programs ask for when they open a folder, kept in the summary exactly as they are written.

Invariant: what is answered from here is, octet for octet, what reading the message would give; whatever is in doubt (a
header beyond the bounds, without its blank line, or whose fields weigh too much) is not kept, and the message is read.

Encoding: nothing when not kept; else how many fields, in one octet, then of each its number in NAMES (one octet) and its length
(two), then the fields with their line ends, one behind the other, in the order of the message.
"""

from __future__ import annotations

import struct
from collections.abc import Collection

from mime import Part

NAMES = (
    *("from", "sender", "reply-to", "to", "cc", "bcc", "subject", "date", "message-id", "in-reply-to", "references"),
    *("content-type", "content-transfer-encoding", "content-description", "content-disposition", "mime-version"),
    *("priority", "x-priority", "importance", "x-msmail-priority", "newsgroups", "lines", "x-label", "x-original-to"),
    *("list-id", "list-post", "list-subscribe", "list-unsubscribe", "list-unsubscribe-post", "auto-submitted"),
    *("disposition-notification-to", "return-receipt-to", "authentication-results", "dkim-signature", "x-mailer"),
    *("user-agent", "x-uniform-type-identifier", "x-universally-unique-identifier", "x-k9mail-identity", "autocrypt"),
    *(
        "x-chat-content-type",
        "bimi-indicator",
        "bimi-location",
        "x-bimi-indicator-hash",
        "x-spam-status",
        "x-spam-flag",
    ),
)
"""What Thunderbird, Apple Mail, Outlook, K-9 and mutt ask for. The order is part of stored summaries: add at the end."""
MOST_KEPT = 8 * 1024
_NUMBERS = {name: number for number, name in enumerate(NAMES)}
_FIELD = struct.Struct(">BH")
_DOUBTS = frozenset({"header-too-long", "too-many-fields"})


def keep(root: Part, raw: bytes) -> bytes:
    """The kept fields of a parsed message, encoded."""
    fields = root.fields
    if not fields or fields[-1].end >= root.body_start or not _DOUBTS.isdisjoint(root.defects):
        return b""
    chosen = [(number, one) for one in fields if (number := _NUMBERS.get(one.name.lower())) is not None]
    if len(chosen) > 255 or sum(one.end - one.start for _, one in chosen) > MOST_KEPT:
        return b""
    table = [_FIELD.pack(number, one.end - one.start) for number, one in chosen]
    return bytes([len(chosen)]) + b"".join(table) + b"".join([raw[one.start : one.end] for _, one in chosen])


def numbers_of(names: Collection[bytes]) -> frozenset[int] | None:
    """The numbers of the fields called so (any case); None when one of them is not among NAMES."""
    numbers = [_NUMBERS.get(name.decode("ascii", "replace").lower()) for name in names]
    known = frozenset(number for number in numbers if number is not None)
    return known if None not in numbers else None


def choose(kept: bytes, wanted: frozenset[int]) -> bytes | None:
    """The fields with these numbers and a blank line, as BODY[HEADER.FIELDS (...)] gives them; None: read the message."""
    if not kept:
        return None
    at = 1 + kept[0] * _FIELD.size
    out = []
    for number, length in _FIELD.iter_unpack(kept[1:at]):
        if number in wanted:
            out.append(kept[at : at + length])
        at += length
    out.append(b"\r\n")
    return b"".join(out)
