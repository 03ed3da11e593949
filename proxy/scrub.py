"""Taking send codes out of a message: out of the field and the subject where they are given, and out of everything else
where a reply or a forwarded message quotes one.

Invariants: a message without a code comes back as the same octets; a quoted text is changed only where it is exactly a
code that this operator issued (so chance never alters a document); nothing raises on any bytes; time is linear.
What is looked at: every header field of every part, text and message parts, markup, and what lies between parts.
What is not: pictures, PDF and archives, where a code cannot be changed without breaking them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import mime
from mime.words import codec_name
from mime.write import base64_lines, quoted_printable
from proxy import codes

_PREFIX = re.compile(r"\s*(?:(?:re|ref|réf|tr|fw|fwd|wg|aw|rép|rep)\s?(?:\[\d{1,3}\])?\s?:\s*)*+", re.IGNORECASE)
_BRACKETED = re.compile(r"\[([^\[\]]{1,120})\]")
_CLEAR_TAG = re.compile(r"\[\s*(?:sans chiffrement|unencrypted)\s*\]", re.IGNORECASE)
_MARKUP = re.compile(r"application/(?:.+\+)?(?:xml|json|rtf)\Z|application/(?:x-)?(?:javascript|yaml|sql)\Z")

_ROUNDS = 10  # taking one code out may join the two halves of another: only somebody who does it on purpose gets here

_DASH = r"\-\u2010-\u2015\u2212\u00ad"
_BLANK = r"\s>\u200b\u200c\u200d\ufeff"
_GROUPED = rf"[0-9A-Za-z]{{4}}(?:[{_BLANK}]{{0,8}}[{_DASH}][{_BLANK}]{{0,8}}[0-9A-Za-z]{{5}}){{4}}"
_SPACED = r"[0-9A-Za-z]{4}(?:\s[0-9A-Za-z]{5}){4}"
_WHOLE = r"(?<![0-9A-Za-z])[0-9A-Za-z]{24}(?![0-9A-Za-z])"
_QUOTED = re.compile(rf"{_GROUPED}|{_SPACED}|{_WHOLE}")


@dataclass(frozen=True, slots=True)
class Given:
    """What a sender gave with a message: every code or attempt at one, in fields and subject, and whether the subject
    accepts sending without encryption (`[sans chiffrement]`)."""

    codes: tuple[str, ...]
    accepts_clear: bool


def take(raw: bytes) -> tuple[bytes, Given]:
    """The message without the codes given in its fields and subject, and what they were."""
    last, _ = mime.header_end(raw)
    shown: list[str] = []
    accepts_clear = False
    edits: list[tuple[int, int, bytes]] = []
    for field in mime.iter_fields(raw, 0, last):
        name = field.name.strip().lower()
        if name == codes.CODE_FIELD.lower():
            shown.append(mime.decode_words(field.text))
            edits.append((field.start, field.end, b""))
        elif name == "subject":
            subject = mime.decode_words(field.text)
            rest, found = _without_attempts(subject)
            rest, clear = _without_clear_tag(rest)
            shown += found
            accepts_clear = accepts_clear or clear
            if rest != subject:
                edits.append((field.start, field.end, _field(field.name, rest)))
    return _edited(raw, edits), Given(tuple(shown), accepts_clear)


def _without_attempts(subject: str) -> tuple[str, list[str]]:
    """A subject without its bracketed codes, wherever they are; those at its start or end are given, others are not."""
    found: list[str] = []
    start = _PREFIX.match(subject)
    begin = start.end() if start else 0
    for match in _BRACKETED.finditer(subject):
        if codes.is_attempt(match[1]) or codes.normalise(match[1]) is not None:
            found.append(match[1])
    rest = _BRACKETED.sub(lambda match: "" if match[1] in found else match[0], subject)
    outer = [one for one in found if _is_outer(subject, begin, one)]
    return (_tidy(rest), outer) if found else (subject, [])


def _is_outer(subject: str, begin: int, text: str) -> bool:
    """Whether `[text]` stands at the start or the end, other bracketed words and codes aside."""
    at = subject.index(f"[{text}]")
    before = _BRACKETED.sub("", subject[begin:at]).strip()
    after = _BRACKETED.sub("", subject[at:]).strip()
    return not before or not after


def _without_clear_tag(subject: str) -> tuple[str, bool]:
    rest = _CLEAR_TAG.sub("", subject)
    return (_tidy(rest), True) if rest != subject else (subject, False)


def _tidy(text: str) -> str:
    return re.sub(r"[ \t]{2,}", " ", text).strip()


def quoted(raw: bytes) -> dict[str, bytes]:
    """What might be codes in a message: digest by code id. Only the store can tell which of them are."""
    found: dict[str, bytes] = {}
    for piece in _pieces(raw):
        for match in _QUOTED.finditer(piece.text):
            letters = _letters(match[0])
            if letters is not None:
                found[codes.code_id(letters)] = codes.digest(letters)
    return found


def without(raw: bytes, digests: Mapping[str, bytes]) -> bytes:
    """The message without these codes (digest by code id), wherever they are quoted, in brackets or not."""
    for _ in range(_ROUNDS if digests else 0):
        changed = _without_once(raw, digests)
        if changed == raw:
            break
        raw = changed
    return raw


def _without_once(raw: bytes, digests: Mapping[str, bytes]) -> bytes:
    def replaced(match: re.Match[str]) -> str:
        letters = _letters(match[0])
        known = letters is not None and digests.get(codes.code_id(letters)) == codes.digest(letters)
        return "" if known else match[0]

    edits: list[tuple[int, int, bytes]] = []
    for piece in _pieces(raw):
        text = _QUOTED.sub(replaced, piece.text)
        if text != piece.text:
            edits.append((piece.start, piece.end, piece.rebuilt(re.sub(r"\[[\s>]*\]\s?", "", text))))
    return _edited(raw, edits)


def _letters(text: str) -> str | None:
    return codes.normalise("".join(char for char in text if char.isascii() and char.isalnum()))


@dataclass(frozen=True, slots=True)
class _Piece:
    """A readable stretch of a message: what it says, and how to write it again when it changes."""

    start: int
    end: int
    text: str
    rebuilt: Callable[[str], bytes]


def _pieces(raw: bytes) -> Iterator[_Piece]:
    """The stretches that may quote a code. Those that certainly do not are left out, quickly."""
    for part in mime.parse(raw).walk():
        yield from _header_pieces(raw, part)
        if part.children:
            edges = [part.body_start, *(at for child in part.children for at in (child.start, child.end)), part.end]
            for start, end in zip(edges[::2], edges[1::2], strict=True):
                if _may_quote(raw[start:end]):
                    yield _Piece(start, end, raw[start:end].decode("latin-1"), _latin)
        elif _is_text(part.media_type):
            content = part.decoded(raw)
            if _may_quote(content):
                yield _body_piece(part, content)


def _header_pieces(raw: bytes, part: mime.Part) -> Iterator[_Piece]:
    last, _ = mime.header_end(raw, part.start, part.end)
    header = raw[part.start : last]
    if b"=?" not in header and not _may_quote(header) and codes.CODE_FIELD.lower().encode() not in header.lower():
        return
    for field in mime.iter_fields(raw, part.start, last):
        text = mime.decode_words(field.text)
        name = field.name
        if _may_quote(text.encode("utf-8", "replace")) or (part.start and name.lower() == codes.CODE_FIELD.lower()):
            yield _Piece(field.start, field.end, text, partial(_field, name))


def _body_piece(part: mime.Part, content: bytes) -> _Piece:
    codec = codec_name(part.parameters.get("charset", "us-ascii")) or "latin-1"
    try:
        text = content.decode(codec)
        if text.encode(codec) != content:
            raise ValueError("not the same again")
    except (ValueError, LookupError):
        codec = "latin-1"
        text = content.decode(codec)

    def rebuilt(value: str) -> bytes:
        data = value.encode(codec)
        if part.encoding == "base64":
            return base64_lines(data)
        return quoted_printable(data) if part.encoding == "quoted-printable" else data

    return _Piece(part.body_start, part.end, text, rebuilt)


def _is_text(media_type: str) -> bool:
    return media_type.startswith(("text/", "message/", "multipart/")) or _MARKUP.match(media_type) is not None


def _latin(value: str) -> bytes:
    return value.encode("latin-1")


def _field(name: str, value: str) -> bytes:
    """A field with its new value; one that cannot be written, or that is there for a code, goes altogether."""
    if name.strip().lower() == codes.CODE_FIELD.lower():
        return b""
    try:
        return mime.header_field(name.strip(), value)
    except ValueError:
        return b""


def _edited(raw: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    out: list[bytes] = []
    position = 0
    for start, end, content in sorted(edits):
        out += [raw[position:start], content]
        position = end
    return b"".join([*out, raw[position:]]) if edits else raw


# A first look at octets, at the speed of C: letters and digits become "a", dashes "-", blanks and quote marks disappear
# (or, for a code written with spaces, become "-" too). Typographic dashes in UTF-8 keep one octet out of three.
_DELETED = b" \t\r\n>\xe2\x80\x88\x8b\x8c\x8d\xc2\xef\xbb\xbf"
_SHAPE_GROUPED = b"aaaa-aaaaa-aaaaa-aaaaa-aaaaa"
_SHAPE_WHOLE = b"a" * 24


def _shape_table(dashes: bytes) -> bytes:
    letters = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    return bytes(97 if octet in letters else 45 if octet in dashes else 32 for octet in range(256))


_BY_DASH = _shape_table(b"-\x90\x91\x92\x93\x94\x95\x96\x97\xad")
_BY_SPACE = _shape_table(b"- \t\r\n\xa0")


def _may_quote(content: bytes) -> bool:
    # In UTF-16 and UTF-32 every letter has NULs beside it.
    content = content.replace(b"\0", b"") if b"\0" in content else content
    spaced = content.translate(_BY_SPACE)
    return _SHAPE_GROUPED in spaced or _SHAPE_WHOLE in spaced or _SHAPE_GROUPED in content.translate(_BY_DASH, _DELETED)
