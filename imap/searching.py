"""Evaluates a search program over a folder (RFC 9051 §6.4.4). Synchronous: it runs in a worker thread.

Each key filters ascending indices, cheap keys before dear ones, so that text is looked for, in the store's index, only in
the messages that the other keys let through. Encrypted content is not searched: the server cannot read it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from imap.errors import BadCommand
from imap.grammar_search import FLAG_KEYS
from imap.keys import Keys
from imap.summaries import Summaries
from imap.values import Key
from mailstore import Details, SearchPart, Store, email_id
from mailstore.model import FolderView

_HEADER_KEYS = {"BCC": "bcc", "CC": "cc", "FROM": "from", "SUBJECT": "subject", "TO": "to"}
# What a key costs for one message: nothing, a row of the database, its text.
_COST = {
    **dict.fromkeys(("SENTBEFORE", "SENTON", "SENTSINCE"), 2),
    **dict.fromkeys(("SAVEDBEFORE", "SAVEDON", "SAVEDSINCE", "THREADID"), 1),
    **dict.fromkeys((*_HEADER_KEYS, "HEADER"), 3),
    **dict.fromkeys(("BODY", "TEXT"), 4),
}


def uses_modseq(key: Key) -> bool:
    """Whether MODSEQ is among the keys: the answer then carries the highest modseq (RFC 7162 §3.1.5)."""
    return key.name == "MODSEQ" or any(map(uses_modseq, key.operands))


def check_numbers(key: Key, count: int) -> None:
    """Refuses a sequence number that no message has (BadCommand)."""
    if key.name == "SEQUENCE" and key.messages is not None and key.messages.beyond(count):
        raise BadCommand("no message has that number")
    for operand in key.operands:
        check_numbers(operand, count)


def _cost(key: Key) -> int:
    return max([_COST.get(key.name, 0), *map(_cost, key.operands)])


@dataclass(slots=True)
class Evaluation:
    """One search. `view` is the caller's own copy, `found` the UIDs of `$`, `recents` the ranges of \\Recent UIDs;
    `stopped` says that nobody waits for the answer any more."""

    store: Store
    view: FolderView
    now: datetime
    found: tuple[int, ...]
    recents: tuple[tuple[int, int], ...]
    stopped: Callable[[], bool]
    _keys: dict[int, Keys] = field(default_factory=dict)
    _details: dict[int, Details] = field(default_factory=dict)

    def run(self, key: Key) -> list[int]:
        """Indices of the messages found, ascending. Raises what the store raises, SearchStopped among it."""
        return self._filter(key, list(range(len(self.view.uids))))

    def _filter(self, key: Key, indices: list[int]) -> list[int]:
        if not indices:
            return indices
        name = key.name
        if name == "AND":
            for operand in sorted(key.operands, key=_cost):
                indices = self._filter(operand, indices)
            return indices
        if name == "OR":
            first, second = sorted(key.operands, key=_cost)
            left = self._filter(first, indices)
            if len(left) == len(indices):
                return left
            taken = set(left)
            right = self._filter(second, [index for index in indices if index not in taken])
            return sorted(left + right) if right else left
        if name == "NOT":
            taken = set(self._filter(key.operands[0], indices))
            return [index for index in indices if index not in taken] if taken else indices
        return self._leaf(key, indices)

    def _leaf(self, key: Key, indices: list[int]) -> list[int]:
        """A key without operands."""
        name = key.name
        if name in FLAG_KEYS:
            return self._with_flag(*FLAG_KEYS[name], indices)
        if name in ("KEYWORD", "UNKEYWORD"):
            return self._with_flag(key.text, name == "KEYWORD", indices)
        if name in ("UID", "SEQUENCE"):
            return self._in_set(key, indices)
        if name in _HEADER_KEYS:
            return self._text(SearchPart.HEADER, key.text, indices, _HEADER_KEYS[name])
        if name == "HEADER":
            return self._text(SearchPart.HEADER, key.text, indices, key.field)
        if name in ("BODY", "TEXT"):
            return self._text(SearchPart(name.lower()), key.text, indices) if key.text else indices
        if name in ("RECENT", "NEW", "OLD"):
            recent = self._recent(indices)
            if name == "OLD":
                return [index for index in indices if index not in recent]
            kept = [index for index in indices if index in recent]
            return kept if name == "RECENT" else self._with_flag("\\Seen", False, kept)
        if name in ("ALL", "SAVEDATESUPPORTED"):
            return indices
        test = self._test(key, indices)
        return [index for index in indices if test(index)]

    def _with_flag(self, flag: str, wanted: bool, indices: list[int]) -> list[int]:
        """Sets of flags are few and shared: each is looked at once. Keywords have no letter case (RFC 9051 §2.3.2)."""
        flags, low = self.view.flags, flag.lower()
        right = {one for one in set(flags) if (low in {flag.lower() for flag in one}) is wanted}
        return [index for index in indices if flags[index] in right] if right else []

    def _in_set(self, key: Key, indices: list[int]) -> list[int]:
        messages, uids = key.messages, self.view.uids
        if messages is None:
            return []
        if messages.saved:
            known = set(self.found)
            return [index for index in indices if uids[index] in known]
        numbers = uids if key.name == "UID" else range(1, len(uids) + 1)
        named = messages.indices(numbers)
        if len(indices) == len(uids):
            return named
        kept = set(named)
        return [index for index in indices if index in kept]

    def _recent(self, indices: list[int]) -> set[int]:
        uids = self.view.uids
        found: set[int] = set()
        for first, end in self.recents:
            found.update(range(bisect_left(uids, first), bisect_left(uids, end)))
        return found

    def _text(self, part: SearchPart, needle: str, indices: list[int], field: str = "") -> list[int]:
        uids = self.view.uids
        whole = len(indices) == len(uids)
        hits = self.store.search_text(
            self.view.folder.id,
            part,
            needle,
            uids=None if whole else [uids[index] for index in indices],
            field=field,
            stopped=self.stopped,
        )
        return self._indices(hits)

    def _indices(self, hits: Iterable[int]) -> list[int]:
        """Where these UIDs are; those that came after the view was made are passed over."""
        uids = self.view.uids
        found: list[int] = []
        place = 0
        for uid in hits:
            place = bisect_left(uids, uid, place)
            if place < len(uids) and uids[place] == uid:
                found.append(place)
        return found

    def _test(self, key: Key, indices: list[int]) -> Callable[[int], bool]:
        """The test of a key that looks at one value of each message."""
        view, name, number, day = self.view, key.name, key.number, key.day
        match name:
            case "MODSEQ":
                return lambda index: view.modseqs[index] >= number
            case "LARGER":
                return lambda index: view.sizes[index] > number
            case "SMALLER":
                return lambda index: view.sizes[index] < number
            case "OLDER":
                # RFC 5032 §3: the interval counts back from now.
                limit = self.now - timedelta(seconds=number)
                return lambda index: view.dates[index] <= limit
            case "YOUNGER":
                limit = self.now - timedelta(seconds=number)
                return lambda index: view.dates[index] >= limit
            case "EMAILID":
                return lambda index: email_id(view.blobs[index]) == key.text
            case "THREADID":
                details = self._load_details(indices)
                return lambda index: index in details and details[index].thread_id == key.text
        if name.startswith("SAVED"):
            details = self._load_details(indices)
            kind = name.removeprefix("SAVED")
            return lambda index: index in details and _compare(kind, _day(details[index].saved_at), day)
        if name.startswith("SENT"):
            keys = self.load_keys(indices)
            kind = name.removeprefix("SENT")
            return lambda index: index in keys and _compare(kind, keys[index].sent_day, day)
        return lambda index: _compare(name, _day(view.dates[index]), day)

    def load_keys(self, indices: Iterable[int]) -> dict[int, Keys]:
        """Sort keys by index; what cannot be read has none."""
        missing = [index for index in indices if index not in self._keys]
        for index, summary in Summaries(self.store, self.view).each(missing, self.stopped):
            self._keys[index] = summary.keys()
        return self._keys

    def _load_details(self, indices: Iterable[int]) -> dict[int, Details]:
        missing = [index for index in indices if index not in self._details]
        uids = self.view.uids
        found = self.store.details(self.view.folder.id, [uids[index] for index in missing])
        for index in missing:
            if uids[index] in found:
                self._details[index] = found[uids[index]]
        return self._details


def _day(moment: datetime) -> date:
    return moment.astimezone(UTC).date()


def _compare(kind: str, day: date | None, limit: date | None) -> bool:
    if day is None or limit is None:
        return False
    if kind == "BEFORE":
        return day < limit
    return day == limit if kind == "ON" else day >= limit
