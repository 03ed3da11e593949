"""`caducee proxy code`: send codes, for gateways and people without a card."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from caducee.commands.common import FolderOption, JsonOption, done, show
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.settings import load_settings
from caducee.wiring import now, open_store
from mailstore import Account, Store
from proxy import CODE_FIELD, new_code

app = typer.Typer(no_args_is_help=True, help="Protection côté serveur / server-side protection.")
code_app = typer.Typer(no_args_is_help=True, help="Codes d'envoi / send codes.")
app.add_typer(code_app, name="code")

AddressArgument = Annotated[str, typer.Argument(help="Adresse de la boîte / the mailbox's address.")]


@code_app.command()
def issue(
    address: AddressArgument,
    days: Annotated[int, typer.Option(help="Durée de vie en jours / life in days.", min=1, max=730)] = 90,
    max_uses: Annotated[int, typer.Option(help="Nombre d'usages, 0 sans limite / uses, 0 for no limit.", min=0)] = 0,
    folder: FolderOption = Path(),
) -> None:
    """Crée un code, montré cette seule fois / create a code, shown this once."""
    store = open_store(OperatorFolder(folder), load_settings(folder))
    account = _account(store, address)
    code, at = new_code(), now()
    store.add_send_code(account.id, code.code_id, code.digest, at + timedelta(days=days), max_uses or None, at)
    done(
        f"code {code.code_id} pour / for {address}, {days} jours / days. À mettre dans le champ / put it in the field {CODE_FIELD}:"
    )
    typer.echo(code.text)


@code_app.command("list")
def list_codes(address: AddressArgument, folder: FolderOption = Path(), as_json: JsonOption = False) -> None:
    """Montre les codes d'une boîte, jamais leur secret / show a mailbox's codes, never their secret."""
    store = open_store(OperatorFolder(folder), load_settings(folder))
    rows = [
        {
            "code": one.code_id,
            "expire": one.expires_at,
            "usages": one.uses,
            "limite": one.max_uses or None,
            "révoqué": one.revoked_at,
        }
        for one in store.send_codes(_account(store, address).id)
    ]
    show(rows, as_json=as_json)


@code_app.command()
def revoke(
    code_id: Annotated[
        str, typer.Argument(help="Identifiant du code : ses quatre premiers signes / its first four characters.")
    ],
    folder: FolderOption = Path(),
) -> None:
    """Révoque un code, aussitôt / revoke a code, at once."""
    store = open_store(OperatorFolder(folder), load_settings(folder))
    store.revoke_send_code(code_id.upper(), now())
    done(f"code {code_id.upper()} révoqué / revoked")


def _account(store: Store, address: str) -> Account:
    account = store.find_account(address)
    if account is None:
        raise UsageError(f"{address}: boîte inconnue. « caducee account list » les montre / unknown mailbox")
    return account
