"""Legacy display elements (RFC 9788 §5.2.2, §5.2.3): a hidden Subject, shown once more at the head of the text, for programs that
know nothing of protected headers and would show `[...]` only.

Invariants: only what is read first (the main body parts) changes, and only by the element, its mark in Content-Type, UTF-8 and
another transfer encoding; a text that cannot be decoded without loss, or that is signed already, stays as it is.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

import mime
from mime.words import codec_name

_MARK = "hp-legacy-display"
_BODY = re.compile(r"<body\b[^>]{0,2000}>", re.IGNORECASE)
_REWRITTEN = ("content-type", "content-transfer-encoding")


def with_subject(entity: bytes, subject: str) -> bytes:
    """`entity`, a MIME entity, with the Subject at the head of its main body parts, text/plain and text/html."""
    if not subject.strip():
        return entity
    line = " ".join(f"Subject: {subject}".split())
    pieces: list[bytes] = []
    position = 0
    for part in _main(mime.parse(entity)):
        shown = _shown(entity, part, line)
        if shown is not None:
            pieces += [entity[position : part.start], shown]
            position = part.end
    return b"".join([*pieces, entity[position:]])


def _main(part: mime.Part) -> Iterator[mime.Part]:
    """The main body parts (RFC 9788 §1.9), in the order they are written."""
    if part.media_type == "multipart/alternative":
        for child in part.children:
            yield from _main(child)
    elif part.media_type in ("multipart/mixed", "multipart/related"):
        yield from _main(part.children[0]) if part.children else ()
    elif part.media_type in ("text/plain", "text/html") and part.disposition != "attachment":
        yield part


def _shown(raw: bytes, part: mime.Part, line: str) -> bytes | None:
    """The part with the element; None when it is to stay as it is."""
    text = _text(part, raw)
    if text is None or _MARK in part.parameters:
        return None
    if part.media_type == "text/html":
        element = f'<div class="header-protection-legacy-display"><pre>{html.escape(line)}</pre></div>\r\n'
        body = _BODY.search(text)
        place = body.end() if body else 0
        text = f"{text[:place]}{element}{text[place:]}"
    else:
        text = f"{line}\r\n\r\n{text}"
    kept = mime.without_fields(part.header(raw).removesuffix(b"\r\n"), _REWRITTEN)
    parameters = part.parameters | {"charset": "utf-8", _MARK: "1"}
    return kept + mime.leaf(part.media_type, text.encode("utf-8"), parameters=parameters)


def _text(part: mime.Part, raw: bytes) -> str | None:
    """The text; None when its octets are not of its charset."""
    codec = codec_name(part.parameters.get("charset", "us-ascii"))
    try:
        return None if codec is None else part.decoded(raw).decode(codec)
    except ValueError:
        return None
