"""What every command shares: the operator's folder, the tables, JSON beside tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

FolderOption = Annotated[
    Path,
    typer.Option(
        "--dir", "-d", envvar="CADUCEE_DIR", help="Dossier de l'opérateur / the operator's folder.", show_default="."
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Sortie JSON, pour les programmes / JSON output, for programs.")
]

console = Console(highlight=False)


def show(rows: Sequence[Mapping[str, Any]], *, as_json: bool, title: str = "", empty: str = "rien / nothing") -> None:
    """Print rows as a table for people or as one JSON array for programs."""
    if as_json:
        typer.echo(
            json.dumps(
                [{key: _plain(value) for key, value in row.items()} for row in rows], ensure_ascii=False, indent=2
            )
        )
        return
    if not rows:
        console.print(f"[dim]{empty}[/dim]")
        return
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for key in rows[0]:
        table.add_column(key, overflow="fold")
    for row in rows:
        table.add_row(*(plain_text(_cell(value)) for value in row.values()))
    console.print(table)


def done(text: str) -> None:
    """One line that says what was done."""
    console.print("[green]✓[/green]", plain_text(text), soft_wrap=True)


def plain_text(text: str) -> Text:
    """Text to show as it is: others wrote it, so it holds neither colours of ours nor commands for the terminal."""
    return Text("".join(one if one.isprintable() or one == "\n" else "\N{REPLACEMENT CHARACTER}" for one in text))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    return value


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone().strftime("%d/%m/%Y %H:%M:%S")
    if isinstance(value, Enum):
        return str(value.value)
    return "" if value is None else str(value)
