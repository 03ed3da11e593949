"""`caducee trace` and `refusals`: where is this message, who answered about it, why was that one refused."""

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
    rows = _rows(events)
    for one in store.receipts(message_id):
        said = f"{one.recipient}: {one.state.value} {one.detail}".strip()
        rows.append(
            {
                "heure": one.answered_at or one.deadline,
                "fait": f"accusé/receipt.{one.kind.value}",
                "détail": said
                if one.answered_at
                else f"{said} (attendu avant/expected before {one.deadline:%d/%m/%Y})",
            }
        )
    show(rows, as_json=as_json, title=message_id)


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
