"""The certificates of a mailbox in the directory, kept in line with the keys that the operator holds for it.

Invariants: certificates of keys in force are published; those of keys retired or destroyed are taken out, so that nobody
encrypts to them any more; certificates that are not of a key held here (a card's, a mail program's) stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cryptography import x509

from directory import Directory
from mailstore import KeyRecord, Store


def publish_certificates(directory: Directory, store: Store, address: str) -> bool:
    """Bring the entry of a mailbox in line with its keys; False when the directory has no entry for it.

    Raises DirectoryError, DirectoryUnavailable, mailstore.StoreError."""
    entry = directory.by_address(address)
    if entry is None:
        return False
    wanted = certificates_to_publish(entry.certificates, store.key_records(address))
    if set(wanted) != set(entry.certificates):
        directory.publish(replace(entry, certificates=wanted))
    return True


def certificates_to_publish(
    present: Sequence[x509.Certificate], keys: Sequence[KeyRecord]
) -> tuple[x509.Certificate, ...]:
    """What an entry is to hold: certificates that are of no key of ours, as they were, then those of the keys in force."""
    ours = [(one, x509.load_pem_x509_certificate(one.chain_pem)) for one in keys if one.chain_pem]
    known = {certificate for _, certificate in ours}
    in_force = (leaf for one, leaf in ours if one.retired_at is None and one.destroyed_at is None)
    return tuple(dict.fromkeys((*(one for one in present if one not in known), *in_force)))
