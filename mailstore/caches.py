"""Bounded memory: of values that can be had again, and of what is on its way. Thread safe."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Generic, TypeVar

_K = TypeVar("_K")
_V = TypeVar("_V")


class Bounded(Generic[_K, _V]):
    """Values with their sizes in bytes; the first to come go first when the sum passes `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self.values: dict[_K, _V] = {}
        """What is here now, to be read only. Reading does not count as a use: whole folders are gone through in one
        order, and the first to come are the first to go."""
        self._sizes: dict[_K, int] = {}
        self._lock = threading.Lock()

    def put(self, key: _K, value: _V, size: int) -> None:
        """Keep a value; one larger than the limit is not kept."""
        self.put_all([(key, value, size)])

    def put_all(self, found: Iterable[tuple[_K, _V, int]]) -> None:
        """Keep values, each with its size."""
        with self._lock:
            for key, value, size in found:
                if size > self._limit or key in self.values:
                    continue
                self.values[key], self._sizes[key] = value, size
                self._held += size
            while self._held > self._limit:
                oldest = next(iter(self._sizes))
                del self.values[oldest]
                self._held -= self._sizes.pop(oldest)


class Room:
    """What the uploads of a process may hold in memory together. Thread safe."""

    def __init__(self, limit: int) -> None:
        self._lock = threading.Lock()
        self._left = limit

    def take(self, size: int) -> bool:
        """Whether there is room for `size` octets more; takes it if so."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def give(self, size: int) -> None:
        """Gives back what was taken."""
        with self._lock:
            self._left += size
