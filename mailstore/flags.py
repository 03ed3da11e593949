"""Message flags: one spelling for each, and a text form for the database.

Invariants: system flags and registered keywords have one spelling whatever the client wrote; two keywords that differ
only by case are one (RFC 9051 §2.3.2); the text form is sorted, so that equal sets are equal texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from mailstore.model import FlagOperation, StoreError

SEEN = "\\Seen"
DELETED = "\\Deleted"
FLAG_LIMIT = 64  # characters
FLAGS_LIMIT = 64  # per message
# RFC 9051 §2.3.2, and the registered keywords clients use (IANA "IMAP and JMAP Keywords").
_KNOWN = {
    flag.lower(): flag
    for flag in (
        "\\Seen",
        "\\Answered",
        "\\Flagged",
        "\\Deleted",
        "\\Draft",
        "$Forwarded",
        "$MDNSent",
        "$Junk",
        "$NotJunk",
        "$Phishing",
    )
}
_KEYWORD = re.compile(r"[!#$&'+,./0-9:;<=>?@A-Z\[^_`a-z|}~-]+\Z")  # an atom: printable ASCII without atom-specials


def normalise(flags: Iterable[str]) -> frozenset[str]:
    """The set of flags in their one spelling. `\\Recent` is the server's own and is dropped.

    Raises StoreError on an unknown system flag, a malformed or overlong keyword, or too many of them."""
    kept: dict[str, str] = {}
    for flag in flags:
        low = flag.lower()
        if low == "\\recent":
            continue
        known = _KNOWN.get(low)
        if known is None and (not _KEYWORD.match(flag) or len(flag) > FLAG_LIMIT):
            raise StoreError("Indicateur de message invalide. / Malformed message flag.")
        kept.setdefault(low, known or flag)
    return _bounded(frozenset(kept.values()))


def apply(current: frozenset[str], operation: FlagOperation, flags: frozenset[str]) -> frozenset[str]:
    """`current` after STORE, both sets normalised; a keyword keeps the case it had on the message."""
    given = {flag.lower() for flag in flags}
    if operation is FlagOperation.REMOVE:
        return frozenset(flag for flag in current if flag.lower() not in given)
    had = {flag.lower() for flag in current}
    new = frozenset(flag for flag in flags if flag.lower() not in had)
    if operation is FlagOperation.ADD:
        return _bounded(current | new)
    return frozenset(flag for flag in current if flag.lower() in given) | new


_RIGHTS = {SEEN: "s", DELETED: "t"}


def permitted(flags: Iterable[str], rights: str) -> frozenset[str]:
    """Those of `flags` that somebody with these rights may set or clear: `s` for `\\Seen`, `t` for `\\Deleted`, `w` for any
    other (RFC 4314 §4)."""
    return frozenset(flag for flag in flags if _RIGHTS.get(flag, "w") in rights)


def to_text(flags: frozenset[str]) -> str:
    """The stored form."""
    return " ".join(sorted(flags))


@lru_cache(maxsize=4096)
def from_text(text: str) -> frozenset[str]:
    """The set of a stored form; equal texts share one set."""
    return frozenset(text.split())


def _bounded(flags: frozenset[str]) -> frozenset[str]:
    if len(flags) > FLAGS_LIMIT:
        raise StoreError("Trop d'indicateurs sur un message. / Too many flags on a message.")
    return flags
