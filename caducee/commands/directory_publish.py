"""`caducee directory publish`: our mailboxes and authorities in the directory, and in the national one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from caducee.commands.common import FolderOption, JsonOption, show
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.private_directory import initialised_directory
from caducee.publishing import national_publisher, publish_authorities, published, write_requests
from caducee.settings import load_settings
from caducee.wiring import open_directory, open_store


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
        entry, change = published(
            directory, account, settings.operator, store.key_records(account.address), red_list=red_list
        )
        entries.append((entry, change))
        answer = publisher(entry, change) if publisher else ""
        rows.append({"adresse": entry.mail, "annuaire": change or "inchangée", "national": answer})
    if authorities:
        for name in publish_authorities(place, initialised_directory(place, settings)):
            rows.append({"adresse": name, "annuaire": "autorité", "national": ""})
    if to_file:
        write_requests(to_file, entries)
    show(rows, as_json=as_json, empty="aucune boîte / no mailbox")
