"""An entity made safe for 7-bit transport before it is signed (RFC 8551 §3.1.1, §3.1.3).

Invariants: bodies of the result are canonical (CRLF) and, signed parts apart, ASCII with lines of at most 998 octets; a
part that is already signed or encrypted keeps every octet; header fields keep theirs, line ends apart; a tree without
anything to change comes back unchanged but for its line ends.
"""

from __future__ import annotations

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
    """Whether `to_seven_bit` has nothing to change in an entity or message."""
    return is_canonical_seven_bit(entity) and not _is_labelled(entity)


def is_canonical_seven_bit(data: bytes) -> bool:
    """True for ASCII without NUL, every line end CRLF, no line over 998 octets (RFC 5322 §2.1.1). Ten megabytes in
    about five milliseconds."""
    if not data.isascii():
        return False
    ends = len(data.translate(None, _HARMLESS))  # a NUL counts as half a line end, which no count of CRLF makes up for
    if ends % 2:
        return False
    seen, too_long = _look_at_lines(data)
    return not too_long and (seen * 2 == ends or data.count(b"\r\n") * 2 == ends)


def _look_at_lines(data: bytes) -> tuple[int, bool]:
    """(at most `data.count(b"\\r\\n")`, whether a line is longer than 998 octets).

    The count is exact, and had several times faster, where many lines have one length, as in base64: such a run is looked
    at in two strides, twice as many lines at a time as long as that succeeds. Linear."""
    total, position, size = 0, 0, len(data)
    while position < size:
        stride = data.find(b"\n", position) + 1 - position
        lines = _RUN
        while 1 < stride <= MAX_LINE and position + stride * lines <= size:
            stop = position + stride * lines
            if data[position + stride - 1 : stop : stride] != b"\n" * lines:
                break
            if data[position + stride - 2 : stop : stride] != b"\r" * lines:
                break
            total, position, lines = total + lines, stop, lines * 2
        # The lines after it, up to the last line end of a step.
        last = data.rfind(b"\n", position, position + _STEP) + 1 or data.find(b"\n", position) + 1
        if has_long_line(data, position, last or size):
            return total, True
        if not last:
            break
        total += data.count(b"\r\n", position, last)
        position = last
    return total, False


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


_HARMLESS = bytes(octet for octet in range(256) if octet not in b"\r\n\0")
_SMALL = 65536
_RUN = 64
_STEP = 8192


def _is_labelled(entity: bytes) -> bool:
    """Whether a part says that it is binary, or a container 8bit: a label that a relay might act upon."""
    if len(entity) < _SMALL:
        lower = entity.lower()
        if b"8bit" not in lower and b"binary" not in lower:
            return False
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
