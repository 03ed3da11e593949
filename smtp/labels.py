"""Fields that say what a message is and who wrote it, when the sender's software left them out.

Invariants: what is present is kept, always; a label is made of directory data only, never of the message; nothing is added
that a reader could take for an address.
"""

from __future__ import annotations

from collections.abc import Mapping

import mime
from directory import Directory, DirectoryError, DirectoryUnavailable
from mailstore import Account, MailboxKind
from smtp import fields

_TITLES = {"10": "Dr", "40": "Dr"}
"""Doctors and dental surgeons (TRE_G15)."""


def with_missing(raw: bytes, found: Mapping[str, str]) -> bytes:
    """`raw` with those of these fields that it does not have."""
    missing = [(name, value) for name, value in found.items() if not fields.has(raw, name)]
    return mime.prepend_fields(raw, missing) if missing else raw


def with_from_label(header: bytes, account: Account, directory: Directory | None) -> bytes:
    """A From without a display name gets the label of ECO.2.2.7, when it names this account. Blocking (directory)."""
    found = fields.from_mailboxes(header)
    if len(found) != 1 or found[0][0].strip() or found[0][1] != account.address:
        return header
    label = from_label(account, directory)
    if not label:
        return header
    return mime.prepend_fields(mime.without_fields(header, {"from"}), [("From", f'"{label}" <{account.address}>')])


def from_label(account: Account, directory: Directory | None) -> str:
    """`Titre_Prénom_NOM_Entité` for a person, the entity's name otherwise (ECO.2.2.7, mssante.md §4.3)."""
    entry = None
    if directory is not None and account.kind in (MailboxKind.PER, MailboxKind.CAB):
        try:
            entry = directory.by_address(account.address)
        except (DirectoryUnavailable, DirectoryError):
            entry = None
    if entry is None or not entry.given_name or not entry.surname:
        return _plain(account.display_name)
    parts = (_TITLES.get(entry.profession, ""), entry.given_name, entry.surname.upper(), entry.organisation)
    return _plain("_".join(part for part in parts if part))


def _plain(text: str) -> str:
    return "".join(one for one in text if one.isprintable() and one not in '"\\<>@,;:').strip()[:128]
