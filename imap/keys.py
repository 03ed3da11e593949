"""What SORT, THREAD, SENTBEFORE and PREVIEW need of a message, read from it once at delivery (RFC 5256 §2, RFC 8970 §3).

Stored form: texts between NUL octets, in UTF-8, none of which holds a NUL. Every text is bounded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from email.utils import parsedate_tz
from functools import lru_cache
from html.parser import HTMLParser

from imap.base_subject import base_subject, collation_key
from imap.envelope import REMEMBERED, Header, addresses, value_of
from mime import Part
from mime.words import decode_charset, decode_words, text

MOST_TEXT = 200
MOST_REFERENCES = 100
MOST_PREVIEW = 200  # characters (RFC 8970 §3.1)
_PREVIEW_OCTETS = 16 * 1024
_DAY = 86_400
_EPOCH = date(1970, 1, 1).toordinal()
_MESSAGE_ID = re.compile(r"<([^<>\s\x00]{1,250})>")


@dataclass(frozen=True, slots=True)
class Keys:
    """`sent` is seconds since 1970 or None without a readable Date; `sent_day` is the day as written, in no zone
    (SENTON disregards it). Texts are ready to compare, but `preview`, which is ready to show."""

    subject: str
    is_reply: bool
    sent: float | None
    sent_day: date | None
    from_mailbox: str
    to_mailbox: str
    cc_mailbox: str
    from_display: str
    to_display: str
    message_id: str
    references: tuple[str, ...]
    preview: str


def keys_of(root: Part, raw: bytes) -> Keys:
    """The keys of a parsed message. Never raises."""
    subject, is_reply = base_subject(root.get("subject") or "")
    sent, day = _sent(root.get("date") or "")
    senders, receivers, copies = (_first_address(root.first, name) for name in ("from", "to", "cc"))
    return Keys(
        subject=_text(collation_key(subject)),
        is_reply=is_reply,
        sent=sent,
        sent_day=day,
        from_mailbox=senders[0],
        to_mailbox=receivers[0],
        cc_mailbox=copies[0],
        from_display=senders[1],
        to_display=receivers[1],
        message_id=next(iter(_message_ids(root, "message-id")), ""),
        references=tuple(
            (_message_ids(root, "references") or _message_ids(root, "in-reply-to")[:1])[-MOST_REFERENCES:]
        ),
        preview=preview(root, raw),
    )


def _text(value: str) -> str:
    return value.replace("\x00", "")[:MOST_TEXT]


def _message_ids(root: Part, name: str) -> list[str]:
    field = root.field(name)
    return [] if field is None else _MESSAGE_ID.findall(field.text[: 64 * 1024])


def _first_address(header: Header, name: str) -> tuple[str, str]:
    """Mailbox (the local part, or the name of a group) and display name of the first address of ENVELOPE; without a name,
    the address (RFC 5256 §3, RFC 5957 §3)."""
    value = value_of(header, name) or b""
    return _remembered(value) if len(value) <= REMEMBERED else _first_of(value)


def _first_of(value: bytes) -> tuple[str, str]:
    first = next(addresses(value), None)
    if first is None:
        return "", ""
    mailbox, host = text(first.mailbox or b""), text(first.host or b"")
    display = decode_words(text(first.name or b"")) or (f"{mailbox}@{host}" if host else mailbox)
    return _text(collation_key(mailbox)), _text(collation_key(display))


_remembered = lru_cache(maxsize=1024)(_first_of)


def _sent(value: str) -> tuple[float | None, date | None]:
    """RFC 5256 §2.2: the moment of a Date field; an unreadable zone counts as UTC."""
    try:
        parsed = parsedate_tz(value[:200]) if value else None
        if parsed is None:
            return None, None
        day = date(parsed[0], parsed[1], parsed[2])
        hour, minute, second = (parsed[3], parsed[4], parsed[5])
        if not (0 <= hour < 24 and 0 <= minute < 60 and 0 <= second < 61):
            hour = minute = second = 0
        zone = parsed[9] or 0
        if abs(zone) >= _DAY:
            return None, None
        days = day.toordinal() - _EPOCH
        return float(days * _DAY + hour * 3600 + minute * 60 + min(second, 59) - zone), day
    except (ValueError, IndexError, OverflowError, TypeError):
        return None, None


class _Words(HTMLParser):
    """The text of an HTML part, without style and script."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in ("style", "script", "title")
        self.found.append(" ")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("style", "script", "title") and self._hidden > 0

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.found.append(data)


def preview(root: Part, raw: bytes) -> str:
    """RFC 8970 §3.1: the beginning of the first text, one line of 200 characters at most; "" when there is none."""
    leaves = [part for part in root.walk() if not part.children and part.disposition != "attachment"]
    for media_type in ("text/plain", "text/html"):
        part = next((leaf for leaf in leaves if leaf.media_type == media_type), None)
        if part is None:
            continue
        start = raw[part.body_start : min(part.end, part.body_start + _PREVIEW_OCTETS)]
        leaf = Part(0, 0, len(start), (), part.media_type, part.parameters, part.encoding, (), {}, ())
        shown = decode_charset(leaf.decoded(start), part.parameters.get("charset", "utf-8"))
        if media_type == "text/html":
            words = _Words()
            words.feed(shown)
            shown = "".join(words.found)
        if text := _one_line(shown):
            return text
    return ""


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    if not line.isprintable():
        line = " ".join("".join([char if char.isprintable() else " " for char in line]).split())
    return line[:MOST_PREVIEW].strip()


def encode_keys(keys: Keys) -> bytes:
    """The stored form."""
    texts = (
        "1" if keys.is_reply else "",
        "" if keys.sent is None else repr(keys.sent),
        "" if keys.sent_day is None else keys.sent_day.isoformat(),
        keys.subject,
        keys.from_mailbox,
        keys.to_mailbox,
        keys.cc_mailbox,
        keys.from_display,
        keys.to_display,
        keys.message_id,
        " ".join(keys.references),
        keys.preview,
    )
    return "\x00".join(texts).encode("utf-8", "replace")


def decode_keys(stored: bytes) -> Keys:
    """The keys behind a stored form made by `encode_keys`."""
    reply, sent, day, subject, senders, receivers, copies, from_display, to_display, message_id, references, shown = (
        stored.decode("utf-8").split("\x00")
    )
    return Keys(
        subject=subject,
        is_reply=bool(reply),
        sent=float(sent) if sent else None,
        sent_day=date.fromisoformat(day) if day else None,
        from_mailbox=senders,
        to_mailbox=receivers,
        cc_mailbox=copies,
        from_display=from_display,
        to_display=to_display,
        message_id=message_id,
        references=tuple(references.split()),
        preview=shown,
    )


NO_KEYS = Keys("", False, None, None, "", "", "", "", "", "", (), "")
"""Of a message that cannot be read."""
