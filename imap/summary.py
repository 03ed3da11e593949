"""The summary of a message, made once at delivery and kept beside it, so that listing a folder never parses a message.

It holds ENVELOPE, BODY and BODYSTRUCTURE as ready-to-send bytes, the places of all sections, so that BODY[2.1] is read
from the blob by range, the keys of SORT, THREAD and PREVIEW, and the header fields that clients list. The mailstore keeps
it as opaque, sealed bytes.

Encoding, version 3: `\x03`, then eight 4-byte big-endian numbers (message size, header length, lengths of the six
chunks), then the chunks ENVELOPE, BODY, BODYSTRUCTURE, places, keys, kept header fields. A place is 4 numbers (start, body
start, end, header end of the message inside or 0) with its section path in front as length and 2-byte numbers, and its
transfer encoding as one octet behind. An unknown version, or bytes that do not fit, read as "no summary": the caller
computes it anew.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from imap.envelope import envelope
from imap.kept import keep
from imap.keys import Keys, decode_keys, encode_keys, keys_of
from imap.structure import body_structure
from mime import Part, parse

VERSION = 3
MOST_STRUCTURE = 512 * 1024
_HEAD = struct.Struct(">BIIIIIIII")
_PLACE = struct.Struct(">IIIIB")
Path = tuple[int, ...]
# What BINARY can undo (RFC 3516 §4.2); the last stands for an encoding nobody knows.
ENCODINGS = ("identity", "base64", "quoted-printable", "unknown")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a part lies in the message. `inner_body` is where the text of a message/rfc822's message starts, else 0.
    `encoding` is an index in ENCODINGS."""

    start: int
    body_start: int
    end: int
    inner_body: int
    encoding: int


@dataclass(frozen=True, slots=True)
class Summary:
    """A summary, read. `places`, `keys` and `kept` are still encoded: few commands need them."""

    size: int
    header_length: int
    envelope: bytes
    body: bytes
    structure: bytes
    encoded_places: bytes
    encoded_keys: bytes
    kept: bytes

    def keys(self) -> Keys:
        """What SORT, THREAD and PREVIEW need."""
        return decode_keys(self.encoded_keys)

    def places(self) -> dict[Path, Place]:
        """Section path (`(2, 1)` for 2.1) to its place."""
        return dict(_decode_places(self.encoded_places))


def _walk(part: Part, path: Path) -> Iterator[tuple[Path, Place]]:
    """Sections as RFC 3501 §6.4.5 numbers them. `part` is a message when `path` names a message/rfc822 or is empty."""
    if part.media_type.startswith("multipart/") and part.children:
        for number, child in enumerate(part.children, 1):
            yield from _section(child, (*path, number))
    else:
        # The body of a message that is not a multipart is its part 1.
        yield from _section(part, (*path, 1))


def _section(part: Part, path: Path) -> Iterator[tuple[Path, Place]]:
    is_message = not part.media_type.startswith("multipart/") and bool(part.children)
    inner = part.children[0] if is_message else None
    encoding = 0 if part.children else _encoding(part)
    yield path, Place(part.start, part.body_start, part.end, inner.body_start if inner else 0, encoding)
    if inner is not None:
        yield from _walk(inner, path)
    elif part.children:
        yield from _walk(part, path)


def _encoding(part: Part) -> int:
    if part.encoding in ("", "7bit", "8bit", "binary"):
        return 0
    return ENCODINGS.index(part.encoding) if part.encoding in ENCODINGS[1:3] else 3


def _encode_places(root: Part) -> bytes:
    out = bytearray()
    for path, place in _walk(root, ()):
        out += bytes([len(path)]) + struct.pack(f">{len(path)}H", *path)
        out += _PLACE.pack(place.start, place.body_start, place.end, place.inner_body, place.encoding)
    return bytes(out)


def _decode_places(encoded: bytes) -> Iterator[tuple[Path, Place]]:
    position = 0
    while position < len(encoded):
        depth = encoded[position]
        path = struct.unpack_from(f">{depth}H", encoded, position + 1)
        position += 1 + 2 * depth
        yield path, Place(*_PLACE.unpack_from(encoded, position))
        position += _PLACE.size


def compute(raw: bytes) -> Summary:
    """The summary of a message, whatever its bytes. One whose structure takes more than MOST_STRUCTURE bytes, which only
    malice makes, is shown as a single part: a summary must not weigh as much as its message."""
    root = parse(raw)
    summary = _summary(root, raw)
    return summary if len(summary.structure) <= MOST_STRUCTURE else _summary(parse(raw, max_depth=0), raw)


def _summary(root: Part, raw: bytes) -> Summary:
    body, structure = body_structure(root, raw)
    return Summary(
        size=len(raw),
        header_length=root.body_start,
        envelope=envelope(root.first),
        body=body,
        structure=structure,
        encoded_places=_encode_places(root),
        encoded_keys=encode_keys(keys_of(root, raw)),
        kept=keep(root, raw),
    )


def encode(summary: Summary) -> bytes:
    """The stored form."""
    chunks = (
        *(summary.envelope, summary.body, summary.structure),
        *(summary.encoded_places, summary.encoded_keys, summary.kept),
    )
    head = _HEAD.pack(VERSION, summary.size, summary.header_length, *map(len, chunks))
    return head + b"".join(chunks)


def summarise(raw: bytes) -> bytes:
    """The opaque index of a message for the mailstore: give it to `Store.open(..., index=summarise)`. Never raises."""
    return encode(compute(raw))


def read_envelope(stored: bytes) -> bytes | None:
    """Only the ENVELOPE of a stored summary: what listing a large folder asks of every message."""
    if len(stored) < _HEAD.size or stored[0] != VERSION:
        return None
    return stored[_HEAD.size : _HEAD.size + int.from_bytes(stored[9:13], "big")]


def read(stored: bytes) -> Summary | None:
    """The summary behind stored bytes; None when there is none, or one of another version."""
    if len(stored) < _HEAD.size or stored[0] != VERSION:
        return None
    _, size, header_length, *lengths = _HEAD.unpack_from(stored)
    if _HEAD.size + sum(lengths) != len(stored):
        return None
    chunks: list[bytes] = []
    position = _HEAD.size
    for length in lengths:
        chunks.append(stored[position : position + length])
        position += length
    return Summary(size, header_length, *chunks)
