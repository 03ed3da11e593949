"""How a private directory is, and what is wrong in its entries: for `caducee directory check` and for monitoring.

Invariants: nothing is changed unless asked for (`repair`); no look-up waits for it (one LMDB snapshot is read beside them).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ldap

from directory.backup import read_records
from directory.configuration import MONITOR
from directory.entry import Attributes, from_attributes
from directory.errors import DirectoryError, DirectoryUnavailable
from directory.importing import STATE_FILE, Step
from directory.merging import from_extraction, is_mailbox, modifications, user_attributes
from directory.server import Slapd
from directory.upgrading import refreshed


@dataclass(frozen=True, slots=True)
class Health:
    """`answers`: slapd serves. Sizes in bytes of disk. `last_import`: what the last import wrote of itself."""

    answers: bool
    data: str
    entries: int
    database: int
    journal: int
    last_import: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Defect:
    """Something wrong in an entry; `step` mends it, when that can be done without asking anybody."""

    dn: str
    what: str
    step: Step | None = None


def health(slapd: Slapd) -> Health:
    """Look at the slapd of a folder. Raises DirectoryError when the folder holds no directory."""
    name = slapd.generations.current()
    try:
        with slapd.manager(timeout=5.0) as connection:
            answers, entries = True, _entries(connection, name)
    except DirectoryUnavailable:
        answers, entries = False, 0
    state = slapd.folder / STATE_FILE
    try:
        last = json.loads(state.read_text("utf-8")) if state.is_file() else {}
    except ValueError:
        last = {}
    return Health(answers, name, entries, _disk(slapd, name), _disk(slapd, "journal"), last)


def _entries(connection: Any, data: str) -> int:
    """What slapd itself counts in the database on the folder `data` (back-mdb's monitor); 0 when it does not say."""
    try:
        found = connection.search_s(
            MONITOR, ldap.SCOPE_ONELEVEL, "(olmMDBEntries=*)", ["olmMDBEntries", "olmDbDirectory"]
        )
    except ldap.LDAPError:
        return 0
    served = (one for _, one in found if one["olmDbDirectory"][0].endswith(f"/{data}".encode()))
    return next((int(one["olmMDBEntries"][0]) for one in served), 0)


def _disk(slapd: Slapd, part: str) -> int:
    folder = slapd.folder / part
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir()) if folder.is_dir() else 0


def defects(slapd: Slapd) -> Iterator[Defect]:
    """What is wrong in the mailboxes: unusable entries, addresses claimed twice, shown or searched words out of date."""
    claims: Counter[str] = Counter()
    for dn, stored in read_records(slapd):
        if not is_mailbox(stored):
            continue
        claims.update(value.decode("utf-8", "replace").lower() for value in stored.get("mail", []))
        yield from _defects(dn, stored)
    for address, count in claims.items():
        if count > 1:
            yield Defect(f"mail={address}", f"adresse sur {count} fiches / address on several entries")


def _defects(dn: str, stored: Attributes) -> Iterator[Defect]:
    try:
        entry = from_attributes(dn, stored)
    except DirectoryError as error:
        yield Defect(dn, str(error))
        return
    for name, value in (("IdentifiantPP", entry.national_id), ("IdentifiantPM", entry.structure_id)):
        if stored.get(name) and not value:
            yield Defect(dn, f"{name} ou son type faux / wrong number or type")
    present = user_attributes(stored)
    if not from_extraction(stored) and (changes := modifications(present, refreshed(present))):
        step = Step(dn, modifications=changes)
        yield Defect(dn, "mots de recherche ou nom montré périmés / search words or shown name out of date", step)
