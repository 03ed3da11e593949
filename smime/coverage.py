"""Which octets of a message which signature covers, part by part; what nobody signed is named.

Invariants: a part counts as covered only when all of it lies inside octets that a signature was checked over; a signed
part inside a larger message is judged for itself and never speaks for the message; an encrypted part inside a larger
message is named and never opened (opening it beside foreign parts is how EFAIL leaks plain text); bounded work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import mime
from smime import judge, layers
from smime.layers import LayerKind
from smime.verdict import Judging, Verdict, Verification

MAX_NESTED = 16


class Through(StrEnum):
    """How a signature reaches what it covers. DIRECT: the octets stand in the message. OPAQUE: they are inside the CMS
    that stands there. CIPHERTEXT: the signature is round an envelope, and says nothing about who knew its content."""

    DIRECT = "direct"
    OPAQUE = "opaque"
    CIPHERTEXT = "ciphertext"


@dataclass(frozen=True, slots=True)
class Coverage:
    """Signature layer `layer` covers `start`..`end` of the opened message (all of its body for CIPHERTEXT)."""

    layer: int
    through: Through
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class PartCoverage:
    """One leaf of the message, or the text round the parts of a multipart (`media_type` is then ""). `section`: its
    number as in IMAP (RFC 9051 §6.4.5). `layers`: root signatures that cover it; `nested`: indexes into
    `Survey.nested`."""

    section: str
    media_type: str
    start: int
    end: int
    layers: tuple[int, ...]
    nested: tuple[int, ...] = ()

    @property
    def is_covered(self) -> bool:
        """Whether any signature, good or bad, covers it."""
        return bool(self.layers or self.nested)


@dataclass(frozen=True, slots=True)
class NestedLayer:
    """An S/MIME part inside a larger message. `in_message`: inside an attached message/rfc822, whose From it is then
    compared with."""

    section: str
    kind: LayerKind
    start: int
    end: int
    in_message: bool
    verifications: tuple[Verification, ...]


@dataclass(frozen=True, slots=True)
class Survey:
    """The whole message: every part with what covers it. `unprotected_fields`: header fields that no signature covers."""

    parts: tuple[PartCoverage, ...]
    nested: tuple[NestedLayer, ...]
    unprotected_fields: tuple[str, ...]

    @property
    def uncovered(self) -> tuple[PartCoverage, ...]:
        """The parts that no signature covers."""
        return tuple(part for part in self.parts if not part.is_covered)

    def outside(self, verifications: Sequence[Verification]) -> tuple[PartCoverage, ...]:
        """The parts that no VALID signature covers; `verifications` are the root's."""
        valid = {one.layer for one in verifications if one.verdict is Verdict.VALID}
        good = {
            index
            for index, layer in enumerate(self.nested)
            if any(one.verdict is Verdict.VALID for one in layer.verifications)
        }
        return tuple(part for part in self.parts if not (valid & set(part.layers) or good & set(part.nested)))


def survey(content: bytes, covered: Sequence[Coverage], judging: Judging, *, protected: Sequence[str] = ()) -> Survey:
    """The survey of an opened message. `covered`: what the root layers cover; `protected`: names of protected fields."""
    root = mime.parse(content)
    spans = [one for one in covered if one.through is not Through.CIPHERTEXT]
    nested: list[NestedLayer] = []
    parts: list[PartCoverage] = []
    for section, part, message in _walk(root):
        if _is_root_layer(part, root, spans):
            continue
        found = _nested(content, part, message, section, judging, is_root=part is root)
        if found is not None and len(nested) < MAX_NESTED:
            nested.append(found)
    for section, part, _ in _walk(root):
        for start, end, media_type in _pieces(content, part):
            over = tuple(sorted({one.layer for one in spans if one.start <= start and end <= one.end}))
            inside = tuple(
                index for index, one in enumerate(nested) if one.verifications and one.start <= start and end <= one.end
            )
            parts.append(PartCoverage(section, media_type, start, end, over, inside))
    kept = {name.lower() for name in protected}
    fields = [f.name for f in root.fields if f.name.lower() not in kept and not layers.is_content_field(f.name)]
    return Survey(tuple(parts), tuple(nested), tuple(dict.fromkeys(fields)))


def _walk(root: mime.Part) -> Iterator[tuple[str, mime.Part, mime.Part | None]]:
    """(section, part, the attached message it is in) for every part; a stack, no recursion."""
    waiting: list[tuple[str, mime.Part, mime.Part | None]] = [("", root, None)]
    while waiting:
        section, part, message = waiting.pop()
        yield section or "1", part, message
        is_message = part.media_type.startswith("message/")
        below: list[tuple[str, mime.Part, mime.Part | None]] = []
        for number, child in enumerate(part.children, 1):
            inner = child if is_message else message
            # The body of an attached message that is no multipart is its part 1 (RFC 9051 §6.4.5).
            name = section if is_message and child.children else f"{section}.{number}".lstrip(".")
            below.append((name or "1", child, inner))
        waiting += reversed(below)


def _is_root_layer(part: mime.Part, root: mime.Part, spans: Sequence[Coverage]) -> bool:
    """Whether a part is the root's own chain of layers, judged already."""
    if part is root:
        return bool(spans)
    return any(one.start == part.start and one.end == part.end for one in spans)


def _nested(
    content: bytes, part: mime.Part, message: mime.Part | None, section: str, judging: Judging, *, is_root: bool
) -> NestedLayer | None:
    layer = layers.layer_of(content, part)
    if layer.kind is LayerKind.CLEAR or is_root:
        return None
    if message is not None:
        judging = replace(judging, sender=tuple(address for _, address in message.addresses("from")))
    verifications: tuple[Verification, ...] = ()
    start, end = layer.start, layer.end
    if layer.kind is LayerKind.DETACHED:
        view = memoryview(content)[start:end]
        verifications = judge.verify(layer.cms, view, judging, micalg=layer.micalg)
    elif layer.kind is LayerKind.OPAQUE:
        verifications = judge.verify(layer.cms, None, judging)
    else:
        start, end = part.start, part.end
    return NestedLayer(section, layer.kind, start, end, message is not None, verifications)


def _pieces(content: bytes, part: mime.Part) -> list[tuple[int, int, str]]:
    """The body of a leaf; of a multipart, the text before, between and after its parts, delimiters apart."""
    if not part.children:
        return [(part.body_start, part.end, part.media_type)]
    if not part.media_type.startswith("multipart/"):
        return []
    found: list[tuple[int, int, str]] = []
    edges = [part.body_start, *(edge for child in part.children for edge in (child.start, child.end)), part.end]
    for start, end in ((edges[0], edges[1]), (edges[-2], edges[-1])):
        text = content[start:end].strip()
        lines = [line for line in text.splitlines() if not line.startswith(b"--")]
        if any(line.strip() for line in lines):
            found.append((start, end, ""))
    return found
