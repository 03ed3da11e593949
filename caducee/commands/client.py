"""`caducee send` and `caducee inbox`: a tiny client for trying things; people use their own mail program."""

from __future__ import annotations

import asyncio
import getpass
import ssl
import sys
from email.utils import make_msgid
from pathlib import Path
from typing import Annotated

import typer

import mime
from caducee.commands.common import FolderOption, JsonOption, done, show
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.mailclient import Login, Mailbox, submit
from caducee.settings import Settings, load_settings
from caducee.trust_parts import open_trust
from proxy import CODE_FIELD
from trustspace import client_context

LoginOption = Annotated[str, typer.Option("--login", "-l", help="Adresse de la boîte / the mailbox's address.")]
PasswordFile = Annotated[
    Path | None, typer.Option(help="Fichier du mot de passe ; sinon demandé / password file; else asked.")
]
_TYPES = {".pdf": "application/pdf", ".zip": "application/zip", ".xml": "text/xml", ".txt": "text/plain"}


def send(
    login: LoginOption,
    to: Annotated[list[str], typer.Option("--to", "-t", help="Destinataire, répétable / recipient, repeatable.")],
    subject: Annotated[str, typer.Option("--subject", "-s", help="Sujet / subject.")] = "",
    text: Annotated[str, typer.Option(help="Texte ; « - » pour l'entrée / text; - for stdin.")] = "",
    attach: Annotated[
        list[Path] | None, typer.Option("--attach", "-a", help="Pièce jointe, répétable / attachment.")
    ] = None,
    code: Annotated[str, typer.Option(envvar="CADUCEE_CODE", help="Code d'envoi / send code.")] = "",
    password_file: PasswordFile = None,
    folder: FolderOption = Path(),
) -> None:
    """Envoie un message par cet opérateur / send a message through this operator."""
    settings = load_settings(folder)
    body = (sys.stdin.read() if text == "-" else text).replace("\r\n", "\n").replace("\n", "\r\n")
    parts = [mime.leaf("text/plain", body.encode(), parameters={"charset": "utf-8"}, disposition=None)]
    parts += [
        mime.leaf(_TYPES.get(path.suffix.lower(), "application/octet-stream"), path.read_bytes(), filename=path.name)
        for path in attach or ()
    ]
    message_id = make_msgid(domain=settings.operator.hostname)
    fields = [("From", login), ("To", ", ".join(to)), ("Subject", subject), ("Message-ID", message_id)]
    if code:
        fields.append((CODE_FIELD, code))
    content = mime.message(fields, mime.multipart("mixed", parts) if len(parts) > 1 else parts[0])
    answers = asyncio.run(submit(settings, _tls(folder, settings), Login(login, _password(password_file)), to, content))
    refused = {name: answer for name, answer in answers.items() if not answer.ok}
    for name, answer in answers.items():
        typer.echo(f"{name}: {answer}", err=not answer.ok)
    if refused:
        raise UsageError(f"{len(refused)} destinataire(s) refusé(s) / recipient(s) refused")
    done(f"{message_id} (suivre / follow: caducee trace '{message_id}')")


def inbox(
    login: LoginOption,
    uid: Annotated[int, typer.Option("--uid", "-u", help="Montre ce message en entier / show this message whole.")] = 0,
    last: Annotated[int, typer.Option(help="Combien de messages / how many messages.", min=1, max=1000)] = 20,
    password_file: PasswordFile = None,
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Montre la boîte de réception / show the inbox."""
    settings = load_settings(folder)
    asyncio.run(_inbox(settings, _tls(folder, settings), Login(login, _password(password_file)), uid, last, as_json))


async def _inbox(settings: Settings, tls: ssl.SSLContext, login: Login, uid: int, last: int, as_json: bool) -> None:
    async with Mailbox(settings, tls, login) as mailbox:
        if uid:
            sys.stdout.buffer.write((await mailbox.fetch(uid)).content)
            return
        rows = []
        for number, flags, header in await mailbox.headers(last):
            fields = mime.parse(header)
            rows.append(
                {
                    "uid": number,
                    "de": fields.get("From") or "",
                    # Clients hide the exchange prefix (ECO.3.1.3).
                    "sujet": (fields.get("Subject") or "").removeprefix("XDM/1.0/DDM+"),
                    "date": fields.get("Date") or "",
                    "drapeaux": " ".join(flags),
                }
            )
        show(rows, as_json=as_json, empty="boîte vide / empty mailbox")


def _tls(folder: Path, settings: Settings) -> ssl.SSLContext:
    trust = open_trust(OperatorFolder(folder), settings)
    return client_context(None, None, trust.anchors, check_hostname=True)


def _password(file: Path | None) -> str:
    if file is None:
        return getpass.getpass("Mot de passe / password: ")
    return file.read_text(encoding="utf-8").strip()
