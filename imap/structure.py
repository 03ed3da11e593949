"""BODY and BODYSTRUCTURE (RFC 3501 §7.4.2) of a parsed message, as ready-to-send bytes.

Parameters are sent as written, RFC 2231 forms included (`name*0*`), because that is what clients decode. A multipart
that could not be read as one is announced as text, so that the reader still sees it.
"""

from __future__ import annotations

import re

from imap.envelope import envelope, value_of
from imap.format import nstring, string
from mime import Part

MOST_PARAMETERS = 50
_PARAMETER = re.compile(rb';\s*+([^\s=;"()]++)\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"|([^\s;"()]*+))', re.DOTALL)
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)


def _parameters(value: bytes | None) -> bytes:
    pairs: list[bytes] = []
    for match in _PARAMETER.finditer(value or b""):
        found = _ESCAPE.sub(rb"\1", match[2]) if match[2] is not None else match[3]
        pairs += [string(match[1]), string(found)]
        if len(pairs) >= 2 * MOST_PARAMETERS:
            break
    return b"(" + b" ".join(pairs) + b")" if pairs else b"NIL"


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


def _tail(part: Part) -> bytes:
    """Disposition, language and location: the extension data common to all bodies."""
    fields = part.fields
    return b" ".join(
        (
            _disposition(value_of(fields, "content-disposition")),
            _language(value_of(fields, "content-language")),
            nstring(value_of(fields, "content-location")),
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


def body_structure(part: Part, raw: bytes, *, extended: bool) -> bytes:
    """BODYSTRUCTURE when `extended`, else BODY. Depth is that of the parsed tree, which is bounded."""
    kind, subtype = shown_type(part)
    content_type = value_of(part.fields, "content-type")
    if kind == "multipart":
        inner = b"".join(body_structure(child, raw, extended=extended) for child in part.children)
        inner += b" " + string(subtype.upper().encode("ascii", "replace"))
        if extended:
            inner += b" " + _parameters(content_type) + b" " + _tail(part)
        return b"(" + inner + b")"
    parameters = _parameters(content_type)
    if parameters == b"NIL" and kind == "text":
        parameters = b'("CHARSET" "US-ASCII")'
    items = [
        string(kind.upper().encode("ascii", "replace")),
        string(subtype.upper().encode("ascii", "replace")),
        parameters,
        nstring(value_of(part.fields, "content-id")),
        nstring(value_of(part.fields, "content-description")),
        string((part.encoding or "7bit").upper().encode("ascii", "replace")),
        b"%d" % (part.end - part.body_start),
    ]
    lines = b"%d" % raw.count(b"\n", part.body_start, part.end)
    if kind == "message" and part.children:
        child = part.children[0]
        items += [envelope(child.fields), body_structure(child, raw, extended=extended), lines]
    elif kind == "text":
        items.append(lines)
    if extended:
        items += [nstring(value_of(part.fields, "content-md5")), _tail(part)]
    return b"(" + b" ".join(items) + b")"
