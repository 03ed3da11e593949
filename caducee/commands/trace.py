"""`caducee trace`, `refusals` and `queue`: where is this message, why was that one refused, what waits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from caducee.commands.common import FolderOption, JsonOption, show
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.settings import load_settings
from caducee.wiring import open_store
from mailstore import TracedEvent


def trace(
    message_id: Annotated[
        str, typer.Argument(help="Message-ID, ou numéro rendu à l'acceptation / or the id given at acceptance.")
    ],
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Raconte ce qui est arrivé à un message / tell what happened to a message."""
    store = open_store(OperatorFolder(folder), load_settings(folder))
    events = store.trace(message_id)
    if not events:
        raise UsageError(f"{message_id}: inconnu de cet opérateur / unknown to this operator")
    show(_rows(events), as_json=as_json, title=message_id)


def refusals(
    last: Annotated[int, typer.Option(help="Combien / how many.", min=1, max=10000)] = 50,
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Montre les derniers refus et leur raison / show the last refusals and their reason."""
    store = open_store(OperatorFolder(folder), load_settings(folder))
    show(_rows(store.refusals(last)), as_json=as_json, empty="aucun refus / no refusal")


def _rows(events: Sequence[TracedEvent]) -> list[dict[str, Any]]:
    return [
        {
            "heure": one.at,
            "fait": one.event.name,
            "détail": "; ".join(f"{key}={value}" for key, value in one.event.detail.items() if value),
        }
        for one in events
    ]


def queue(folder: FolderOption = Path(), as_json: JsonOption = False) -> None:
    """Montre ce qui attend de partir / show what waits to leave."""
    store = open_store(OperatorFolder(folder), load_settings(folder))
    rows = [
        {
            "destinataire": row.recipient,
            "état": row.state,
            "essais": row.attempts,
            "prochain": row.next_attempt_at,
            "réponse": row.reply,
            "envoi": row.submission_id,
        }
        for row in store.queue()
    ]
    show(rows, as_json=as_json, empty="la file est vide / the queue is empty")
