"""Sequence sets (RFC 3501 §9 `sequence-set`): parsed into ranges, resolved against a sorted array.

Invariant: resolving costs time and memory bounded by the folder's size and the number of ranges, whatever numbers are
written: `1:4294967295` is one range, never four billion integers.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from imap.errors import BadCommand

HIGHEST_NUMBER = 2**32 - 1
MOST_RANGES = 20_000
_RANGE = re.compile(rb"(\*|[1-9][0-9]{0,9})(?::(\*|[1-9][0-9]{0,9}))?\Z")


def _bound(text: bytes) -> int | None:
    if text == b"*":
        return None
    number = int(text)
    if number > HIGHEST_NUMBER:
        raise BadCommand("number too large in sequence set")
    return number


@dataclass(frozen=True, slots=True)
class SequenceSet:
    """Ranges as written; None stands for `*`, the highest number in use. `saved` stands for `$`, the messages that the
    last SEARCH RETURN (SAVE) found (RFC 9051 §6.4.4.1); there are no ranges then."""

    ranges: tuple[tuple[int | None, int | None], ...]
    saved: bool = False

    def indices(self, numbers: Sequence[int]) -> list[int]:
        """Indices, ascending and without doubles, of the members of the ascending `numbers` that the set names."""
        if not numbers:
            return []
        highest = numbers[-1]
        spans: list[tuple[int, int]] = []
        for first, last in self.ranges:
            low = highest if first is None else first
            high = highest if last is None else last
            if low > high:
                low, high = high, low
            spans.append((bisect_left(numbers, low), bisect_right(numbers, high)))
        spans.sort()
        found: list[int] = []
        reached = 0
        for start, stop in spans:
            found.extend(range(max(start, reached), stop))
            reached = max(reached, stop)
        return found

    def beyond(self, count: int) -> bool:
        """Whether a message sequence number above `count` is named: RFC 3501 §9 makes that a client error. A range with
        `*` always names the last message, whatever its other bound."""
        return any(first is not None and last is not None and max(first, last) > count for first, last in self.ranges)


def parse_sequence_set(text: bytes) -> SequenceSet:
    """Reads `1:3,7,9:*` or `$`. Raises BadCommand."""
    if text == b"$":
        return SequenceSet((), saved=True)
    pieces = text.split(b",", MOST_RANGES)
    if len(pieces) > MOST_RANGES:
        raise BadCommand("too many ranges in sequence set")
    ranges: list[tuple[int | None, int | None]] = []
    for piece in pieces:
        match = _RANGE.match(piece)
        if match is None:
            raise BadCommand("malformed sequence set")
        first = _bound(match[1])
        ranges.append((first, first if match[2] is None else _bound(match[2])))
    return SequenceSet(tuple(ranges))


def format_numbers(numbers: Iterable[int]) -> str:
    """Numbers in the order given as a compact set: consecutive ascending runs become `a:b`. Empty gives an empty string."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return ",".join(str(low) if low == high else f"{low}:{high}" for low, high in runs)
