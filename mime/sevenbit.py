"""An entity made safe for 7-bit transport before it is signed (RFC 8551 §3.1.1, §3.1.3).

Invariants: bodies of the result are canonical (CRLF) and, signed parts apart, ASCII with lines of at most 998 octets; a
part that is already signed or encrypted keeps every octet; header fields keep theirs, line ends apart; a tree without
anything to change comes back unchanged but for its line ends.
"""

from __future__ import annotations

import re

from mime.fields import canonical_header, to_crlf, without_fields
from mime.tree import Part, parse
from mime.write import MAX_LINE, encode_body

_PROTECTED = frozenset({"multipart/signed", "multipart/encrypted"})


def to_seven_bit(entity: bytes) -> bytes:
    """`entity` with 8-bit, binary and over-long-lined leaves re-encoded as quoted-printable or base64, recursively.

    Identity-encoded leaves only are changed; the text they decode to stays the same, canonical line ends apart. The
    octets of multipart/signed and multipart/encrypted parts are never touched."""
    return entity if is_seven_bit(entity) else _rewritten(entity, parse(entity))


def is_seven_bit(entity: bytes) -> bool:
    """Whether `to_seven_bit` has nothing to change in an entity or message: ASCII without NUL, every line end CRLF, no line
    over 998 octets (RFC 5322 §2.1.1), no label of another encoding."""
    ends = entity.translate(None, _HARMLESS)
    if ends != b"\r\n" * (len(ends) // 2) or has_long_line(entity):
        return False
    # CR and LF come in turns: without a CR that lacks its LF, all are CRLF.
    return (_UNUSUAL.search(entity) is None and _UNUSUAL_ENCODING.match(entity) is None) or (
        _LONE_CR.search(entity) is None and not _is_labelled(entity)
    )


_HARMLESS = bytes(octet for octet in range(1, 128) if octet not in b"\r\n")
_LONE_CR = re.compile(rb"\r(?!\n)")
# What every program writes; anything else is looked at closely.
_ENCODING = rb"(?i:content-transfer-encoding)(?!:[ \t]?(?i:base64|7bit|quoted-printable)\r\n)"
_UNUSUAL_ENCODING = re.compile(_ENCODING)
_UNUSUAL = re.compile(rb"\r(?!\n(?!" + _ENCODING + rb"))")
"""A lone CR, or an unusual encoding at the start of a line: in one scan, which begins with a literal octet."""


def has_long_line(data: bytes, start: int = 0, stop: int | None = None) -> bool:
    """Whether a line of `data[start:stop]` holds more than 998 octets, its line end apart; looks at one place in every
    998."""
    position, size = start, len(data) if stop is None else stop
    while size - position > MAX_LINE:
        found = data.rfind(b"\n", position, position + MAX_LINE + 1)
        if found < 0:
            found = position + MAX_LINE + 1
            if data[found - 1 : found + 1] != b"\r\n":
                return True
        position = found + 1
    return False


def _is_labelled(entity: bytes) -> bool:
    """Whether a part says that it is binary, or a container 8bit: a label that a relay might act upon."""
    return any(
        part.encoding == "binary" or (part.encoding == "8bit" and part.children) for part in parse(entity).walk()
    )


def _rewritten(raw: bytes, part: Part) -> bytes:
    if part.media_type in _PROTECTED:
        return part.raw(raw)
    if part.children:
        return _rewritten_container(raw, part)
    body = part.body(raw)
    is_container = part.media_type.startswith(("multipart/", "message/"))  # RFC 2045 §6.4: never encoded
    if part.encoding == "binary" and not is_container:
        return _reencoded(raw, part, body)  # its lone CR and LF are content: encoded before any line end is touched
    if part.encoding in ("", "7bit", "8bit") and not is_container:
        body = to_crlf(body)
        if not body.isascii() or b"\0" in body or has_long_line(body):
            return _reencoded(raw, part, body)
    return canonical_header(part.header(raw)) + to_crlf(body)


def _rewritten_container(raw: bytes, part: Part) -> bytes:
    """A multipart or message/rfc822 with its children rewritten and every octet between them kept (line ends apart)."""
    header = part.header(raw)
    if part.encoding in ("8bit", "binary"):
        header = without_fields(header, ["content-transfer-encoding"])
    out = [canonical_header(header)]
    position = part.body_start
    for child in part.children:
        out += [to_crlf(raw[position : child.start]), _rewritten(raw, child)]
        position = child.end
    return b"".join([*out, to_crlf(raw[position : part.end])])


def _reencoded(raw: bytes, part: Part, body: bytes) -> bytes:
    encoding, encoded = encode_body(body, prefer_text=part.media_type.startswith("text/"))
    header = canonical_header(without_fields(part.header(raw), ["content-transfer-encoding"]))
    field = b"Content-Transfer-Encoding: " + encoding.encode("ascii") + b"\r\n"
    return field + header + (b"" if header.endswith(b"\r\n\r\n") or header == b"\r\n" else b"\r\n") + encoded
