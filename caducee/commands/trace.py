"""`caducee trace` and `caducee queue`: where is this message, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from caducee.commands.common import FolderOption, JsonOption, show
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.settings import load_settings
from caducee.wiring import open_store


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
    rows = [
        {
            "heure": one.at,
            "fait": one.event.name,
            "détail": "; ".join(f"{key}={value}" for key, value in one.event.detail.items()),
        }
        for one in events
    ]
    show(rows, as_json=as_json, title=message_id)


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
