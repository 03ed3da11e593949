"""FETCH answers that need no content: many lines at once, from the arrays and the stored summaries.

Synchronous: large batches are made in worker threads. One format string a command, one pass over the columns a batch:
this is where a folder of 100,000 messages is listed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from imap import format as fmt
from imap.selected import Selected
from imap.summaries import Summaries
from imap.summary import Summary, read, read_envelope
from imap.values import Attribute
from mailstore import Store, email_id

_T = TypeVar("_T")
FROM_SUMMARY: dict[Attribute, Callable[[Summary], bytes]] = {
    Attribute.ENVELOPE: lambda summary: summary.envelope,
    Attribute.BODY: lambda summary: summary.body,
    Attribute.BODYSTRUCTURE: lambda summary: summary.structure,
    Attribute.PREVIEW: lambda summary: fmt.string(summary.keys().preview.encode("utf-8")),
}
FROM_DETAILS = frozenset({Attribute.SAVEDATE, Attribute.THREADID})


@dataclass(slots=True)
class Renderer:
    """Makes the items of messages. `recent` is whether \\Recent is told (IMAP4rev1 only)."""

    store: Store
    selected: Selected
    attributes: tuple[Attribute, ...]
    recent: bool
    summaries: Summaries

    def lines(self, indices: Sequence[int]) -> bytes:
        """The complete FETCH responses of these messages; those whose summary cannot be had are left out, and noted in
        `summaries`."""
        if any(attribute in FROM_SUMMARY for attribute in self.attributes):
            made = self._from_summaries(indices)
            indices = [index for index in indices if index in made]
        else:
            made = {}
        columns: list[Iterable[object]] = [[index + 1 for index in indices]]
        names: list[bytes] = []
        for place, attribute in enumerate(self.attributes):
            if attribute in FROM_SUMMARY:
                names.append(attribute.value.encode("ascii") + b" %b")
                columns.append([made[index][place] for index in indices])
            else:
                name, column = self._column(attribute, indices)
                names.append(name)
                columns.append(column)
        template = b"* %d FETCH (" + b" ".join(names) + b")\r\n"
        return b"".join([template % values for values in zip(*columns, strict=True)])

    def _column(self, attribute: Attribute, indices: Sequence[int]) -> tuple[bytes, Iterable[object]]:
        """The format of one item, and its values."""
        view = self.selected.view
        match attribute:
            case Attribute.FLAGS:
                return b"FLAGS %b", self.flags(indices)
            case Attribute.UID:
                return b"UID %d", _chosen(view.uids, indices)
            case Attribute.SIZE:
                return b"RFC822.SIZE %d", _chosen(view.sizes, indices)
            case Attribute.MODSEQ:
                return b"MODSEQ (%d)", _chosen(view.modseqs, indices)
            case Attribute.INTERNALDATE:
                return b"INTERNALDATE %b", [fmt.internal_date(date) for date in _chosen(view.dates, indices)]
            case Attribute.EMAILID:
                ids = [email_id(blob).encode("ascii") for blob in _chosen(view.blobs, indices)]
                return b"EMAILID (%b)", ids
        uids = _chosen(view.uids, indices)
        details = self.store.details(self.selected.folder_id, list(uids))
        found = [details.get(uid) for uid in uids]
        if attribute is Attribute.SAVEDATE:
            return b"SAVEDATE %b", [fmt.internal_date(one.saved_at) if one else b"NIL" for one in found]
        return b"THREADID %b", [b"(" + one.thread_id.encode("ascii") + b")" if one else b"NIL" for one in found]

    def flags(self, indices: Sequence[int]) -> list[bytes]:
        """The flag lists of these messages; equal sets are written once."""
        chosen = _chosen(self.selected.view.flags, indices)
        written = {flags: fmt.flags(flags) for flags in set(chosen)}
        out = [written[flags] for flags in chosen]
        if self.recent:
            uids = self.selected.view.uids
            for first, end in self.selected.recents:
                for index in range(bisect_left(uids, first), bisect_left(uids, end)):
                    place = bisect_left(indices, index)
                    if place < len(indices) and indices[place] == index:
                        out[place] = fmt.flags(chosen[place] | {"\\Recent"})
        return out

    def _from_summaries(self, indices: Sequence[int]) -> dict[int, list[bytes]]:
        """The items that come from summaries, by index, at their places among the attributes."""
        only_envelope = all(a not in FROM_SUMMARY or a is Attribute.ENVELOPE for a in self.attributes)
        stored = self.summaries.stored(indices)
        uids = self.selected.view.uids
        made: dict[int, list[bytes]] = {}
        fresh: dict[str, bytes] = {}
        width = len(self.attributes)
        for index in indices:
            value = stored.get(uids[index], b"")
            if only_envelope and (envelope := read_envelope(value)) is not None:
                made[index] = [envelope] * width
                continue
            summary = read(value) or self.summaries.compute(index, fresh)
            if summary is not None:
                made[index] = [
                    FROM_SUMMARY[attribute](summary) if attribute in FROM_SUMMARY else b""
                    for attribute in self.attributes
                ]
        self.summaries.keep(fresh)
        return made


def _chosen(column: Sequence[_T], indices: Sequence[int]) -> Sequence[_T]:
    """The values at ascending `indices`: a slice when they follow each other."""
    if indices and indices[-1] - indices[0] + 1 == len(indices):
        return column[indices[0] : indices[-1] + 1]
    return [column[index] for index in indices]
