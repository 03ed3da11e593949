"""IHE XDM packages (`IHE_XDM.zip` of a document message): tolerant reading, strict writing (dmp.md §5).

Reading never writes to a disk, never follows a name outside the archive, opens no nested archive, and is bounded in
entries, expanded bytes and ratio *while* it expands: what the directory of the archive claims is not believed.
Writing is deterministic: the same values and the same time give the same bytes.
"""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from html import escape

from ihe.ebrim import sha1_of
from ihe.ebrim_model import DocumentEntry, EbrimError, Submission
from ihe.ebrim_read import from_xml
from ihe.ebrim_write import to_metadata_xml

_CHUNK = 64 * 1024


class XdmError(Exception):
    """The archive is refused as a whole. `code` is stable, the two texts carry no data of the patient."""

    def __init__(self, code: str, french: str, english: str) -> None:
        super().__init__(f"{code}: {english}")
        self.code = code
        self.french = french
        self.english = english


@dataclass(frozen=True, slots=True)
class XdmLimits:
    """What an archive may cost. Sizes in bytes; the ratio is judged above `ratio_floor` expanded bytes."""

    archive: int = 64 * 1024 * 1024
    entries: int = 1000
    expanded: int = 100 * 1024 * 1024
    ratio: int = 200
    ratio_floor: int = 1024 * 1024


@dataclass(frozen=True, slots=True)
class XdmDocument:
    """A document of the package. `metadata` is None for a file that no entry names; `problems` are stable words:
    `hash-mismatch`, `size-mismatch`, `no-metadata`."""

    path: str
    content: bytes = field(repr=False)
    metadata: DocumentEntry | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class XdmPackage:
    """A read package: one Submission per METADATA.XML that could be read, the documents in order of their path.

    `problems` concern the whole: `no-index`, `no-readme`, `no-metadata`, `metadata-unreadable`, `missing-document`,
    `document-twice` (two entries for one file: the first counts). `expanded` is what reading it took, in bytes.
    `pdfs` are the PDF files that no entry names, by path: copies of the documents (dmp.md §5.1).
    """

    submissions: tuple[Submission, ...]
    documents: tuple[XdmDocument, ...]
    problems: tuple[str, ...] = ()
    expanded: int = 0
    pdfs: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class XdmContent:
    """A document to pack: its entry (see `ihe.ebrim.entry_from_cda`), its bytes, and optionally its PDF copy."""

    entry: DocumentEntry
    content: bytes = field(repr=False)
    pdf: bytes | None = field(default=None, repr=False)


_BAD_ZIP = XdmError("not-a-zip", "la pièce jointe n'est pas une archive ZIP lisible", "not a readable ZIP archive")


def _check_name(name: str) -> None:
    pieces = name.replace("\\", "/").split("/")
    absolute = name.startswith(("/", "\\")) or (len(name) > 1 and name[1] == ":")
    if absolute or ".." in pieces or "\0" in name or len(name) > 512:
        raise XdmError("unsafe-name", "l'archive contient un nom de fichier dangereux", "an unsafe file name")


def _check_entry(info: zipfile.ZipInfo) -> None:
    _check_name(info.filename)
    mode = info.external_attr >> 16
    if stat.S_ISLNK(mode) or (stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR)):
        raise XdmError("unsafe-entry", "l'archive contient un lien ou un fichier spécial", "a link or a special file")
    if info.flag_bits & 0x1:
        raise XdmError("encrypted", "l'archive contient une entrée chiffrée", "an encrypted entry")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise XdmError("compression", "méthode de compression non admise", "compression method not accepted")


def _expand(archive: zipfile.ZipFile, info: zipfile.ZipInfo, room: int, limits: XdmLimits) -> bytes:
    """The bytes of one entry, stopped as soon as they pass `room` or the ratio."""
    # A BytesIO gives its own buffer away: joining pieces would hold a large file twice.
    held = io.BytesIO()
    total = 0
    with archive.open(info) as stream:
        while piece := stream.read(_CHUNK):
            total += len(piece)
            bomb = total > limits.ratio_floor and total > limits.ratio * max(info.compress_size, 1)
            if total > room or bomb:
                raise XdmError("too-large", "l'archive est trop volumineuse une fois décompressée", "expands too much")
            held.write(piece)
    return held.getvalue()


def _read_files(data: bytes, limits: XdmLimits) -> dict[str, bytes]:
    """Every regular file of the archive, by its path with `/` separators."""
    if len(data) > limits.archive:
        raise XdmError("archive-size", "l'archive est trop volumineuse", "the archive is too large")
    # The directory is counted before zipfile makes an object of each of its records.
    if data.count(b"PK\x01\x02") > limits.entries:
        raise XdmError("too-many-entries", "l'archive contient trop de fichiers", "too many entries")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if len(infos) > limits.entries:
                raise XdmError("too-many-entries", "l'archive contient trop de fichiers", "too many entries")
            for info in infos:
                _check_entry(info)
            files: dict[str, bytes] = {}
            room = limits.expanded
            for info in infos:
                if info.is_dir():
                    continue
                name = info.filename.replace("\\", "/")
                if name in files:
                    raise XdmError("duplicate-name", "deux fichiers ont le même nom", "two files have the same name")
                files[name] = _expand(archive, info, room, limits)
                room -= len(files[name])
            return files
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, NotImplementedError):
        raise _BAD_ZIP from None
    except (RuntimeError, OverflowError, IndexError, KeyError):
        raise _BAD_ZIP from None


def _is_noise(path: str) -> bool:
    """Files that desktop tools leave in archives (seen in public samples)."""
    pieces = path.split("/")
    return "__MACOSX" in pieces or any(piece.startswith(".") for piece in pieces)


def _subset_of(path: str) -> str | None:
    """The directory that holds a METADATA.XML, as a prefix of its neighbours' names; None when it is not one.

    The missing separator of some producers (`IHE_XDM/SUBSET01METADATA.xml`) gives the prefix `IHE_XDM/SUBSET01`.
    """
    upper = path.upper()
    if not upper.endswith("METADATA.XML") or "IHE_XDM/" not in upper:
        return None
    return path[: -len("METADATA.XML")]


def _lookup(folded: Mapping[str, str], prefix: str, uri: str) -> str | None:
    """The file that an entry's URI names, compared without case (`folded`: path by case-folded path); a URI cannot leave
    its directory."""
    wanted = uri.replace("\\", "/").removeprefix("./")
    if not wanted or ".." in wanted.split("/"):
        return None
    return folded.get((prefix + wanted).casefold())


def _problems(entry: DocumentEntry, content: bytes) -> tuple[str, ...]:
    found = []
    if entry.hash and entry.hash.lower() != sha1_of(content):
        found.append("hash-mismatch")
    if entry.size is not None and entry.size != len(content):
        found.append("size-mismatch")
    return tuple(found)


def read_xdm(data: bytes, *, limits: XdmLimits | None = None) -> XdmPackage:
    """Reads a package. A wrong hash or size is a problem of the document, not an error (dmp.md §5.1).

    Documents: every file that an entry names, then every other `.xml` file beside a METADATA.XML (`no-metadata`).
    Raises XdmError: `archive-size`, `not-a-zip`, `too-many-entries`, `unsafe-name`, `unsafe-entry`, `encrypted`,
    `compression`, `too-large`, `duplicate-name`, `not-xdm`.
    """
    everything = _read_files(data, limits or XdmLimits())
    files = {path: content for path, content in everything.items() if not _is_noise(path)}
    folded = {path.casefold(): path for path in files}
    prefixes = {path: prefix for path in files if (prefix := _subset_of(path)) is not None}
    if not prefixes and not any("IHE_XDM/" in path.upper() for path in files):
        raise XdmError("not-xdm", "l'archive n'est pas un paquet IHE XDM", "not an IHE XDM package")
    problems = [] if prefixes else ["no-metadata"]
    names = {path.rpartition("/")[2].upper() for path in files}
    problems += [word for word, name in (("no-index", "INDEX.HTM"), ("no-readme", "README.TXT")) if name not in names]
    submissions: list[Submission] = []
    documents: dict[str, XdmDocument] = {}
    for path, prefix in prefixes.items():
        try:
            submission = from_xml(files[path])
        except EbrimError:
            problems.append("metadata-unreadable")
            continue
        submissions.append(submission)
        for entry in submission.documents:
            target = _lookup(folded, prefix, entry.uri)
            if target is None:
                problems.append("missing-document")
            elif target in documents:
                # Not looked at again: a thousand entries for one file would have it hashed a thousand times.
                problems.append("document-twice")
            else:
                documents[target] = XdmDocument(target, files[target], entry, _problems(entry, files[target]))
    for path, content in files.items():
        if path not in documents and path not in prefixes and _is_loose_document(path):
            documents[path] = XdmDocument(path, content, None, ("no-metadata",))
    ordered = tuple(documents[path] for path in sorted(documents))
    expanded = sum(map(len, everything.values()))
    pdfs = tuple(
        (path, files[path]) for path in sorted(files) if path.upper().endswith(".PDF") and path not in documents
    )
    return XdmPackage(tuple(submissions), ordered, tuple(dict.fromkeys(problems)), expanded, pdfs)


def _is_loose_document(path: str) -> bool:
    upper = path.upper()
    return "IHE_XDM/" in upper and upper.endswith(".XML")


_INDEX = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML Basic 1.1//EN" "http://www.w3.org/TR/xhtml-basic/xhtml-basic11.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="fr">
<head><title>Documents de santé</title></head>
<body>
<h1>Documents de santé</h1>
<p>{sender}</p>
<p><a href="README.TXT">README.TXT</a></p>
<ul>
{items}
</ul>
</body>
</html>
"""

_README = """Documents de santé échangés par messagerie sécurisée (IHE XDM).

Emetteur : {sender}
Logiciel : {software}

Les documents sont dans le dossier IHE_XDM/SUBSET01 ; METADATA.XML les décrit.
Ouvrir INDEX.HTM dans un navigateur pour les consulter.

{tree}
"""


def write_xdm(
    documents: Sequence[XdmContent], submission: Submission, *, at: datetime, sender: str, software: str = "Caducee 0.1"
) -> bytes:
    """A package of one submission set. `submission` gives the set and its associations; its document list is replaced
    by `documents`, with URI, hash and size of the bytes packed. `at` stamps every entry (to two seconds, as ZIP does).

    Raises XdmError(`no-document`, `pdf`) and EbrimError(`bad-text`).
    """
    if not documents or len(documents) > 99:
        raise XdmError("no-document", "un paquet contient de 1 à 99 documents", "a package holds 1 to 99 documents")
    folder = "IHE_XDM/SUBSET01/"
    entries: list[DocumentEntry] = []
    files: list[tuple[str, bytes]] = []
    links: list[tuple[str, str]] = []
    for number, item in enumerate(documents, start=1):
        name = f"DOC{number:05d}.XML"
        entries.append(replace(item.entry, uri=name, hash=sha1_of(item.content), size=len(item.content)))
        files.append((folder + name, item.content))
        links.append((folder + name, item.entry.title or name))
        if item.pdf is not None:
            if not item.pdf.startswith(b"%PDF-"):
                raise XdmError("pdf", "la copie PDF n'est pas un PDF", "the PDF copy is not a PDF")
            files.append((f"{folder}DOC{number:05d}.PDF", item.pdf))
            links.append((f"{folder}DOC{number:05d}.PDF", f"{item.entry.title or name} (PDF)"))
    metadata = to_metadata_xml(replace(submission, documents=tuple(entries)))
    items = "\n".join(f'<li><a href="{escape(path)}">{escape(title)}</a></li>' for path, title in links)
    tree = "\r\n".join(["INDEX.HTM", "README.TXT", f"{folder}METADATA.XML", *(path for path, _ in files)])
    readme = _README.format(sender=sender, software=software, tree=tree).replace("\r\n", "\n").replace("\n", "\r\n")
    head = [
        ("INDEX.HTM", _INDEX.format(sender=escape(sender), items=items).encode("utf-8")),
        ("README.TXT", readme.encode("utf-8")),
        (f"{folder}METADATA.XML", metadata),
    ]
    return _pack([*head, *files], at)


def _pack(files: Sequence[tuple[str, bytes]], at: datetime) -> bytes:
    stamp = (max(at.year, 1980), at.month, at.day, at.hour, at.minute, at.second)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            info = zipfile.ZipInfo(name, stamp)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 0
            archive.writestr(info, content, compresslevel=6)
    return buffer.getvalue()
