"""Words in headers: bytes to text, RFC 2047 encoded words, RFC 2231 parameters.

Invariants: nothing here raises on any input when reading; reading time is linear; a charset is never trusted to name
more than a plain text codec (no `idna`, `punycode`, `rot13` and the like).
"""

from __future__ import annotations

import binascii
import codecs
import re
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import unquote_to_bytes

import pybase64

_ENCODED_WORD = re.compile(r"=\?([^?*\s]{1,64})(?:\*[^?\s]{0,64})?\?([bBqQ])\?([^?\s]*)\?=")
_GAP = re.compile(r"[ \t\r\n]*\Z")
_FOLD = re.compile(rb"\r?\n(?=[ \t])")
_REFUSED_CODECS = frozenset({"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "utf-7"})
_SECTION = re.compile(r"^([^*]+)(?:\*(\d{1,3}))?(\*)?$")
# Possessive quantifiers and a scan that never looks at an octet twice: a hostile field must cost linear time.
_SEPARATORS = re.compile(r"[\s;]*+")
_PARAMETER = re.compile(r'([^\s=;"()]++)\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"?|([^\s;"()]*+))', re.DOTALL)
MAX_PARAMETERS = 200


def codec_name(charset: str) -> str | None:
    """The Python codec for a MIME charset name, or None when it is unknown or not a plain text charset."""
    try:
        info = codecs.lookup(charset.strip().lower())
    except (LookupError, ValueError):
        return None
    if info.name in _REFUSED_CODECS or not getattr(info, "_is_text_encoding", True):
        return None
    return info.name


def decode_charset(data: bytes, charset: str) -> str:
    """Text of `data` in `charset`; bytes that do not fit become U+FFFD; an unknown charset reads as `text`, and so does
    US-ASCII, which writers put on what is not."""
    codec = codec_name(charset)
    if codec in (None, "ascii"):
        return text(data)
    try:
        return data.decode(codec, "replace")
    except (LookupError, ValueError):
        return text(data)


def text(data: bytes) -> str:
    """Text of header bytes of unknown charset: UTF-8 (RFC 6532), else Latin-1, which never fails."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def unfold(value: bytes) -> str:
    """A raw field value without its folds (RFC 5322 §2.2.3) and outer white space; encoded words left as they are."""
    return text(_FOLD.sub(b"", value)).strip(" \t\r\n")


def decode_words(value: str) -> str:
    """RFC 2047 decoding of a header text. White space between two encoded words disappears (§6.2); words of the same
    charset are joined before decoding, because many writers cut a character in two."""
    out: list[str] = []
    pending, charset, last = b"", "", 0
    for match in _ENCODED_WORD.finditer(value):
        gap = value[last : match.start()]
        adjacent = bool(charset) and _GAP.match(gap) is not None
        if not adjacent or match[1].lower() != charset:
            out.append(decode_charset(pending, charset) if charset else "")
            out.append("" if adjacent else gap)
            pending, charset = b"", match[1].lower()
        pending += _word_bytes(match[2], match[3])
        last = match.end()
    if charset:
        out.append(decode_charset(pending, charset))
    out.append(value[last:])
    return "".join(out)


def _word_bytes(kind: str, payload: str) -> bytes:
    data = payload.encode("utf-8", "replace")
    if kind in "bB":
        return decode_base64(data)
    return binascii.a2b_qp(data, header=True)


_NOT_BASE64 = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"))


def decode_base64(data: bytes, start: int = 0, stop: int | None = None) -> bytes:
    """Tolerant base64 (RFC 2045 §6.8) of `data[start:stop]`: other characters are skipped, the first padding ends it, a
    cut tail is dropped."""
    stop = len(data) if stop is None else stop
    padding = data.find(b"=", start, stop)
    if padding >= 0:
        stop = min(stop, padding + (2 if data.startswith(b"==", padding) else 1))
    try:
        return pybase64.b64decode(memoryview(data)[start:stop])
    except binascii.Error:  # a cut tail, padding in two pieces
        return _decode_cut_base64(data[start:stop])


def _decode_cut_base64(data: bytes) -> bytes:
    clean = data.partition(b"=")[0].translate(None, _NOT_BASE64)
    tail = len(clean) % 4
    if tail == 1:
        clean = clean[:-1]
    elif tail:
        clean += b"=" * (4 - tail)
    return pybase64.b64decode(clean, validate=True)


_LOOSE_END = re.compile(rb"[ \t]\r?\n")
_TABS_AS_SPACES = bytes.maketrans(b"\t", b" ")


def decode_quoted_printable(data: bytes) -> bytes:
    """Tolerant quoted-printable (RFC 2045 §6.7): white space that transport added at line ends is dropped."""
    # One quick look first: most of what there is has no such white space.
    if b" \n" in data.translate(_TABS_AS_SPACES, b"\r") and _LOOSE_END.search(data):
        data = b"\n".join(_strip_line(line) for line in data.split(b"\n"))
    return binascii.a2b_qp(data)


def _strip_line(line: bytes) -> bytes:
    if line.endswith(b"\r"):
        return line[:-1].rstrip(b" \t") + b"\r"
    return line.rstrip(b" \t")


def split_parameters(value: str) -> tuple[str, dict[str, str]]:
    """`text/plain; charset="x"; name*0*=...` to (`text/plain`, parameters). RFC 2045 §5.1 and RFC 2231 §3, §4.

    Keys are lower case; the first value of a repeated parameter wins; broken pieces are skipped."""
    boundary = _BOUNDARY.fullmatch(value) if value.lower().count("boundary") == 1 else None
    if boundary is not None:
        # A boundary is another one each time; what is round it is not.
        value = boundary[1] + boundary[3]
    if len(value) > _REMEMBERED:
        return _split_parameters(value)
    head, parameters = _known_parameters(value)
    parameters = parameters.copy()
    if boundary is not None:
        parameters["boundary"] = boundary[2]
    return head, parameters


_REMEMBERED = 160
"""Characters of the longest value that is remembered: what mail programs write again and again."""
_OTHERS = r'(?:[^"\\();]++|"[^"\\()]*+"|;(?!\s*+boundary))*+'
_BOUNDARY = re.compile(
    rf"""({_OTHERS});\s*boundary="([0-9A-Za-z'+_,./:=?-]{{1,70}}+)"((?:;{_OTHERS})?)""", re.IGNORECASE
)
"""A value with its one boundary in quotes, and neither comments nor backslashes. The word may stand nowhere else in it."""


@lru_cache(maxsize=512)
def _known_parameters(value: str) -> tuple[str, dict[str, str]]:
    return _split_parameters(value)


def _split_parameters(value: str) -> tuple[str, dict[str, str]]:
    head, _, rest = _without_comments(value).partition(";")
    pieces: dict[str, list[tuple[int, bool, str]]] = {}
    for match in _parameters(rest):
        raw = match[2] if match[2] is not None else (match[3] or "")
        if match[2] is not None and "\\" in raw:
            raw = re.sub(r"\\(.)", r"\1", raw, flags=re.DOTALL)
        section = _SECTION.match(match[1].lower())
        if section is not None:
            pieces.setdefault(section[1], []).append((int(section[2] or -1), section[3] is not None, raw))
    return head.strip().lower(), {name: _join_sections(found) for name, found in pieces.items()}


def _parameters(rest: str) -> Iterator[re.Match[str]]:
    position, count = 0, 0
    while position < len(rest) and count < MAX_PARAMETERS:
        separators = _SEPARATORS.match(rest, position)
        position = separators.end() if separators else position
        match = _PARAMETER.match(rest, position)
        if match is not None:
            yield match
            position, count = match.end(), count + 1
        else:
            semicolon = rest.find(";", position)
            position = len(rest) if semicolon < 0 else semicolon


def _join_sections(found: list[tuple[int, bool, str]]) -> str:
    """One parameter from its RFC 2231 sections. An extended or continued form wins over the plain fallback form."""
    numbered = sorted((piece for piece in found if piece[0] >= 0), key=lambda piece: piece[0])
    extended = [piece for piece in found if piece[0] < 0 and piece[1]]
    chosen = numbered or extended[:1] or found[:1]
    data, charset, was_extended = b"", "", False
    for index, (_, is_extended, raw) in enumerate(chosen):
        if is_extended:
            was_extended = True
            if index == 0 and raw.count("'") >= 2:
                charset, _, raw = raw.split("'", 2)
            data += unquote_to_bytes(raw)
        else:
            data += raw.encode("utf-8", "replace")
    return decode_charset(data, charset or "utf-8") if was_extended else text(data)


def _without_comments(value: str) -> str:
    """`value` without RFC 822 comments outside quoted strings; linear; an unclosed comment swallows the rest."""
    if "(" not in value:
        return value
    out: list[str] = []
    depth, quoted, escaped = 0, False, False
    for char in value:
        if escaped:
            escaped = False
        elif char == "\\" and (quoted or depth):
            escaped = True
        elif char == '"' and not depth:
            quoted = not quoted
        elif char == "(" and not quoted:
            depth += 1
        elif char == ")" and not quoted and depth:
            depth -= 1
            continue
        if not depth:
            out.append(char)
    return "".join(out)
