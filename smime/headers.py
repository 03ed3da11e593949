"""Header protection (RFC 9788): the fields people look at, copied into what is signed or encrypted, and read back.

Invariants: protection means nothing outside a signature or an envelope, so nobody reads it there; what stands outside is
never changed by what is read inside, which is only reported; Bcc and fields that transport adds are never copied.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

import mime

PROTECTED = frozenset(
    {"from", "sender", "reply-to", "to", "cc", "subject", "date", "message-id", "in-reply-to", "references"}
    | {"comments", "keywords"}
)
HIDDEN_SUBJECT = "[...]"
"""What stands for a hidden Subject (RFC 9788 §3.2.1, hcp_baseline)."""
_DROPPED = frozenset({"comments", "keywords"})
_HP = re.compile(rb';[ \t\r\n]*hp[ \t]*=[ \t]*(?:"[^"]*"|[^\s;]*)', re.IGNORECASE)


class HeaderMode(StrEnum):
    """CLEAR: the fields are signed. CIPHER: for what is then encrypted; the Subject outside becomes `[...]`, Comments and
    Keywords go (RFC 9788 §3.2.1)."""

    CLEAR = "clear"
    CIPHER = "cipher"


@dataclass(frozen=True, slots=True)
class ProtectedField:
    """A field from inside. `outside`: its text outside, None when it is not there. `is_hidden`: it was encrypted, and not
    shown outside (RFC 9788 §4.3)."""

    name: str
    text: str
    outside: str | None
    is_hidden: bool


@dataclass(frozen=True, slots=True)
class ProtectedHeaders:
    """The protected fields of a message, as its writer wrote them."""

    mode: HeaderMode
    fields: tuple[ProtectedField, ...]

    @property
    def mismatched(self) -> tuple[str, ...]:
        """Names of fields that are shown outside otherwise than inside, on purpose or not, hidden ones apart."""
        return tuple(one.name for one in self.fields if not one.is_hidden and one.text != one.outside)

    def text(self, name: str) -> str | None:
        """The inner text of a field, decoded; None when it was not protected."""
        return next((one.text for one in self.fields if one.name.lower() == name.lower()), None)


def protect(outside: bytes, inside: bytes, mode: HeaderMode) -> tuple[bytes, bytes]:
    """(transport fields, content fields) with protection: copies of the fields inside, and `hp` in the Content-Type.

    With CIPHER, the transport fields hide the Subject, and HP-Outer fields inside tell what was left outside."""
    outer: list[bytes] = []
    copies: list[bytes] = []
    told: list[bytes] = []
    for field in mime.iter_fields(outside, 0, len(outside)):
        raw, lower = outside[field.start : field.end], field.name.lower()
        if lower not in PROTECTED:
            outer.append(raw)
            continue
        copies.append(_safe(raw, field))
        shown = _shown(raw, field, mode)
        outer.append(shown)
        if mode is HeaderMode.CIPHER and shown:
            text = HIDDEN_SUBJECT if lower == "subject" else mime.decode_words(field.text)
            told.append(_written("HP-Outer", f"{field.name}: {text}", b""))
    return b"".join(outer), b"".join([*copies, *told, _marked(inside, mode)])


def _shown(raw: bytes, field: mime.Field, mode: HeaderMode) -> bytes:
    lower = field.name.lower()
    if mode is HeaderMode.CLEAR or lower not in (_DROPPED | {"subject"}):
        return raw
    return b"" if lower in _DROPPED else mime.header_field(field.name, HIDDEN_SUBJECT)


def _safe(raw: bytes, field: mime.Field) -> bytes:
    """A field that may be signed: as it is when it is ASCII, encoded otherwise (RFC 8551 §3.1.3)."""
    if raw.isascii():
        return mime.canonical_header(raw if raw.endswith(b"\n") else raw + b"\r\n")
    return _written(field.name, field.text, raw)


def _written(name: str, text: str, otherwise: bytes) -> bytes:
    try:
        return mime.header_field(name, text)
    except ValueError:  # a control character, an address that is not ASCII
        return otherwise


def _marked(inside: bytes, mode: HeaderMode) -> bytes:
    """The content fields with the parameter `hp` in Content-Type, which is added when there is none."""
    mark = f'hp="{mode.value}"'.encode("ascii")
    out: list[bytes] = []
    found = False
    for field in mime.iter_fields(inside, 0, len(inside)):
        raw = inside[field.start : field.end]
        if field.name.lower() == "content-type" and not found:
            found = True
            raw = _HP.sub(b"", raw).rstrip(b"; \t\r\n") + b";\r\n " + mark + b"\r\n"
        out.append(raw)
    if not found:
        out.append(b"Content-Type: text/plain; charset=us-ascii; " + mark + b"\r\n")
    return b"".join(out)


def read(header: bytes, outside: bytes, *, encrypted: bool) -> ProtectedHeaders | None:
    """The protected fields of the payload, the part inside every signature and envelope, from its `header`; None when it
    has none.

    `outside`: the transport fields of the message. A field counts as hidden when the payload was `encrypted`, says
    `cipher`, and no HP-Outer field tells that it stands outside as it is."""
    if b"hp" not in header.lower():
        return None
    payload = mime.parse(header, max_depth=0)
    mode = payload.parameters.get("hp", "").lower()
    if mode not in (HeaderMode.CLEAR, HeaderMode.CIPHER):
        return None
    shown = {field.name.lower(): mime.decode_words(field.text) for field in mime.iter_fields(outside, 0, len(outside))}
    told = _told(payload)
    fields: list[ProtectedField] = []
    for field in payload.fields:
        lower = field.name.lower()
        if lower not in PROTECTED:
            continue
        text = mime.decode_words(field.text)
        hidden = encrypted and mode == HeaderMode.CIPHER and told.get(lower) != text
        fields.append(ProtectedField(field.name, text, shown.get(lower), hidden))
    return ProtectedHeaders(HeaderMode(mode), tuple(fields))


def reveal(outside: bytes, protected: ProtectedHeaders) -> bytes:
    """Transport fields with the hidden Subject, Comments and Keywords shown again, for a message whose encryption was taken
    off. No other field is ever changed by what is inside."""
    hidden = [one for one in protected.fields if one.is_hidden and one.name.lower() in _DROPPED | {"subject"}]
    if not hidden:
        return outside
    written = {one.name.lower(): _written(one.name, one.text, b"") for one in reversed(hidden)}
    names = {name for name, field in written.items() if field}
    shown: list[bytes] = []
    for field in mime.iter_fields(outside, 0, len(outside)):
        name = field.name.lower()
        if name not in names:
            shown.append(outside[field.start : field.end])
        else:
            shown.append(written.pop(name, b""))
    return b"".join([*shown, *written.values()])


def _told(payload: mime.Part) -> dict[str, str]:
    """What HP-Outer fields say (RFC 9788 §2.2): lower-case name to text."""
    told: dict[str, str] = {}
    for value in payload.get_all("hp-outer"):
        name, colon, text = value.partition(":")
        if colon:
            told[name.strip().lower()] = text.strip()
    return told
