"""`caducee queue`: what waits to leave, why, and what a person may do about it."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from caducee.commands.common import FolderOption, JsonOption, done, show
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.settings import load_settings
from caducee.trust_parts import open_trust
from caducee.wiring import now, open_store
from mailstore import DeliveryState, QueueRow, Store
from smtp.routes import parse_route
from trustspace import TrustSpaceError

app = typer.Typer(
    no_args_is_help=False,
    help="La file de sortie / the outgoing queue.\n\nSans commande : ce qui attend / without a command: what waits.",
)
Reference = Annotated[
    str,
    typer.Argument(help="Numéro de ligne, numéro d'acceptation ou Message-ID / row, acceptance id or Message-ID."),
]
Waiting = (DeliveryState.QUEUED, DeliveryState.HELD)


@app.callback(invoke_without_command=True)
def listing(context: typer.Context, folder: FolderOption = Path(), as_json: JsonOption = False) -> None:
    """Montre ce qui attend de partir / show what waits to leave."""
    if context.invoked_subcommand is not None:
        return
    store = open_store(OperatorFolder(folder), load_settings(folder))
    rows = [row for state in Waiting for row in store.queue(state)]
    show([_row(row) for row in rows], as_json=as_json, empty="la file est vide / the queue is empty")


@app.command()
def why(reference: Reference, folder: FolderOption = Path(), as_json: JsonOption = False) -> None:
    """Dit pourquoi un message n'est pas parti : chaque essai, et ce que la liste blanche en dit / why it has not left."""
    place, settings = OperatorFolder(folder), load_settings(folder)
    store = open_store(place, settings)
    found = []
    for row in _rows(store, reference):
        for attempt in store.attempts(row.row_id):
            detail = "; ".join(f"{key}={value}" for key, value in attempt.detail.items() if value)
            found.append(
                {
                    "ligne": row.row_id,
                    "destinataire": row.recipient,
                    "heure": attempt.at,
                    "essai": attempt.number,
                    "réponse": attempt.reply,
                    "preuves": detail,
                }
            )
        found.append(
            {
                "ligne": row.row_id,
                "destinataire": row.recipient,
                "heure": now(),
                "essai": row.attempts,
                "réponse": _state(row),
                "preuves": _trust(place, settings, row),
            }
        )
    show(found, as_json=as_json, title=reference)


def _state(row: QueueRow) -> str:
    if row.state is DeliveryState.HELD:
        return "retenu par l'exploitant / held by the operator"
    if row.state is not DeliveryState.QUEUED:
        return f"{row.state.value}: {row.reply}"
    if row.lease_owner and row.lease_until is not None and row.lease_until > now():
        return f"en cours d'envoi / being sent ({row.lease_owner})"
    route = f", par/by {row.route}" if row.route else ""
    return f"prochain essai / next attempt {row.next_attempt_at:%d/%m/%Y %H:%M:%S} UTC{route}"


def _trust(place: OperatorFolder, settings: Any, row: QueueRow) -> str:
    """Whether the domain may be sent to at all now, as the sender itself would ask."""
    try:
        trust = open_trust(place, settings)
        listed = trust.is_listed(row.domain, now())
        return f"liste blanche/white list: {trust.freshness(now()).value}, {row.domain}: {'oui/yes' if listed else 'NON/NO'}"
    except (TrustSpaceError, UsageError) as error:
        return str(error)


def _command(name: str, verb: str, french: str, english: str) -> None:
    """Register one of the commands that act on rows and count them."""

    def act(reference: Reference, folder: FolderOption = Path()) -> None:
        store = open_store(OperatorFolder(folder), load_settings(folder))
        action: Callable[[Collection[int], str, datetime], int] = getattr(store, verb)
        _act(store, reference, lambda ids: action(ids, getpass.getuser(), now()), f"{french} / {english}")

    act.__doc__ = f"{french} / {english}."
    app.command(name)(act)


_command("hold", "hold", "Retient l'envoi jusqu'à release", "keep from leaving until release")
_command("release", "release", "Libère ce qui était retenu", "let what was held leave")
_command("retry", "retry_now", "Essaie à nouveau tout de suite", "try again now")
_command("drop", "drop", "Abandonne sans prévenir l'expéditeur", "give up without telling the sender")


@app.command()
def reroute(
    reference: Reference,
    route: Annotated[
        str, typer.Argument(help="hôte:port, ou « » pour la route habituelle / or '' for the usual route.")
    ],
    folder: FolderOption = Path(),
) -> None:
    """Envoie par un autre serveur, dont le certificat doit être listé pour le domaine / send by another server."""
    if route:
        try:
            parse_route(route)
        except ValueError:
            raise UsageError(f"{route}: écrire hôte:port / write host:port") from None
    store = open_store(OperatorFolder(folder), load_settings(folder))
    _act(store, reference, lambda ids: store.reroute(ids, route, getpass.getuser(), now()), "réacheminé / rerouted")


def _act(store: Store, reference: str, action: Callable[[list[int]], int], text: str) -> None:
    rows = _rows(store, reference)
    count = action([row.row_id for row in rows])
    if not count:
        states = ", ".join(sorted({row.state.value for row in rows}))
        raise UsageError(f"{reference}: rien à faire dans cet état / nothing to do in this state ({states})")
    done(f"{text}: {count}")


def _rows(store: Store, reference: str) -> Sequence[QueueRow]:
    rows = store.queue_rows(reference)
    if not rows:
        raise UsageError(
            f"{reference}: inconnu de la file / unknown to the queue. « caducee queue » la montre / shows it."
        )
    return rows


def _row(row: QueueRow) -> dict[str, Any]:
    return {
        "ligne": row.row_id,
        "destinataire": row.recipient,
        "état": row.state,
        "essais": row.attempts,
        "prochain": row.next_attempt_at,
        "réponse": row.reply,
        "envoi": row.submission_id,
    }
