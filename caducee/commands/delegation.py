"""`caducee delegation`: which mailbox may send as which other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from caducee.commands.common import FolderOption, JsonOption, done, show
from caducee.folder import OperatorFolder
from caducee.settings import load_settings
from caducee.wiring import now, open_store
from mailstore import Event

app = typer.Typer(
    no_args_is_help=True, help="Envoyer au nom d'une autre boîte d'ici / sending as another mailbox of this operator."
)
Owner = Annotated[str, typer.Argument(help="La boîte au nom de laquelle on écrit / the mailbox written as.")]
Delegate = Annotated[str, typer.Argument(help="La boîte qui écrit / the mailbox that writes.")]


@app.command("add")
def add(owner: Owner, delegate: Delegate, folder: FolderOption = Path()) -> None:
    """Permet à une boîte d'écrire au nom d'une autre / let a mailbox send as another."""
    store = open_store(OperatorFolder(folder), load_settings(folder))
    store.add_delegation(owner, delegate, now())
    store.record([Event("delegation.added", {"owner": owner, "delegate": delegate})], at=now())
    done(f"{delegate} → {owner}")


@app.command("remove")
def remove(owner: Owner, delegate: Delegate, folder: FolderOption = Path()) -> None:
    """Met fin à une délégation / end a delegation."""
    store = open_store(OperatorFolder(folder), load_settings(folder))
    store.remove_delegation(owner, delegate)
    store.record([Event("delegation.removed", {"owner": owner, "delegate": delegate})], at=now())
    done(f"{delegate} ✗ {owner}")


@app.command("list")
def listing(folder: FolderOption = Path(), as_json: JsonOption = False) -> None:
    """Montre les délégations / show the delegations."""
    store = open_store(OperatorFolder(folder), load_settings(folder))
    rows = [{"boîte": owner, "écrit en son nom": delegate} for owner, delegate in store.delegations()]
    show(rows, as_json=as_json, empty="aucune délégation / no delegation")
