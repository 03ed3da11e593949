"""Evaluates a search program over a folder (RFC 3501 §6.4.4). Synchronous; content is read only for keys that need it.

Text is compared without regard to letter case, after decoding: header fields by RFC 2047, text parts by their transfer
encoding and charset. Encrypted content is not searched: the server cannot read it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date
from email.utils import parsedate_tz

from imap.grammar_search import FLAG_KEYS
from imap.values import Key
from mailstore.model import FolderView
from mime import Part, decode_words, parse
from mime.words import decode_charset

_HEADER_KEYS = {"BCC": "bcc", "CC": "cc", "FROM": "from", "SUBJECT": "subject", "TO": "to"}
_CONTENT_KEYS = frozenset({*_HEADER_KEYS, "BODY", "TEXT", "HEADER", "SENTBEFORE", "SENTON", "SENTSINCE"})
# Cheap keys first: the content is read only for messages that the others let through.
_DEAR = {"BODY": 2, "TEXT": 2}


def uses_modseq(key: Key) -> bool:
    """Whether MODSEQ is among the keys: the answer then carries the highest modseq (RFC 7162 §3.1.5)."""
    return key.name == "MODSEQ" or any(map(uses_modseq, key.operands))


def _ordered(key: Key) -> tuple[int, Key]:
    """The key with the operands of AND and OR from cheap to dear, and what it costs itself."""
    operands = sorted(map(_ordered, key.operands), key=lambda pair: pair[0])
    own = _DEAR.get(key.name, 1 if key.name in _CONTENT_KEYS else 0)
    return max([own, *(cost for cost, _ in operands)]), replace(key, operands=tuple(one for _, one in operands))


class Stopped(Exception):
    """The session that asked is gone."""


class _Spans:
    """A sequence set made ready for many membership tests."""

    def __init__(self, key: Key, highest: int) -> None:
        spans: list[list[int]] = []
        ranges = key.messages.ranges if key.messages else ()
        pairs = [(highest if a is None else a, highest if b is None else b) for a, b in ranges]
        for low, high in sorted((min(pair), max(pair)) for pair in pairs):
            if spans and low <= spans[-1][1] + 1:
                spans[-1][1] = max(spans[-1][1], high)
            else:
                spans.append([low, high])
        self._lows = [span[0] for span in spans]
        self._highs = [span[1] for span in spans]

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._lows, number)
        return place > 0 and bisect_left(self._highs, number) < place


class _Message:
    """The content of one message, read and decoded at most once."""

    def __init__(self, header: Callable[[], bytes], whole: Callable[[], bytes]) -> None:
        self._read_header = header
        self._read_whole = whole
        self._fields: Part | None = None
        self._body: str | None = None

    @property
    def fields(self) -> Part:
        if self._fields is None:
            self._fields = parse(self._read_header(), max_depth=0)
        return self._fields

    def header(self, name: str, text: str) -> bool:
        """Whether a field of that name contains the text; an empty text asks for the field's presence."""
        return any(text in value.casefold() for value in self.fields.get_all(name))

    def anywhere_in_header(self, text: str) -> bool:
        return any(text in f"{field.name}: {decode_words(field.text)}".casefold() for field in self.fields.fields)

    def body(self, text: str) -> bool:
        if self._body is None:
            raw = self._read_whole()
            self._body = "\n".join(_texts(parse(raw), raw)).casefold()
        return text in self._body

    def sent(self) -> date | None:
        value = self.fields.get("date")
        try:
            parsed = parsedate_tz(value[:200]) if value else None
            return date(parsed[0], parsed[1], parsed[2]) if parsed else None
        except (ValueError, IndexError, OverflowError):
            return None


def _texts(root: Part, raw: bytes) -> list[str]:
    found: list[str] = []
    for part in root.walk():
        if part is not root:
            found.extend(decode_words(field.text) for field in part.fields)
        if not part.children and part.media_type.startswith(("text/", "multipart/")):
            found.append(decode_charset(part.decoded(raw), part.parameters.get("charset", "utf-8")))
    return found


class Search:
    """One evaluation. `read` gives bytes of a blob by range; `header_length` a message's header length by index;
    `stopped` is asked between messages."""

    def __init__(
        self,
        view: FolderView,
        read: Callable[[str, int, int | None], bytes],
        header_length: Callable[[int], int],
        stopped: Callable[[], bool],
    ) -> None:
        self.view = view
        self._read = read
        self._header_length = header_length
        self._stopped = stopped
        self._spans: dict[int, _Spans] = {}

    def run(self, key: Key) -> list[int]:
        """Indices of the messages found, ascending. Raises what `read` raises, and Stopped."""
        found: list[int] = []
        key = _ordered(key)[1]
        for index in range(len(self.view.uids)):
            if index % 64 == 0 and self._stopped():
                raise Stopped
            if self._test(key, index, self._message(index)):
                found.append(index)
        return found

    def _message(self, index: int) -> _Message:
        blob = self.view.blobs[index]
        return _Message(
            lambda: self._read(blob, 0, self._header_length(index)),
            lambda: self._read(blob, 0, None),
        )

    def _within(self, key: Key, number: int, highest: int) -> bool:
        spans = self._spans.get(id(key))
        if spans is None:
            spans = self._spans[id(key)] = _Spans(key, highest)
        return number in spans

    def _test(self, key: Key, index: int, message: _Message) -> bool:
        name = key.name
        if name == "AND":
            return all(self._test(operand, index, message) for operand in key.operands)
        if name == "OR":
            return any(self._test(operand, index, message) for operand in key.operands)
        if name == "NOT":
            return not self._test(key.operands[0], index, message)
        if name in _CONTENT_KEYS:
            return _test_content(key, message)
        return self._test_array(key, index)

    def _test_array(self, key: Key, index: int) -> bool:
        view, name = self.view, key.name
        flags = view.flags[index]
        if name in FLAG_KEYS:
            flag, wanted = FLAG_KEYS[name]
            return (flag in flags) is wanted
        if name in ("KEYWORD", "UNKEYWORD"):
            # Keywords differ only in spelling, not in letter case (RFC 9051 §2.3.2).
            has = key.text.lower() in {flag.lower() for flag in flags}
            return has is (name == "KEYWORD")
        if name == "UID":
            return self._within(key, view.uids[index], view.uids[-1])
        if name == "SEQUENCE":
            return self._within(key, index + 1, len(view.uids))
        if name == "MODSEQ":
            return view.modseqs[index] >= key.number
        if name in ("LARGER", "SMALLER"):
            size = view.sizes[index]
            return size > key.number if name == "LARGER" else size < key.number
        if name in ("BEFORE", "ON", "SINCE"):
            return _compare(name, view.dates[index].astimezone(UTC).date(), key.day)
        # ALL and OLD find every message; NEW and RECENT none: this server keeps no \Recent (RFC 9051 dropped it).
        return name in ("ALL", "OLD")


def _test_content(key: Key, message: _Message) -> bool:
    text = key.text.casefold()
    if key.name in _HEADER_KEYS:
        return message.header(_HEADER_KEYS[key.name], text)
    if key.name == "HEADER":
        return message.header(key.field, text)
    if key.name == "BODY":
        return message.body(text)
    if key.name == "TEXT":
        return message.anywhere_in_header(text) or message.body(text)
    sent = message.sent()
    return sent is not None and _compare(key.name.removeprefix("SENT"), sent, key.day)


def _compare(name: str, day: date, limit: date | None) -> bool:
    if limit is None:
        return False
    if name == "BEFORE":
        return day < limit
    return day == limit if name == "ON" else day >= limit
