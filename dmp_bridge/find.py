"""Finding clinical documents in a clear message: IHE_XDM.zip packages and loose CDA documents (dmp.md §5).

Invariants
* `find_documents` never raises and never renders: whatever cannot be read becomes a FoundDocument with a problem, holding the raw
  attachment, so that nothing a sender attached is silently lost.
* The bytes of a document are the bytes received; they are never re-serialised (dmp.md §3.10).
* Reasons carry codes and places in the message, no patient data and nothing of the content.
* Everything is bounded: depth of forwarded messages, number of documents, total size (of packages: once expanded).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import mime
from ihe.cda import CdaError, CdaHeader, read_cda
from ihe.datatypes import parse_cx
from ihe.ebrim import EXTRA_METADATA, DocumentEntry
from ihe.xdm import XdmError, XdmLimits, XdmPackage, read_xdm

MAX_DOCUMENTS = 100
MAX_TOTAL = 128 * 1024 * 1024
MAX_FORWARDED = 4
_XDM_NAME = re.compile(r"ihe_xdm[^/\\]*\.zip", re.IGNORECASE)
_XML_TYPES = frozenset(
    {"text/xml", "application/xml", "application/xslt+xml", "application/hl7-v3+xml", "application/cda+xml"}
)
_LOOK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a document needs a person: a stable code and the sentence in both languages, without patient data."""

    code: str
    french: str
    english: str

    def text(self) -> str:
        """The reason as it is kept and shown: code, French, English."""
        return f"{self.code}: {self.french} / {self.english}"


@dataclass(frozen=True, slots=True)
class FoundDocument:
    """One clinical document, or what should have been one. `header` is None exactly when the CDA could not be read.

    `origin` is the place in the message (attachment number and name pattern, path in the package), never patient data.
    `action` is the XDM announcement `C` (replace) or `D` (delete), or empty (dmp.md §5.2).
    """

    content: bytes = field(repr=False)
    header: CdaHeader | None = field(repr=False)
    origin: str
    problem: Problem | None = None
    action: str = ""

    @property
    def sha1(self) -> str:
        """Lower-case hexadecimal SHA-1 of the bytes (dmp.md §3.3 hash)."""
        return hashlib.sha1(self.content, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Findings:
    """What a message holds, in the order of the message."""

    documents: tuple[FoundDocument, ...]


class _Budget:
    """What may still be read from this message."""

    def __init__(self) -> None:
        self.documents = MAX_DOCUMENTS
        self.bytes = MAX_TOTAL

    def take(self, size: int) -> bool:
        """True when one more document of `size` bytes fits."""
        if self.documents <= 0 or size > self.bytes:
            return False
        self.documents -= 1
        self.bytes -= size
        return True


def find_documents(message: bytes) -> Findings:
    """The documents of a clear RFC 5322 message, forwarded messages included. Never raises.

    Not searched: the returned original of a delivery or disposition notification (multipart/report), whose documents left once
    already (dmp.md §5.3, MDN with the full original).
    """
    documents = tuple(_search(message, "", 0, _Budget()))
    return Findings(documents)


def _search(message: bytes, prefix: str, depth: int, budget: _Budget) -> Iterator[FoundDocument]:
    for number, part in enumerate(_leaves(mime.parse(message)), start=1):
        place = f"{prefix}{number}"
        name = (part.filename or "").strip()
        if _XDM_NAME.fullmatch(name) is not None:
            yield from _package(part.decoded(message), f"{place}/IHE_XDM.zip", budget)
        elif _is_message(part, name):
            # A message inside a message that the MIME tree left closed: base64 rfc822 or an .eml attachment.
            if depth < MAX_FORWARDED:
                yield from _search(part.decoded(message), f"{place}.", depth + 1, budget)
            else:
                yield from _too_deep(part.decoded(message), place)
        elif part.media_type.startswith("multipart/"):
            # Left closed: nested too deeply, too many parts, or no usable boundary.
            yield from _too_deep(part.decoded(message), place)
        elif part.media_type in _XML_TYPES or name.lower().endswith(".xml"):
            yield from _loose(part.decoded(message), f"{place}/CDA", budget)


def _leaves(part: mime.Part) -> Iterator[mime.Part]:
    """Leaves in message order, leaving out what a notification returns."""
    if part.media_type == "multipart/report":
        return
    if not part.children:
        yield part
    for child in part.children:
        yield from _leaves(child)


def _is_message(part: mime.Part, name: str) -> bool:
    return part.media_type in ("message/rfc822", "message/global") or (
        name.lower().endswith(".eml") and not part.media_type.startswith("multipart/")
    )


def _too_deep(content: bytes, place: str) -> Iterator[FoundDocument]:
    if b"ihe_xdm" in content.lower() or b"ClinicalDocument" in content:
        problem = Problem(
            "too-deep", "partie du message trop imbriquée ou illisible", "a part nested too deeply, or unreadable"
        )
        yield FoundDocument(content, None, place, problem)


def _over_budget(content: bytes, origin: str) -> FoundDocument:
    problem = Problem("too-much", "trop de documents dans un même message", "too many documents in one message")
    return FoundDocument(content, None, origin, problem)


def _loose(content: bytes, origin: str, budget: _Budget) -> Iterator[FoundDocument]:
    """An XML attachment: a CDA, or something else that is none of our business."""
    if not _claims_cda(content):
        return
    yield _document(content, origin) if budget.take(len(content)) else _over_budget(content, origin)


def _claims_cda(content: bytes) -> bool:
    # UTF-16 is refused by the CDA reader; here it must still be recognised, so that it is reported instead of ignored.
    head = content[:_LOOK].replace(b"\x00", b"")
    return b"ClinicalDocument" in head or (b"ClinicalDocument" in content and b"urn:hl7-org:v3" in content)


def _document(content: bytes, origin: str) -> FoundDocument:
    try:
        return FoundDocument(content, read_cda(content), origin)
    except CdaError as error:
        problem = Problem(f"cda-{error.code}", error.french, error.english)
    except Exception as error:
        name = type(error).__name__
        problem = Problem("cda-unreadable", f"document CDA illisible ({name})", f"unreadable CDA ({name})")
    return FoundDocument(content, None, origin, problem)


def _package(content: bytes, origin: str, budget: _Budget) -> Iterator[FoundDocument]:
    """The CDA documents of one IHE_XDM.zip; the whole attachment with a problem when the package is not usable."""
    if budget.documents <= 0 or budget.bytes <= 0:
        yield _over_budget(content, origin)
        return
    limits = XdmLimits()
    limits = replace(limits, expanded=min(limits.expanded, budget.bytes))
    try:
        package = read_xdm(content, limits=limits)
        budget.bytes -= package.expanded
    except XdmError as error:
        if error.code == "too-large":
            budget.bytes -= limits.expanded
        problem = Problem(f"xdm-{error.code}", error.french, error.english)
        yield FoundDocument(content, None, origin, problem)
        return
    except Exception as error:
        name = type(error).__name__
        problem = Problem(
            "xdm-unreadable", f"archive IHE_XDM.zip illisible ({name})", f"unreadable IHE_XDM.zip ({name})"
        )
        yield FoundDocument(content, None, origin, problem)
        return
    found = False
    for document in _clinical(package, content, origin, budget):
        found = True
        yield document
    if not found:
        problem = Problem(
            "xdm-without-cda", "l'archive ne contient aucun document CDA", "the package holds no CDA document"
        )
        yield FoundDocument(content, None, origin, problem)


_DAMAGED = {
    "hash": Problem(
        "hash-mismatch", "l'empreinte annoncée n'est pas celle du document", "the announced hash is not the document's"
    ),
    "size": Problem(
        "size-mismatch", "la taille annoncée n'est pas celle du document", "the announced size is not the document's"
    ),
}
_PACKAGE = {
    "missing-document": Problem(
        "xdm-missing-document",
        "un document annoncé manque dans l'archive",
        "an announced document is not in the package",
    ),
    "metadata-unreadable": Problem("xdm-metadata", "METADATA.XML illisible", "unreadable METADATA.XML"),
    "document-twice": Problem(
        "xdm-document-twice", "METADATA.XML décrit deux fois un document", "METADATA.XML describes a document twice"
    ),
}


def _clinical(package: XdmPackage, content: bytes, origin: str, budget: _Budget) -> Iterator[FoundDocument]:
    """The CDA documents of a readable package, and the package itself when it announces more than it holds."""
    for word, problem in _PACKAGE.items():
        if word in package.problems:
            yield FoundDocument(content, None, origin, problem)
    for number, item in enumerate(package.documents, start=1):
        announced = item.metadata
        if not (_claims_cda(item.content) or (announced is not None and item.path.upper().endswith(".XML"))):
            continue
        place = f"{origin}/{number}"
        if not budget.take(0):
            yield _over_budget(item.content, place)
            continue
        found = _document(item.content, place)
        yield found if announced is None else _compared(found, announced)


def _compared(found: FoundDocument, announced: DocumentEntry) -> FoundDocument:
    """Hold the document against what METADATA.XML says of it: hash, size, identifier, patient."""
    action = next((values[0] for name, values in announced.extra_slots if name == EXTRA_METADATA and values), "")
    found = replace(found, action=action)
    if found.problem is not None or found.header is None:
        return found
    if announced.hash and announced.hash.lower() != found.sha1:
        return replace(found, problem=_DAMAGED["hash"])
    if announced.size is not None and announced.size != len(found.content):
        return replace(found, problem=_DAMAGED["size"])
    if announced.unique_id and announced.unique_id != found.header.unique_id:
        problem = Problem(
            "xdm-other-id", "METADATA.XML annonce un autre identifiant", "METADATA.XML announces another document id"
        )
        return replace(found, problem=problem)
    announced_patient = parse_cx(announced.patient_id)
    patient = found.header.patient
    if announced_patient is not None and (announced_patient.root, announced_patient.extension) != (
        patient.ins_oid,
        patient.ins,
    ):
        problem = Problem(
            "xdm-other-patient", "METADATA.XML annonce un autre patient", "METADATA.XML announces another patient"
        )
        return replace(found, problem=problem)
    return found
