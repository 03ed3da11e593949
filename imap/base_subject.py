"""The base subject of RFC 5256 §2.1: what is left of a Subject without `Re:`, `Fwd:`, `[list]` and the like. Pure, linear."""

from __future__ import annotations

import re
import unicodedata

MOST_SUBJECT = 1000
_SPACE = re.compile(r"[ \t]+")
_TRAILER = re.compile(r"(?:\(fwd\)|[ \t])\Z", re.IGNORECASE)
_BLOB = re.compile(r"\[[^\[\]]*\][ \t]*")
# subj-leader: any number of blobs, then re / fw / fwd, perhaps one more blob, then a colon.
_LEADER = re.compile(r"(?:\[[^\[\]]*\][ \t]*)*+(?:re|fwd?)[ \t]*(?:\[[^\[\]]*\][ \t]*)?:", re.IGNORECASE)
_FORWARD = re.compile(r"\[fwd:(.*)\]\Z", re.IGNORECASE | re.DOTALL)


def base_subject(subject: str) -> tuple[str, bool]:
    """The base subject of a decoded Subject, and whether it is that of a reply or a forward."""
    text = _SPACE.sub(" ", subject[:MOST_SUBJECT].replace("\r", "").replace("\n", " "))
    is_reply = False
    while True:
        while match := _TRAILER.search(text):
            is_reply = is_reply or match[0] != " "
            text = text[: match.start()]
        while True:
            stripped = text.lstrip(" \t")
            if match := _LEADER.match(stripped):
                text, is_reply = stripped[match.end() :], True
                continue
            match = _BLOB.match(stripped)
            if match and stripped[match.end() :]:
                text = stripped[match.end() :]
                continue
            text = stripped
            break
        match = _FORWARD.match(text)
        if match is None:
            return text, is_reply
        text, is_reply = match[1], True


def collation_key(text: str) -> str:
    """What texts are compared by: i;unicode-casemap (RFC 5051), titlecase mapped to one case, then decomposed."""
    return unicodedata.normalize("NFKD", text.upper())
