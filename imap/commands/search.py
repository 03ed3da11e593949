"""SEARCH (RFC 3501 §6.4.4), with the results of RFC 4731 (ESEARCH) and RFC 7162 (MODSEQ)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from imap.errors import BadCommand
from imap.searching import Search as Evaluation
from imap.searching import uses_modseq
from imap.sequences import format_numbers
from imap.states import IN_FOLDER, Reply, Verb
from imap.summary import compute
from imap.summary import read as read_summary
from imap.values import Command, Key, Search
from mailstore import Store
from mailstore.model import FolderView, NoSuchMessage

if TYPE_CHECKING:
    from imap.session import Session


SUMMARIES_AT_ONCE = 200


def _snapshot(view: FolderView) -> FolderView:
    return FolderView(
        view.folder, view.uids[:], view.modseqs[:], view.flags[:], view.sizes[:], view.dates[:], view.blobs[:]
    )


def _reader(store: Store) -> Callable[[str, int, int | None], bytes]:
    def read(blob: str, start: int, stop: int | None) -> bytes:
        try:
            return store.read_blob(blob, start, stop)
        except NoSuchMessage:
            # Expunged meanwhile: it matches nothing.
            return b""

    return read


def _evaluate(store: Store, view: FolderView, key: Key, stop: threading.Event) -> list[int]:
    """Runs in a worker thread: even keys that read no message may be many, in a large folder."""
    read = _reader(store)

    lengths: dict[int, int] = {}

    def header_length(index: int) -> int:
        if index not in lengths:
            # Messages are tested in order: the summaries of the next ones are read with this one's.
            uids = view.uids[index : index + SUMMARIES_AT_ONCE]
            stored = store.summaries(view.folder.id, uids)
            for place, uid in enumerate(uids, index):
                if (summary := read_summary(stored.get(uid, b""))) is not None:
                    lengths[place] = summary.header_length
        if index not in lengths:
            lengths[index] = compute(read(view.blobs[index], 0, None)).header_length
        return lengths[index]

    return Evaluation(view, read, header_length, stop.is_set).run(key)


def _check_numbers(key: Key, count: int) -> None:
    if key.name == "SEQUENCE" and key.messages is not None and key.messages.beyond(count):
        raise BadCommand("no message has that number")
    for operand in key.operands:
        _check_numbers(operand, count)


def _plain(numbers: Iterable[int], modseq: int | None) -> bytes:
    text = "".join(f" {number}" for number in numbers)
    suffix = f" (MODSEQ {modseq})" if modseq is not None and text else ""
    return f"* SEARCH{text}{suffix}\r\n".encode("ascii")


def _extended(tag: str, uid: bool, numbers: Sequence[int], options: frozenset[str], modseq: int | None) -> bytes:
    pieces = [f'* ESEARCH (TAG "{tag}")']
    if uid:
        pieces.append("UID")
    if numbers and "MIN" in options:
        pieces.append(f"MIN {numbers[0]}")
    if numbers and "MAX" in options:
        pieces.append(f"MAX {numbers[-1]}")
    if numbers and "ALL" in options:
        pieces.append(f"ALL {format_numbers(numbers)}")
    if "COUNT" in options:
        pieces.append(f"COUNT {len(numbers)}")
    if numbers and modseq is not None:
        pieces.append(f"MODSEQ {modseq}")
    return " ".join(pieces).encode("ascii") + b"\r\n"


async def _search(session: Session, command: Command) -> Reply:
    arguments = command.arguments
    if not isinstance(arguments, Search):
        raise BadCommand("malformed SEARCH")
    view = session.folder.view
    _check_numbers(arguments.key, len(view.uids))
    stop = threading.Event()
    try:
        async with session.server.searches:
            found = await session.call(_evaluate, session.store, _snapshot(view), arguments.key, stop)
    finally:
        # When the session is cancelled, the worker thread must not search on.
        stop.set()
    modseq = None
    if uses_modseq(arguments.key):
        session.condstore = True
        modseq = max((view.modseqs[index] for index in found), default=0)
    numbers = [view.uids[index] if command.uid else index + 1 for index in found]
    if arguments.returns is None:
        await session.send(_plain(numbers, modseq))
    else:
        await session.send(_extended(command.tag, command.uid, numbers, arguments.returns, modseq))
    return Reply("SEARCH completed")


VERBS = (Verb("SEARCH", IN_FOLDER, _search, expunge_allowed=False),)
