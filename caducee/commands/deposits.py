"""`caducee deposits` and `caducee dossier`: what happened to the documents, and what the record holds."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Annotated

import typer

from caducee.commands.common import FolderOption, JsonOption, show
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.record import open_record
from caducee.settings import load_settings
from caducee.wiring import open_store
from dossier import RecordView
from mailstore import DepositState

app = typer.Typer(
    no_args_is_help=True, help="Dépôts de documents au DMP / deposits of documents in the patient's record."
)
dossier_app = typer.Typer(no_args_is_help=True, help="Le dossier patient embarqué / the embedded patient's record.")


@app.command("list")
def list_deposits(
    state: Annotated[DepositState | None, typer.Option(help="Seulement cet état / only this state.")] = None,
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Montre les dépôts / show the deposits."""
    store = open_store(OperatorFolder(folder), load_settings(folder))
    rows = [
        {
            "n°": one.id,
            "document": one.unique_id,
            "SHA-1": one.sha1,
            "état": one.state,
            "raison": one.reason,
            "essais": one.attempts,
            "envoi": one.submission_id,
        }
        for one in store.deposits(state)
    ]
    show(rows, as_json=as_json, empty="aucun dépôt / no deposit")


def _view(folder: Path) -> RecordView:
    place = OperatorFolder(folder)
    load_settings(folder)
    if not place.record.exists():
        raise UsageError(f"{place.record}: pas de dossier embarqué ici / no embedded record here")
    return RecordView(open_record(place), f"operateur:{getpass.getuser()}")


@dossier_app.command("show")
def show_dossier(
    ins: Annotated[str, typer.Argument(help="Matricule INS du patient (15 signes) / the patient's INS.")],
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Montre les documents d'un patient ; ce regard est tracé / show a patient's documents; the look is traced."""
    rows = [
        {
            "document": one.unique_id,
            "titre": one.title,
            "type": one.type_code,
            "auteur": one.author,
            "créé": one.created,
            "SHA-1": one.sha1,
            "octets": one.size,
            "statut": one.status,
        }
        for one in _view(folder).show(ins)
    ]
    show(rows, as_json=as_json, title="Documents", empty="aucun document / no document")


@dossier_app.command("get")
def get_document(
    unique_id: Annotated[str, typer.Argument(help="uniqueId du document / the document's uniqueId.")],
    folder: FolderOption = Path(),
) -> None:
    """Écrit un document sur la sortie ; ce regard est tracé / write a document to stdout; the look is traced."""
    try:
        sys.stdout.buffer.write(_view(folder).fetch(unique_id))
    except KeyError:
        raise UsageError(f"{unique_id}: document inconnu / unknown document") from None


@dossier_app.command("trace")
def trace_dossier(
    ins: Annotated[str, typer.Argument(help="Matricule INS du patient / the patient's INS.")],
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Montre qui a fait quoi dans le dossier d'un patient / show who did what in a patient's record."""
    rows = [
        {
            "heure": one.at,
            "action": one.action,
            "résultat": one.outcome,
            "qui": one.caller.person,
            "structure": one.caller.structure_id,
        }
        for one in _view(folder).accesses(ins)
    ]
    show(rows, as_json=as_json)
