"""Writing header fields and entities.

Invariants: what is written is 7-bit ASCII with CRLF line ends and lines of at most 998 octets (header fields fold below
78 where there is a space); a part handed to `multipart` is copied octet for octet; no value can add a header line.
"""

from __future__ import annotations

import base64
import re
import secrets
import struct
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Literal
from urllib.parse import quote

import pybase64

from mime.addresses import addresses
from mime.fields import to_crlf

MAX_LINE = 998
_NAME = re.compile(r"[!-9;-~]{1,200}\Z")
_WORD = re.compile(r"[ \t]*[^ \t]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_ADDRESS_FIELDS = frozenset(
    prefix + name for prefix in ("", "resent-") for name in ("from", "sender", "reply-to", "to", "cc", "bcc")
) | {"disposition-notification-to", "return-receipt-to"}
_TOKEN = re.compile(r"[!#$%&'*+.0-9A-Z^_`a-z{|}~-]+\Z")
_Q_UNSAFE = re.compile(rb"[^0-9A-Za-z!*+/ -]")
_QP_UNSAFE = re.compile(rb"[^\t\r\n -<>-~]")
Disposition = Literal["attachment", "inline"]


def header_field(name: str, value: str) -> bytes:
    """One field ending with CRLF: RFC 2047 for what is not ASCII, folded below 78 octets at spaces (RFC 5322 §2.2.3).

    In address fields only display names are encoded. Raises ValueError for CR, LF, NUL or another control character in
    the value, a bad name, a non-ASCII address, or a word longer than a line may be."""
    if not _NAME.match(name):
        raise ValueError("not a header field name")
    if _CONTROL.search(value):
        raise ValueError("control character in a header field value")
    value = value.strip(" \t")
    if not value.isascii():
        value = _ascii_addresses(value) if name.lower() in _ADDRESS_FIELDS else _encode_runs(value, len(name) + 2)
    return _fold(name, value)


def _ascii_addresses(value: str) -> str:
    pairs = addresses(value)
    if not pairs or any(not address.isascii() for _, address in pairs):
        raise ValueError("an address field needs ASCII addresses")
    return ", ".join(_mailbox(display, address) for display, address in pairs)


def _mailbox(display: str, address: str) -> str:
    if not display:
        return address
    if not display.isascii():
        return f"{_encoded_words(display)} <{address}>"
    escaped = display.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}" <{address}>'


def _encode_runs(value: str, taken: int) -> str:
    """Encodes each run of neighbouring words that are not ASCII; the rest stays readable."""
    words = _WORD.findall(value)
    out: list[str] = []
    index = 0
    while index < len(words):
        if words[index].isascii():
            out.append(words[index])
            index += 1
            continue
        last = index
        while last + 1 < len(words) and not words[last + 1].isascii():
            last += 1
        run = "".join(words[index : last + 1])
        gap = run[: len(run) - len(run.lstrip(" \t"))]
        out.append(gap + _encoded_words(run.lstrip(" \t"), taken if not out else 1))
        index = last + 1
    return "".join(out)


def _encoded_words(value: str, taken: int = 1) -> str:
    """`value` as UTF-8 encoded words of at most 75 characters each, cut between characters (RFC 2047 §2, §5)."""
    room = max(30, 75 - taken)
    words: list[str] = []
    piece = ""
    for char in value:
        if len(_encoded_word(piece + char)) > room:
            words.append(_encoded_word(piece))
            piece, room = "", 75
        piece += char
    words.append(_encoded_word(piece))
    return " ".join(words)


def _encoded_word(piece: str) -> str:
    data = piece.encode("utf-8")
    q = _Q_UNSAFE.sub(lambda match: b"=%02X" % match[0][0], data).replace(b" ", b"_").decode("ascii")
    b = base64.b64encode(data).decode("ascii")
    return f"=?utf-8?q?{q}?=" if len(q) <= len(b) else f"=?utf-8?b?{b}?="


def _fold(name: str, value: str) -> bytes:
    lines = [name + ":"]
    for word in _WORD.findall(value):
        piece = word if word[0] in " \t" else " " + word
        if len(lines[-1]) + len(piece) > 77 and (len(lines) > 1 or len(lines[0]) > len(name) + 1):
            lines.append(piece)
        else:
            lines[-1] += piece
    if any(len(line) > MAX_LINE for line in lines):
        raise ValueError("a word of a header field is longer than a line may be")
    return "\r\n".join(lines).encode("ascii") + b"\r\n"


def prepend_fields(raw: bytes, fields: Sequence[tuple[str, str]]) -> bytes:
    """`raw` with `fields` before it, in order, each written by `header_field`; `raw` itself is untouched."""
    return b"".join([*(header_field(name, value) for name, value in fields), raw])


def _parameter(name: str, value: str) -> str:
    if _TOKEN.match(value):
        return f"{name}={value}"
    if value.isascii() and value.isprintable() and len(value) < 200:
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'{name}="{escaped}"'
    return _extended_parameter(name, value)


def _extended_parameter(name: str, value: str) -> str:
    """RFC 2231 §4, in sections (§3) when one line would not hold it."""
    encoded = quote(value, safe="!#$&+.^_`|~-")
    if len(encoded) < 60:
        return f"{name}*=utf-8''{encoded}"
    pieces = re.findall(r"(?:%[0-9A-F]{2}|[^%]){1,20}", encoded)
    pieces[0] = "utf-8''" + pieces[0]
    return "; ".join(f"{name}*{index}*={piece}" for index, piece in enumerate(pieces))


def _typed(media_type: str, parameters: Mapping[str, str]) -> str:
    for name in parameters:
        if not _TOKEN.match(name):
            raise ValueError("not a parameter name")
    return "; ".join([media_type, *(_parameter(name, value) for name, value in parameters.items())])


def multipart(
    subtype: str,
    parts: Sequence[bytes],
    *,
    boundary: str | None = None,
    parameters: Mapping[str, str] | None = None,
) -> bytes:
    """A multipart entity (header and body, no MIME-Version) whose parts are exactly the entities given.

    `boundary` defaults to a fresh random one. Raises ValueError without parts, or for a given
    boundary that is badly spelled or begins a line of a part."""
    if not parts:
        raise ValueError("a multipart needs a part")
    mark = boundary or fresh_boundary()
    if not re.match(r"[0-9A-Za-z'()+_,./:=?-]{1,70}\Z", mark):
        raise ValueError("not a boundary")
    delimiter = b"--" + mark.encode("ascii")
    if boundary is not None and any((b"\n" + part).find(b"\n" + delimiter) >= 0 for part in parts):
        raise ValueError("the boundary occurs in a part")
    header = header_field("Content-Type", _typed(f"multipart/{subtype}", {**(parameters or {}), "boundary": mark}))
    out = [header, b"\r\n"]
    for part in parts:
        out += [delimiter, b"\r\n", part, b"\r\n"]
    return b"".join([*out, delimiter, b"--\r\n"])


def fresh_boundary() -> str:
    """A boundary of 128 random bits: that it occurs in a part, even one written to provoke it, cannot happen. "=_" cannot
    occur in quoted-printable, nor in base64."""
    return "=_" + secrets.token_hex(16)


def leaf(
    media_type: str,
    content: bytes,
    *,
    filename: str | None = None,
    parameters: Mapping[str, str] | None = None,
    disposition: Disposition | None = None,
) -> bytes:
    """An entity that carries `content`: 7bit, quoted-printable or base64, whichever fits it.

    Decoding gives `content` back octet for octet, except that text/plain and text/html are first given CRLF line ends
    (RFC 2046 §4.1.1). A file name that is not ASCII is written by RFC 2231; the disposition is then "attachment" unless
    said otherwise."""
    if media_type in ("text/plain", "text/html"):
        content = to_crlf(content)
    encoding, body = encode_body(content, prefer_text=media_type.startswith("text/"))
    out = [header_field("Content-Type", _typed(media_type, parameters or {}))]
    if encoding != "7bit":
        out.append(header_field("Content-Transfer-Encoding", encoding))
    if disposition or filename:
        named = {} if filename is None else {"filename": filename}
        out.append(header_field("Content-Disposition", _typed(disposition or "attachment", named)))
    return b"".join([*out, b"\r\n", body])


def encode_body(content: bytes, *, prefer_text: bool) -> tuple[str, bytes]:
    """(transfer encoding, encoded body) for octets that must survive any 7-bit relay unchanged (RFC 2045 §6)."""
    if prefer_text and is_plain_seven_bit(content):
        return "7bit", content
    unsafe = len(_QP_UNSAFE.findall(content[:65536]))
    if prefer_text and len(content) <= 1 << 20 and unsafe * 6 <= min(len(content), 65536):
        return "quoted-printable", quoted_printable(content)
    return "base64", base64_lines(content)


def is_plain_seven_bit(content: bytes) -> bool:
    """True when no relay has a reason to touch it: ASCII, CRLF only, lines below 78, no blanks at line ends, no
    `From ` line (RFC 5751 §3.1.1; mbox quoting)."""
    if (
        not content.isascii()
        or b"\0" in content
        or not content.count(b"\r\n") == content.count(b"\n") == content.count(b"\r")
    ):
        return False
    return all(
        len(line) <= 76 and not line.endswith((b" ", b"\t")) and not line.startswith((b"From ", b"."))
        for line in content.split(b"\r\n")
    )


LINE_OCTETS = 57
"""Octets that one line of base64 holds."""


class Base64Lines:
    """Base64 in lines of 76 characters, CRLF between and after them, written piece by piece (RFC 2045 §6.8).

    Memory: what is written, once. A C call encodes 1024 lines and another cuts them: no Python loop over lines, and the
    piece worked on stays in the processor's cache."""

    _BLOCK = LINE_OCTETS * 1024

    def __init__(self, head: bytes = b"", size: int = 0) -> None:
        """`head` comes first, as it is. `size`: exactly how many octets will be encoded, when that is known; their
        room is then made at once."""
        self._out = BytesIO(bytes(len(head) + encoded_size(size)))
        self._out.write(head)
        self._rest = b""

    def write(self, data: bytes | memoryview) -> None:
        """Encodes more octets."""
        view = memoryview(data)
        position = 0
        if self._rest:
            position = min(len(view), self._BLOCK - len(self._rest))
            self._rest += view[:position]
            if len(self._rest) < self._BLOCK:
                return
            self._block(self._rest)
            self._rest = b""
        while len(view) - position >= self._BLOCK:
            self._block(view[position : position + self._BLOCK])
            position += self._BLOCK
        self._rest = bytes(view[position:])

    def _block(self, octets: bytes | memoryview) -> None:
        self._out.write(base64_lines(octets))

    def finish(self) -> bytes:
        """All that was written. Nothing may be written after."""
        self._block(self._rest)
        return self._out.getvalue()


def encoded_size(size: int) -> int:
    """The length of `size` octets in lines of base64."""
    characters = (size + 2) // 3 * 4
    return characters + (characters + 75) // 76 * 2


_CUTS = {count: struct.Struct("76s" * count) for count in (1024, 128, 16)}


def base64_lines(content: bytes | memoryview) -> bytes:
    """Base64 in lines of 76 characters, CRLF between and after them."""
    text = pybase64.b64encode(content)
    lines: list[bytes] = []
    position, size = 0, len(text)
    for count, cut in _CUTS.items():
        while size - position >= 76 * count:
            lines += cut.unpack_from(text, position)
            position += 76 * count
    lines += [text[at : at + 76] for at in range(position, size, 76)]
    lines.append(b"")
    return b"\r\n".join(lines)


def quoted_printable(content: bytes) -> bytes:
    """Quoted-printable (RFC 2045 §6.7) that decodes to exactly `content`: only CRLF is a line end, lines stay below 77,
    line-end blanks, a leading dot and `From ` are encoded."""
    return b"\r\n".join(_qp_line(line) for line in content.split(b"\r\n"))


def _qp_line(line: bytes) -> bytes:
    encoded = re.sub(rb"[^\t -<>-~]", lambda match: b"=%02X" % match[0][0], line)
    if encoded.endswith((b" ", b"\t")):
        encoded = encoded[:-1] + b"=%02X" % encoded[-1]
    if encoded.startswith((b"From ", b".")):
        encoded = b"=%02X" % encoded[0] + encoded[1:]
    if len(encoded) <= 76:
        return encoded
    out: list[bytes] = []
    while len(encoded) > 76:
        cut = 75
        if encoded[74:75] == b"=":
            cut = 74
        elif encoded[73:74] == b"=":
            cut = 73
        out.append(encoded[:cut] + b"=")
        encoded = encoded[cut:]
        if encoded.startswith((b"From ", b".")):
            encoded = b"=%02X" % encoded[0] + encoded[1:]
    return b"\r\n".join([*out, encoded])


def message(fields: Sequence[tuple[str, str]], entity: bytes) -> bytes:
    """A whole message: `fields`, MIME-Version, then the entity's own header and body."""
    return prepend_fields(entity, [*fields, ("MIME-Version", "1.0")])
