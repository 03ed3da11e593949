"""Folder names: which are allowed, how they are sealed and how they are found again.

Invariants: a name is stored sealed, bound to its mailbox; it is looked up by a keyed digest, equal for equal names of one
mailbox only.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

from mailstore.crypto import KeyRing
from mailstore.model import StoreError

DELIMITER = "/"
NAME_LIMIT = 512  # UTF-8 bytes


@dataclass(frozen=True, slots=True)
class Names:
    """How folder names are sealed and found."""

    fields: KeyRing = field(repr=False)
    fingerprint_key: bytes = field(repr=False)

    def digest(self, account_id: int, name: str) -> bytes:
        """What a name is looked up by."""
        return hmac.digest(self.fingerprint_key, b"folder\x00%d\x00" % account_id + _encoded(name), hashlib.sha256)

    def seal(self, account_id: int, name: str) -> bytes:
        """The name as stored, bound to its mailbox."""
        return self.fields.seal(_encoded(name), name_aad(account_id))

    def unseal(self, account_id: int, sealed: bytes) -> str:
        """The name that was stored. Raises SealBroken."""
        return self.fields.unseal(sealed, name_aad(account_id)).decode("utf-8")


def name_aad(account_id: int) -> bytes:
    """What a sealed folder name is bound to."""
    return b"folder\x00%d" % account_id


def canonical_name(name: str) -> str:
    """INBOX in any case is INBOX (RFC 9051 §5.1), and so is the first level of the names below it: `inbox/x` must not
    have another parent than `INBOX/x`. Any other name is itself."""
    first, delimiter, rest = name.partition(DELIMITER)
    return "INBOX" + delimiter + rest if first.isascii() and first.upper() == "INBOX" else name


def checked_name(name: str) -> str:
    """A canonical name fit to be created. Raises StoreError: empty, overlong, control characters, empty level."""
    name = canonical_name(name)
    bad = any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in name)
    if bad or not all(name.split(DELIMITER)) or len(_encoded(name)) > NAME_LIMIT:
        raise StoreError("Nom de dossier invalide. / Malformed folder name.")
    return name


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")
