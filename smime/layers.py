"""The S/MIME layers of a message: what the root is, what is inside, and how a message is put round an entity.

Invariants: signed octets are taken exactly as they came; a message rebuilt round an inner entity takes only Content-*
and MIME-Version fields from inside, so that nothing inside can add a sender, a recipient or a trace field.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import mime
from smime import codec, signed_codec
from smime.errors import SmimeError

MAX_LAYERS = 5
_SIGNATURE_TYPES = frozenset({"application/pkcs7-signature", "application/x-pkcs7-signature"})
_CMS_TYPES = frozenset({"application/pkcs7-mime", "application/x-pkcs7-mime"})
_HEADER = 64 * 1024
_GLANCED = 16 * 1024
_CMS_NAMES = (".p7m", ".p7z")


class LayerKind(StrEnum):
    """CLEAR: no S/MIME at the root. BROKEN: claims to be S/MIME and cannot be read as such."""

    CLEAR = "clear"
    DETACHED = "detached"
    OPAQUE = "opaque"
    ENVELOPED = "enveloped"
    BROKEN = "broken"


class Layer(NamedTuple):
    """The outermost S/MIME layer. `cms`: the CMS octets. `start` and `end`: in the octets looked at, the place of the
    signed entity of a DETACHED layer, of the encoded CMS of the others. `micalg`: as a multipart/signed announces it."""

    kind: LayerKind
    cms: bytes = b""
    start: int = 0
    end: int = 0
    micalg: str | None = None


_CLEAR, _BROKEN = Layer(LayerKind.CLEAR), Layer(LayerKind.BROKEN)
_TOKEN = rb"[!#$&'*+.0-9A-Z^_`a-z{|}~-]{1,127}+"
# One plain value in one line: what every program writes. Anything else is read by mime.parse.
_PLAIN_TYPE = re.compile(rb"[ \t]*+(" + _TOKEN + rb"/" + _TOKEN + rb")[ \t]*+(?:;|\r?\n(?![ \t]))")
_PLAIN_BASE64 = re.compile(rb"[ \t]*+(?i:base64)[ \t]*+\r?\n(?![ \t])")
_SIGNATURES = frozenset(one.encode("ascii") for one in _SIGNATURE_TYPES)
_CMS = frozenset(one.encode("ascii") for one in _CMS_TYPES)
_LAYERED = _SIGNATURES | _CMS | {b"multipart/signed", b"application/octet-stream"}


class Header(NamedTuple):
    """The header of an entity as far as layers go. `fields`: places of its content fields; `last`: its end; `body`: after
    the blank line. `media_type`: b"" when only a full reading can tell; `value`: the octets of Content-Type.
    `is_base64`: the body is plainly encoded so."""

    fields: list[tuple[bytes, int, int, int]]
    last: int
    body: int
    media_type: bytes = b""
    value: bytes = b""
    is_base64: bool = False

    @property
    def is_plainly_clear(self) -> bool:
        """Whether this is certainly no S/MIME layer."""
        return bool(self.media_type) and self.media_type not in _LAYERED


def glance(raw: bytes, start: int, end: int) -> Header:
    """The header of the entity `raw[start:end]`, read only where it is plain."""
    last, body = mime.header_end(raw, start, end)
    fields = mime.content_fields(raw, start, last)
    if last - start > _GLANCED:
        return Header(fields, last, body)
    value, media_type, is_base64, types, encodings = b"", b"text/plain", False, 0, 0
    for name, _, place, stop in fields:
        if name == b"content-type":
            types += 1
            match = _PLAIN_TYPE.match(raw, place, stop)
            value, media_type = raw[place:stop], match[1].lower() if match else b""
        elif name == b"content-transfer-encoding":
            encodings += 1
            is_base64 = _PLAIN_BASE64.match(raw, place, stop) is not None
    return Header(fields, last, body, media_type if types <= 1 else b"", value, is_base64 and encodings == 1)


def outermost(raw: bytes, start: int = 0, end: int | None = None, header: Header | None = None) -> Layer:
    """The S/MIME layer at the root of a message or entity, `raw[start:end]` (RFC 8551 §3.1-3.5); `header` when `glance`
    has given it already. Never raises."""
    end = len(raw) if end is None else end
    seen = glance(raw, start, end) if header is None else header
    if seen.is_plainly_clear:
        return _CLEAR
    if seen.is_base64 and seen.media_type in _CMS:
        return _of_cms(mime.decode_base64(raw, seen.body, end), seen.body, end)
    if seen.media_type == b"multipart/signed":
        layer = _plainly_detached(raw, seen, end)
        if layer is not None:
            return layer
    root = mime.parse(raw, max_depth=0, start=start, end=end)
    if root.media_type == "multipart/signed":
        root = mime.parse(raw, max_depth=1, start=start, end=end)
    return layer_of(raw, root)


def _plainly_detached(raw: bytes, root: Header, end: int) -> Layer | None:
    """A multipart/signed written as all programs write it; None when it must be read with more care."""
    _, parameters = mime.split_parameters(mime.unfold(root.value))
    spans = mime.spans(raw, root.body, end, parameters.get("boundary", ""))
    if len(spans) != 2 or parameters.get("protocol", "").lower() not in _SIGNATURE_TYPES:
        return None
    (start, stop), (from_, to) = spans
    signature = glance(raw, from_, to)
    if not signature.is_base64 or signature.media_type not in _SIGNATURES:
        return None
    cms = mime.decode_base64(raw, signature.body, to)
    return Layer(LayerKind.DETACHED, cms, start, stop, parameters.get("micalg"))


def layer_of(raw: bytes, root: mime.Part) -> Layer:
    """`outermost` for a part of `raw` that is parsed already."""
    if root.media_type == "multipart/signed" and _is_smime_signed(root):
        return _detached(raw, root)
    if root.media_type in _CMS_TYPES or (
        root.media_type == "application/octet-stream" and (root.filename or "").lower().endswith(_CMS_NAMES)
    ):
        return _of_cms(root.decoded(raw), root.body_start, root.end)
    return _CLEAR


def _of_cms(data: bytes, start: int, end: int) -> Layer:
    """The layer whose CMS is `data`, encoded at `start`..`end`."""
    try:
        kind = codec.kind(data)
    except SmimeError:
        return _BROKEN
    if kind is codec.Kind.SIGNED:
        return Layer(LayerKind.OPAQUE, data, start, end)
    if kind in (codec.Kind.ENVELOPED, codec.Kind.AUTH_ENVELOPED):
        return Layer(LayerKind.ENVELOPED, data, start, end)
    return _BROKEN


def _is_smime_signed(root: mime.Part) -> bool:
    """False for PGP/MIME and other protocols; a missing protocol parameter is decided by the last part."""
    protocol = root.parameters.get("protocol", "").strip().lower()
    if protocol:
        return protocol in _SIGNATURE_TYPES
    return not root.children or root.children[-1].media_type in _SIGNATURE_TYPES


def _detached(raw: bytes, root: mime.Part) -> Layer:
    if len(root.children) != 2 or root.children[1].media_type not in _SIGNATURE_TYPES or _is_ambiguous(root):
        return _BROKEN
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
    return *split_header(raw, mime.content_fields(raw, 0, last), last), body


def split_header(raw: bytes, fields: Sequence[tuple[bytes, int, int, int]], last: int) -> tuple[bytes, bytes]:
    """(transport fields, content fields) of a header that ends at `last`, whose content fields are at `fields`."""
    if not fields:
        return _ended(raw[:last]), b""
    outside: list[bytes] = []
    inside: list[bytes] = []
    position = begin = 0
    for _, start, _, end in fields:
        if start != position:  # the end of a run of content fields
            inside.append(raw[begin:position])
            outside.append(raw[position:start])
            begin = start
        position = end
    inside.append(raw[begin:position])
    outside.append(raw[position:last])
    return _ended(b"".join(outside)), _ended(b"".join(inside))


def _ended(fields: bytes) -> bytes:
    """A header without a body may lack its last line end; the next field must not run into it."""
    return fields if not fields or fields.endswith(b"\n") else fields + b"\r\n"


def around(outside: bytes, entity: Sequence[bytes | memoryview]) -> tuple[bytes, Header, bytes]:
    """(message, its header as far as `outermost` asks, octets of the entity's header): transport fields, MIME-Version, then
    the entity's content fields and its body. The entity is given in pieces, of which the first holds its header when it is
    longer than `_HEADER`."""
    first = entity[0] if entity else b""
    if len(first) < _HEADER and len(entity) > 1:
        entity = [b"".join(entity)]
        first = entity[0]
    head = bytes(first[:_HEADER])
    if len(head) < len(first) and mime.header_end(head)[1] >= len(head):
        head = bytes(first)  # an immense header
    seen = glance(head, 0, len(head))
    _, inside = split_header(head, seen.fields, seen.last)
    version = b"" if any(name == b"mime-version" for name, _, _, _ in seen.fields) else b"MIME-Version: 1.0\r\n"
    message = b"".join((outside, version, inside, b"\r\n", memoryview(first)[seen.body :], *entity[1:]))
    # What a glance at the message would see: its transport fields say nothing of layers.
    header = Header([], 0, len(outside) + len(version) + len(inside) + 2, seen.media_type, seen.value, seen.is_base64)
    return message, header, head[: seen.body]


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
    return around(outside, [memoryview(current)[start:end]])[0] if opened else raw
