"""Folders of a mailbox to and from files, for `caducee mailbox import` and `export`.

Invariants: a message that a folder holds already is not added again, so that an import that was cut can be run again; what is
written is made new, never over something that is there; memory holds some megabytes, whatever the size of the mailbox.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from caducee.errors import UsageError
from caducee.maildir import LONGEST_NAME, Maildir, folder_name
from caducee.mailfiles import FiledMessage, write_mbox
from caducee.wiring import now
from mailstore import Account, Folder, FolderExists, NewMessage, NoSuchFolder, Store

_AT_ONCE = 100
_BYTES_AT_ONCE = 8 * 1024 * 1024
_INBOX = "INBOX"
_OTHER_NAMES = {
    "\\Sent": ("sent", "sent items", "sent messages", "sent-mail", "éléments envoyés", "messages envoyés"),
    "\\Drafts": ("drafts", "draft"),
    "\\Trash": ("trash", "deleted items", "deleted messages", "éléments supprimés"),
    "\\Junk": ("junk", "junk e-mail", "spam", "courrier indésirable", "pourriel"),
    "\\Archive": ("archive",),
}
"""Names that mail programs give to the folders of RFC 6154, in lower case."""

Advance = Callable[[int], None]


def below(name: str) -> Callable[[str], str]:
    """Where the sub-folders of a Maildir go: below one folder of the mailbox."""
    return lambda inner: f"{name}/{inner}" if inner else name


def whole_mailbox(folders: Iterable[Folder]) -> Callable[[str], str]:
    """Where they go when the Maildir is a whole mailbox: each keeps its name, and what another program called Sent goes into
    the folder that is \\Sent here."""
    uses = {one.special_use: one.name for one in folders if one.special_use}
    ours = {other: uses[use] for use, names in _OTHER_NAMES.items() if use in uses for other in names}

    def place(inner: str) -> str:
        top, slash, rest = inner.partition("/")
        return ours.get(top.lower(), top) + slash + rest if inner else _INBOX

    return place


def batches(messages: Iterator[FiledMessage]) -> Iterator[list[FiledMessage]]:
    """Messages of one sub-folder, a hundred or some megabytes at a time."""
    batch: list[FiledMessage] = []
    size = 0
    for one in messages:
        if batch and (len(batch) >= _AT_ONCE or size >= _BYTES_AT_ONCE or one.folder != batch[0].folder):
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += len(one.content)
    if batch:
        yield batch


def import_batch(
    store: Store, account: Account, target: str, batch: list[FiledMessage], counts: dict[str, int]
) -> None:
    """Add messages to a folder, made when it is not there, in one transaction, without those it holds; `counts` them."""
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


def check_names(names: Iterable[str]) -> None:
    """Raise UsageError, before anything is written, for a folder whose name no file can bear."""
    for name in names:
        if len(folder_name(name)) > LONGEST_NAME:
            raise UsageError(
                f"{name}: nom trop long pour un Maildir, le renommer / too long a name for a Maildir, rename it"
            )


def export_all(store: Store, folders: Iterable[Folder], target: Path, advance: Advance) -> set[str]:
    """Write a whole mailbox into a new Maildir, INBOX at its top; returns the keywords that found no place."""
    top = Maildir(target)
    lost: set[str] = set()
    for folder in folders:
        lost |= export_maildir(store, folder, top if folder.name == _INBOX else top.below(folder.name), advance)
    return lost


def export_maildir(store: Store, folder: Folder, target: Maildir, advance: Advance) -> set[str]:
    """Write a folder's messages; returns the keywords that found no place."""
    for message in _messages(store, folder):
        target.write(message)
        advance(len(message.content))
    return target.lost


def export_mbox(store: Store, folder: Folder, target: Path, advance: Advance) -> None:
    """Write a folder's messages into a new file."""
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        for message in _messages(store, folder):
            write_mbox(file, message)
            advance(len(message.content))


def _messages(store: Store, folder: Folder) -> Iterator[FiledMessage]:
    view = store.view(folder.id)
    for blob, flags, date in zip(view.blobs, view.flags, view.dates, strict=True):
        yield FiledMessage(store.read_blob(blob), flags, date)
