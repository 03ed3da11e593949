"""Brings a delivery of the national extraction into the directory: full load, or difference by changes.

A small difference is made by ordinary changes where people are served; a large one on a copy, which is then served instead.

Invariants
* The delivery is read to its end, and the whole difference computed, before the first change.
* A delivery that would remove too many entries is refused: an extraction cut short must not empty the directory.
* All ways end in the same directory (`merging`); killed, a full load and a large difference changed nothing, a small one
  changed some entries, each of them whole, and the next import ends it.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol
from uuid import UUID, uuid5

import ldap
from ldap.controls import SimplePagedResultsControl

from directory.backup import read_records
from directory.entry import Attributes, entry_dn
from directory.errors import DirectoryError
from directory.extraction import Progress, Silent
from directory.ldif_stream import record_bytes
from directory.loading import change_copy, reached, replace_data
from directory.merging import (
    Modifications,
    from_extraction,
    is_mailbox,
    merged,
    modifications,
    user_attributes,
)
from directory.national import NationalDirectory
from directory.server import Slapd
from directory.switching import finish
from directory.tools import write_private

STATE_FILE: Final = "extraction.json"
# Entries of the extraction have the same entryUUID in every load: consumers of changes recognise them.
_ENTRIES: Final = UUID("6e9f1c7a-0b52-4d53-9a0e-6c61647563e9")
LARGE_DIFFERENCE: Final = 5000
"""Changes from which a difference is made on a copy. Ordinary ones wait for the disk, some hundred a second: below, they take
less than a minute, each is in the journal, and consumers of changes need not begin again. Beyond, a copy (a few seconds, and as
much disk) takes ten times as many a second."""
_UNDER_WAY: Final = 32  # slapd works while we send; others' changes pass between ours
_EVERY: Final = 2000
_PAGE: Final = 1000


@dataclass(slots=True)
class Outcome:
    """How many entries an import adds, changes, removes; leaves alone because others keep them, or already right."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    others: int = 0
    failed: int = 0

    @property
    def changes(self) -> int:
        return self.added + self.changed + self.removed


@dataclass(frozen=True, slots=True)
class Step:
    """One change: an entry to add, to modify, or (neither) to remove."""

    dn: str
    attributes: Attributes = field(default_factory=dict)
    modifications: Modifications = field(default_factory=list)


class Target(Protocol):
    """A directory that an import reads whole and changes."""

    base: str

    def records(self) -> Iterator[tuple[str, Attributes]]: ...

    def writer(self) -> AbstractContextManager[Any]: ...


class PrivateTarget:
    """The slapd of an operator's folder."""

    def __init__(self, slapd: Slapd) -> None:
        self.slapd, self.base = slapd, slapd.base

    def records(self) -> Iterator[tuple[str, Attributes]]:
        """Every entry, from one snapshot of the database."""
        return read_records(self.slapd)

    def writer(self) -> AbstractContextManager[Any]:
        """A connection that may change everything."""
        return self.slapd.manager()


class ExternalTarget:
    """A directory reached by URL; `connect` gives a bound python-ldap connection that the server lets read everything."""

    def __init__(self, base: str, connect: Callable[[], AbstractContextManager[Any]]) -> None:
        self.base, self._connect = base, connect

    def records(self) -> Iterator[tuple[str, Attributes]]:
        """Every mailbox, page by page (RFC 2696)."""
        page = SimplePagedResultsControl(True, size=_PAGE, cookie="")
        with self._connect() as connection:
            while True:
                request = connection.search_ext(
                    f"ou=bal,{self.base}", ldap.SCOPE_ONELEVEL, "(objectClass=*)", ["*"], serverctrls=[page]
                )
                _, found, _, controls = connection.result3(request)
                yield from ((dn, attributes) for dn, attributes in found if dn)
                page.cookie = next((c.cookie for c in controls if c.controlType == page.controlType), b"")
                if not page.cookie:
                    return

    def writer(self) -> AbstractContextManager[Any]:
        """A connection under the operator's name."""
        return self._connect()


def difference(
    target: Target, national: NationalDirectory, *, max_removed: float = 0.2, progress: Progress | None = None
) -> tuple[list[Step], Outcome]:
    """The changes that would bring `target` to what the delivery says; changes nothing. Raises DirectoryError."""
    outcome, steps = Outcome(), list[Step]()
    for dn, before, after, changes in _pairs(target.records(), national, outcome, target.base, progress or Silent()):
        if after is None:
            steps.append(Step(dn))
        elif before is None:
            steps.append(Step(dn, attributes=after))
        elif changes:
            steps.append(Step(dn, modifications=changes))
    _check_removals(outcome, max_removed)
    return steps, outcome


def apply_changes(target: Target, steps: list[Step], outcome: Outcome, progress: Progress | None = None) -> None:
    """Make the changes, each whole or not at all, some of them under way together.

    An entry that somebody else added, changed or removed meanwhile is counted `failed`, and left as they made it. Raises
    DirectoryError when the directory refuses or leaves; what was done stays, and importing again ends it.
    """
    with _interruptions(), target.writer() as connection:
        _make(connection, steps, outcome, progress or Silent())


def _make(connection: Any, steps: list[Step], outcome: Outcome, progress: Progress) -> None:
    progress.begin("modifications / changes", len(steps))
    under_way: deque[int] = deque()

    def settle() -> None:
        try:
            connection.result3(under_way.popleft())
        except _MEANWHILE:
            outcome.failed += 1
        progress.advance(1)

    for step in steps:  # their order does not matter: mailboxes have nothing below them
        under_way.append(_send(connection, step))
        if len(under_way) >= _UNDER_WAY:
            settle()
    while under_way:
        settle()


@contextmanager
def _interruptions() -> Iterator[None]:
    try:
        yield
    except ldap.LDAPError as error:
        raise DirectoryError(
            f"L'annuaire a interrompu l'import ({type(error).__name__}) ; le relancer le termine "
            "/ the directory interrupted the import: run it again"
        ) from error


_MEANWHILE: Final = (ldap.NO_SUCH_OBJECT, ldap.ALREADY_EXISTS, ldap.NO_SUCH_ATTRIBUTE)


def _send(connection: Any, step: Step) -> int:
    if step.attributes:
        sent: int = connection.add_ext(step.dn, list(step.attributes.items()))
    elif step.modifications:
        sent = connection.modify_ext(step.dn, step.modifications)
    else:
        sent = connection.delete_ext(step.dn)
    return sent


def update(
    slapd: Slapd,
    national: NationalDirectory,
    *,
    max_removed: float = 0.2,
    progress: Progress | None = None,
    large: int = LARGE_DIFFERENCE,
) -> Outcome:
    """Bring the operator's own directory to what the delivery says, by its difference. The caller holds `slapd.maintenance()`.

    From `large` changes on they are made on a copy, and served together or not at all; what others changed since the
    comparison began is made again on it, so theirs wins. Entries that can no longer be changed: see `apply_changes`. Raises
    DirectoryError; importing again ends what was cut.
    """
    finish(slapd)
    since = reached(slapd)
    steps, outcome = difference(PrivateTarget(slapd), national, max_removed=max_removed, progress=progress)
    if len(steps) < large:
        apply_changes(PrivateTarget(slapd), steps, outcome, progress)
        return outcome

    def make(connection: Any) -> None:
        with _interruptions():
            _make(connection, steps, outcome, progress or Silent())

    change_copy(slapd, make, since=since)
    return outcome


def full_load(
    slapd: Slapd, national: NationalDirectory, *, max_removed: float = 0.2, progress: Progress | None = None
) -> Outcome:
    """Load the delivery into new data and serve it (see `loading`). The caller holds `slapd.maintenance()`.

    Raises DirectoryError; the old data stays served.
    """
    outcome, since = Outcome(), None
    if slapd.running():
        finish(slapd)
        since = reached(slapd)

    def chunks() -> Iterator[bytes]:
        for dn, before, after, changes in _pairs(
            read_records(slapd), national, outcome, slapd.base, progress or Silent()
        ):
            if after is not None:
                yield record_bytes(dn, _with_bookkeeping(dn, before, after, changed=bool(changes)))
        _check_removals(outcome, max_removed)

    replace_data(slapd, chunks(), since=since)
    return outcome


def _with_bookkeeping(dn: str, before: Attributes | None, after: Attributes, *, changed: bool) -> Attributes:
    """An entry that stays keeps its identity and, unchanged, its history; a new one has the identity of its address."""
    if before is None:
        return {**after, "entryUUID": [str(uuid5(_ENTRIES, dn.lower())).encode()]}
    kept = (
        "entryUUID",
        "creatorsName",
        "createTimestamp",
        *(("entryCSN", "modifiersName", "modifyTimestamp") if not changed else ()),
    )
    return {**after, **{name: before[name] for name in kept if name in before}}


def _pairs(
    records: Iterator[tuple[str, Attributes]],
    national: NationalDirectory,
    outcome: Outcome,
    base: str,
    progress: Progress,
) -> Iterator[tuple[str, Attributes | None, Attributes | None, Modifications]]:
    """(dn, as it is, as it must be, what to modify) of every entry, parents first; counts what will be done."""
    progress.begin("comparaison / comparison", len(national))
    seen: set[str] = set()
    for number, (dn, before) in enumerate(records, 1):
        if number % _EVERY == 0:
            progress.advance(_EVERY)
        present = user_attributes(before)
        if not is_mailbox(before):
            yield dn, before, present, []
            continue
        mail = before.get("mail", [b""])[0].decode("utf-8", "replace").lower()
        after = merged(
            present, national.attributes(mail) if mail in national else None, rejected=mail in national.rejected
        )
        changes = modifications(present, after) if after is not None else []
        # A hand-made entry of an address elsewhere in the tree keeps the address.
        seen.add(mail)
        if not from_extraction(present):
            outcome.others += 1
        elif after is None:
            outcome.removed += 1
        elif changes:
            outcome.changed += 1
        else:
            outcome.unchanged += 1
        yield dn, before, after, changes
    for mail in national.addresses():
        if mail not in seen:
            outcome.added += 1
            yield entry_dn(mail, base), None, national.attributes(mail), []


def _check_removals(outcome: Outcome, max_removed: float) -> None:
    present = outcome.removed + outcome.changed + outcome.unchanged
    if outcome.removed > max(10, max_removed * present):
        raise DirectoryError(
            f"Cette extraction retirerait {outcome.removed} fiches sur {present} : rien n'est changé. Si c'est voulu, "
            "relancer avec --max-removed / this delivery would remove too many entries: nothing changed"
        )


def write_state(folder: Path, names: list[str], outcome: Outcome, mailboxes: int, at: datetime) -> None:
    """Remember the last import, for `health`."""
    state = {"files": names, "at": at.isoformat(), "mailboxes": mailboxes, **asdict(outcome)}
    write_private(folder / STATE_FILE, json.dumps(state, ensure_ascii=False).encode())
