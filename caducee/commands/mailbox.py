"""`caducee mailbox`: what is in mailboxes. Import and export, folders, quota, retention, sharing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from caducee import mailfiles
from caducee.commands.common import FolderOption, JsonOption, done, show
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.settings import load_settings
from caducee.wiring import now, open_store
from mailstore import Account, Event, FolderExists, NewMessage, NoSuchFolder, Store

app = typer.Typer(
    no_args_is_help=True,
    help="Contenu des boîtes : import, export, dossiers, quota, conservation, partage / what mailboxes hold.",
)
AddressArgument = Annotated[str, typer.Argument(help="Adresse de la boîte / the mailbox's address.")]
NameOption = Annotated[str, typer.Option("--folder", "-f", help="Dossier de la boîte / folder of the mailbox.")]
_AT_ONCE = 100
_BYTES_AT_ONCE = 8 * 1024 * 1024


class FileFormat(StrEnum):
    """Forms of exported mailboxes."""

    MBOX = "mbox"
    MAILDIR = "maildir"


@app.command("import")
def import_mail(
    address: AddressArgument,
    source: Annotated[Path, typer.Argument(help="Fichier mbox, ou dossier Maildir / an mbox file or a Maildir.")],
    name: NameOption = "INBOX",
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Importe un mbox ou un Maildir, avec indicateurs et dates / import an mbox or a Maildir, flags and dates kept.

    Les sous-dossiers d'un Maildir deviennent des sous-dossiers. Un message que le dossier contient déjà n'est pas importé
    deux fois : un import interrompu se recommence. / An import that was interrupted can be run again.
    """
    if not source.is_file() and not mailfiles.is_maildir(source):
        raise UsageError(f"{source}: ni fichier mbox ni Maildir / neither an mbox file nor a Maildir")
    store = _store(folder)
    account = _account(store, address)
    counts = {"imported": 0, "present": 0}
    with _progress(mailfiles.size_of(source), quiet=as_json) as advance:
        try:
            for batch in _batches(mailfiles.read_mailbox(source)):
                _import_batch(store, account, name, batch, counts)
                advance(sum(len(one.content) for one in batch))
        except mailfiles.TooLarge as error:
            raise UsageError(f"{error}: message de plus de 100 Mio / message over 100 MiB") from None
    store.record([Event("mailbox.imported", {"mailbox": address, "messages": str(counts["imported"])})], at=now())
    if as_json:
        show([counts], as_json=True)
    else:
        done(f"{counts['imported']} messages importés, {counts['present']} déjà là / imported, already there")


@app.command("export")
def export_mail(
    address: AddressArgument,
    target: Annotated[Path, typer.Argument(help="Fichier ou dossier à créer / file or folder to create.")],
    name: NameOption = "INBOX",
    form: Annotated[FileFormat, typer.Option("--format", help="Forme / format.")] = FileFormat.MBOX,
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Exporte un dossier, EN CLAIR / export a folder, IN CLEAR.

    Ce qui est écrit n'est plus protégé par l'opérateur : choisir où / what is written is no longer protected.
    """
    if target.exists():
        raise UsageError(f"{target}: existe déjà / exists already")
    store = _store(folder)
    account = _account(store, address)
    view = store.view(store.folder(account.id, name).id)
    store.record([Event("mailbox.exported", {"mailbox": address, "messages": str(len(view.uids))})], at=now())
    messages = (
        mailfiles.FiledMessage(store.read_blob(blob), flags, date)
        for blob, flags, date in zip(view.blobs, view.flags, view.dates, strict=True)
    )
    with _progress(sum(view.sizes), quiet=as_json) as advance:
        if form is FileFormat.MAILDIR:
            mailfiles.create_maildir(target)
            for number, message in enumerate(messages):
                mailfiles.write_maildir(target, message, number)
                advance(len(message.content))
        else:
            with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                for message in messages:
                    mailfiles.write_mbox(file, message)
                    advance(len(message.content))
    if as_json:
        show([{"exported": len(view.uids)}], as_json=True)
    else:
        done(f"{len(view.uids)} messages exportés en clair dans {target} / exported in clear")


@app.command("folders")
def folders(address: AddressArgument, folder: FolderOption = Path(), as_json: JsonOption = False) -> None:
    """Montre les dossiers, leurs messages et leur conservation / show folders, messages and retention."""
    store = _store(folder)
    rows = [
        {
            "dossier": one.name,
            "usage": one.special_use,
            "messages": one.total,
            "non_lus": one.unseen,
            "octets": one.size,
            "conservation_jours": one.retention_days,
        }
        for one in store.folders(_account(store, address).id)
    ]
    show(rows, as_json=as_json)


@app.command("quota")
def quota(
    address: AddressArgument,
    mib: Annotated[
        int | None, typer.Option(help="Limite en Mio, 0 sans limite / limit in MiB, 0 for none.", min=0)
    ] = None,
    messages: Annotated[int | None, typer.Option(help="Nombre de messages, 0 sans limite / messages.", min=0)] = None,
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Montre ou change le quota d'une boîte (RFC 9208) / show or change a mailbox's quota."""
    store = _store(folder)
    account = _account(store, address)
    current = store.quota(account.id)
    if mib is not None or messages is not None:
        size = current.bytes_limit if mib is None else (mib * 1024 * 1024 or None)
        store.set_quota(account.id, size, current.messages_limit if messages is None else (messages or None))
        current = store.quota(account.id)
    row = {
        "octets": current.bytes_used,
        "limite_octets": current.bytes_limit,
        "messages": current.messages_used,
        "limite_messages": current.messages_limit,
    }
    show([row], as_json=as_json)


@app.command("retention")
def retention(
    address: AddressArgument,
    name: NameOption,
    days: Annotated[int, typer.Option(help="Jours de conservation, 0 pour tout garder / days kept, 0 for all.", min=0)],
    folder: FolderOption = Path(),
) -> None:
    """Fixe la conservation d'un dossier : au-delà, les messages sont supprimés / how long a folder keeps messages."""
    store = _store(folder)
    store.set_retention(_account(store, address).id, name, days or None)
    done(f"{name}: {f'{days} jours / days' if days else 'tout est gardé / everything is kept'}")


@app.command("share")
def share(
    address: AddressArgument,
    reader: Annotated[str, typer.Option("--with", help="Adresse de la boîte qui lira / the reader's mailbox.")],
    rights: Annotated[
        str, typer.Option(help="Droits RFC 4314 ; vide pour tout retirer / rights, empty for none.")
    ] = "lrswi",
    name: Annotated[str, typer.Option("--folder", "-f", help="Un seul dossier / one folder only.")] = "",
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Donne accès à une boîte partagée (ORG, CAB), chacun gardant ses « lus » / share a mailbox, own \\\\Seen each."""
    store = _store(folder)
    account = _account(store, address)
    if name:
        store.set_acl(store.folder(account.id, name).id, reader, rights)
    else:
        store.share(account.id, reader, rights)
    store.record([Event("mailbox.shared", {"mailbox": address, "reader": reader, "rights": rights})], at=now())
    rows = [
        {"dossier": one.name, "boîte": who, "droits": what}
        for one in store.folders(account.id)
        for who, what in store.acl(one.id).items()
    ]
    show(rows, as_json=as_json)


def _import_batch(
    store: Store, account: Account, name: str, batch: list[mailfiles.FiledMessage], counts: dict[str, int]
) -> None:
    """Import messages of one sub-folder in one transaction, without those already there."""
    target = f"{name}/{batch[0].folder}" if batch[0].folder else name
    _ensure(store, account, target)
    present = store.present(account.id, target, [one.content for one in batch])
    fresh = [
        NewMessage(one.content, one.flags, one.date or now())
        for one, there in zip(batch, present, strict=True)
        if not there
    ]
    if fresh:
        store.append_messages(account.id, target, fresh, now())
    counts["imported"] += len(fresh)
    counts["present"] += len(batch) - len(fresh)


def _ensure(store: Store, account: Account, name: str) -> None:
    levels = name.split("/")
    for depth in range(1, len(levels) + 1):
        wanted = "/".join(levels[:depth])
        try:
            store.folder(account.id, wanted)
        except NoSuchFolder:
            try:
                store.create_folder(account.id, wanted)
                store.subscribe(account.id, wanted, True)
            except FolderExists:
                continue


def _batches(messages: Iterator[mailfiles.FiledMessage]) -> Iterator[list[mailfiles.FiledMessage]]:
    """Messages of one sub-folder, a hundred or some megabytes at a time."""
    batch: list[mailfiles.FiledMessage] = []
    size = 0
    for one in messages:
        if batch and (len(batch) >= _AT_ONCE or size >= _BYTES_AT_ONCE or one.folder != batch[0].folder):
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += len(one.content)
    if batch:
        yield batch


@contextmanager
def _progress(total: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, for people only; gives the function that advances it by bytes."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda size: bar.advance(task, size)


def _store(folder: Path) -> Store:
    return open_store(OperatorFolder(folder), load_settings(folder))


def _account(store: Store, address: str) -> Account:
    account = store.find_account(address)
    if account is None:
        raise UsageError(
            f"{address}: boîte inconnue / unknown mailbox. « caducee account list » les montre / shows them."
        )
    return account
