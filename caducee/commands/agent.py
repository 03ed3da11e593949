"""`caducee agent`: on a professional's computer, signs what the mail program sends with the CPS card."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import ssl
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from caducee.agent.desk import Cards, Desk
from caducee.agent.display import display_for
from caducee.agent.hardening import harden
from caducee.agent.pin import PinHolder
from caducee.agent.server import Agent
from caducee.agent.settings import ANCHORS_FILE, AgentSettings, create, load, local_digest
from caducee.agent.settings import library as card_library
from caducee.agent.upstream import Operator
from caducee.commands.common import done
from caducee.errors import UsageError
from smime.cps_reader import PcscCards
from smime.cps_remote import LibraryCardAccess
from trustspace import TrustSpaceError, pem

app = typer.Typer(
    no_args_is_help=True,
    help="Agent de poste : signe avec la carte CPS ce qu'envoie le logiciel de courrier habituel / desk agent: signs with "
    "the CPS card what the usual mail program sends.\n\n"
    "1. caducee agent init DOSSIER --address … --host … --anchors …\n\n"
    "2. caducee agent run DOSSIER, puis régler le logiciel de courrier sur 127.0.0.1 / then point the mail program to it.",
)
FolderArgument = Annotated[Path, typer.Argument(help="Dossier de l'agent / the agent's folder.")]
_SHORTEST_KEPT = 60.0  # seconds: one message may need the PIN twice, to sign and to log in
_TICK = 5.0


@app.command()
def init(
    folder: FolderArgument,
    address: Annotated[str, typer.Option(help="Votre boîte / your mailbox.")],
    host: Annotated[str, typer.Option(help="Serveur d'envoi de l'opérateur / the operator's submission server.")],
    anchors: Annotated[
        Path, typer.Option(help="Autorités de l'opérateur (PEM), avec les intermédiaires de la carte / authorities.")
    ],
    port: Annotated[int, typer.Option(help="Port d'envoi, TLS / submission port, TLS.", min=1, max=65535)] = 465,
    imap_port: Annotated[int, typer.Option(help="Port IMAP de l'opérateur / its IMAP port.", min=1, max=65535)] = 993,
    login: Annotated[
        Literal["account", "card"],
        typer.Option(help="account : votre mot de passe ; card : la carte / your password, or the card."),
    ] = "account",
    listen_port: Annotated[int, typer.Option(help="Port SMTP local / local SMTP port.", min=1024, max=65535)] = 20587,
    listen_imap_port: Annotated[int, typer.Option(help="Port IMAP local, 0 sans / local IMAP port, 0: none.")] = 0,
    library: Annotated[
        str,
        typer.Option(
            help="Bibliothèque PKCS#11 de la carte, ou « national » ; défaut : lecture directe (PC/SC) / the card's PKCS#11 "
            "library, or `national`; default: read directly."
        ),
    ] = "",
    pin_minutes: Annotated[
        int, typer.Option(help="Garde du code PIN / how long the PIN is kept.", min=0, max=480)
    ] = 10,
) -> None:
    """Prépare l'agent / set the agent up."""
    try:
        certificates = pem.read_certificates(anchors)
    except TrustSpaceError as error:
        raise UsageError(f"--anchors: {error}") from None
    password = secrets.token_urlsafe(18) if login == "card" else ""
    settings = AgentSettings(
        address=address.strip().lower(),
        host=host,
        port=port,
        imap_port=imap_port,
        login=login,
        listen_port=listen_port,
        listen_imap_port=listen_imap_port,
        pin_minutes=pin_minutes,
        pkcs11_library=library,
        local_password_sha256=local_digest(password) if password else "",
    )
    card_library(settings)
    file = create(folder, settings, certificates)
    done(f"{file} écrit. Lancer / run: caducee agent run {folder}")
    _how_to_connect(settings, password)


@app.command()
def run(
    folder: FolderArgument,
    display: Annotated[
        Literal["auto", "terminal", "window", ""], typer.Option(help="Où demander le code PIN / where to ask the PIN.")
    ] = "",
) -> None:
    """Écoute et signe, jusqu'à Ctrl-C / listen and sign, until Ctrl-C."""
    settings = load(folder)
    harden()
    try:
        certificates = pem.read_certificates(folder / ANCHORS_FILE)
    except TrustSpaceError as error:
        raise UsageError(f"{folder / ANCHORS_FILE}: {error}") from None
    trust = ssl.create_default_context(cadata=pem.chain_to_pem(certificates).decode("ascii"))
    trust.minimum_version = trust.maximum_version = ssl.TLSVersion.TLSv1_2
    if settings.login == "account":
        trust.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED
    pins = PinHolder(settings.pin_minutes * 60.0 or _SHORTEST_KEPT, time.monotonic)
    desk = Desk(
        display_for(display or settings.display),
        pins,
        _cards(settings),
        ask_each=settings.confirm == "each",
        issuers=tuple(one for one in certificates if one.issuer != one.subject),
        clock=lambda: datetime.now(UTC),
    )
    agent = Agent(settings, desk, Operator(settings.host, settings.port, trust), pins.forget)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(agent, pins))


def _cards(settings: AgentSettings) -> Cards:
    """How the settings reach the card; a library in a process of its own."""
    if found := card_library(settings):
        return LibraryCardAccess(found, reader=settings.reader)
    return PcscCards(settings.reader)


async def _serve(agent: Agent, pins: PinHolder) -> None:
    try:
        await agent.start()
    except OSError as error:
        port = agent.settings.listen_port
        raise UsageError(f"listen_port: 127.0.0.1:{port}: {error.strerror} / port déjà pris ?") from None
    stop = asyncio.Event()
    if sys.platform != "win32":  # there, Ctrl-C arrives as KeyboardInterrupt
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    _how_to_connect(agent.settings, "")
    typer.echo("caducee agent ready")
    try:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _TICK)
            pins.expire()
    finally:
        await agent.close()


def _how_to_connect(settings: AgentSettings, password: str) -> None:
    typer.echo(
        f"Logiciel de courrier / mail program: SMTP 127.0.0.1:{settings.listen_port}, sans TLS (machine locale) / no TLS; "
        f"identifiant / login: {settings.address}; "
        + (
            f"mot de passe, montré cette seule fois / password, shown this once: {password}"
            if password
            else "mot de passe / password: "
            + (
                "celui montré à la création / shown at init"
                if settings.login == "card"
                else "celui de la boîte / the mailbox's"
            )
        )
    )
    if settings.listen_imap_port:
        typer.echo(f"IMAP 127.0.0.1:{settings.listen_imap_port}, sans TLS / no TLS")
