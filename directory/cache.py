"""A bounded cache of look-ups by address, which serves only while changes are being listened to.

Invariants
* It answers nothing unless `live`: when the consumer of changes (`watch`) loses the directory, look-ups go there again, and
  say so when it is down.
* What was read before a change is never kept after it: an answer is stored only if no change was heard of since its
  question left.
* Thread safe; bounded; "nobody has this address" is remembered like the rest.
"""

from __future__ import annotations

import threading
from typing import Final

from directory.entry import Entry

MAX_ENTRIES: Final = 50_000
MISSING: Final = object()


class LookupCache:
    """Entries by address (lower case)."""

    def __init__(self, size: int = MAX_ENTRIES) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._entries: dict[str, Entry | None] = {}
        self._by_uuid: dict[str, str] = {}
        self._moment = 0
        self._live = False

    @property
    def live(self) -> bool:
        """Whether changes are being heard of, and the cache therefore used."""
        return self._live

    def get(self, address: str) -> object:
        """The entry, None when the directory has none, MISSING when the question must be asked."""
        return self._entries.get(address, MISSING)  # one dict operation: atomic, and empty when not live

    def moment(self) -> int:
        """To be taken before asking the directory, and given to `put`."""
        return self._moment

    def put(self, moment: int, address: str, entry: Entry | None, uuid: str = "") -> None:
        """Keep an answer, unless something changed since `moment`."""
        with self._lock:
            if not self._live or moment != self._moment:
                return
            if len(self._entries) >= self._size:
                oldest = next(iter(self._entries))
                del self._entries[oldest]
            self._entries[address] = entry
            if uuid:
                if len(self._by_uuid) >= 2 * self._size:
                    self._by_uuid.clear()
                self._by_uuid[uuid] = address

    def changed(self, address: str) -> None:
        """The entry of `address` was added or changed."""
        with self._lock:
            self._moment += 1
            self._entries.pop(address.lower(), None)

    def removed(self, uuid: str) -> None:
        """An entry was removed, or is no longer ours to see; one we never kept matters to nobody."""
        with self._lock:
            self._moment += 1
            address = self._by_uuid.pop(uuid, None)
            if address is not None:
                self._entries.pop(address, None)

    def listening(self, live: bool) -> None:
        """Changes begin, or cease, to be heard of: nothing kept from before is kept."""
        with self._lock:
            self._moment += 1
            self._live = live
            self._entries = {}
            self._by_uuid = {}
