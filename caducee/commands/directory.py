"""`caducee directory`: look people up, import the national extraction, publish, check, back up, restore."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import ldap
import typer

from caducee.commands.common import FolderOption, JsonOption, console, done, show
from caducee.commands.directory_import import diff, import_files
from caducee.commands.directory_publish import publish
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.private_directory import initialised_directory
from caducee.settings import load_settings
from caducee.wiring import now, open_directory
from directory import Directory, DirectoryError, Entry, InvalidIdentifier
from directory.backup import backup as write_backup
from directory.backup import restore as load_backup
from directory.correspondents import correspondent_filter
from directory.entry import entry_dn
from directory.health import defects, health
from directory.importing import Outcome, PrivateTarget, apply_changes
from directory.journal import history

app = typer.Typer(
    no_args_is_help=True,
    help="L'annuaire : chercher, importer l'extraction nationale, publier, vérifier, sauvegarder / "
    "the directory: search, import the national extraction, publish, check, back up.",
)


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
        typer.echo(correspondent_filter(text))
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


app.command("import")(import_files)
app.command()(diff)
app.command()(publish)


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
    slapd = initialised_directory(place, settings)
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
    slapd = initialised_directory(place, settings)
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
    slapd = initialised_directory(OperatorFolder(folder), load_settings(folder))
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
    slapd = initialised_directory(OperatorFolder(folder), load_settings(folder))
    if not yes:
        typer.confirm("Remplacer toutes les fiches ? / Replace every entry?", abort=True)
    with slapd.maintenance(), console.status("restauration / restoration"):
        count = load_backup(slapd, source)
    done(f"{count} fiches servies / entries served")


def _open(folder: Path) -> Directory:
    return open_directory(OperatorFolder(folder), load_settings(folder))
