"""The directory room: slapd and its schema, look-ups and publication, national identifiers, synthetic professionals."""

from directory.client import Directory
from directory.entry import BASE, Entry, MailboxKind, entry_dn, from_ldif, to_ldif
from directory.errors import DirectoryError, DirectoryUnavailable, InvalidIdentifier, TooManyEntries
from directory.people import (
    ALICE_MARTIN_DURAND,
    CARDIOLOGY,
    CHU_EXEMPLE,
    CLAIRE_EXEMPLE,
    GATEWAY,
    Professional,
    Structure,
    structure_mailboxes,
    synthetic_entries,
    synthetic_professionals,
)
from directory.server import Slapd, loopback_address

__all__ = [
    "ALICE_MARTIN_DURAND",
    "BASE",
    "CARDIOLOGY",
    "CHU_EXEMPLE",
    "CLAIRE_EXEMPLE",
    "GATEWAY",
    "Directory",
    "DirectoryError",
    "DirectoryUnavailable",
    "Entry",
    "InvalidIdentifier",
    "MailboxKind",
    "Professional",
    "Slapd",
    "Structure",
    "TooManyEntries",
    "entry_dn",
    "from_ldif",
    "loopback_address",
    "structure_mailboxes",
    "synthetic_entries",
    "synthetic_professionals",
    "to_ldif",
]
