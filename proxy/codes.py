"""Send codes: what a gateway or a person without a card shows to have the operator sign and encrypt for them.

A code reads `7KQ4-M2XW9-TB5RC-0HZ8N-…`: a public identifier, then 100 random bits in Crockford's base 32 (no I, L, O, U).
With that much chance in it a code cannot be guessed off line, so one SHA-256 is enough at rest (docs/adr/0006); what
remains is guessing on line, which the caller slows and counts. A code is never logged; its identifier is.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ID_LENGTH = 4
_SECRET_LENGTH = 20
_LOOK_ALIKES = str.maketrans({"I": "1", "L": "1", "O": "0"})
_FORM = re.compile(rf"[{_ALPHABET}]{{{_ID_LENGTH + _SECRET_LENGTH}}}")

CODE_FIELD = "X-Caducee-Code"
"""The header field that carries a code at submission; always removed before anything else is done with the message."""


@dataclass(frozen=True, slots=True)
class SendCode:
    """A code as shown once, at issue. `text` is the secret; `code_id` may be logged; `digest` is what is stored."""

    code_id: str
    text: str
    digest: bytes


def new_code() -> SendCode:
    """Draw a code (100 bits from the system's generator)."""
    letters = "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH + _SECRET_LENGTH))
    groups = [letters[:_ID_LENGTH]] + [letters[at : at + 5] for at in range(_ID_LENGTH, len(letters), 5)]
    return SendCode(letters[:_ID_LENGTH], "-".join(groups), digest(letters))


def normalise(text: str) -> str | None:
    """Undo what people do to a code they type (case, spaces, hyphens, I for 1, O for 0). None if it cannot be a code."""
    if len(text) > 80:
        return None
    letters = re.sub(r"[\s-]", "", text).upper().translate(_LOOK_ALIKES)
    return letters if _FORM.fullmatch(letters) else None


def code_id(letters: str) -> str:
    """The public identifier of a normalised code."""
    return letters[:_ID_LENGTH]


def digest(letters: str) -> bytes:
    """What is stored of a normalised code: SHA-256, 32 bytes."""
    return hashlib.sha256(b"caducee send code\0" + letters.encode("ascii")).digest()


def matches(letters: str, stored: bytes) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(digest(letters), stored)
