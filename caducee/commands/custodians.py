"""`caducee keys custodian`: the people who destroy keys, two together; and how commands ask for a secret."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Annotated

import typer

from caducee.commands.common import FolderOption, JsonOption, done, show
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.settings import load_settings
from caducee.wiring import now, open_store
from mailstore import Event, Store

_SHORTEST = 12

app = typer.Typer(
    no_args_is_help=True,
    help="Dépositaires, qui détruisent une clé à deux / custodians, who destroy a key two together.",
)
StdinOption = Annotated[bool, typer.Option("--stdin", help="Lit le secret sur l'entrée standard / secret from stdin.")]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Son nom / their name.")],
    sponsor: Annotated[
        str, typer.Option(help="Dépositaire qui l'accepte, dès qu'il y en a deux / who vouches, once there are two.")
    ] = "",
    stdin: StdinOption = False,
    folder: FolderOption = Path(),
) -> None:
    """Nomme un dépositaire, qui choisit sa phrase secrète / name a custodian, who chooses a passphrase."""
    store = _store(folder)
    if len(store.custodians()) >= 2:
        if not sponsor:
            raise UsageError("--sponsor: un dépositaire en place doit l'accepter / a custodian must vouch")
        if not store.is_custodian(sponsor, secret(stdin, f"Phrase secrète de {sponsor} / passphrase: ")):
            raise UsageError(f"{sponsor}: dépositaire inconnu ou phrase fausse / unknown, or wrong passphrase")
    passphrase = secret(stdin, f"Phrase secrète pour {name} ({_SHORTEST} signes au moins) / passphrase: ")
    if len(passphrase) < _SHORTEST:
        raise UsageError(
            f"phrase trop courte : {_SHORTEST} signes au moins / too short: at least {_SHORTEST} characters"
        )
    store.add_custodian(name, passphrase, now())
    store.record((Event("custodian.added", {"by": sponsor or who(""), "name": name}),), at=now())
    done(f"{name} est dépositaire / is a custodian")


@app.command("list")
def list_custodians(folder: FolderOption = Path(), as_json: JsonOption = False) -> None:
    """Montre les dépositaires / show the custodians."""
    show([{"dépositaire": name} for name in _store(folder).custodians()], as_json=as_json)


def who(by: str) -> str:
    """Who is named in the audit trail: `by`, else the person logged in to the system."""
    try:
        return by or getpass.getuser()
    except (OSError, KeyError):
        return "?"


def secret(stdin: bool, prompt: str) -> str:
    """A secret typed without echo, or a line of standard input."""
    return sys.stdin.readline().rstrip("\n") if stdin else getpass.getpass(prompt)


def _store(folder: Path) -> Store:
    return open_store(OperatorFolder(folder), load_settings(folder))
