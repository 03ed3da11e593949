"""Reads one delivery of the national extraction: its files, in any order, into a `NationalDirectory`, with a report.

Invariants: every file is read to its end before anything is written anywhere; a file that is truncated, of a wrong
encoding or of an unknown form stops the import, a row that is wrong is told with its line and its reason; above a
share of wrong rows the delivery as a whole is not believed.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from directory.archive import Source, lines, sources
from directory.columns import FileKind, Layout, layout
from directory.errors import DirectoryError
from directory.mailbox_rows import Rejected, RowReader
from directory.national import Claim, NationalDirectory, Note, activity_notes, diploma_notes, skill_notes

KEPT_PROBLEMS: Final = 1000
_EVERY: Final = 5000
_ORDER: Final = (FileKind.MAILBOXES, FileKind.ACTIVITIES, FileKind.SKILLS, FileKind.DIPLOMAS)
_FEW: Final = 20  # rows: below that a share means nothing


class Progress(Protocol):
    """Told of long work: `begin` names a stage and how much it will take, `advance` says how much was done."""

    def begin(self, stage: str, total: int) -> None: ...

    def advance(self, amount: int) -> None: ...


class Silent:
    """A progress nobody watches."""

    def begin(self, stage: str, total: int) -> None:
        """Nothing."""

    def advance(self, amount: int) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A row that was rejected, or of which something was left out (`warning`)."""

    file: str
    line: int
    reason: str
    warning: bool = False


@dataclass(slots=True)
class Report:
    """What an import found and did. `sink` receives every problem; the first ones are kept here too."""

    sink: Callable[[Problem], object] | None = None
    rows: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    rejected: int = 0
    warnings: int = 0
    mailboxes: int = 0

    def tell(self, problem: Problem) -> None:
        """Count a problem and hand it over."""
        if problem.warning:
            self.warnings += 1
        else:
            self.rejected += 1
        if len(self.problems) < KEPT_PROBLEMS:
            self.problems.append(problem)
        if self.sink:
            self.sink(problem)


def read_delivery(
    paths: Sequence[Path],
    report: Report,
    *,
    progress: Progress | None = None,
    professions: Collection[str] = (),
    max_rejected: float = 0.05,
) -> NationalDirectory:
    """The mailboxes of the files or ZIP archives `paths`. Raises DirectoryError when the delivery is not to be believed.

    `professions` are codes accepted besides the published ones; `max_rejected` is the share of rejected rows of
    mailboxes above which the whole is refused.
    """
    with _no_search_for_cycles():
        return _read(paths, report, progress or Silent(), professions, max_rejected)


@contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """Millions of rows become objects without cycles, that all stay: looking for cycles among them is a quarter of the time."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _read(
    paths: Sequence[Path], report: Report, watched: Progress, professions: Collection[str], max_rejected: float
) -> NationalDirectory:
    found = _by_kind(sources(list(paths)))
    national = NationalDirectory()
    names = [source.name for _, source in found]
    for number, (where, source) in enumerate(found):
        watched.begin(source.name, source.size)
        rows = _rows(source, where, watched)
        if where.kind is FileKind.MAILBOXES:
            _read_mailboxes(rows, where, national, report, number, source.name, professions)
        else:
            report.rows[source.name] = _read_people(rows, where, national, report, source.name)
    for _, claims in national.conflicts():
        for claim in claims:
            reason = "Adresse BAL revendiquée par plusieurs identités / address claimed by several identities"
            report.tell(Problem(names[claim.file], claim.line, reason))
    national.release()
    report.mailboxes = len(national)
    total = sum(report.rows[source.name] for where, source in found if where.kind is FileKind.MAILBOXES)
    if not len(national):
        raise DirectoryError(
            "Aucune BAL lisible dans l'extraction, rien n'est changé / no readable mailbox: nothing changed"
        )
    if report.rejected > max(_FEW, max_rejected * total):
        first = report.problems[0]
        raise DirectoryError(
            f"{report.rejected} lignes rejetées sur {total}, rien n'est changé ; la première : {first.file}, ligne {first.line}, "
            f"{first.reason} / too many rejected rows: nothing changed (see --report, --max-rejected)"
        )
    return national


def _by_kind(files: list[Source]) -> list[tuple[Layout, Source]]:
    """Mailboxes first, whatever the order they were given in."""
    found: dict[FileKind, tuple[Layout, Source]] = {}
    for source in files:
        header = next(lines(source), b"")
        try:
            where = layout(header.decode("utf-8").split("|"))
        except UnicodeDecodeError:
            raise DirectoryError(f"{source.name} : en-tête qui n'est pas en UTF-8 / header is not UTF-8") from None
        except DirectoryError as error:
            raise DirectoryError(f"{source.name} : {error}") from None
        if where.kind in found:
            raise DirectoryError(f"{source.name} : deux fichiers de même nature ({where.kind}) / two files of one kind")
        found[where.kind] = (where, source)
    if FileKind.MAILBOXES not in found:
        raise DirectoryError(
            f"Fichier {FileKind.MAILBOXES} absent : c'est lui qui porte les BAL / mailboxes' file missing"
        )
    return [found[kind] for kind in _ORDER if kind in found]


def _rows(source: Source, where: Layout, progress: Progress) -> Iterator[tuple[int, bytes]]:
    """(line number, line) of the rows; the header is line 1."""
    read = 0
    for number, line in enumerate(lines(source), 1):
        read += len(line) + 1
        if number % _EVERY == 0:
            progress.advance(read)
            read = 0
        if number > 1 and line:
            yield number, line
    progress.advance(read)


def _fields(line: bytes, where: Layout) -> list[str]:
    try:
        fields = line.decode("utf-8").split("|")
    except UnicodeDecodeError:
        raise Rejected("texte qui n'est pas en UTF-8 / not UTF-8 text") from None
    while len(fields) > where.width and not fields[-1]:
        fields.pop()
    if len(fields) != where.width:
        raise Rejected(f"{len(fields)} colonnes au lieu de {where.width} / wrong number of columns")
    return fields


def _read_mailboxes(
    rows: Iterator[tuple[int, bytes]],
    where: Layout,
    national: NationalDirectory,
    report: Report,
    number: int,
    name: str,
    professions: Collection[str],
) -> None:
    at = 0

    def warn(reason: str) -> None:
        report.tell(Problem(name, at, reason, warning=True))

    reader = RowReader(where, warn, professions)
    count, mail_place = 0, where.places["mail"]
    for at, line in rows:
        count += 1
        try:
            national.add(reader.read(_fields(line, where)), Claim(number, at))
        except Rejected as reason:
            report.tell(Problem(name, at, str(reason)))
            parts = line.split(b"|", mail_place + 1)
            if len(parts) > mail_place:
                national.rejected.add(parts[mail_place].decode("utf-8", "replace").strip().lower())
    report.rows[name] = count


def _read_people(
    rows: Iterator[tuple[int, bytes]], where: Layout, national: NationalDirectory, report: Report, name: str
) -> int:
    """Note the rows of people who own a mailbox; the others are counted and passed over."""
    readers: dict[FileKind, Callable[[dict[str, str]], Iterator[Note]]] = {
        FileKind.ACTIVITIES: activity_notes,
        FileKind.SKILLS: skill_notes,
        FileKind.DIPLOMAS: diploma_notes,
    }
    notes, place, places, count = readers[where.kind], where.places["person"], where.places, 0
    shared: dict[str, str] = {}
    for at, line in rows:
        count += 1
        parts = line.split(b"|", place + 1)
        person = parts[place].decode("ascii", "replace").strip() if len(parts) > place else ""
        if person and not national.owns(person):
            continue
        try:
            fields = _fields(line, where)
        except Rejected as reason:
            report.tell(Problem(name, at, f"{reason} (fiche non enrichie / entry not enriched)", warning=True))
            continue
        if person:
            values = {key: fields[column].strip()[:256] for key, column in places.items()}
            national.note(person, notes({key: shared.setdefault(value, value) for key, value in values.items()}))
    return count
