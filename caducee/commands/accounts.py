"""`caducee account`: the mailboxes of this operator."""

from __future__ import annotations

import getpass
import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer

from caducee.commands.common import FolderOption, JsonOption, done, show
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.mailboxes import PERSONAL, NewMailbox, add_mailbox
from caducee.settings import Settings, load_settings
from caducee.wiring import now, open_directory, open_store
from directory import InvalidIdentifier, entry_dn
from directory.identifiers import parse_person_id, parse_structure_id
from mailstore import MailboxKind
from trustspace import PracticeAuthority, pem

app = typer.Typer(no_args_is_help=True, help="Les boîtes de cet opérateur / this operator's mailboxes.")
AddressArgument = Annotated[str, typer.Argument(help="Adresse de la boîte / the mailbox's address.")]
StdinOption = Annotated[
    bool, typer.Option("--stdin", help="Lit le mot de passe sur l'entrée / read the password from stdin.")
]
_SHORTEST = 12
_LONGEST_NAME = 64  # RFC 5280 ub-common-name


@app.command()
def add(
    address: AddressArgument,
    kind: Annotated[MailboxKind, typer.Option(help="PER, ORG, APP ou/or CAB.")],
    national_id: Annotated[str, typer.Option(help="8+RPPS (PER, CAB), 1+FINESS ou/or 3+SIRET (ORG, APP).")],
    name: Annotated[str, typer.Option(help="Nom montré / shown name.")],
    surname: Annotated[str, typer.Option(help="Nom d'exercice (PER, CAB).")] = "",
    given_name: Annotated[str, typer.Option(help="Prénom (PER, CAB).")] = "",
    profession: Annotated[str, typer.Option(help="Profession (PER, CAB), Médecin…")] = "",
    client_certificate: Annotated[
        Path | None, typer.Option(help="Certificat client d'une boîte APP / an APP mailbox's certificate.")
    ] = None,
    publish: Annotated[bool, typer.Option(help="Publier dans l'annuaire / publish in the directory.")] = True,
    stdin: StdinOption = False,
    folder: FolderOption = Path(),
) -> None:
    """Crée une boîte / create a mailbox."""
    settings, place = load_settings(folder), OperatorFolder(folder)
    if address.rpartition("@")[2].lower() not in settings.operator.domains:
        raise UsageError(
            f"{address}: domaine absent de operator.domains ({', '.join(settings.operator.domains)}) / not one of ours"
        )
    _check(address, kind, national_id, name)
    mailbox = NewMailbox(
        address=address.lower(),
        kind=kind,
        national_id=national_id,
        display_name=name,
        surname=surname,
        given_name=given_name,
        profession=profession,
        password=None if client_certificate and not stdin else _new_password(stdin),
        client_certificate=pem.read_certificates(client_certificate)[0] if client_certificate else None,
    )
    authority = practice_authority(place, settings)
    directory = open_directory(place, settings, write=True) if publish else None
    if directory:
        directory.check()
    entry, _ = add_mailbox(open_store(place, settings), mailbox, settings.operator, at=now(), authority=authority)
    if directory:
        directory.publish(entry)
    done(f"{mailbox.address} ({kind}) créée / created")
    if authority is None:
        typer.echo("! sans clé côté serveur : ni signature ni ouverture pour elle / no server-side key", err=True)


def _check(address: str, kind: MailboxKind, national_id: str, name: str) -> None:
    """What certificates and the directory would refuse later, when the account is already there."""
    entry_dn(address)
    try:
        (parse_person_id if kind in PERSONAL else parse_structure_id)(national_id)
    except InvalidIdentifier as error:
        raise UsageError(f"--national-id: {error}") from None
    if not 0 < len(name) <= _LONGEST_NAME:
        raise UsageError(f"--name: 1 à {_LONGEST_NAME} signes / characters")


@app.command("list")
def list_accounts(folder: FolderOption = Path(), as_json: JsonOption = False) -> None:
    """Montre les boîtes / show the mailboxes."""
    store = open_store(OperatorFolder(folder), load_settings(folder))
    rows = [
        {
            "adresse": one.address,
            "type": one.kind,
            "identifiant": one.national_id,
            "nom": one.display_name,
            "active": one.active,
        }
        for one in store.accounts()
    ]
    show(rows, as_json=as_json)


@app.command()
def password(address: AddressArgument, stdin: StdinOption = False, folder: FolderOption = Path()) -> None:
    """Change un mot de passe / change a password."""
    store = open_store(OperatorFolder(folder), load_settings(folder))
    if store.find_account(address) is None:
        raise UsageError(f"{address}: boîte inconnue / unknown mailbox")
    store.set_password(address, _new_password(stdin))
    done(f"mot de passe de {address} changé / password changed")


def practice_authority(place: OperatorFolder, settings: Settings) -> PracticeAuthority | None:
    """The practice authority that certifies new mailboxes, when the settings name one."""
    if not (settings.trust.practice and settings.trust.authority):
        return None
    return PracticeAuthority.open(place.resolve(settings.trust.authority))


def _new_password(stdin: bool) -> str:
    """From stdin, typed twice, or drawn and shown once when Enter is pressed."""
    if stdin:
        text = sys.stdin.readline().rstrip("\n")
    else:
        text = getpass.getpass("Mot de passe (Entrée pour en tirer un) / password (Enter to draw one): ")
        if not text:
            text = secrets.token_urlsafe(18)
            typer.echo(f"Mot de passe, montré cette seule fois / shown this once: {text}")
        elif getpass.getpass("Encore une fois / again: ") != text:
            raise UsageError("les deux saisies diffèrent / the two entries differ")
    if len(text) < _SHORTEST:
        raise UsageError(
            f"mot de passe trop court : {_SHORTEST} signes au moins / too short: at least {_SHORTEST} characters"
        )
    return text
