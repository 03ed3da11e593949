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
from imap.summary import Summary, read_envelope
from imap.values import Attribute
from mailstore import Store, email_id
from mailstore.caches import Bounded

_T = TypeVar("_T")
FROM_SUMMARY: dict[Attribute, Callable[[Summary], bytes]] = {
    Attribute.ENVELOPE: lambda summary: summary.envelope,
    Attribute.BODY: lambda summary: summary.body,
    Attribute.BODYSTRUCTURE: lambda summary: summary.structure,
    Attribute.PREVIEW: lambda summary: fmt.string(summary.keys().preview.encode("utf-8")),
}
Envelopes = Bounded[str, bytes]
ENVELOPES_KEPT = 64 * 1024 * 1024
"""Bytes of envelopes that a server keeps in memory: some 130,000 messages."""
_OVERHEAD = 160  # bytes of memory that an entry takes besides its value
FROM_DETAILS = frozenset({Attribute.SAVEDATE, Attribute.THREADID})


@dataclass(slots=True)
class Renderer:
    """Makes the items of messages. `recent` is whether \\Recent is told (IMAP4rev1 only); `envelopes` are those read lately,
    by blob."""

    store: Store
    selected: Selected
    attributes: tuple[Attribute, ...]
    recent: bool
    summaries: Summaries
    envelopes: Envelopes

    @property
    def slow(self) -> bool:
        """Whether making lines reads the database: it must not hold up the other sessions. Arrays alone are quick."""
        return any(attribute in FROM_SUMMARY or attribute in FROM_DETAILS for attribute in self.attributes)

    def lines(self, indices: Sequence[int]) -> bytes:
        """The complete FETCH responses of these messages, as `each` makes them."""
        return b"".join(self.each(indices).values())

    def each(self, indices: Sequence[int]) -> dict[int, bytes]:
        """The complete FETCH response of each of these messages; those whose summary cannot be had are left out, and noted
        in `summaries`."""
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
        return dict(zip(indices, [template % values for values in zip(*columns, strict=True)], strict=True))

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
            recent = {flags: fmt.flags(flags | {"\\Recent"}) for flags in written}
            for first, end in self.selected.recents:
                start = bisect_left(indices, bisect_left(uids, first))
                for place in range(start, bisect_left(indices, bisect_left(uids, end))):
                    out[place] = recent[chosen[place]]
        return out

    def _from_summaries(self, indices: Sequence[int]) -> dict[int, list[bytes]]:
        """The items that come from summaries, by index, at their places among the attributes."""
        wanted = [FROM_SUMMARY.get(attribute) for attribute in self.attributes]
        if all(a not in FROM_SUMMARY or a is Attribute.ENVELOPE for a in self.attributes):
            return {index: [envelope] * len(wanted) for index, envelope in self._envelopes(indices).items()}
        return {
            index: [item(summary) if item else b"" for item in wanted]
            for index, summary in self.summaries.of(indices).items()
        }

    def _envelopes(self, indices: Sequence[int]) -> dict[int, bytes]:
        """ENVELOPE alone, by index: what listing a large folder asks of every message."""
        blobs, uids = self.selected.view.blobs, self.selected.view.uids
        known = self.envelopes.values
        found = {index: known.get(blobs[index]) for index in indices}
        missing = [index for index, envelope in found.items() if envelope is None]
        if missing:
            stored = self.summaries.stored(missing)
            read = {index: read_envelope(stored.get(uids[index], b"")) for index in missing}
            old = [index for index, envelope in read.items() if envelope is None]
            if old:
                read |= {index: summary.envelope for index, summary in self.summaries.of(old).items()}
            found |= read
            fresh = ((blobs[index], envelope) for index, envelope in read.items() if envelope is not None)
            self.envelopes.put_all([(blob, envelope, len(envelope) + _OVERHEAD) for blob, envelope in fresh])
        return {index: envelope for index, envelope in found.items() if envelope is not None}


def _chosen(column: Sequence[_T], indices: Sequence[int]) -> Sequence[_T]:
    """The values at ascending `indices`: a slice when they follow each other."""
    if indices and indices[-1] - indices[0] + 1 == len(indices):
        return column[indices[0] : indices[-1] + 1]
    return [column[index] for index in indices]
