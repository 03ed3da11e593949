"""The S/MIME layers of a message: what the root is, what is inside, and how a message is put round an entity.

Invariants: signed octets are taken exactly as they came; a message rebuilt round an inner entity takes only Content-*
and MIME-Version fields from inside, so that nothing inside can add a sender, a recipient or a trace field.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import mime
from smime import asn1
from smime.errors import SmimeError

MAX_LAYERS = 5
_SIGNATURE_TYPES = frozenset({"application/pkcs7-signature", "application/x-pkcs7-signature"})
_CMS_TYPES = frozenset({"application/pkcs7-mime", "application/x-pkcs7-mime"})


class LayerKind(StrEnum):
    """CLEAR: no S/MIME at the root. BROKEN: claims to be S/MIME and cannot be read as such."""

    CLEAR = "clear"
    DETACHED = "detached"
    OPAQUE = "opaque"
    ENVELOPED = "enveloped"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Layer:
    """The outermost S/MIME layer. `content` is the signed entity of a DETACHED layer; `cms` the CMS octets."""

    kind: LayerKind
    cms: bytes = b""
    content: bytes = b""


def outermost(raw: bytes) -> Layer:
    """The S/MIME layer at the root of a message or entity (RFC 8551 §3.1-3.5). Never raises."""
    root = mime.parse(raw, max_depth=1)
    if root.media_type == "multipart/signed" and _is_smime_signed(root):
        return _detached(raw, root)
    if root.media_type in _CMS_TYPES or (
        root.media_type == "application/octet-stream" and (root.filename or "").lower().endswith(".p7m")
    ):
        data = root.decoded(raw)
        try:
            kind = asn1.kind(data)
        except SmimeError:
            return Layer(LayerKind.BROKEN)
        if kind is asn1.Kind.SIGNED:
            return Layer(LayerKind.OPAQUE, data)
        if kind in (asn1.Kind.ENVELOPED, asn1.Kind.AUTH_ENVELOPED):  # the second is not read here, yet an envelope
            return Layer(LayerKind.ENVELOPED, data)
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
    return Layer(LayerKind.DETACHED, signature.decoded(raw), content.raw(raw))


def _is_ambiguous(root: mime.Part) -> bool:
    """Two readers might see different parts: refused rather than guessed."""
    return bool({"several-content-types", "header-too-long", "too-many-fields"} & set(root.defects))


def is_content_field(name: str) -> bool:
    """Fields that describe the body and travel with it into a signed or encrypted entity."""
    lower = name.lower()
    return lower.startswith("content-") or lower == "mime-version"


def split_message(raw: bytes) -> tuple[bytes, bytes]:
    """(transport fields, entity): Content-* and MIME-Version go into the entity, other fields stay outside, each octet
    for octet; the body goes with the entity."""
    last, body = mime.header_end(raw)
    outside: list[bytes] = []
    inside: list[bytes] = []
    for field in mime.iter_fields(raw, 0, last):
        (inside if is_content_field(field.name) else outside).append(raw[field.start : field.end])
    return _ended(b"".join(outside)), _ended(b"".join(inside)) + b"\r\n" + raw[body:]


def _ended(fields: bytes) -> bytes:
    """A header without a body may lack its last line end; the next field must not run into it."""
    return fields if not fields or fields.endswith(b"\n") else fields + b"\r\n"


def around(outside: bytes, entity: bytes) -> bytes:
    """A message: transport fields, MIME-Version, then the entity's content fields and its body."""
    _, inner = split_message(entity)
    version = b"" if _has_version(inner) else b"MIME-Version: 1.0\r\n"
    return outside + version + inner


def _has_version(entity: bytes) -> bool:
    last, _ = mime.header_end(entity)
    return any(field.name.lower() == "mime-version" for field in mime.iter_fields(entity, 0, last))


def opaque_content(cms: bytes) -> bytes | None:
    """The entity inside an opaque signature, None when there is none."""
    try:
        return asn1.read_signed(cms).content
    except SmimeError:
        return None


def clear_entity(raw: bytes) -> bytes:
    """The innermost clear message of a signed one: signature layers taken off (not verified), the transport fields of
    `raw` outside. An encrypted or broken layer ends the search and stays. Never raises."""
    outside, _ = split_message(raw)
    current = raw
    for _ in range(MAX_LAYERS):
        layer = outermost(current)
        if layer.kind is LayerKind.DETACHED:
            current = around(outside, layer.content)
        elif layer.kind is LayerKind.OPAQUE:
            content = opaque_content(layer.cms)
            if content is None:
                break
            current = around(outside, content)
        else:
            break
    return current
