"""`caducee mailbox`: what is in mailboxes. Import and export, folders, quota, retention, sharing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from caducee import maildir, mailfiles
from caducee.commands.common import FolderOption, JsonOption, done, show
from caducee.errors import UsageError
from caducee.folder import OperatorFolder
from caducee.mailtransfer import (
    batches,
    below,
    check_names,
    export_all,
    export_maildir,
    export_mbox,
    import_batch,
    whole_mailbox,
)
from caducee.settings import load_settings
from caducee.wiring import now, open_store
from mailstore import Account, Event, Store

app = typer.Typer(
    no_args_is_help=True,
    help="Contenu des boîtes : import, export, dossiers, quota, conservation, partage / what mailboxes hold.",
)
AddressArgument = Annotated[str, typer.Argument(help="Adresse de la boîte / the mailbox's address.")]
NameOption = Annotated[str, typer.Option("--folder", "-f", help="Dossier de la boîte / folder of the mailbox.")]


class FileFormat(StrEnum):
    """Forms of exported mailboxes."""

    MBOX = "mbox"
    MAILDIR = "maildir"


@app.command("import")
def import_mail(
    address: AddressArgument,
    source: Annotated[Path, typer.Argument(help="Fichier mbox, ou dossier Maildir / an mbox file or a Maildir.")],
    name: NameOption = "INBOX",
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Un Maildir entier : ses sous-dossiers gardent leur place, Sent devient Envoyés / a whole Maildir.",
        ),
    ] = False,
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Importe un mbox ou un Maildir, avec indicateurs et dates / import an mbox or a Maildir, flags and dates kept.

    Les sous-dossiers d'un Maildir vont sous --folder ; avec --all, à côté d'INBOX.
    Un import interrompu se recommence : rien n'est importé deux fois.
    / Sub-folders go below --folder or, with --all, beside INBOX.
    An import that was interrupted can be run again: nothing is doubled.
    """
    is_maildir = maildir.is_maildir(source)
    if not source.is_file() and not is_maildir:
        raise UsageError(f"{source}: ni fichier mbox ni Maildir / neither an mbox file nor a Maildir")
    if everything and (not is_maildir or name != "INBOX"):
        raise UsageError("--all : un Maildir, sans --folder / --all takes a Maildir, and no --folder")
    store = _store(folder)
    account = _account(store, address)
    place = whole_mailbox(store.folders(account.id)) if everything else below(name)
    counts = {"imported": 0, "present": 0}
    messages = maildir.read(source) if is_maildir else mailfiles.read_mbox(source)
    total = maildir.size(source) if is_maildir else source.stat().st_size
    with _progress(total, quiet=as_json) as advance:
        try:
            for batch in batches(messages):
                import_batch(store, account, place(batch[0].folder), batch, counts)
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
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Toute la boîte, en un Maildir et ses sous-dossiers / the whole mailbox, a Maildir."
        ),
    ] = False,
    form: Annotated[FileFormat, typer.Option("--format", help="Forme / format.")] = FileFormat.MBOX,
    folder: FolderOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Exporte un dossier ou, avec --all, toute la boîte, EN CLAIR / export a folder or the whole mailbox, IN CLEAR.

    Ce qui est écrit n'est plus protégé par l'opérateur : choisir où / what is written is no longer protected.
    """
    if target.exists():
        raise UsageError(f"{target}: existe déjà / exists already")
    if everything and name != "INBOX":
        raise UsageError("--all : sans --folder / --all takes no --folder")
    store = _store(folder)
    account = _account(store, address)
    chosen = store.folders(account.id) if everything else [store.folder(account.id, name)]
    if everything or form is FileFormat.MAILDIR:
        check_names([one.name for one in chosen])
    count = sum(one.total for one in chosen)
    store.record([Event("mailbox.exported", {"mailbox": address, "messages": str(count)})], at=now())
    lost: set[str] = set()
    with _progress(sum(one.size for one in chosen), quiet=as_json) as advance:
        if everything:
            lost = export_all(store, chosen, target, advance)
        elif form is FileFormat.MAILDIR:
            lost = export_maildir(store, chosen[0], maildir.Maildir(target), advance)
        else:
            export_mbox(store, chosen[0], target, advance)
    if as_json:
        show([{"exported": count, "keywords_lost": sorted(lost)}], as_json=True)
        return
    done(f"{count} messages exportés en clair dans {target} / exported in clear")
    if lost:
        done(f"sans place dans un Maildir / no room for these keywords in a Maildir : {', '.join(sorted(lost))}")


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
