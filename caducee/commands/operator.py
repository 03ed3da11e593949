"""`caducee init` and `caducee serve`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from caducee.autoconfig import srv_records
from caducee.commands.common import console, done
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.initialise import create_operator, publish_practice_list, remove_operator
from caducee.sections import ListenSection, OperatorSection, ServicesSection, TrustSection
from caducee.settings import NATIONAL_LIST_URL, SETTINGS_FILE, Settings, build_settings, load_settings
from caducee.wiring import now
from directory import people
from directory.identifiers import parse_structure_id
from trustspace import PRACTICE_SIGNER_CN, PracticeAuthority

_PRACTICE_PORTS = 20000


def init(
    folder: Annotated[Path, typer.Argument(help="Dossier neuf / a new folder.")],
    domain: Annotated[
        list[str] | None, typer.Option(help="Domaine de messagerie, répétable / mail domain, repeatable.")
    ] = None,
    hostname: Annotated[str, typer.Option(help="Nom du serveur / the server's name.")] = "",
    organisation: Annotated[str, typer.Option(help="Raison sociale / legal name.")] = "",
    structure_id: Annotated[str, typer.Option(help="1+FINESS ou/or 3+SIRET.")] = "",
    department: Annotated[str, typer.Option(help="Département, comme « Rhône (69) ».")] = "",
    practice: Annotated[
        bool, typer.Option("--practice", help="Espace de confiance d'exercice, complet / practice trust space.")
    ] = False,
    ports_above: Annotated[
        int | None, typer.Option(help="Décale les ports usuels / shift the usual ports.", min=0, max=64000)
    ] = None,
) -> None:
    """Crée un opérateur complet dans un dossier neuf / create a complete operator in a new folder."""
    domains = tuple(domain or (["exercice.mssante.fr"] if practice else []))
    if not domains:
        raise UsageError(
            "--domain: donner au moins un domaine, ou --practice / give at least one domain, or --practice"
        )
    example = people.CHU_EXEMPLE
    shift = ports_above if ports_above is not None else (_PRACTICE_PORTS if practice else 0)
    try:
        section = OperatorSection(
            hostname=hostname or f"mss.{domains[0]}",
            domains=domains,
            organisation=organisation or (example.name if practice else domains[0]),
            structure_id=_structure(structure_id or (example.national_id if practice else "")),
            department=department or (example.city.department if practice else ""),
        )
    except ValidationError as error:
        wrong = [(str(item["loc"][0]).removesuffix("s"), item["msg"]) for item in error.errors()]
        raise UsageError("\n".join(f"--{key}: {text.removeprefix('Value error, ')}" for key, text in wrong)) from None
    settings = build_settings(
        folder / SETTINGS_FILE,
        operator=section,
        services=ServicesSection(directory=True),
        listen=ListenSection.above(shift) if shift else ListenSection(),
        trust=TrustSection(
            practice=practice,
            authority="pki" if practice else "",
            signer_cn=PRACTICE_SIGNER_CN if practice else "alb.mssante.fr",
            list_url="" if practice else NATIONAL_LIST_URL,
        ),
    )
    place = _create(folder.resolve(), settings, practice)
    done(f"opérateur créé dans / operator created in {folder}")
    console.print(f"Réglages, chaque clé expliquée / settings, every key explained: [bold]{place.settings}[/bold]")
    if not practice:
        console.print(
            f"Demande de certificat à envoyer à l'IGC-Santé / request for IGC-Santé: [bold]{place.keys / 'server.csr'}[/bold]"
        )
        console.print(
            f"Liste blanche et autorités à poser dans / white list and authorities go in [bold]{place.trust}[/bold]"
        )
    console.print("Enregistrements DNS à publier / DNS records to publish:")
    for record in srv_records(settings):
        typer.echo(f"  {record}")
    console.print(f"Ensuite / next: [bold]caducee serve {folder}[/bold], [bold]caducee account add --help[/bold]")


def _structure(text: str) -> str:
    if text:
        try:
            parse_structure_id(text)
        except ValueError as error:
            raise UsageError(f"--structure-id: {error}") from None
    return text


def _create(folder: Path, settings: Settings, practice: bool) -> OperatorFolder:
    at = now()
    if not practice:
        return create_operator(folder, settings, at=at)
    # The authority needs a place before the operator's folder exists: beside it, then moved inside.
    workshop = folder.parent / f".{folder.name}.pki"
    if workshop.exists() or (folder.exists() and any(folder.iterdir())):
        raise UsageError(f"{folder} n'est pas vide : donner un dossier neuf / is not empty: give a new folder")
    workshop.mkdir(parents=True)
    existed = folder.exists()
    try:
        authority = PracticeAuthority.create(workshop, at=at)
        place = create_operator(folder, settings, at=at, authority=authority)
        try:
            publish_practice_list(authority, [(place, settings)], at)
            workshop.rename(folder / "pki")
        except BaseException:
            remove_operator(folder, keep=existed)
            raise
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return place


def serve(
    folder: Annotated[
        Path, typer.Argument(envvar="CADUCEE_DIR", help="Dossier de l'opérateur / the operator's folder.")
    ] = Path(),
) -> None:
    """Fait tourner l'opérateur jusqu'à Ctrl-C / run the operator until Ctrl-C."""
    load_settings(folder)
    os.execv(sys.executable, [sys.executable, "-m", "caducee.serve", os.fspath(folder)])  # noqa: S606 - our own program
