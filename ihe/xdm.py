"""IHE XDM packages (`IHE_XDM.zip` of a document message): tolerant reading, strict writing (dmp.md §5).

Reading never writes to a disk, never follows a name outside the archive, opens no nested archive, and is bounded in
entries, expanded bytes and ratio *while* it expands: what the directory of the archive claims is not believed.
Writing is deterministic: the same values and the same time give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
    `pdfs` are the PDF files that no entry names, by path, with the SHA-256 of their bytes: copies of the documents (dmp.md
    §5.1), which are large and which nobody reads here.
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


@contextmanager
def _zip_errors() -> Iterator[None]:
    """What zipfile raises for a damaged archive becomes XdmError."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, NotImplementedError):
        raise _BAD_ZIP from None
    except (RuntimeError, OverflowError, IndexError, KeyError):
        raise _BAD_ZIP from None


class _Files:
    """The regular files of an archive, by their path with `/` separators. Each is expanded once, held or only digested, and
    all of them within the limits together."""

    def __init__(self, data: bytes, limits: XdmLimits) -> None:
        """Open and check every record. Raises XdmError."""
        if len(data) > limits.archive:
            raise XdmError("archive-size", "l'archive est trop volumineuse", "the archive is too large")
        # The directory is counted before zipfile makes an object of each of its records.
        if data.count(b"PK\x01\x02") > limits.entries:
            raise XdmError("too-many-entries", "l'archive contient trop de fichiers", "too many entries")
        self._limits = limits
        self.expanded = 0
        with _zip_errors():
            self._archive = zipfile.ZipFile(io.BytesIO(data))
            infos = self._archive.infolist()
        if len(infos) > limits.entries:
            raise XdmError("too-many-entries", "l'archive contient trop de fichiers", "too many entries")
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            _check_entry(info)
            name = info.filename.replace("\\", "/")
            if info.is_dir():
                continue
            if name in self._infos:
                raise XdmError("duplicate-name", "deux fichiers ont le même nom", "two files have the same name")
            self._infos[name] = info

    @property
    def paths(self) -> list[str]:
        """Every file, in the archive's order."""
        return list(self._infos)

    def read(self, path: str) -> bytes:
        """The bytes of a file. Raises XdmError."""
        # A BytesIO gives its own buffer away: joining pieces would hold a large file twice.
        held = io.BytesIO()
        for piece in self._pieces(self._infos[path]):
            held.write(piece)
        return held.getvalue()

    def digest(self, path: str) -> tuple[bytes, bytes]:
        """The first bytes of a file and the SHA-256 of all of it, which is not held. Raises XdmError."""
        head, digest = b"", hashlib.sha256()
        for piece in self._pieces(self._infos[path]):
            head = head or piece[:16]
            digest.update(piece)
        return head, digest.digest()

    def _pieces(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        """A file expanded piece by piece, stopped as soon as it passes the room that is left or the ratio."""
        limits, total = self._limits, 0
        with _zip_errors(), self._archive.open(info) as stream:
            while piece := stream.read(_CHUNK):
                total += len(piece)
                self.expanded += len(piece)
                bomb = total > limits.ratio_floor and total > limits.ratio * max(info.compress_size, 1)
                if self.expanded > limits.expanded or bomb:
                    raise XdmError(
                        "too-large", "l'archive est trop volumineuse une fois décompressée", "expands too much"
                    )
                yield piece


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
    files = _Files(data, limits or XdmLimits())
    paths = [path for path in files.paths if not _is_noise(path)]
    folded = {path.casefold(): path for path in paths}
    prefixes = {path: prefix for path in paths if (prefix := _subset_of(path)) is not None}
    if not prefixes and not any("IHE_XDM/" in path.upper() for path in paths):
        raise XdmError("not-xdm", "l'archive n'est pas un paquet IHE XDM", "not an IHE XDM package")
    problems = [] if prefixes else ["no-metadata"]
    names = {path.rpartition("/")[2].upper() for path in paths}
    problems += [word for word, name in (("no-index", "INDEX.HTM"), ("no-readme", "README.TXT")) if name not in names]
    submissions: list[Submission] = []
    documents: dict[str, XdmDocument] = {}
    for path, prefix in prefixes.items():
        try:
            submission = from_xml(files.read(path))
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
                content = files.read(target)
                documents[target] = XdmDocument(target, content, entry, _problems(entry, content))
    for path in paths:
        if path not in documents and path not in prefixes and _is_loose_document(path):
            documents[path] = XdmDocument(path, files.read(path), None, ("no-metadata",))
    # What is left is expanded too, to be counted and checked, and held by nobody.
    rest = {path: files.digest(path) for path in sorted(files.paths) if path not in documents and path not in prefixes}
    pdfs = tuple(
        (path, digest)
        for path, (head, digest) in rest.items()
        if path.upper().endswith(".PDF") and not _is_noise(path) and head.startswith(b"%PDF-")
    )
    ordered = tuple(documents[path] for path in sorted(documents))
    return XdmPackage(tuple(submissions), ordered, tuple(dict.fromkeys(problems)), files.expanded, pdfs)


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
