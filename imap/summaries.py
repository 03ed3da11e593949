"""Summaries of many messages: read from the store by batches; made anew, and put back, where they are of an old version.

Synchronous: used in worker threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from imap.summary import Summary, compute, encode, read
from mailstore import SearchStopped, Store
from mailstore.model import BlobDamaged, FolderView, NoSuchMessage, StoreError

AT_ONCE = 1000


@dataclass(slots=True)
class Summaries:
    """`missing` and `damaged` tell whether a message asked for was gone or could not be read."""

    store: Store
    view: FolderView
    missing: bool = False
    damaged: bool = False

    def stored(self, indices: Sequence[int]) -> dict[int, bytes]:
        """The stored forms, by UID."""
        uids = self.view.uids
        return self.store.summaries(self.view.folder.id, [uids[index] for index in indices])

    def of(self, indices: Sequence[int]) -> dict[int, Summary]:
        """The summaries of these messages by index, but of those missing or damaged."""
        stored = self.stored(indices)
        found: dict[int, Summary] = {}
        fresh: dict[str, bytes] = {}
        for index in indices:
            summary = read(stored.get(self.view.uids[index], b"")) or self.compute(index, fresh)
            if summary is not None:
                found[index] = summary
        self.keep(fresh)
        return found

    def keep(self, fresh: dict[str, bytes]) -> None:
        """Puts summaries made anew into the store; when that fails, they are made again another time."""
        if fresh:
            with suppress(StoreError):
                self.store.put_summaries(fresh)

    def compute(self, index: int, fresh: dict[str, bytes]) -> Summary | None:
        """The summary made from the message itself, noted in `fresh`; None when it is gone or damaged."""
        blob = self.view.blobs[index]
        try:
            summary = compute(self.store.read_blob(blob))
        except NoSuchMessage:
            self.missing = True
            return None
        except BlobDamaged:
            self.damaged = True
            return None
        fresh[blob] = encode(summary)
        return summary

    def each(self, indices: Sequence[int], stopped: Callable[[], bool]) -> Iterator[tuple[int, Summary]]:
        """The same, one after the other, in bounded memory. Raises SearchStopped."""
        for start in range(0, len(indices), AT_ONCE):
            if stopped():
                raise SearchStopped("Recherche abandonnée. / Search given up.")
            yield from self.of(indices[start : start + AT_ONCE]).items()
