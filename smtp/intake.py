"""Message octets as they arrive: where a DATA block ends, and whether its lines may be passed on. Pure.

Invariants: whatever the chunks, the same verdict; the only end of DATA is CRLF "." CRLF (RFC 5321 §4.1.1.4); nothing is
repaired here; memory is the header and a few octets; a fault is remembered, and told when the whole block has been heard.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import mime

LINE_LIMIT = 998
"""Octets of a message line without CRLF (RFC 5321 §4.5.3.1.6)."""
HEADER_LIMIT = 256 * 1024
HEADER_LINES = 5000
"""A header of a million short fields would stop the loop for seconds, at each of its readers."""
_END = b"\r\n.\r\n"


class DotDecoder:
    """Takes the dots off a DATA block. Feed it until `done`; `rest` is then what came after the end."""

    def __init__(self) -> None:
        self._held = b"\r\n"  # the CRLF of the DATA command itself: a lone dot may be the first line
        self._skip = 2
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """The octets of content that are certain after `data`."""
        buffer = self._held + data if self._held else data
        # Most of what is large is base64, where there is no dot: looking for one octet costs next to nothing.
        at = buffer.find(b"\r\n.") if b"." in buffer else -1
        end = buffer.find(_END, at) if at >= 0 else -1
        if end >= 0:
            self.done, self.rest, self._held = True, buffer[end + len(_END) :], b""
            return self._plain(buffer[: end + 2])
        hold = next((size for size in (4, 3, 2, 1) if buffer.endswith(_END[:size])), 0)
        self._held = buffer[len(buffer) - hold :]
        return self._plain(buffer[: len(buffer) - hold], stuffed=at >= 0)

    def _plain(self, piece: bytes, *, stuffed: bool = True) -> bytes:
        """Every line that begins with a dot loses it (RFC 5321 §4.5.2)."""
        if stuffed:
            piece = piece.replace(b"\r\n.", b"\r\n")
        if self._skip and piece:
            piece, self._skip = piece[self._skip :], 0
        return piece


@dataclass(slots=True)
class Scan:
    """What is wrong with a content, and its header, as it goes by."""

    size: int = 0
    bare: bool = False
    null: bool = False
    long_line: bool = False
    long_header: bool = False
    eight_bit: bool = False
    header: bytes = b""
    _head: bytearray | None = field(default_factory=bytearray)
    _line: int = 0
    _cr: bool = False

    @property
    def header_complete(self) -> bool:
        """The blank line has gone by."""
        return self._head is None

    def feed(self, data: bytes) -> None:
        """Look at the next octets."""
        if not data:
            return
        self.size += len(data)
        if self._head is not None:
            self._collect(data)
        # No CR and no LF outside a pair: together they are twice as many as the pairs. Two passes over the octets, not three.
        pairs = data.count(b"\r\n") + (self._cr and data[0] == 10)
        ends = len(data) - len(data.translate(None, b"\r\n")) + self._cr
        self._cr = data[-1] == 13
        if ends - self._cr != 2 * pairs:
            self.bare = True
        if not self.null and b"\0" in data:
            self.null = True
        if not self.eight_bit and not data.isascii():
            self.eight_bit = True
        if not self.long_line:
            self._measure(data)

    def _collect(self, data: bytes) -> None:
        head = self._head
        if head is None:
            return
        head += data
        if head.startswith(b"\r\n"):
            self.header, self._head = b"", None
            return
        end = head.find(b"\r\n\r\n", max(0, len(head) - len(data) - 3))
        if end >= 0:
            self._keep(bytes(head[: end + 2]))
        elif len(head) > HEADER_LIMIT:
            self.long_header = True
            self.header, self._head = b"", None

    def _keep(self, header: bytes) -> None:
        self._head = None
        self.long_header = len(header) > HEADER_LIMIT or header.count(b"\n") > HEADER_LINES
        self.header = b"" if self.long_header else header

    def _measure(self, data: bytes) -> None:
        """Hop from line end to line end, at most a line's length at a time."""
        first = data.find(b"\n")
        if first < 0:
            self._line += len(data)
            self.long_line = self._line > LINE_LIMIT + 1
            return
        if self._line + first > LINE_LIMIT + 1:
            self.long_line = True
            return
        position = first + 1
        last = data.rfind(b"\n") + 1
        while position < last:
            end = data.rfind(b"\n", position, position + LINE_LIMIT + 2)
            if end < 0:
                self.long_line = True
                return
            position = end + 1
        self._line = len(data) - last
        self.long_line = self._line > LINE_LIMIT + 1

    def finish(self) -> None:
        """The content is over: a header without a body ends here, and an open line too."""
        if self._cr:
            self.bare = True
        if self._line > LINE_LIMIT:
            self.long_line = True
        if self._head is not None:
            head = bytes(self._head)
            last, _ = mime.header_end(head)
            self._keep(head[:last])
