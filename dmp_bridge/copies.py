"""Recognising the PDF that accompanies a CDA as the same document (ECO.2.1.1, ECO.2.1.5): it is never a document of its own.

Three signs, the strongest first: the very bytes of the document's body (N1) or embedded copy (N3, template FR-Document-PDF-copie);
the name of its file in the package (DOC00001.PDF beside DOC00001.XML); the name that ECO.2.1.6 gives the copy of this document.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from ihe.cda import CdaError, CdaHeader
from ihe.naming import pdf_file_name


@dataclass(frozen=True, slots=True)
class Pdf:
    """A PDF that was met: its place in the message, its name, the SHA-256 of its bytes."""

    place: str
    name: str = field(repr=False)
    digest: bytes


class Copied(Protocol):
    """What copies are given to (`dmp_bridge.find.FoundDocument`)."""

    @property
    def header(self) -> CdaHeader | None: ...

    @property
    def copies(self) -> tuple[str, ...]: ...

    @property
    def file(self) -> str: ...


T = TypeVar("T", bound=Copied)


def embedded_digest(header: CdaHeader) -> bytes:
    """SHA-256 of the PDF inside a document, b"" when there is none."""
    body = header.body if header.body is not None and header.body.media_type == "application/pdf" else header.pdf_copy
    if body is None:
        return b""
    try:
        return hashlib.sha256(body.content()).digest()
    except CdaError:
        return b""


def match_copies(documents: Sequence[T], pdfs: Sequence[Pdf]) -> tuple[tuple[T, ...], tuple[str, ...]]:
    """The documents, each with the places of its copies, and the places of the PDFs that are nobody's copy."""
    if not pdfs:
        return tuple(documents), ()
    by_digest: dict[bytes, int] = {}
    by_name: dict[str, int] = {}
    for number, document in enumerate(documents):
        if document.header is not None:
            by_digest.setdefault(embedded_digest(document.header), number)
            by_name.setdefault(pdf_file_name(document.header).removesuffix(".pdf").casefold(), number)
    by_digest.pop(b"", None)
    found: dict[int, list[str]] = {}
    alone = []
    for pdf in pdfs:
        stem = pdf.name.rpartition("/")[2].casefold().removesuffix(".pdf")
        owner = by_digest.get(pdf.digest)
        if owner is None:
            owner = next(
                (number for name, number in by_name.items() if stem == name or stem.startswith(f"{name}_")), None
            )
        if owner is None:
            owner = _beside(pdf, documents)
        if owner is None:
            alone.append(pdf.place)
        else:
            found.setdefault(owner, []).append(pdf.place)
    matched = tuple(
        replace(document, copies=tuple(found[number])) if number in found else document  # type: ignore[type-var]
        for number, document in enumerate(documents)
    )
    return matched, tuple(alone)


def _beside(pdf: Pdf, documents: Sequence[Copied]) -> int | None:
    """DOC00001.PDF beside DOC00001.XML in one package, told by the package's own file names (see `find`)."""
    wanted = pdf.name.casefold().removesuffix(".pdf") + ".xml"
    for number, document in enumerate(documents):
        if document.file.casefold() == wanted:
            return number
    return None
