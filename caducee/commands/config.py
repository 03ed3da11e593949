"""`caducee config`: are the settings right, and what are they."""

from __future__ import annotations

from pathlib import Path

import typer

from caducee.commands.common import FolderOption, JsonOption, done
from caducee.errors import UsageError
from caducee.folder import DMP_SIGNATURE, OperatorFolder
from caducee.settings import load_settings
from caducee.settings_file import settings_file
from caducee.trust_parts import open_trust, trust_state
from caducee.wiring import now, open_store
from trustspace import Freshness

app = typer.Typer(no_args_is_help=True, help="Vérifier et montrer les réglages / check and show the settings.")


@app.command()
def check(folder: FolderOption = Path()) -> None:
    """Vérifie les réglages, les clés, la base et la liste blanche / check settings, keys, database and white list."""
    settings = load_settings(folder)
    done("réglages lisibles et cohérents / settings read and coherent")
    place = OperatorFolder(folder)
    if settings.services.mail:
        store = open_store(place, settings)
        done(f"base et clé maîtresse / database and master key: {len(store.accounts())} boîtes / mailboxes")
        store.close()
    if settings.dmp.url and not (place.keys / f"{DMP_SIGNATURE}.key").exists():
        raise UsageError(
            f"dmp.url: {place.keys / DMP_SIGNATURE}.key est absent, aucun dépôt possible / missing, no deposit"
        )
    trust = open_trust(place, settings)
    state, alarm = trust_state(trust, now())
    if trust.white_list is None:
        raise UsageError(
            f"{place.white_list}: pas de liste blanche en vigueur, aucun échange / no white list in force {alarm}"
        )
    text = f"liste blanche du / white list of {trust.white_list.generated:%d/%m/%Y %H:%M} UTC ({state.value}) {alarm}".rstrip()
    if state is not Freshness.FRESH or alarm:
        raise UsageError(text)
    done(text)


@app.command()
def show(folder: FolderOption = Path(), as_json: JsonOption = False) -> None:
    """Montre les réglages en vigueur, environnement compris / show the settings in force, environment included."""
    settings = load_settings(folder)
    typer.echo(settings.model_dump_json(indent=2) if as_json else settings_file(settings), nl=as_json)
