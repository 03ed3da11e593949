"""The commands by name: where each is written, and its line in `caducee --help`.

As data, so that `caducee trust list` imports what `trust` needs and nothing of the other twenty (half a second instead of two).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

START = "Pour commencer / to begin"
USERS = "Boîtes et personnes / mailboxes and people"
MAIL = "Courrier / mail"
TRUST = "Confiance et clés / trust and keys"
RECORD = "Dossier patient / patient's record"


@dataclass(frozen=True, slots=True)
class Entry:
    """One command: the attribute of a module of `caducee.commands`, a function or a Typer application."""

    panel: str
    module: str
    attribute: str
    help: str


CATALOGUE: dict[str, Entry] = {
    "demo": Entry(
        START,
        "demo",
        "demo",
        "Deux opérateurs, l'annuaire et le dossier patient ; un compte rendu voyage / a report travels, for real.",
    ),
    "init": Entry(
        START,
        "operator",
        "init",
        "Crée un opérateur complet dans un dossier neuf / create a complete operator in a new folder.",
    ),
    "serve": Entry(
        START, "operator", "serve", "Fait tourner l'opérateur jusqu'à Ctrl-C / run the operator until Ctrl-C."
    ),
    "config": Entry(START, "config", "app", "Vérifier et montrer les réglages / check and show the settings."),
    "account": Entry(USERS, "accounts", "app", "Les boîtes de cet opérateur / this operator's mailboxes."),
    "mailbox": Entry(
        USERS,
        "mailbox",
        "app",
        "Contenu des boîtes : import, export, dossiers, quota, conservation, partage / what mailboxes hold.",
    ),
    "delegation": Entry(
        USERS,
        "delegation",
        "app",
        "Envoyer au nom d'une autre boîte d'ici / sending as another mailbox of this operator.",
    ),
    "directory": Entry(
        USERS,
        "directory",
        "app",
        "L'annuaire : chercher, importer l'extraction nationale, publier, vérifier, sauvegarder / the directory: search, "
        "import the national extraction, publish, check, back up.",
    ),
    "proxy": Entry(USERS, "proxy", "app", "Protection côté serveur / server-side protection."),
    "agent": Entry(
        USERS,
        "agent",
        "app",
        "Agent de poste : signe avec la carte CPS ce qu'envoie le logiciel de courrier habituel / desk agent: signs with the "
        "CPS card what the usual mail program sends.",
    ),
    "card": Entry(USERS, "card", "app", "Carte CPS : lecteurs, porteur, essai / CPS card: readers, holder, try."),
    "send": Entry(
        MAIL, "client", "send", "Envoie un message par cet opérateur / send a message through this operator."
    ),
    "inbox": Entry(MAIL, "client", "inbox", "Montre la boîte de réception / show the inbox."),
    "trace": Entry(MAIL, "trace", "trace", "Raconte ce qui est arrivé à un message / tell what happened to a message."),
    "refusals": Entry(
        MAIL,
        "trace",
        "refusals",
        "Montre les derniers refus et leur raison / show the last refusals and their reason.",
    ),
    "queue": Entry(MAIL, "queue", "app", "La file de sortie / the outgoing queue."),
    "tls": Entry(MAIL, "tls", "app", "Les liaisons chiffrées avec les autres opérateurs / TLS with other operators."),
    "smime": Entry(
        MAIL,
        "smime",
        "app",
        "Messages S/MIME en fichiers / S/MIME messages in files: inspect, verify, sign, encrypt, decrypt.",
    ),
    "trust": Entry(
        TRUST,
        "trust",
        "app",
        "Espace de confiance : à qui se fie-t-on, et pourquoi / trust space: whom we trust, and why.",
    ),
    "cert": Entry(TRUST, "cert", "app", "Certificats de l'opérateur / the operator's certificates."),
    "keys": Entry(TRUST, "keys", "app", "Clés côté serveur / server-side keys."),
    "pki": Entry(TRUST, "pki", "app", "Espace de confiance d'exercice / practice trust space."),
    "deposits": Entry(
        RECORD,
        "deposits",
        "app",
        "Dépôts de documents au DMP / deposits of documents in the patient's record.",
    ),
    "dossier": Entry(RECORD, "deposits", "dossier_app", "Le dossier patient embarqué / the embedded patient's record."),
    "xdm": Entry(
        RECORD, "xdm", "app", "Paquets IHE_XDM des messages de documents / IHE_XDM packages of document messages."
    ),
}


def load(name: str) -> Any:  # click.Command, which Typer has a private copy of
    """The command of the catalogue, imported. Raises KeyError when there is none of that name."""
    entry = CATALOGUE[name]
    found = getattr(import_module(f"caducee.commands.{entry.module}"), entry.attribute)
    if isinstance(found, typer.Typer):
        group = typer.main.get_group(found)
        group.name = name
        return group
    alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
    alone.command(name)(found)
    return typer.main.get_command(alone)


class LazyGroup(TyperGroup):
    """The commands of the catalogue: shown from their line, imported when one is run."""

    def __init__(self, **attributes: Any) -> None:
        """As Typer makes it."""
        super().__init__(**attributes)
        for name, entry in CATALOGUE.items():
            self.commands[name] = TyperCommand(name, help=entry.help, rich_help_panel=entry.panel)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command to run, imported."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name in CATALOGUE else command, rest
