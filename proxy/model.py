"""What the proxy answers: values that `smtp` reads without knowing how protection is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mailstore.model import Event, OutgoingCopy


@dataclass(frozen=True, slots=True)
class Protected:
    """A message ready to leave.

    `clear` is the clear message without its send code, for the bridge (empty when the sender had encrypted it).
    `original` is the whole message as it was handed in, signature included, without its send code (empty likewise).
    `confirmation` is a message for the sender's own mailbox, empty when none is wanted.
    `local` gives, for each recipient whose mailbox is here, the bytes to deliver; `copies` what leaves for the others.
    """

    clear: bytes
    local: Mapping[str, bytes]
    copies: tuple[OutgoingCopy, ...]
    events: tuple[Event, ...] = ()
    confirmation: bytes = b""
    original: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a message cannot be protected, as an SMTP reply (RFC 5321 §4.2, RFC 3463). The texts never quote the message.

    `delay` is how many seconds the answer is to be held back: guessing must be slow."""

    code: int
    enhanced: str
    text_fr: str
    text_en: str
    events: tuple[Event, ...] = ()
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Opened:
    """A received message as it is delivered to one mailbox.

    `results` are Authentication-Results clauses (RFC 8601; `smime=` is RFC 7281). `clear` is what the bridge may read,
    or None when the message stays encrypted to a key that is not held here.
    """

    content: bytes
    results: tuple[str, ...]
    clear: bytes | None
    events: tuple[Event, ...] = field(default=())
