"""The tree of a MIME message (RFC 2045, 2046) as places in its bytes.

Invariants: `parse` never raises on any bytes; a child lies inside its parent; `raw[part.start:part.end]` is the part
exactly as it was written (what a signature covers); depth and number of parts are bounded; a multipart that cannot be
read becomes a leaf and `defects` says why. Nothing is copied but header fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from mime.addresses import addresses
from mime.fields import MAX_HEADER, Field, header_end, iter_fields
from mime.words import decode_base64, decode_quoted_printable, decode_words, split_parameters

_MEDIA_TYPE = re.compile(r"[!#$&-.0-9A-Z^_`a-z{|}~+]{1,127}/[!#$&-.0-9A-Z^_`a-z{|}~+]{1,127}\Z")
_IDENTITY = frozenset({"", "7bit", "8bit", "binary"})
_DELIMITER_END = re.compile(rb"(--)?[ \t]*+(?=\r?\n|\r?\Z)")
_MESSAGE_TYPES = frozenset({"message/rfc822", "message/global"})


@dataclass(frozen=True, slots=True)
class Part:
    """One entity of the tree. Offsets are into the bytes given to `parse`; `end` excludes the line end that belongs to
    the enclosing boundary (RFC 2046 §5.1.1). `media_type` and `encoding` are lower case. `children` are the parts of a
    multipart, or the one message of a message/rfc822. `first` is the first field of each name, in lower case. `defects` are
    short fixed words."""

    start: int
    body_start: int
    end: int
    fields: tuple[Field, ...]
    media_type: str
    parameters: dict[str, str]
    encoding: str
    children: tuple[Part, ...]
    first: Mapping[str, Field]
    defects: tuple[str, ...]

    def raw(self, raw: bytes) -> bytes:
        """Header and body, exact octets."""
        return raw[self.start : self.end]

    def header(self, raw: bytes) -> bytes:
        """The header with the blank line that ends it, exact octets."""
        return raw[self.start : self.body_start]

    def body(self, raw: bytes) -> bytes:
        """The body, transfer encoding not undone, exact octets."""
        return raw[self.body_start : self.end]

    def decoded(self, raw: bytes) -> bytes:
        """The body with base64 or quoted-printable undone, tolerantly; other encodings give the body as it is."""
        if self.encoding == "base64":
            return decode_base64(raw, self.body_start, self.end)
        if self.encoding == "quoted-printable":
            return decode_quoted_printable(self.body(raw))
        return self.body(raw)

    def field(self, name: str) -> Field | None:
        """The first field called `name` (any case)."""
        return self.first.get(name.lower())

    def get(self, name: str) -> str | None:
        """The first field called `name`: unfolded, encoded words decoded. For addresses use `addresses`."""
        field = self.field(name)
        return None if field is None else decode_words(field.text)

    def get_all(self, name: str) -> list[str]:
        """Every field called `name`, as `get` gives it, in order."""
        wanted = name.lower()
        return [decode_words(field.text) for field in self.fields if field.name.lower() == wanted]

    def addresses(self, name: str) -> list[tuple[str, str]]:
        """(display name, address) of every mailbox in all fields called `name`, read before decoding words."""
        wanted = name.lower()
        return [pair for field in self.fields if field.name.lower() == wanted for pair in addresses(field.text)]

    @property
    def disposition(self) -> str:
        """The word of Content-Disposition in lower case, "" when there is none (RFC 2183)."""
        field = self.field("content-disposition")
        return "" if field is None else split_parameters(field.text)[0]

    @property
    def filename(self) -> str | None:
        """The file name this part claims, without folders or control characters; None when there is none.

        Read from Content-Disposition, else from Content-Type `name`; RFC 2231, and RFC 2047, which many misuse here."""
        field = self.field("content-disposition")
        claimed = split_parameters(field.text)[1].get("filename") if field is not None else None
        name = decode_words(claimed or self.parameters.get("name", ""))
        name = re.split(r"[/\\]", name)[-1]
        return "".join(char for char in name if char.isprintable()).strip() or None

    def walk(self) -> Iterator[Part]:
        """This part and all below it, in the order they are written."""
        yield self
        for child in self.children:
            yield from child.walk()


MAX_FIELDS = 20_000
"""Header fields kept in one whole tree."""


@dataclass(slots=True)
class _Budget:
    """How many more parts and fields may be made."""

    left: int
    fields: int = MAX_FIELDS


def parse(raw: bytes, *, max_depth: int = 32, max_parts: int = 1000, start: int = 0, end: int | None = None) -> Part:
    """The MIME tree of a message or entity, `raw[start:end]`; places are in `raw`. `max_depth`: levels below the root;
    `max_parts`: parts in all."""
    return _part(raw, start, len(raw) if end is None else end, "text/plain", max_depth, _Budget(max_parts))


def _part(raw: bytes, start: int, end: int, default_type: str, depth: int, budget: _Budget) -> Part:
    budget.left -= 1
    last, body = header_end(raw, start, end)
    defects: list[str] = []
    if last - start > MAX_HEADER:
        defects.append("header-too-long")
    fields = tuple(islice(iter_fields(raw, start, min(last, start + MAX_HEADER)), max(0, budget.fields)))
    budget.fields -= len(fields)
    if budget.fields <= 0:
        defects.append("too-many-fields")
    first: dict[str, Field] = {}
    for field in fields:
        first.setdefault(field.name.lower(), field)
    if "" in first:
        defects.append("malformed-header-line")
    media_type, parameters = _content_type(fields, first, default_type, defects)
    encoding = _encoding(first)
    children: tuple[Part, ...] = ()
    if media_type.startswith("multipart/"):
        ranges = _ranges(raw, body, end, parameters.get("boundary", ""), depth, budget, defects)
        default = "message/rfc822" if media_type == "multipart/digest" else "text/plain"
        # The count of sisters is taken at once, so that a first child cannot spend what its sisters need.
        budget.left -= len(ranges)
        children = tuple(_sister(raw, span, default, depth, budget) for span in ranges)
    elif media_type in _MESSAGE_TYPES:
        if encoding not in _IDENTITY:
            defects.append("encoded-message")
        elif depth <= 0 or budget.left < 1:
            defects.append("too-deep" if depth <= 0 else "too-many-parts")
        else:
            children = (_part(raw, body, end, "text/plain", depth - 1, budget),)
    return Part(start, body, end, fields, media_type, parameters, encoding, children, first, tuple(defects))


def _sister(raw: bytes, span: tuple[int, int], default_type: str, depth: int, budget: _Budget) -> Part:
    budget.left += 1
    return _part(raw, span[0], span[1], default_type, depth - 1, budget)


def _content_type(
    fields: tuple[Field, ...], first: Mapping[str, Field], default: str, defects: list[str]
) -> tuple[str, dict[str, str]]:
    found = first.get("content-type")
    if found is None:
        return default, {}
    if len(first) < len(fields) and sum(field.name.lower() == "content-type" for field in fields) > 1:
        defects.append("several-content-types")
    media_type, parameters = split_parameters(found.text)
    if not _MEDIA_TYPE.match(media_type):
        defects.append("malformed-content-type")
        return "text/plain", parameters  # RFC 2045 §5.2: what cannot be read is plain text
    return media_type, parameters


def _encoding(first: Mapping[str, Field]) -> str:
    field = first.get("content-transfer-encoding")
    return "" if field is None else split_parameters(field.text)[0]


def spans(raw: bytes, body: int, end: int, boundary: str) -> list[tuple[int, int]]:
    """The places of the parts of the multipart whose body is `raw[body:end]`; empty when it cannot be read as one without
    a defect."""
    defects: list[str] = []
    found = _ranges(raw, body, end, boundary, 1, _Budget(1000), defects)
    return [] if defects else found


def _ranges(
    raw: bytes, body: int, end: int, boundary: str, depth: int, budget: _Budget, defects: list[str]
) -> list[tuple[int, int]]:
    """The places of a multipart's parts (RFC 2046 §5.1.1); empty, with a defect, when it cannot be read as one."""
    if depth <= 0:
        defects.append("too-deep")
        return []
    mark = boundary.rstrip(" ").encode("utf-8", "replace")
    if not mark or len(mark) > 200 or b"\n" in mark or b"\r" in mark:
        defects.append("no-boundary")
        return []
    # The line end before a delimiter belongs to it. A body always follows a line end, hence `body - 1`.
    delimiter = b"\n--" + mark
    ranges: list[tuple[int, int]] = []
    open_at = -1
    position = raw.find(delimiter, max(0, body - 1), end)
    while position >= 0:
        match = _DELIMITER_END.match(raw, position + len(delimiter), end)
        if match is None:  # a longer word that begins like the boundary
            position = raw.find(delimiter, position + 1, end)
            continue
        if open_at >= 0:
            ranges.append((open_at, max(open_at, _before_line_end(raw, position))))
        if len(ranges) > budget.left:
            defects.append("too-many-parts")
            return []
        open_at = -1
        if match[1]:
            break
        line_end = raw.find(b"\n", match.end(), end)
        open_at = end if line_end < 0 else line_end + 1
        position = raw.find(delimiter, match.end(), end)
    else:
        defects.append("no-delimiter" if open_at < 0 else "no-close-delimiter")
        if open_at >= 0:
            ranges.append((open_at, end))
    if len(ranges) > budget.left:
        defects.append("too-many-parts")
        return []
    return ranges


def _before_line_end(raw: bytes, newline: int) -> int:
    return newline - 1 if newline > 0 and raw[newline - 1 : newline] == b"\r" else newline
