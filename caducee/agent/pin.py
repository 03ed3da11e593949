"""The PIN while it is kept: in memory only, for one card, for a settable time.

Invariants: never written, logged or shown; overwritten when its time is over, when a card refuses it, when another card
is there, and at the end; a refused PIN is never shown to the card a second time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class PinHolder:
    """At most one PIN. `clock` answers seconds that only grow. Thread safe."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._pin = bytearray()
        self._serial = ""
        self._until = 0.0
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return "PinHolder(…)"

    def get(self, serial: str) -> bytes | None:
        """The PIN of this card, while it is kept. Another card's is forgotten."""
        with self._lock:
            if not self._pin or serial != self._serial or self._clock() >= self._until:
                self._wipe()
                return None
            return bytes(self._pin)

    def put(self, serial: str, pin: bytes) -> None:
        """Keep a PIN that the card has just accepted."""
        with self._lock:
            self._wipe()
            if self._seconds > 0:
                self._pin, self._serial, self._until = bytearray(pin), serial, self._clock() + self._seconds

    def expire(self) -> None:
        """Forget the PIN if its time is over: called now and then, so that an idle agent does not keep it."""
        with self._lock:
            if self._pin and self._clock() >= self._until:
                self._wipe()

    def forget(self) -> None:
        """Forget the PIN now."""
        with self._lock:
            self._wipe()

    def _wipe(self) -> None:
        for index in range(len(self._pin)):
            self._pin[index] = 0
        self._pin, self._serial, self._until = bytearray(), "", 0.0
