"""BODY and BODYSTRUCTURE (RFC 3501 §7.4.2) of a parsed message, as ready-to-send bytes, made in one walk.

Parameters are sent as written, but one that is cut in sections (`name*0`, `name*1*`) is put together, as RFC 2231 §6 asks of
the server; what is percent-encoded (`name*`) is left to the client. A multipart that could not be read as one is announced as
text, so that the reader still sees it.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from imap.envelope import Header, envelope, value_of
from imap.format import nstring, string
from mime import Part

MOST_PARAMETERS = 50
_PARAMETER = re.compile(rb';\s*+([^\s=;"()]++)\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"|([^\s;"()]*+))', re.DOTALL)
_SECTION = re.compile(rb"([^*]+)\*(\d{1,3})(\*)?")
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)


def _parameters(value: bytes | None) -> bytes:
    pairs: list[tuple[bytes, bytes]] = []
    for match in _PARAMETER.finditer(value or b""):
        pairs.append((match[1], _ESCAPE.sub(rb"\1", match[2]) if match[2] is not None else match[3]))
        if len(pairs) >= MOST_PARAMETERS:
            break
    if any(_SECTION.fullmatch(name) for name, _ in pairs):
        pairs = _joined(pairs)
    return b"(" + b" ".join(string(one) for pair in pairs for one in pair) + b")" if pairs else b"NIL"


def _joined(pairs: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Parameters with those in sections (RFC 2231 §3), which come in any order, made whole where section 0 stands. Sections
    without one before them stay as they are."""
    sections: dict[tuple[bytes, int], tuple[bool, bytes]] = {}
    for name, value in pairs:
        if section := _SECTION.fullmatch(name):
            sections.setdefault((section[1].lower(), int(section[2])), (bool(section[3]), value))
    joined: list[tuple[bytes, bytes]] = []
    for name, value in pairs:
        section = _SECTION.fullmatch(name)
        run = [] if section is None else _run(sections, section[1].lower())
        if section is None or int(section[2]) >= len(run):
            joined.append((name, value))
        elif int(section[2]) == 0:
            joined.append(_whole(section[1], run))
    return joined


def _run(sections: dict[tuple[bytes, int], tuple[bool, bytes]], base: bytes) -> list[tuple[bool, bytes]]:
    """(whether percent-encoded, value) of the sections of a parameter, from 0 as far as none is missing."""
    count = next(number for number in range(len(sections) + 1) if (base, number) not in sections)
    return [sections[base, number] for number in range(count)]


def _whole(name: bytes, run: list[tuple[bool, bytes]]) -> tuple[bytes, bytes]:
    """The parameter of these sections: `name*`, percent-encoded, when one of them is."""
    if not any(encoded for encoded, _ in run):
        return name, b"".join(value for _, value in run)
    return name + b"*", b"".join(value if encoded else quote(value, safe="").encode("ascii") for encoded, value in run)


def _disposition(value: bytes | None) -> bytes:
    if not value:
        return b"NIL"
    kind = value.partition(b";")[0].strip()
    return b"(" + string(kind) + b" " + _parameters(value) + b")" if kind else b"NIL"


def _language(value: bytes | None) -> bytes:
    tags = [tag.strip() for tag in (value or b"").split(b",")[:20] if tag.strip()]
    if not tags:
        return b"NIL"
    return string(tags[0]) if len(tags) == 1 else b"(" + b" ".join(map(string, tags)) + b")"


def _tail(header: Header) -> bytes:
    """Disposition, language and location: the extension data common to all bodies."""
    return b" ".join(
        (
            _disposition(value_of(header, "content-disposition")),
            _language(value_of(header, "content-language")),
            nstring(value_of(header, "content-location")),
        )
    )


def shown_type(part: Part) -> tuple[str, str]:
    """The media type as announced: a multipart or message without readable children is announced as a plain leaf."""
    kind, _, subtype = part.media_type.partition("/")
    if not part.children and kind == "multipart":
        return "text", "plain"
    if not part.children and part.media_type in ("message/rfc822", "message/global"):
        return "application", "octet-stream"
    return kind or "text", subtype or "plain"


def body_structure(part: Part, raw: bytes) -> tuple[bytes, bytes]:
    """BODY and BODYSTRUCTURE. Depth is that of the parsed tree, which is bounded."""
    header = part.first
    kind, subtype = shown_type(part)
    parameters = _parameters(value_of(header, "content-type"))
    if kind == "multipart":
        inner = [body_structure(child, raw) for child in part.children]
        name = b" " + string(subtype.upper().encode("ascii", "replace"))
        body = b"".join([one for one, _ in inner]) + name
        structure = b"".join([one for _, one in inner]) + name + b" " + parameters + b" " + _tail(header)
        return b"(" + body + b")", b"(" + structure + b")"
    if parameters == b"NIL" and kind == "text":
        parameters = b'("CHARSET" "US-ASCII")'
    start = b" ".join(
        (
            string(kind.upper().encode("ascii", "replace")),
            string(subtype.upper().encode("ascii", "replace")),
            parameters,
            nstring(value_of(header, "content-id")),
            nstring(value_of(header, "content-description")),
            string((part.encoding or "7bit").upper().encode("ascii", "replace")),
            b"%d" % (part.end - part.body_start),
        )
    )
    body, structure = start, start
    lines = b" %d" % raw.count(b"\n", part.body_start, part.end)
    if kind == "message" and part.children:
        child = part.children[0]
        inside = b" " + envelope(child.first)
        shown, extended = body_structure(child, raw)
        body, structure = body + inside + b" " + shown + lines, structure + inside + b" " + extended + lines
    elif kind == "text":
        body, structure = body + lines, structure + lines
    structure += b" " + nstring(value_of(header, "content-md5")) + b" " + _tail(header)
    return b"(" + body + b")", b"(" + structure + b")"
