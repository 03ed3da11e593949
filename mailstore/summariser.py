"""The summaries of messages that a client adds: made while the disk takes the message itself, and kept a handful at a time.

A transaction waits for its commit about as long as a summary takes, and another thread may work meanwhile. Nobody misses a
summary that is not kept yet: who asks in this process is given it, or makes it (`unkept`); who asks in another makes it of
the message, as of one too large.

Invariants: contents that wait are clear, in memory, and bounded (`MOST`): one that finds no room is summarised by its verb,
or, when the room went meanwhile, by its first reader, as what a process that died had not kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import structlog

MOST = 8 * 1024 * 1024
"""Octets of the contents that wait."""
_AT_ONCE = 256
"""Summaries kept by one transaction."""
_DELAY = 0.1
"""Seconds without a new content after which what was made is kept."""
_log = structlog.get_logger(__name__)


class Summariser:
    """`make` gives the summary of a content and never raises; `put` keeps summaries, by blob. Thread safe."""

    def __init__(self, make: Callable[[bytes], bytes], put: Callable[[Mapping[str, bytes]], None]) -> None:
        self._make = make
        self._put = put
        self._changed = threading.Condition()
        self._waiting: dict[str, bytes] = {}
        self._made: dict[str, bytes] = {}
        self._held = 0
        self._closing = False
        self._thread: threading.Thread | None = None

    def room(self, size: int) -> bool:
        """Whether `size` octets more may wait."""
        return self._held + size <= MOST

    def add(self, contents: Mapping[str, bytes]) -> None:
        """Contents that the transaction about to be committed refers to first, by blob."""
        if not contents:
            return
        with self._changed:
            if self._closing:
                return
            for blob, content in contents.items():
                # Told already when its transaction is tried again; without room when others took it since `room` was asked.
                if blob not in self._waiting and self.room(len(content)):
                    self._waiting[blob] = content
                    self._held += len(content)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="summaries", daemon=True)
                self._thread.start()
            else:
                self._changed.notify()

    def unkept(self) -> tuple[Mapping[str, bytes], Mapping[str, bytes]]:
        """The summaries that were made, and the contents of those that were not, none of them kept yet, by blob. Asked
        before the store is read, it has what the store has not."""
        with self._changed:
            return dict(self._made), dict(self._waiting)

    def close(self) -> None:
        """Keep what there is, then nothing any more."""
        with self._changed:
            self._closing = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        """Until nothing has come for a while."""
        while True:
            with self._changed:
                if not self._waiting:
                    self._changed.wait_for(lambda: self._closing or self._waiting, _DELAY)
                blob = next(iter(self._waiting), "")
                if not blob and not self._made:
                    self._thread = None
                    return
                content = self._waiting.get(blob, b"")
            if blob:
                made = self._make(content)
                with self._changed:
                    self._made[blob] = made
                    del self._waiting[blob]
                    self._held -= len(content)
            if not blob or len(self._made) >= _AT_ONCE:
                self._keep()

    def _keep(self) -> None:
        made = dict(self._made)
        try:
            self._put(made)
        except Exception as error:  # then by the first reader
            _log.warning("summaries are left to their first reader", error=type(error).__name__)
        with self._changed:
            for blob in made:
                del self._made[blob]
