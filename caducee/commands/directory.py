"""`caducee directory`: look people up, import the national extraction, publish, check, back up, restore."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import ldap
import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

from caducee.commands.common import FolderOption, JsonOption, console, done, show
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.private_directory import private_directory
from caducee.publishing import national_publisher, publish_authorities, published, write_requests
from caducee.settings import Settings, load_settings
from caducee.wiring import now, open_directory, open_store
from directory import DirectoryError, Entry, InvalidIdentifier, Slapd
from directory.backup import backup as write_backup
from directory.backup import restore as load_backup
from directory.correspondents import correspondent_filter
from directory.entry import entry_dn
from directory.extraction import Problem, Report, read_delivery
from directory.health import defects, health
from directory.importing import (
    ExternalTarget,
    Outcome,
    PrivateTarget,
    Target,
    apply_changes,
    difference,
    full_load,
    write_state,
)
from directory.journal import history

app = typer.Typer(
    no_args_is_help=True,
    help="L'annuaire : chercher, importer l'extraction nationale, publier, vérifier, sauvegarder / "
    "the directory: search, import the national extraction, publish, check, back up.",
)
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


@app.command()
def search(
    words: Annotated[list[str], typer.Argument(help="Comme on parle : « cardio lyon », « martin alice ».")],
    limit: Annotated[int, typer.Option(help="Nombre de réponses / number of answers.", min=1, max=500)] = 50,
    show_filter: Annotated[
        bool, typer.Option("--filter", help="Montre le filtre LDAP, sans chercher / show the LDAP filter only.")
    ] = False,
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Cherche un correspondant, sans souci d'accents, d'ordre ni d'une faute de frappe / find a correspondent."""
    text = " ".join(words)
    if show_filter:
        typer.echo(correspondent_filter(text, typos=True))
        return
    found = _open(folder).correspondents(text, limit=limit)
    rows = [
        {
            "nom": one.display_name,
            "adresse": one.mail,
            "type": one.kind,
            "profession": one.profession,
            "ville": one.city,
        }
        for one in found
    ]
    show(rows, as_json=as_json, empty="personne / nobody")


@app.command("show")
def show_entry(
    who: Annotated[str, typer.Argument(help="Adresse, ou identifiant national (8+RPPS, 1+FINESS…).")],
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Montre une fiche et ses certificats / show an entry and its certificates."""
    directory = _open(folder)
    try:
        found = [directory.by_address(who)] if "@" in who else list(directory.by_national_id(who))
    except InvalidIdentifier as error:
        raise UsageError(f"{who}: {error}") from None
    entries = [one for one in found if one is not None]
    if not entries:
        raise UsageError(f"{who}: inconnu de l'annuaire / not in the directory")
    at = now()
    show([_row(one, directory.encryption_certificates(one.mail, at)) for one in entries], as_json=as_json)


def _row(entry: Entry, usable: list[Any]) -> dict[str, Any]:
    return {
        "adresse": entry.mail,
        "type": entry.kind,
        "nom": entry.display_name,
        "identifiant": entry.national_id or entry.structure_id,
        "profession": entry.profession,
        "spécialité": entry.speciality,
        "structure": entry.organisation,
        "ville": entry.city,
        "liste rouge": "oui" if entry.red_list else "",
        "suspendue": "oui" if entry.suspended else "",
        "certificats": len(entry.certificates),
        "pour chiffrer": len(usable),
    }


@app.command("import")
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

    Par défaut, la différence avec l'annuaire est appliquée fiche par fiche. Les recherches continuent pendant l'import.
    By default the difference is applied entry by entry. Look-ups go on meanwhile.
    """
    settings, place = load_settings(folder), OperatorFolder(folder)
    rejected = settings.directory.max_rejected if max_rejected is None else max_rejected
    removed = settings.directory.max_removed if max_removed is None else max_removed
    with _bars(quiet=as_json) as bars, _report(report) as found:
        national = read_delivery(
            files, found, progress=bars, professions=settings.directory.extra_professions, max_rejected=rejected
        )
        slapd = None if settings.directory.url else _slapd(place, settings)
        if slapd is None and full:
            raise UsageError(
                "--full: annuaire externe, seule la différence est possible / external directory: difference only"
            )
        if dry_run:
            _, outcome = difference(_target(place, settings, slapd), national, max_removed=removed, progress=bars)
        elif slapd is None:
            outcome = _apply(_target(place, settings, None), national, removed, bars)
        else:
            with slapd.maintenance():
                if full or not slapd.running():
                    outcome = full_load(slapd, national, max_removed=removed, progress=bars)
                else:
                    outcome = _apply(PrivateTarget(slapd), national, removed, bars)
                write_state(slapd.folder, [path.name for path in files], outcome, len(national), now())
    _tell(found, outcome, dry_run=dry_run, as_json=as_json)


@app.command()
def diff(
    files: FilesArgument,
    limit: Annotated[int, typer.Option(help="Nombre de fiches montrées / number of entries shown.", min=1)] = 50,
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Montre ce qu'un import changerait, fiche par fiche / show what an import would change, entry by entry."""
    settings, place = load_settings(folder), OperatorFolder(folder)
    slapd = None if settings.directory.url else _slapd(place, settings)
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


@app.command()
def publish(
    address: Annotated[
        list[str] | None, typer.Argument(help="Boîtes de cet opérateur ; toutes par défaut / default: all.")
    ] = None,
    red_list: Annotated[
        bool | None, typer.Option("--red-list/--no-red-list", help="Met sur la liste rouge, ou en retire.")
    ] = None,
    national: Annotated[
        bool,
        typer.Option(
            "--national", help="Aussi à l'annuaire national ([directory] national_url) / to the national one too."
        ),
    ] = False,
    authorities: Annotated[
        bool,
        typer.Option(
            "--authorities", help="Aussi les autorités et CRL de trust/ / the authorities and CRLs of trust/ too."
        ),
    ] = False,
    to_file: Annotated[
        Path | None,
        typer.Option(help="Écrit les requêtes nationales dans un fichier, une par ligne / write them to a file."),
    ] = None,
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Met l'annuaire d'accord avec les boîtes de cet opérateur / bring the directory in line with our mailboxes."""
    settings, place = load_settings(folder), OperatorFolder(folder)
    store, directory = open_store(place, settings), open_directory(place, settings, write=True)
    accounts = [one for one in store.accounts() if not address or one.address in {a.lower() for a in address}]
    missing = {a.lower() for a in address or []} - {one.address for one in accounts}
    if missing:
        raise UsageError(f"{', '.join(sorted(missing))}: boîte inconnue ici / not a mailbox of ours")
    publisher = national_publisher(place, settings) if national else None
    rows, entries = [], []
    for account in accounts:
        entry, change = published(directory, account, settings.operator, red_list=red_list)
        entries.append((entry, change))
        answer = publisher(entry, change) if publisher else ""
        rows.append({"adresse": entry.mail, "annuaire": change or "inchangée", "national": answer})
    if authorities:
        for name in publish_authorities(place, _slapd(place, settings)):
            rows.append({"adresse": name, "annuaire": "autorité", "national": ""})
    if to_file:
        write_requests(to_file, entries)
    show(rows, as_json=as_json, empty="aucune boîte / no mailbox")


@app.command()
def check(
    repair: Annotated[
        bool, typer.Option("--repair", help="Refait ce qui se déduit / mend what can be deduced.")
    ] = False,
    limit: Annotated[int, typer.Option(help="Nombre de défauts montrés / number of defects shown.", min=1)] = 100,
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Vérifie l'annuaire : service, taille, fiches abîmées / check the directory: service, size, damaged entries."""
    settings, place = load_settings(folder), OperatorFolder(folder)
    if settings.directory.url:
        _open(folder).check()
        done(f"{settings.directory.url} répond / answers")
        return
    slapd = _slapd(place, settings)
    state, found = health(slapd), list(defects(slapd))
    if repair:
        steps = [one.step for one in found if one.step]
        with slapd.maintenance():
            apply_changes(PrivateTarget(slapd), steps, Outcome())
        found = [one for one in found if not one.step]
    rows = [
        {
            "sert": state.answers,
            "fiches": state.entries,
            "données": state.data,
            "Mio": state.database >> 20,
            "journal Mio": state.journal >> 20,
            "dernier import": state.last_import.get("at", ""),
            "défauts": [{"fiche": one.dn, "défaut": one.what} for one in found[:limit]] if as_json else len(found),
        }
    ]
    show(rows, as_json=as_json)
    if not as_json:
        show(
            [{"fiche": one.dn, "défaut": one.what} for one in found[:limit]],
            as_json=False,
            empty="aucun défaut / no defect",
        )
    if not state.answers or found:
        raise typer.Exit(1)


@app.command("history")
def show_history(
    address: Annotated[str, typer.Argument(help="Adresse ; toutes par défaut / default: all.")] = "",
    days: Annotated[int, typer.Option(help="Depuis combien de jours / since how many days.", min=1, max=31)] = 7,
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Montre qui a changé quoi, avec quelque outil que ce soit / show who changed what, by whatever tool."""
    settings, place = load_settings(folder), OperatorFolder(folder)
    slapd = _slapd(place, settings)
    with slapd.manager() as connection:
        try:
            found = history(connection, now() - timedelta(days=days), dn=entry_dn(address) if address else "")
        except ldap.LDAPError as error:
            raise DirectoryError(f"Journal illisible ({type(error).__name__}) / unreadable journal") from error
    rows = [{"quand": c.at, "qui": c.who, "quoi": c.kind, "fiche": c.dn, "attributs": ", ".join(c.what)} for c in found]
    show(rows, as_json=as_json, empty="aucun changement / no change")


@app.command()
def backup(
    target: Annotated[Path, typer.Argument(help="Fichier LDIF à écrire ; .gz le comprime / LDIF file; .gz packs it.")],
    folder: FolderOption = Path(),
) -> None:
    """Sauvegarde toutes les fiches, annuaire en service ou non / back up every entry, serving or not."""
    slapd = _slapd(OperatorFolder(folder), load_settings(folder))
    with console.status("sauvegarde / backup"):
        count = write_backup(slapd, target.resolve())
    done(f"{count} fiches dans / entries in {target}")


@app.command()
def restore(
    source: Annotated[Path, typer.Argument(help="Sauvegarde faite par « backup » / a backup.")],
    yes: Annotated[bool, typer.Option("--yes", help="Sans demander / do not ask.")] = False,
    folder: FolderOption = Path(),
) -> None:
    """Remplace tout l'annuaire par une sauvegarde, sans coupure / replace the whole directory by a backup."""
    slapd = _slapd(OperatorFolder(folder), load_settings(folder))
    if not yes:
        typer.confirm("Remplacer toutes les fiches ? / Replace every entry?", abort=True)
    with slapd.maintenance(), console.status("restauration / restoration"):
        count = load_backup(slapd, source)
    done(f"{count} fiches servies / entries served")


def _open(folder: Path) -> Any:
    return open_directory(OperatorFolder(folder), load_settings(folder))


def _slapd(place: OperatorFolder, settings: Settings) -> Slapd:
    if settings.directory.url:
        raise UsageError(
            "directory.url: annuaire externe, géré par son propre serveur / external directory, not run from here"
        )
    slapd = private_directory(place, settings)
    if not slapd.initialised:
        raise UsageError(f"{slapd.folder}: pas d'annuaire ici / no directory here (services.directory)")
    return slapd


def _target(place: OperatorFolder, settings: Settings, slapd: Slapd | None) -> Target:
    if slapd is not None:
        return PrivateTarget(slapd)
    directory = open_directory(place, settings, write=True)
    return ExternalTarget(directory.base, directory.connection)


def _apply(target: Target, national: Any, max_removed: float, bars: _Bars) -> Outcome:
    steps, outcome = difference(target, national, max_removed=max_removed, progress=bars)
    apply_changes(target, steps, outcome, bars)
    return outcome


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
