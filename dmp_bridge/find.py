"""Finding clinical documents in a clear message: IHE_XDM.zip packages, loose CDA documents, HL7 v2 hand-overs, in the
message itself and in those it forwards (dmp.md §5, §8); and recognising the PDF copies that go with them (ECO.2.1.5).

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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import mime
from dmp_bridge.copies import Pdf, match_copies
from dmp_bridge.understand import Check, understand
from ihe.cda import CdaHeader
from ihe.cda_rules import Finding
from ihe.codes import VISIBILITY_SCHEME
from ihe.datatypes import parse_cx
from ihe.ebrim import EXTRA_METADATA, DocumentEntry
from ihe.hand_over import HandOver, Order, read_hand_over
from ihe.hl7v2 import Hl7Error, is_hl7
from ihe.xdm import XdmError, XdmLimits, XdmPackage, read_xdm

MAX_DOCUMENTS = 100
MAX_TOTAL = 128 * 1024 * 1024
MAX_FORWARDED = 4
_XDM_NAME = re.compile(r"ihe_xdm[^/\\]*\.zip", re.IGNORECASE)
_XML_TYPES = frozenset(
    {"text/xml", "application/xml", "application/xslt+xml", "application/hl7-v3+xml", "application/cda+xml"}
)
_HL7_TYPES = frozenset(
    {"application/hl7-v2", "x-application/hl7-v2+er7", "application/edi-hl7v2", "application/edi-hl7", "text/hl7"}
)
_LOOK = 64 * 1024
_MAX_PDFS = 100


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
    `action` is the announcement `C` (replace) or `D` (delete) of a package or hand-over, or empty (dmp.md §5.2, §8.1).
    `visibility` are the masking codes that its metadata ask for (§3.8), `secret_connection` the hand-over's flag; `findings` all
    that was found about the document; `copies` the places of its PDF copies, `file` its path in the
    package it came in.
    """

    content: bytes = field(repr=False)
    header: CdaHeader | None = field(repr=False)
    origin: str
    problem: Problem | None = None
    action: str = ""
    visibility: tuple[str, ...] = ()
    secret_connection: bool = False
    findings: tuple[Finding, ...] = ()
    copies: tuple[str, ...] = ()
    file: str = ""

    @property
    def sha1(self) -> str:
        """Lower-case hexadecimal SHA-1 of the bytes (dmp.md §3.3 hash)."""
        return hashlib.sha1(self.content, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Findings:
    """What a message holds, in the order of the message. `alone` are the places of PDFs that are no document's copy."""

    documents: tuple[FoundDocument, ...]
    alone: tuple[str, ...] = ()


class _Budget:
    """What may still be read from this message, how it is judged, and the PDFs met on the way."""

    def __init__(self, at: datetime | None, checks: Sequence[Check]) -> None:
        self.documents = MAX_DOCUMENTS
        self.bytes = MAX_TOTAL
        self.at = at
        self.checks = checks
        self.pdfs: list[Pdf] = []

    def take(self, size: int) -> bool:
        """True when one more document of `size` bytes fits."""
        if self.documents <= 0 or size > self.bytes:
            return False
        self.documents -= 1
        self.bytes -= size
        return True


def find_documents(message: bytes, *, at: datetime | None = None, checks: Sequence[Check] = ()) -> Findings:
    """The documents of a clear RFC 5322 message, forwarded messages included. Never raises.

    `at` is the present (None: dates are not held against it), `checks` the schema and schematrons of the operator.

    Not searched: the returned original of a delivery or disposition notification (multipart/report), whose documents left once
    already (dmp.md §5.3, MDN with the full original).
    """
    budget = _Budget(at, checks)
    documents = list(_search(message, "", 0, budget))
    return Findings(*match_copies(documents, budget.pdfs))


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
        elif part.media_type in _HL7_TYPES or name.lower().endswith((".hl7", ".er7")):
            yield from _handed_over(part.decoded(message), f"{place}/HL7", budget)
        elif part.media_type == "application/pdf" or name.lower().endswith(".pdf"):
            _note_pdf(part.decoded(message), f"{place}/PDF", name, budget)


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
    yield _document(content, origin, budget) if budget.take(len(content)) else _over_budget(content, origin)


def _claims_cda(content: bytes) -> bool:
    # UTF-16 is refused by the CDA reader; here it must still be recognised, so that it is reported instead of ignored.
    head = content[:_LOOK].replace(b"\x00", b"")
    return b"ClinicalDocument" in head or (b"ClinicalDocument" in content and b"urn:hl7-org:v3" in content)


def _document(content: bytes, origin: str, budget: _Budget) -> FoundDocument:
    verdict = understand(content, at=budget.at, checks=budget.checks)
    if verdict.header is not None:
        return FoundDocument(content, verdict.header, origin, findings=verdict.findings)
    first = verdict.findings[0]
    return FoundDocument(content, None, origin, Problem(first.code, first.french, first.english))


def _handed_over(content: bytes, origin: str, budget: _Budget) -> Iterator[FoundDocument]:
    """The documents of an HL7 v2 attachment (MDM, ORU); other messages are none of our business."""
    if not is_hl7(content):
        return
    try:
        given = read_hand_over(content)
    except Hl7Error as error:
        if error.code not in ("200", "201"):
            text = f"{error.code} {error.location}"
            problem = Problem("hl7", f"message HL7 v2 refusé ({text})", f"HL7 v2 message refused ({text})")
            yield FoundDocument(content, None, origin, problem)
        return
    yield from _given(given, origin, budget)


def documents_of(given: HandOver, *, at: datetime | None, checks: Sequence[Check] = ()) -> tuple[FoundDocument, ...]:
    """The documents of a hand-over that came by itself (MLLP)."""
    return tuple(_given(given, "HL7", _Budget(at, checks)))


def _given(given: HandOver, origin: str, budget: _Budget) -> Iterator[FoundDocument]:
    action = {Order.NEW: "", Order.REPLACE: "C", Order.DELETE: "D"}[given.order]
    for number, document in enumerate(given.documents, start=1):
        place = f"{origin}/{number}"
        if not budget.take(len(document)):
            yield _over_budget(document, place)
        elif not _claims_cda(document):
            problem = Problem("hl7-not-cda", "le document remis n'est pas un CDA", "what was handed over is not a CDA")
            yield FoundDocument(document, None, place, problem)
        else:
            found = replace(
                _document(document, place, budget),
                action=action,
                visibility=given.visibility,
                secret_connection=given.flag("CONNEXION_SECRETE"),
            )
            yield _of_patient(found, given)


def _of_patient(found: FoundDocument, given: HandOver) -> FoundDocument:
    """Hold the document against the hand-over around it: qualified identity, same patient (dmp.md §6.4, §8.2)."""
    if found.header is None:
        return found
    patient = found.header.patient
    if given.patient is None or (given.patient.root, given.patient.extension) != (patient.ins_oid, patient.ins):
        problem = Problem("hl7-other-patient", "PID-3 désigne un autre patient", "PID-3 names another patient")
        return replace(found, problem=problem)
    if given.identity_status != "VALI":
        return replace(found, problem=NOT_QUALIFIED)
    return found


NOT_QUALIFIED = Problem("identity", "identité non qualifiée", "the identity is not qualified")


def _note_pdf(content: bytes, place: str, name: str, budget: _Budget) -> None:
    if content.startswith(b"%PDF-") and len(budget.pdfs) < _MAX_PDFS:
        budget.pdfs.append(Pdf(place, name, hashlib.sha256(content).digest()))


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
    for name, digest in package.pdfs[: _MAX_PDFS - len(budget.pdfs)]:
        budget.pdfs.append(Pdf(f"{origin}/PDF", name, digest))
    for number, item in enumerate(package.documents, start=1):
        announced = item.metadata
        if not (_claims_cda(item.content) or (announced is not None and item.path.upper().endswith(".XML"))):
            continue
        place = f"{origin}/{number}"
        if not budget.take(0):
            yield _over_budget(item.content, place)
            continue
        found = replace(_document(item.content, place, budget), file=item.path)
        yield found if announced is None else _compared(found, announced)


def _compared(found: FoundDocument, announced: DocumentEntry) -> FoundDocument:
    """Hold the document against what METADATA.XML says of it: hash, size, identifier, patient."""
    action = next((values[0] for name, values in announced.extra_slots if name == EXTRA_METADATA and values), "")
    masks = tuple(code.code for code in announced.confidentiality if code.system == VISIBILITY_SCHEME)
    found = replace(found, action=action, visibility=masks)
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
