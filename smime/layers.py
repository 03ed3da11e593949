"""The S/MIME layers of a message: what the root is, what is inside, and how a message is put round an entity.

Invariants: signed octets are taken exactly as they came; a message rebuilt round an inner entity takes only Content-*
and MIME-Version fields from inside, so that nothing inside can add a sender, a recipient or a trace field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import mime
from smime import codec, signed_codec
from smime.errors import SmimeError

MAX_LAYERS = 5
_SIGNATURE_TYPES = frozenset({"application/pkcs7-signature", "application/x-pkcs7-signature"})
_CMS_TYPES = frozenset({"application/pkcs7-mime", "application/x-pkcs7-mime"})
_HEADER = 64 * 1024
_CMS_NAMES = (".p7m", ".p7z")


class LayerKind(StrEnum):
    """CLEAR: no S/MIME at the root. BROKEN: claims to be S/MIME and cannot be read as such."""

    CLEAR = "clear"
    DETACHED = "detached"
    OPAQUE = "opaque"
    ENVELOPED = "enveloped"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Layer:
    """The outermost S/MIME layer. `cms`: the CMS octets. `start` and `end`: in the octets looked at, the place of the
    signed entity of a DETACHED layer, of the encoded CMS of the others. `micalg`: as a multipart/signed announces it."""

    kind: LayerKind
    cms: bytes = b""
    start: int = 0
    end: int = 0
    micalg: str | None = None


def outermost(raw: bytes, start: int = 0, end: int | None = None) -> Layer:
    """The S/MIME layer at the root of a message or entity, `raw[start:end]` (RFC 8551 §3.1-3.5). Never raises."""
    return layer_of(raw, root_of(raw, start, end))


def root_of(raw: bytes, start: int = 0, end: int | None = None) -> mime.Part:
    """The root part, with its parts only when it is a multipart/signed: other trees need not be read here."""
    root = mime.parse(raw, max_depth=0, start=start, end=end)
    return mime.parse(raw, max_depth=1, start=start, end=end) if root.media_type == "multipart/signed" else root


def layer_of(raw: bytes, root: mime.Part) -> Layer:
    """`outermost` for a part of `raw` that is parsed already."""
    if root.media_type == "multipart/signed" and _is_smime_signed(root):
        return _detached(raw, root)
    if root.media_type in _CMS_TYPES or (
        root.media_type == "application/octet-stream" and (root.filename or "").lower().endswith(_CMS_NAMES)
    ):
        data = root.decoded(raw)
        try:
            kind = codec.kind(data)
        except SmimeError:
            return Layer(LayerKind.BROKEN)
        if kind is codec.Kind.SIGNED:
            return Layer(LayerKind.OPAQUE, data, root.body_start, root.end)
        if kind in (codec.Kind.ENVELOPED, codec.Kind.AUTH_ENVELOPED):
            return Layer(LayerKind.ENVELOPED, data, root.body_start, root.end)
        return Layer(LayerKind.BROKEN)
    return Layer(LayerKind.CLEAR)


def _is_smime_signed(root: mime.Part) -> bool:
    """False for PGP/MIME and other protocols; a missing protocol parameter is decided by the last part."""
    protocol = root.parameters.get("protocol", "").strip().lower()
    if protocol:
        return protocol in _SIGNATURE_TYPES
    return not root.children or root.children[-1].media_type in _SIGNATURE_TYPES


def _detached(raw: bytes, root: mime.Part) -> Layer:
    if len(root.children) != 2 or root.children[1].media_type not in _SIGNATURE_TYPES or _is_ambiguous(root):
        return Layer(LayerKind.BROKEN)
    content, signature = root.children
    micalg = root.parameters.get("micalg")
    return Layer(LayerKind.DETACHED, signature.decoded(raw), content.start, content.end, micalg)


def _is_ambiguous(root: mime.Part) -> bool:
    """Two readers might see different parts: refused rather than guessed."""
    return bool({"several-content-types", "header-too-long", "too-many-fields"} & set(root.defects))


def is_content_field(name: str) -> bool:
    """Fields that describe the body and travel with it into a signed or encrypted entity."""
    lower = name.lower()
    return lower.startswith("content-") or lower == "mime-version"


def split_fields(raw: bytes) -> tuple[bytes, bytes, int]:
    """(transport fields, content fields, place of the body) of a message: Content-* and MIME-Version apart from the
    others, each octet for octet."""
    last, body = mime.header_end(raw)
    outside: list[bytes] = []
    inside: list[bytes] = []
    for field in mime.iter_fields(raw, 0, last):
        (inside if is_content_field(field.name) else outside).append(raw[field.start : field.end])
    return _ended(b"".join(outside)), _ended(b"".join(inside)), body


def split_message(raw: bytes) -> tuple[bytes, bytes]:
    """(transport fields, entity): content fields and the body make the entity, octet for octet."""
    outside, inside, body = split_fields(raw)
    return outside, b"".join((inside, b"\r\n", memoryview(raw)[body:]))


def _ended(fields: bytes) -> bytes:
    """A header without a body may lack its last line end; the next field must not run into it."""
    return fields if not fields or fields.endswith(b"\n") else fields + b"\r\n"


def around(outside: bytes, entity: Sequence[bytes | memoryview]) -> bytes:
    """A message: transport fields, MIME-Version, then the entity's content fields and its body. The entity is given in
    pieces, of which the first holds its header when it is longer than `_HEADER`."""
    first = entity[0] if entity else b""
    if len(first) < _HEADER and len(entity) > 1:
        entity = [b"".join(entity)]
        first = entity[0]
    head = bytes(first[:_HEADER])
    if len(head) < len(first) and mime.header_end(head)[1] >= len(head):
        head = bytes(first)  # an immense header
    _, inside, body = split_fields(head)
    version = b"" if _has_version(inside) else b"MIME-Version: 1.0\r\n"
    return b"".join((outside, version, inside, b"\r\n", memoryview(first)[body:], *entity[1:]))


def header_of(entity: Sequence[bytes | memoryview]) -> bytes:
    """The header of an entity in pieces, as far as its first `_HEADER` octets hold it, its blank line included."""
    head = b""
    for piece in entity:
        head += bytes(piece[: _HEADER - len(head)])
        if len(head) >= _HEADER:
            break
    return head[: mime.header_end(head)[1]]


def _has_version(fields: bytes) -> bool:
    return any(field.name.lower() == "mime-version" for field in mime.iter_fields(fields, 0, len(fields)))


def opaque_content(cms: bytes) -> tuple[memoryview, ...] | None:
    """The entity inside an opaque signature, in pieces, None when there is none."""
    try:
        return signed_codec.read_content(cms)
    except SmimeError:
        return None


def clear_entity(raw: bytes) -> bytes:
    """The innermost clear message of a signed one: signature layers taken off (not verified), the transport fields of
    `raw` outside. An encrypted or broken layer ends the search and stays. Never raises."""
    outside, _, _ = split_fields(raw)
    current, start, end, opened = raw, 0, len(raw), False
    for _ in range(MAX_LAYERS):
        layer = outermost(current, start, end)
        if layer.kind is LayerKind.DETACHED:
            start, end = layer.start, layer.end
        elif layer.kind is LayerKind.OPAQUE:
            content = opaque_content(layer.cms)
            if content is None:
                break
            current = b"".join(content)
            start, end = 0, len(current)
        else:
            break
        opened = True
    return around(outside, [memoryview(current)[start:end]]) if opened else raw
