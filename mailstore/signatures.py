"""Search signatures in memory, laid out so that one question goes to thousands of them at once. Thread safe, bounded.

Signatures of one size stand one behind the other in a block: the bytes that all of them have at one place are then one
slice with a stride. A probe (a place and a bit) costs a pass over that slice in C, whatever the number of messages; what
the first probes leave is looked at one by one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress

Probe = tuple[int, int]
"""Place of a byte in a signature (its first byte, the power of two, included), and the bit it must have."""

_BLOCK = 1024 * 1024  # octets of a full block
_FEW = 64  # signatures left, from which on each is looked at by itself
_HAS_BIT = {1 << bit: bytes(value >> bit & 1 for value in range(256)) for bit in range(8)}
_ROW_COST = 200  # octets that a signature costs besides its own


class _Block:
    """Signatures of one size."""

    __slots__ = ("bits", "blobs", "power", "stride")

    def __init__(self, power: int, stride: int) -> None:
        self.power = power
        self.stride = stride
        self.blobs: list[str] = []
        self.bits = bytearray()

    @property
    def cost(self) -> int:
        return len(self.bits) + _ROW_COST * len(self.blobs)

    def matching(self, probes: Sequence[Probe]) -> Iterable[str]:
        """The blobs whose signatures have all of these bits."""
        if not probes:
            return self.blobs
        left = 0
        for number, (place, bit) in enumerate(probes):
            column = self.bits[place - 1 :: self.stride].translate(_HAS_BIT[bit])
            found = int.from_bytes(column, "little")
            left = found if number == 0 else left & found
            if left.bit_count() <= _FEW:
                rows = list(compress(range(len(self.blobs)), left.to_bytes(len(self.blobs), "little")))
                rest = probes[number + 1 :]
                return [self.blobs[row] for row in rows if self._has(row, rest)]
        return compress(self.blobs, left.to_bytes(len(self.blobs), "little"))

    def _has(self, row: int, probes: Sequence[Probe]) -> bool:
        start = row * self.stride - 1
        return all(self.bits[start + place] & bit for place, bit in probes)


class Signatures:
    """The signatures this process has looked at; the first blocks to come go first when their sum passes `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self._blocks: list[_Block] = []
        self._open: dict[int, _Block] = {}
        self._cost = 0

    def missing(self, blobs: Sequence[str]) -> list[str]:
        """Those of these blobs whose signatures are not here."""
        with self._lock:
            if self._known.issuperset(blobs):
                return []
            return [blob for blob in blobs if blob not in self._known]

    def put(self, found: Iterable[tuple[str, bytes]]) -> None:
        """Keep signatures as `searchtext.signature` makes them."""
        with self._lock:
            for blob, signature in found:
                power = signature[0]
                if blob in self._known:
                    continue
                block = self._open.get(power)
                if block is None or len(block.bits) >= _BLOCK:
                    block = self._open[power] = _Block(power, len(signature) - 1)
                    self._blocks.append(block)
                block.blobs.append(blob)
                block.bits += signature[1:]
                self._known.add(blob)
                self._cost += block.stride + _ROW_COST
            while self._cost > self._limit and len(self._blocks) > 1:
                self._drop(self._blocks.pop(0))

    def _drop(self, block: _Block) -> None:
        self._cost -= block.cost
        self._known.difference_update(block.blobs)
        self._open = {power: kept for power, kept in self._open.items() if kept is not block}

    def possible(self, blobs: Sequence[str], probes: Mapping[int, Sequence[Probe]]) -> set[str]:
        """Blobs that may hold the needle of these probes: of all that are here, those whose signatures do not exclude it;
        of `blobs`, those that are not here too."""
        with self._lock:
            found = set() if self._known.issuperset(blobs) else set(blobs) - self._known
            for block in self._blocks:
                found.update(block.matching(probes[block.power]))
            return found
