"""`caducee account`: the mailboxes of this operator."""

from __future__ import annotations

import getpass
import secrets
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import pyotp
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from caducee.commands.common import FolderOption, JsonOption, done, show
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.mailboxes import PERSONAL, NewMailbox, add_mailbox
from caducee.publishing import published
from caducee.settings import Settings, load_settings
from caducee.wiring import now, open_directory, open_store
from directory import DirectoryError, InvalidIdentifier, entry_dn
from directory.identifiers import parse_person_id, parse_structure_id
from mailstore import Account, MailboxKind, Store
from trustspace import PracticeAuthority, pem

app = typer.Typer(no_args_is_help=True, help="Les boîtes de cet opérateur / this operator's mailboxes.")
app_passwords = typer.Typer(
    no_args_is_help=True, help="Mots de passe d'application, un par client / application passwords, one a client."
)
app.add_typer(app_passwords, name="app-password")
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
    store, _ = _open(folder, address)
    store.set_password(address, _new_password(stdin))
    done(f"mot de passe de {address} changé / password changed")


@app.command("show")
def show_account(address: AddressArgument, folder: FolderOption = Path(), as_json: JsonOption = False) -> None:
    """Montre une boîte : dernière connexion, verrou, second facteur, place prise / show a mailbox's state."""
    store, account = _open(folder, address)
    logins, quota = store.login_state(address), store.quota(account.id)
    row = {
        "adresse": account.address,
        "type": account.kind,
        "active": account.active,
        "derniere_connexion": logins.at,
        "service": logins.service,
        "depuis": logins.source,
        "verrouillee_jusqua": logins.locked_until,
        "second_facteur": logins.second_factor,
        "octets": quota.bytes_used,
        "messages": quota.messages_used,
    }
    show([row] if as_json else [{"": key, " ": value} for key, value in row.items()], as_json=as_json)


@app.command()
def close(address: AddressArgument, folder: FolderOption = Path()) -> None:
    """Ferme une boîte à ses connexions ; son courrier reste / close a mailbox to its logins; its mail stays."""
    _set_active(folder, address, False)
    done(f"{address} fermée / closed")


@app.command("open")
def open_account(address: AddressArgument, folder: FolderOption = Path()) -> None:
    """Rouvre une boîte / open a mailbox again."""
    _set_active(folder, address, True)
    done(f"{address} ouverte / open")


def _set_active(folder: Path, address: str, active: bool) -> None:
    """Then the directory, where a closed mailbox is hidden. When it cannot be now, the mail process does it later."""
    store = _open(folder, address)[0]
    store.set_active(address, active)
    settings, account = load_settings(folder), store.find_account(address)
    try:
        with closing(open_directory(OperatorFolder(folder), settings, write=True)) as directory:
            if account is not None and directory.by_address(account.address):
                published(directory, account, settings.operator, store.key_records(account.address))
    except (DirectoryError, UsageError) as error:
        typer.echo(f"! annuaire pas encore à jour ({error}) / directory not up to date yet", err=True)


@app.command()
def delete(
    address: AddressArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Sans demander / do not ask.")] = False,
    publish: Annotated[
        bool, typer.Option(help="La retirer de l'annuaire aussi / remove it from the directory too.")
    ] = True,
    folder: FolderOption = Path(),
) -> None:
    """Supprime une boîte et tout son courrier, pour toujours / delete a mailbox and all its mail, for ever.

    La trace de ce qu'elle a envoyé, reçu et lu reste, ainsi que ses clés, retirées, que seuls deux dépositaires détruisent
    (caducee keys). L'adresse n'est jamais donnée à un autre titulaire. Interrompue, la commande se relance. Pour garder le
    courrier : « caducee mailbox export » d'abord, ou « caducee account close » à la place. / The trail and the retired keys
    stay; the address is never given to somebody else. Run it again when it was interrupted.
    """
    store, account = _open(folder, address)
    settings, place = load_settings(folder), OperatorFolder(folder)
    messages = store.quota(account.id).messages_used
    if not yes:
        typer.echo(
            f"{account.address} ({account.display_name}) : {messages} messages supprimés pour toujours / for ever."
        )
        if (
            typer.prompt("Retaper l'adresse pour confirmer / type the address again", default="").strip()
            != account.address
        ):
            raise UsageError("adresses différentes : rien n'est supprimé / not the same address: nothing was deleted")
    directory = open_directory(place, settings, write=True) if publish else None
    if directory:
        directory.check()
    columns = (TextColumn("suppression / deleting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=messages)
        gone = store.erase_account(account.address, now(), lambda done, _: bar.update(task, completed=done))
    if directory:
        directory.remove(account.address)
    done(f"{account.address} supprimée : {gone} messages / deleted. La trace reste / the trail stays.")


@app.command()
def unlock(address: AddressArgument, folder: FolderOption = Path()) -> None:
    """Lève le verrou posé après trop de mauvais mots de passe / lift the lock set after too many wrong passwords."""
    _open(folder, address)[0].unlock(address)
    done(f"{address} déverrouillée / unlocked")


@app.command()
def totp(
    address: AddressArgument,
    off: Annotated[bool, typer.Option("--off", help="Ne plus demander de second facteur / no second factor.")] = False,
    stdin: Annotated[
        bool, typer.Option("--stdin", help="Lit le code sur l'entrée / read the code from stdin.")
    ] = False,
    folder: FolderOption = Path(),
) -> None:
    """Demande un second facteur (TOTP) à une boîte / ask a mailbox for a second factor.

    Ensuite, le mot de passe se tape suivi des six chiffres ; un client de messagerie reçoit un mot de passe d'application
    (caducee account app-password add). / The password is then typed with the six digits at its end.
    """
    store, _ = _open(folder, address)
    if off:
        store.set_totp(address, None)
        done(f"{address}: second facteur retiré / removed")
        return
    secret = pyotp.random_base32()
    typer.echo(pyotp.TOTP(secret).provisioning_uri(name=address, issuer_name="Caducée"))
    prompt = "Code montré par l'application / code shown by the application: "
    code = sys.stdin.readline().strip() if stdin else input(prompt).strip()
    if not pyotp.TOTP(secret).verify(code, for_time=now(), valid_window=1):
        raise UsageError("code faux : rien n'est changé / wrong code: nothing was changed")
    store.set_totp(address, secret)
    done(f"{address}: second facteur demandé / asked for")


@app_passwords.command("add")
def add_app_password(
    address: AddressArgument,
    label: Annotated[str, typer.Option(help="Pour quel client / for which client.")] = "",
    folder: FolderOption = Path(),
) -> None:
    """Tire un mot de passe pour un client de messagerie, montré cette seule fois / draw one, shown this once."""
    store, _ = _open(folder, address)
    typer.echo(store.add_app_password(address, label, now()))


@app_passwords.command("list")
def list_app_passwords(address: AddressArgument, folder: FolderOption = Path(), as_json: JsonOption = False) -> None:
    """Montre les mots de passe d'application / show the application passwords."""
    store, _ = _open(folder, address)
    rows = [
        {
            "numero": one.id,
            "client": one.label,
            "cree": one.created_at,
            "dernier_usage": one.last_used_at,
            "revoque": one.revoked_at,
        }
        for one in store.app_passwords(address)
    ]
    show(rows, as_json=as_json)


@app_passwords.command("revoke")
def revoke_app_password(
    address: AddressArgument,
    number: Annotated[int, typer.Argument(help="Son numéro dans la liste / its number in the list.")],
    folder: FolderOption = Path(),
) -> None:
    """Révoque un mot de passe d'application / revoke an application password."""
    store, _ = _open(folder, address)
    store.revoke_app_password(address, number, now())
    done(f"mot de passe d'application {number} révoqué / revoked")


def _open(folder: Path, address: str) -> tuple[Store, Account]:
    """The store, and a mailbox that exists."""
    store = open_store(OperatorFolder(folder), load_settings(folder))
    account = store.find_account(address)
    if account is None:
        raise UsageError(
            f"{address}: boîte inconnue / unknown mailbox. « caducee account list » les montre / shows them."
        )
    return store, account


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
