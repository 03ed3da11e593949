"""SEARCH, SORT, THREAD (RFC 9051 §6.4.4, RFC 5256), with the results of RFC 4731 (ESEARCH), 5182 ($), 5267 (ESORT) and
7162 (MODSEQ)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from imap.errors import BadCommand, Refused
from imap.grammar_search import unknown_charset
from imap.keys import NO_KEYS
from imap.searching import Evaluation, check_numbers, uses_modseq
from imap.sequences import format_numbers
from imap.sorting import NEEDS_KEYS, in_order, sent_at
from imap.states import IN_FOLDER, Reply, Verb
from imap.threads import Letter, ordered_subject, references
from imap.values import Command, Key, Search, Sort, Thread
from mailstore.model import FolderView, StoreError

if TYPE_CHECKING:
    from imap.session import Session

_T = TypeVar("_T")


async def _evaluate(session: Session, key: Key, work: Callable[[Evaluation, list[int]], _T]) -> _T:
    """Searches, and does `work` on what was found, in a worker thread; few do so at once."""
    selected = session.folder
    check_numbers(key, selected.count)
    stop = threading.Event()
    evaluation = Evaluation(
        session.store,
        selected.share(),
        session.server.clock(),
        selected.found,
        tuple(selected.recents),
        stop.is_set,
    )
    try:
        async with session.server.searches:
            return await session.call(lambda: work(evaluation, evaluation.run(key)))
    finally:
        # When the session is cancelled, the worker thread must not search on.
        stop.set()


def _modseq(view: FolderView, found: Sequence[int], options: frozenset[str] | None) -> int | None:
    """The modseq to tell with a result: the highest of the messages told (RFC 7162 §3.1.10, RFC 4731 §3.2)."""
    told: Iterable[int] = found
    if options is not None and not options & {"ALL", "COUNT", "SAVE"}:
        told = [found[place] for place, option in ((0, "MIN"), (-1, "MAX")) if found and option in options]
    return max((view.modseqs[index] for index in told), default=None)


def _extended(command: Command, numbers: Sequence[int], options: frozenset[str], modseq: int | None) -> bytes:
    """An ESEARCH response."""
    pieces = [f'* ESEARCH (TAG "{command.tag}")']
    if command.uid:
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


def _save(session: Session, found: Sequence[int], options: frozenset[str]) -> None:
    """RFC 5182 §2.1: with only MIN or MAX beside it, SAVE keeps only those messages."""
    kept = set(found)
    if options & {"MIN", "MAX"} and not options & {"ALL", "COUNT"}:
        kept = {found[place] for place, option in ((0, "MIN"), (-1, "MAX")) if found and option in options}
    session.folder.found = tuple(session.folder.view.uids[index] for index in sorted(kept))


async def _answer(
    session: Session, command: Command, found: Sequence[int], options: frozenset[str] | None, *, with_modseq: bool
) -> None:
    """Sends what SEARCH or SORT found, in its order."""
    view = session.folder.view
    numbers = [view.uids[index] for index in found] if command.uid else [index + 1 for index in found]
    modseq = _modseq(view, found, options) if with_modseq else None
    if options is not None and "SAVE" in options:
        _save(session, found, options)
        if options == {"SAVE"}:
            return
    if options is None and command.name == "SEARCH" and session.rev2:
        options = frozenset({"ALL"})  # RFC 9051 §6.4.4: the untagged SEARCH is gone
    if options is not None:
        await session.send(_extended(command, numbers, options, modseq))
        return
    suffix = f" (MODSEQ {modseq})" if modseq is not None and numbers else ""
    text = " ".join([f"* {command.name}", *map(str, numbers)])
    await session.send((text + suffix).encode("ascii") + b"\r\n")


async def _search(session: Session, command: Command) -> Reply:
    arguments = command.arguments
    if not isinstance(arguments, Search):
        raise BadCommand("malformed SEARCH")
    if arguments.charset and session.utf8 and not session.rev2:
        raise BadCommand("no CHARSET after ENABLE UTF8=ACCEPT")  # RFC 6855 §3
    with_modseq = uses_modseq(arguments.key)
    if with_modseq:
        session.enable("CONDSTORE")
    try:
        if not arguments.readable:
            raise unknown_charset()
        found = await _evaluate(session, arguments.key, lambda _, found: found)
    except (StoreError, Refused):
        if arguments.returns is not None and "SAVE" in arguments.returns:
            session.folder.found = ()  # RFC 5182 §2.1: a search that fails with NO leaves nothing in $
        raise
    await _answer(session, command, found, arguments.returns, with_modseq=with_modseq)
    return Reply("SEARCH completed")


async def _sort(session: Session, command: Command) -> Reply:
    arguments = command.arguments
    if not isinstance(arguments, Sort):
        raise BadCommand("malformed SORT")

    def order(evaluation: Evaluation, found: list[int]) -> list[int]:
        needed = any(criterion.name in NEEDS_KEYS for criterion in arguments.criteria)
        keys = evaluation.load_keys(found) if needed else {}
        return in_order(found, arguments.criteria, evaluation.view, keys)

    with_modseq = uses_modseq(arguments.key)
    if with_modseq:
        session.enable("CONDSTORE")
    found = await _evaluate(session, arguments.key, order)
    await _answer(session, command, found, arguments.returns, with_modseq=with_modseq)
    return Reply("SORT completed")


async def _thread(session: Session, command: Command) -> Reply:
    arguments = command.arguments
    if not isinstance(arguments, Thread):
        raise BadCommand("malformed THREAD")

    def threads(evaluation: Evaluation, found: list[int]) -> bytes:
        keys, view = evaluation.load_keys(found), evaluation.view
        letters = []
        for index in found:
            one = keys.get(index, NO_KEYS)
            number = view.uids[index] if command.uid else index + 1
            sent = sent_at(view, keys, index)
            letters.append(Letter(number, one.message_id, one.references, one.subject, one.is_reply, sent))
        return ordered_subject(letters) if arguments.algorithm == "ORDEREDSUBJECT" else references(letters)

    if uses_modseq(arguments.key):
        session.enable("CONDSTORE")
    text = await _evaluate(session, arguments.key, threads)
    await session.send(b"* THREAD" + (b" " + text if text else b"") + b"\r\n")
    return Reply("THREAD completed")


VERBS = (
    Verb("SEARCH", IN_FOLDER, _search, expunge_allowed=False),
    Verb("SORT", IN_FOLDER, _sort, expunge_allowed=False),
    Verb("THREAD", IN_FOLDER, _thread, expunge_allowed=False),
)
