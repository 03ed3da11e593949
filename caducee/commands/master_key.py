"""`caducee keys rotate-master` and `rewrap`: another master key for the store (docs/adr/0018).

Invariant: the new key is beside the old one before the database knows it, and takes its place after: whatever the moment
of a crash, running the command again ends the work.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from caducee.commands.common import FolderOption, done
from caducee.folder import OperatorFolder
from caducee.settings import load_settings
from caducee.wiring import database_url, now, open_store
from mailstore import Event, Store, create_master_key, read_master_key
from mailstore.crypto import sync_folder
from mailstore.rotation import replace_master_key

_QuietOption = Annotated[bool, typer.Option("--quiet", help="Sans barre de progression / without a progress bar.")]


def rotate_master(folder: FolderOption = Path(), quiet: _QuietOption = False) -> None:
    """Remplace la clé maîtresse ; relancer ensuite les services / replace the master key, then restart the services."""
    settings, place = load_settings(folder), OperatorFolder(folder)
    new_file = place.keys / "master.new"
    old = read_master_key(place.master_key)
    new = read_master_key(new_file) if new_file.exists() else create_master_key(new_file)
    if settings.services.record and not place.record_key.exists():
        # The record's own keys come from the first master key, which it keeps under another name.
        shutil.copy2(place.master_key, place.record_key)
    replace_master_key(database_url(place, settings), old, new, now())
    new_file.replace(place.master_key)
    sync_folder(place.keys)
    store = open_store(place, settings)
    _rewrap(store, quiet)
    done("clé maîtresse remplacée ; relancer les services / master key replaced; restart the services")


def rewrap(folder: FolderOption = Path(), quiet: _QuietOption = False) -> None:
    """Achève un remplacement interrompu : tout passe sous la clé la plus récente / finish an interrupted replacement."""
    _rewrap(open_store(OperatorFolder(folder), load_settings(folder)), quiet)
    done("tout est sous la clé la plus récente / everything is under the newest key")


def _rewrap(store: Store, quiet: bool) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as bar:
        task = bar.add_task("clés / keys", total=None)
        changed = store.rewrap(lambda looked_at, total: bar.update(task, completed=looked_at, total=total))
    retired = store.retire_old_keys()
    store.record(
        (Event("keys.rewrapped", {"count": str(changed), "old_keys": "destroyed" if retired else "kept"}),), at=now()
    )
    if not retired:
        typer.echo("! anciennes clés gardées : des contenus endommagés en dépendent / old keys kept", err=True)
