"""`caducee directory import` and `diff`: the national extraction, its progress, its report of rejected rows."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

from caducee.commands.common import FolderOption, JsonOption, console, done, show
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.private_directory import initialised_directory
from caducee.settings import Settings, load_settings
from caducee.wiring import now, open_directory
from directory import Slapd
from directory.extraction import Problem, Report, read_delivery
from directory.importing import (
    ExternalTarget,
    Outcome,
    PrivateTarget,
    Target,
    apply_changes,
    difference,
    full_load,
    update,
    write_state,
)
from directory.tools import give_way

FilesArgument = Annotated[
    list[Path],
    typer.Argument(help="Fichiers .txt de l'extraction, ou les ZIP où ils arrivent / extraction files, or their ZIP."),
]
RejectedOption = Annotated[
    float | None,
    typer.Option(help="Part de lignes rejetées tolérée, 0 à 1 / share of rejected rows allowed.", min=0, max=1),
]
RemovedOption = Annotated[
    float | None,
    typer.Option(help="Part de fiches qu'on peut retirer, 0 à 1 / share of entries that may go.", min=0, max=1),
]


def import_files(
    files: FilesArgument,
    full: Annotated[
        bool,
        typer.Option("--full", help="Chargement complet à part, puis bascule sans coupure / full load, then switch."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tout lire et comparer, ne rien changer / change nothing.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Écrit là chaque ligne rejetée, en CSV / rejected rows, CSV.")
    ] = None,
    max_rejected: RejectedOption = None,
    max_removed: RemovedOption = None,
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Importe l'extraction nationale / import the national extraction.

    Par défaut, seule la différence avec l'annuaire est appliquée ; une grande l'est sur une copie, servie ensuite d'un coup.
    Les recherches continuent pendant l'import. By default only the difference is applied; a large one on a copy, which is
    then served at once. Look-ups go on meanwhile.
    """
    settings, place = load_settings(folder), OperatorFolder(folder)
    give_way()
    rejected = settings.directory.max_rejected if max_rejected is None else max_rejected
    removed = settings.directory.max_removed if max_removed is None else max_removed
    with _bars(quiet=as_json) as bars, _report(report) as found:
        national = read_delivery(
            files, found, progress=bars, professions=settings.directory.extra_professions, max_rejected=rejected
        )
        slapd = None if settings.directory.url else initialised_directory(place, settings)
        if slapd is None and full:
            raise UsageError(
                "--full: annuaire externe, seule la différence est possible / external directory: difference only"
            )
        if dry_run:
            _, outcome = difference(_target(place, settings, slapd), national, max_removed=removed, progress=bars)
        elif slapd is None:
            target = _target(place, settings, None)
            steps, outcome = difference(target, national, max_removed=removed, progress=bars)
            apply_changes(target, steps, outcome, bars)
        else:
            with slapd.maintenance():
                if full or not slapd.running():
                    outcome = full_load(slapd, national, max_removed=removed, progress=bars)
                else:
                    outcome = update(slapd, national, max_removed=removed, progress=bars)
                write_state(slapd.folder, [path.name for path in files], outcome, len(national), now())
    _tell(found, outcome, dry_run=dry_run, as_json=as_json)


def diff(
    files: FilesArgument,
    limit: Annotated[int, typer.Option(help="Nombre de fiches montrées / number of entries shown.", min=1)] = 50,
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Montre ce qu'un import changerait, fiche par fiche / show what an import would change, entry by entry."""
    settings, place = load_settings(folder), OperatorFolder(folder)
    slapd = None if settings.directory.url else initialised_directory(place, settings)
    with _bars(quiet=as_json) as bars:
        national = read_delivery(
            files, Report(), progress=bars, professions=settings.directory.extra_professions, max_rejected=1
        )
        steps, outcome = difference(_target(place, settings, slapd), national, max_removed=1, progress=bars)
    rows = [
        {
            "fiche": step.dn,
            "changement": "ajout" if step.attributes else "modification" if step.modifications else "retrait",
            "attributs": ", ".join(name for _, name, _ in step.modifications),
        }
        for step in steps[:limit]
    ]
    show(rows, as_json=as_json, empty="aucun changement / no change")
    if not as_json:
        console.print(_sum(outcome))


def _target(place: OperatorFolder, settings: Settings, slapd: Slapd | None) -> Target:
    if slapd is not None:
        return PrivateTarget(slapd)
    directory = open_directory(place, settings, write=True)
    return ExternalTarget(directory.base, directory.connection)


def _sum(outcome: Outcome) -> str:
    return (
        f"{outcome.added} ajouts, {outcome.changed} modifications, {outcome.removed} retraits, "
        f"{outcome.unchanged} inchangées, {outcome.others} tenues par d'autres / added, changed, removed, unchanged, others'"
    )


def _tell(report: Report, outcome: Outcome, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        row = {
            "mailboxes": report.mailboxes,
            "rejected": report.rejected,
            "warnings": report.warnings,
            "dry_run": dry_run,
        }
        counts = {
            name: getattr(outcome, name) for name in ("added", "changed", "removed", "unchanged", "others", "failed")
        }
        show([{**row, **counts}], as_json=True)
        return
    for one in report.problems[:20]:
        mark = "!" if one.warning else "✗"
        console.print(f"{mark} {one.file}:{one.line} {one.reason}", markup=False, soft_wrap=True)
    if report.rejected or report.warnings:
        console.print(f"{report.rejected} lignes rejetées, {report.warnings} avertissements / rejected rows, warnings")
    done(("essai, rien n'est changé : / dry run: " if dry_run else "") + _sum(outcome))


@contextmanager
def _report(target: Path | None) -> Iterator[Report]:
    """A report that writes every problem to `target` as it comes (CSV: file, line, kind, reason)."""
    if target is None:
        yield Report()
        return
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "line", "kind", "reason"))

        def sink(one: Problem) -> None:
            writer.writerow((one.file, one.line, "warning" if one.warning else "rejected", one.reason))

        yield Report(sink=sink)


class _Bars:
    """One bar a stage, on a terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def begin(self, stage: str, total: int) -> None:
        """A new stage."""
        self._task = self._progress.add_task(stage, total=total)

    def advance(self, amount: int) -> None:
        """Some of it is done."""
        if self._task is not None:
            self._progress.advance(self._task, amount)


@contextmanager
def _bars(*, quiet: bool) -> Iterator[_Bars]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=quiet or not sys.stderr.isatty(), transient=True) as progress:
        yield _Bars(progress)
