"""ENVELOPE (RFC 3501 §7.4.2): the header fields a client lists, as ready-to-send bytes.

Values are sent as written (RFC 2047 words not decoded), unfolded. Address lists are read tolerantly, in linear time,
and their number is bounded; groups become the start and end markers of RFC 3501.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from imap.format import nstring
from mime import Field

MOST_ADDRESSES = 1000
MOST_VALUE = 64 * 1024
_FOLD = re.compile(rb"\r?\n(?=[ \t])")
_CONTROLS = bytes({*range(0x20), 0x7F} - {0x09})
_TOKEN = re.compile(rb'"((?:[^"\\]|\\.)*+)"|([<>,;:()])|([^<>,;:()"]++)|(.)', re.DOTALL)
_UNQUOTED = re.compile(rb'((?!))|([<>,;:()])|([^<>,;:()"]++)|(.)', re.DOTALL)
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)


Header = Mapping[str, Field]
"""The first field of each name, in lower case (`Part.first`)."""


def value_of(header: Header, name: str) -> bytes | None:
    """The first field of that name: unfolded, stripped, control characters out; None when there is none."""
    field = header.get(name)
    if field is None:
        return None
    value = field.value[:MOST_VALUE]
    if b"\n" in value:
        value = _FOLD.sub(b"", value)
    return value.translate(None, _CONTROLS).strip()


@dataclass(frozen=True, slots=True)
class _Token:
    """`kind` is `q` (quoted, escapes undone in `text`), `(` (comment), a special character, or `w` for other text."""

    kind: str
    text: bytes
    raw: bytes


def _matches(value: bytes) -> Iterator[re.Match[bytes]]:
    pattern, position = _TOKEN, 0
    while match := pattern.match(value, position):
        yield match
        position = match.end()
        if match[4]:
            # A quote that nothing closes. No later one is closed either: to look again each time would be quadratic.
            pattern = _UNQUOTED


def _tokens(value: bytes) -> Iterator[_Token]:
    depth = 0
    comment: list[bytes] = []
    for match in _matches(value):
        raw, special = match[0], match[2]
        if depth:
            depth += (special == b"(") - (special == b")")
            comment.append(raw if depth else b"")
            if not depth:
                yield _Token("(", b"".join(comment), b"")
        elif special == b"(":
            depth, comment = 1, []
        elif match[1] is not None:
            yield _Token("q", _ESCAPE.sub(rb"\1", match[1]), raw)
        elif special is not None:
            yield _Token(special.decode("ascii"), raw, raw)
        else:
            yield _Token("w", raw, raw)


def _clean(pieces: list[bytes]) -> bytes:
    return b" ".join(b"".join(pieces).split())


class Address(NamedTuple):
    """An address of a header, as written. A group begins with one that has a mailbox alone, its name, and ends with one that
    has nothing (RFC 9051 §7.5.2)."""

    name: bytes | None = None
    route: bytes | None = None
    mailbox: bytes | None = None
    host: bytes | None = None


def _mailbox(tokens: list[_Token]) -> Address | None:
    """One address between two commas; None when nothing is there."""
    kinds = [token.kind for token in tokens]
    comments = [token.text for token in tokens if token.kind == "("]
    if "<" in kinds:
        start = kinds.index("<")
        stop = kinds.index(">", start) if ">" in kinds[start:] else len(kinds)
        spec = _clean([token.raw for token in tokens[start + 1 : stop] if token.kind != "("])
        # An obsolete source route (RFC 5322 §4.4) ends at the colon; it is the at-domain-list of the envelope.
        route, _, spec = spec.rpartition(b":") if spec.startswith(b"@") else (b"", b"", spec)
        name: bytes | None = _clean([token.text for token in tokens[:start] if token.kind != "("])
    else:
        spec = _clean([token.raw for token in tokens if token.kind != "("])
        name, route = _clean(comments[-1:]), b""
    if not spec and not name:
        return None
    local, at, host = spec.rpartition(b"@")
    if not at:
        local, host = spec, b""
    if local.startswith(b'"') and local.endswith(b'"') and len(local) > 1:
        local = _ESCAPE.sub(rb"\1", local[1:-1])
    return Address(name or None, route or None, local.strip(), host.strip())


def addresses(value: bytes) -> Iterator[Address]:
    """The addresses of a field, groups included."""
    pending: list[_Token] = []
    angle = group = False
    for token in [*_tokens(value), _Token(",", b"", b"")]:
        angle = token.kind == "<" or (angle and token.kind != ">")
        if angle and not (token.kind == "," and not token.raw):
            pending.append(token)
        elif token.kind == ":" and not group:
            yield Address(mailbox=_clean([part.text for part in pending if part.kind != "("]))
            pending, group = [], True
        elif token.kind in (",", ";"):
            mailbox = _mailbox(pending)
            pending = []
            if mailbox is not None:
                yield mailbox
            if token.kind == ";" and group:
                yield Address()
                group = False
        else:
            pending.append(token)
    if group:
        yield Address()


def address_list(value: bytes | None) -> bytes:
    """The parenthesised address structures of a field, or NIL when it holds none."""
    if not value:
        return b"NIL"
    return _remembered(value) if len(value) <= REMEMBERED else _address_list(value)


REMEMBERED = 160
"""Octets of the longest field that is remembered: correspondents write again and again."""


def _address_list(value: bytes) -> bytes:
    found = [b"(" + b" ".join(map(nstring, one)) + b")" for one in islice(addresses(value), MOST_ADDRESSES)]
    return b"(" + b"".join(found) + b")" if found else b"NIL"


_remembered = lru_cache(maxsize=1024)(_address_list)


def envelope(header: Header) -> bytes:
    """The ENVELOPE of a header. Sender and Reply-To default to From (RFC 3501 §7.4.2)."""
    origin = address_list(value_of(header, "from"))
    senders = [origin]
    for name in ("sender", "reply-to"):
        own = address_list(value_of(header, name))
        senders.append(origin if own == b"NIL" else own)
    parts = [
        nstring(value_of(header, "date")),
        nstring(value_of(header, "subject")),
        *senders,
        *(address_list(value_of(header, name)) for name in ("to", "cc", "bcc")),
        nstring(value_of(header, "in-reply-to")),
        nstring(value_of(header, "message-id")),
    ]
    return b"(" + b" ".join(parts) + b")"
