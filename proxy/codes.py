"""Send codes: what a gateway or a person without a card shows to have the operator sign and encrypt for them.

A code reads `7KQ4-M2XW9-TB5RC-0HZ8N-…`: a public identifier, then 100 random bits in Crockford's base 32 (no I, L, O, U).
With that much chance in it a code cannot be guessed off line (docs/adr/0030); what remains is guessing on line, which
`proxy.checking` slows and counts. A code is never logged; its identifier is.

Invariant: what only looks like a code (a letter of another alphabet, one sign too few) is recognised as an attempt at
one, so that it is taken out of a subject, and never accepted as one.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import unicodedata
from dataclasses import dataclass

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ID_LENGTH = 4
_SECRET_LENGTH = 20
_LEAST_DIGITS = 3
_LONGEST = 120
_LOOK_ALIKES = str.maketrans({"I": "1", "L": "1", "O": "0"})
_FORM = re.compile(rf"[{_ALPHABET}]{{{_ID_LENGTH + _SECRET_LENGTH}}}")
# Letters of other alphabets that look like ours: Cyrillic, then Greek (Unicode TR 39 names them confusable).
_FOREIGN = str.maketrans("АВЕЅІЈКМНОРСТУХΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABESIJKMHOPCTYXABEZHIKMNOPTYX")
_NEAR = re.compile(r"[0-9A-Z]{3,5}(?:-[0-9A-Z]{4,6}){4}|[0-9A-Z]{24}")

CODE_FIELD = "X-Caducee-Code"
"""The header field that carries a code at submission; always removed before anything else is done with the message."""


@dataclass(frozen=True, slots=True)
class SendCode:
    """A code as shown once, at issue. `text` is the secret; `code_id` may be logged; `digest` is what is stored."""

    code_id: str
    text: str
    digest: bytes


def new_code() -> SendCode:
    """Draw a code (100 bits from the system's generator). It holds digits, so that no bracketed word looks like one."""
    letters = ""
    while sum(char.isdigit() for char in letters) < _LEAST_DIGITS:
        letters = "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH + _SECRET_LENGTH))
    groups = [letters[:_ID_LENGTH]] + [letters[at : at + 5] for at in range(_ID_LENGTH, len(letters), 5)]
    return SendCode(letters[:_ID_LENGTH], "-".join(groups), digest(letters))


def normalise(text: str) -> str | None:
    """Undo what people and programs do to a code (case, spaces, any dash, full-width digits, I for 1, O for 0).

    None if it cannot be a code: letters of another alphabet are never taken for ours."""
    if len(text) > _LONGEST:
        return None
    letters = "".join(char for char in unicodedata.normalize("NFKC", text) if not _is_separator(char))
    letters = letters.removeprefix("[").removesuffix("]").upper().translate(_LOOK_ALIKES)
    return letters if _FORM.fullmatch(letters) else None


def is_attempt(text: str) -> bool:
    """Whether a bracketed text of a subject is a code, or somebody's attempt at writing one.

    True for the length or the grouping of a code, also with letters of other alphabets; false for words."""
    if len(text) > _LONGEST:
        return False
    folded = "".join("-" if _is_separator(char) else char for char in unicodedata.normalize("NFKC", text)).strip("-")
    folded = re.sub(r"-+", "-", folded.upper().translate(_FOREIGN))
    spread = re.fullmatch(r"(?:[0-9A-Z]-?){24}", folded) and not re.search(r"[A-Z]{6}", folded)
    return bool(_NEAR.fullmatch(folded) or spread) and any(char.isdigit() for char in folded)


def code_id(letters: str) -> str:
    """The public identifier of a normalised code."""
    return letters[:_ID_LENGTH]


def digest(letters: str) -> bytes:
    """What the store is given of a normalised code (and keys before keeping it): SHA-256, 32 bytes."""
    return hashlib.sha256(b"caducee send code\0" + letters.encode("ascii")).digest()


def _is_separator(char: str) -> bool:
    """Spaces of all kinds, dashes, and signs that are not seen (zero-width, soft hyphen)."""
    return char.isspace() or unicodedata.category(char) in {"Zs", "Pd", "Cf"} or char == "\N{MINUS SIGN}"
