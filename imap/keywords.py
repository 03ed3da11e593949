"""The flags of a selected folder as the client is told of them: at SELECT, and again when a message has a keyword that no client
could know of (RFC 9051 §7.3.5: a program shows the keywords it was told)."""

from __future__ import annotations

from imap import format as fmt
from imap.selected import Selected
from imap.values import SYSTEM_FLAGS

MOST_KEYWORDS_SHOWN = 200


def flags_lines(selected: Selected) -> bytes:
    """FLAGS and PERMANENTFLAGS."""
    keywords = sorted(selected.keywords - set(SYSTEM_FLAGS.values()))
    flags = fmt.flags([*SYSTEM_FLAGS.values(), *keywords[:MOST_KEYWORDS_SHOWN]])
    return b"* FLAGS %b\r\n* OK [PERMANENTFLAGS %b] Flags kept\r\n" % (flags, _permanent(selected, flags))


def _permanent(selected: Selected, shown: bytes) -> bytes:
    """PERMANENTFLAGS as far as the rights go (RFC 4314 §5.1.1)."""
    if selected.read_only:
        return b"()"
    rights = selected.rights
    if {"s", "t", "w"} <= set(rights):
        return shown[:-1] + b" \\*)"
    kept = {"s": ["\\Seen"], "t": ["\\Deleted"], "w": ["\\Answered", "\\Flagged", "\\Draft", "\\*"]}
    return fmt.flags(flag for right in "stw" if right in rights for flag in kept[right])


def fresh_flags_lines(selected: Selected, flags: frozenset[str]) -> bytes:
    """`flags_lines` when `flags` hold a keyword of which the client was not told, and there is room to tell; else b""."""
    fresh = flags - selected.keywords - set(SYSTEM_FLAGS.values())
    if not fresh:
        return b""
    has_room = len(selected.keywords) < MOST_KEYWORDS_SHOWN
    selected.keywords |= fresh
    return flags_lines(selected) if has_room else b""
