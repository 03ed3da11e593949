"""Making the message of one patient's documents from their CDA: IHE_XDM.ZIP, PDF/A-1 copies, subject line, header
fields (ECO.2.1.1 to
ECO.2.1.6; mssante.md §8, dmp.md §5.3).

Invariants: one message, one patient; the CDA bytes are packed as they are; a PDF copy is the embedded one for a level
1 document (ECO.2.1.5:
identical), else a PDF/A-1b made from the header and the narrative. What is made is read again by our own strict reader
before it leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from email.utils import format_datetime

import mime
from dmp_bridge.outlet import new_submission_set_id
from ihe.cda import HL7_V3, Author, CdaError, CdaHeader, OpenCda, Organisation, PersonName, open_cda
from ihe.datatypes import PERSON_ROOT, STRUCTURE_ROOT
from ihe.ebrim import EXTRA_METADATA, DocumentEntry, EbrimError, XdsAuthor, entry_from_cda, lot, xds_author
from ihe.naming import pdf_file_name, subject_line
from ihe.pdf import make_pdf_a
from ihe.values import Identifier
from ihe.xdm import XdmContent, XdmError, read_xdm, write_xdm
from ihe.xml import Element, local_name, text_of

_H = {"h": HL7_V3}
ARCHIVE = "IHE_XDM.ZIP"
MAX_DOCUMENTS = 99


class PackageRefused(Exception):
    """The documents cannot make one message; the two texts hold no data of the patient."""

    def __init__(self, code: str, french: str, english: str) -> None:
        super().__init__(f"{code}: {french} / {english}")
        self.code = code
        self.french = french
        self.english = english


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends: the author of the lot (dmp.md §3.2). `structure_id` is Struct_IdNat, `person_id` PS_IdNat or empty."""

    structure_id: str
    structure_name: str
    person_id: str = ""
    family: str = ""
    given: str = ""

    def author(self) -> XdsAuthor:
        """The sender as XDS metadata."""
        return xds_author(
            Author(
                identifier=Identifier(PERSON_ROOT, self.person_id or self.structure_id),
                name=PersonName(self.family or self.structure_name, self.given),
                organisation=Organisation(Identifier(STRUCTURE_ROOT, self.structure_id), self.structure_name),
            )
        )


@dataclass(frozen=True, slots=True)
class Package:
    """What a document message is made of. `pdfs`: file name and bytes, in the order of the documents."""

    archive: bytes = field(repr=False)
    pdfs: tuple[tuple[str, bytes], ...] = field(repr=False)
    subject: str = field(repr=False)
    fields: tuple[tuple[str, str], ...]
    headers: tuple[CdaHeader, ...] = field(repr=False)


def make_package(
    documents: Sequence[bytes],
    *,
    sender: Sender,
    source_id: str,
    at: datetime,
    action: str = "",
    visibility: Sequence[str] = (),
    product: str = "Caducee",
) -> Package:
    """Pack CDA documents of one patient. `action` is "", `C` or `D` (dmp.md §5.2); `visibility` the codes of §3.8.

    Raises PackageRefused: `no-document`, `several-patients`, `metadata`, `cda-*`; ihe.pdf.FontMissing.
    """
    if not 1 <= len(documents) <= MAX_DOCUMENTS:
        raise PackageRefused("no-document", "de 1 à 99 documents", "1 to 99 documents")
    opened = [_opened(content) for content in documents]
    headers = tuple(one.header for one in opened)
    if len({(header.patient.ins_oid, header.patient.ins) for header in headers}) > 1:
        raise PackageRefused("several-patients", "un message concerne un seul patient", "one message, one patient")
    contents, pdfs = [], []
    for number, (content, one) in enumerate(zip(documents, opened, strict=True), start=1):
        entry = entry_from_cda(one.header, content, entry_id=f"Document{number:02d}", visibility_codes=visibility)
        missing = entry.problems()
        if missing:
            words = ", ".join(missing)
            raise PackageRefused("metadata", f"métadonnées impossibles : {words}", f"metadata missing: {words}")
        if action:
            entry = _announce(entry, action)
        pdf = pdf_of(one, at=at)
        contents.append(XdmContent(entry, content, pdf))
        pdfs.append((pdf_file_name(one.header), pdf))
    submission = lot(
        headers[0],
        [item.entry for item in contents],
        unique_id=new_submission_set_id(),
        source_id=source_id,
        author=sender.author(),
        at=at,
        title=headers[0].title,
    )
    try:
        archive = write_xdm(contents, submission, at=at, sender=sender.structure_name, software=product)
        problems = read_xdm(archive).problems
    except (EbrimError, XdmError) as error:
        raise PackageRefused(error.code, "paquet impossible à composer", "the package cannot be made") from None
    if problems:
        raise PackageRefused("package", f"paquet défectueux : {problems}", f"defective package: {problems}")
    return Package(archive, _distinct(pdfs), _subject(headers, action), _fields(headers, product), headers)


def _opened(content: bytes) -> OpenCda:
    try:
        return open_cda(content)
    except CdaError as error:
        raise PackageRefused(f"cda-{error.code}", error.french, error.english) from None


def _announce(entry: DocumentEntry, action: str) -> DocumentEntry:
    return replace(entry, extra_slots=((EXTRA_METADATA, (action,)),))


def _distinct(pdfs: Sequence[tuple[str, bytes]]) -> tuple[tuple[str, bytes], ...]:
    """Two documents of one day and type would have one name: the second gets a number (the optional record number's place)."""
    seen: dict[str, int] = {}
    named = []
    for name, content in pdfs:
        count = seen[name] = seen.get(name, 0) + 1
        named.append((name if count == 1 else f"{name.removesuffix('.pdf')}_{count}.pdf", content))
    return tuple(named)


def _subject(headers: Sequence[CdaHeader], action: str) -> str:
    """ECO.2.1.3; a new version says so in front (dmp.md §5.3)."""
    line = subject_line(headers)
    return f"[Annule et remplace] {line}" if action == "C" else line


def _fields(headers: Sequence[CdaHeader], product: str) -> tuple[tuple[str, str], ...]:
    return (*label_fields(headers), ("X-MSS-NIL", product))


def label_fields(headers: Sequence[CdaHeader]) -> tuple[tuple[str, str], ...]:
    """X-MSS-CODECDA, and X-MSS-INS: `O` when matricule, OID and the four traits are there (dmp.md §5.3). Nothing
    without a document."""
    if not headers:
        return ()
    codes = ",".join(dict.fromkeys(header.type.code for header in headers))
    patient = headers[0].patient
    traits = (patient.ins, patient.ins_oid, patient.birth_name, patient.first_birth_given, patient.sex)
    complete = all((*traits, patient.birth_date))
    return (("X-MSS-CODECDA", codes), ("X-MSS-INS", "O" if complete else "N"))


def pdf_of(opened: OpenCda, *, at: datetime) -> bytes:
    """The PDF copy of a document (ECO.2.1.5). Raises ihe.pdf.FontMissing."""
    header = opened.header
    for body in (header.body, header.pdf_copy):
        if body is not None and body.media_type == "application/pdf":
            try:
                content = body.content()
            except CdaError as error:
                raise PackageRefused(error.code, error.french, error.english) from None
            if content.startswith(b"%PDF-"):
                return content
    author = header.authors[0] if header.authors else None
    lines = [
        f"Type : {header.type.display or header.type.code}",
        f"Date : {header.effective_time:%d/%m/%Y %H:%M}",
        f"Patient : {header.patient.birth_name} {header.patient.birth_givens}, né(e) le {_day(header.patient.birth_date)}",
        f"INS : {header.patient.ins}" if header.patient.ins else "",
        f"Auteur : {author.name.prefix} {author.name.given} {author.name.family}".replace("  ", " ") if author else "",
        f"Structure : {header.custodian.name}",
    ]
    return make_pdf_a(header.title or "Document", [line for line in lines if line] + _narrative(opened.document), at=at)


def _day(digits: str) -> str:
    return f"{digits[6:8]}/{digits[4:6]}/{digits[:4]}" if len(digits) >= 8 else digits


def _narrative(document: Element) -> list[str]:
    """The titles and the text of the sections, in order: the narrative is what a reader must see (CDA R2 §4.3.5)."""
    lines: list[str] = []
    for section in document.iterfind(".//h:structuredBody//h:section", _H):
        title, text = section.find("h:title", _H), section.find("h:text", _H)
        if title is not None:
            lines += ["", " ".join(text_of(title).split()).upper()]
        if text is not None:
            lines += _blocks(text)
    return lines[:5000]


_BLOCKS = frozenset({"paragraph", "item", "tr", "caption", "br"})


def _blocks(text: Element) -> list[str]:
    """Paragraphs, items and table rows, a line each; cells separated by a bar."""
    lines: list[str] = []
    current: list[str] = []

    def flush() -> None:
        line = " ".join(" ".join(current).split()).strip("| ")
        if line:
            lines.append(line)
        current.clear()

    def walk(element: Element) -> None:
        name = local_name(element)
        if name in _BLOCKS:
            flush()
        if name in ("td", "th"):
            current.append("|")
        current.append(element.text or "" if name else "")
        for child in element:
            walk(child)
            current.append(child.tail or "")
        if name in _BLOCKS:
            flush()

    walk(text)
    flush()
    return lines


def entities(package: Package) -> list[bytes]:
    """The attachments: the archive and the PDF copies."""
    parts = [mime.leaf("application/zip", package.archive, filename=ARCHIVE)]
    return parts + [mime.leaf("application/pdf", content, filename=name) for name, content in package.pdfs]


def make_message(
    package: Package,
    *,
    sender: str,
    recipients: Sequence[str],
    text: str,
    message_id: str,
    at: datetime,
    final: bool = False,
    receipt_to: str = "",
) -> bytes:
    """The whole clear message. `final` adds X-MSS-MES: FIN (the patient may not reply); `receipt_to` is the address that asks
    for a receipt of reading ("" for none)."""
    body = mime.leaf("text/plain", text.encode("utf-8"), disposition=None, parameters={"charset": "utf-8"})
    head = [
        ("Date", format_datetime(at)),
        ("From", sender),
        ("To", ", ".join(recipients)),
        ("Subject", package.subject),
        ("Message-ID", message_id),
        *package.fields,
        *((("X-MSS-MES", "FIN"),) if final else ()),
        *((("Disposition-Notification-To", receipt_to),) if receipt_to else ()),
    ]
    return mime.message(head, mime.multipart("mixed", [body, *entities(package)]))
