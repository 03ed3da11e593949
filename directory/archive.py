"""Opens extraction files, plain or inside the ZIP they are delivered in, as bounded streams of lines.

Invariants: nothing is unpacked on disk; no size written in an archive is believed: bytes are counted as they come out;
a line, a member, an archive past its bound stops everything with its name; text is strict UTF-8 (a byte order mark is
allowed), a wrong encoding is told, never guessed.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from directory.errors import DirectoryError

MAX_FILE: Final = 4 * 1024**3
MAX_RATIO: Final = 200  # real deliveries are packed 4 to 12 times; deflate cannot do more than about 1030
MAX_MEMBERS: Final = 64
MAX_LINE: Final = 32 * 1024
_SMALL: Final = 1 << 20  # below that, a ratio says nothing


@dataclass(frozen=True, slots=True)
class Source:
    """One text file to read: `path`, or its member `member` when it is a ZIP. `name` is for people."""

    path: Path
    member: str = ""

    @property
    def name(self) -> str:
        return f"{self.path.name}/{self.member}" if self.member else self.path.name

    @property
    def size(self) -> int:
        """Bytes that will probably be read (for progress only)."""
        if not self.member:
            return self.path.stat().st_size
        with zipfile.ZipFile(self.path) as archive:
            return archive.getinfo(self.member).file_size


def sources(paths: list[Path]) -> list[Source]:
    """The text files in `paths`, archives opened one level deep. Raises DirectoryError on what is no extraction."""
    found: list[Source] = []
    for path in paths:
        if not path.is_file():
            raise DirectoryError(f"{path} : fichier absent / missing file")
        if not zipfile.is_zipfile(path):
            found.append(Source(path))
            continue
        try:
            with zipfile.ZipFile(path) as archive:
                members = [one for one in archive.infolist() if not one.is_dir()]
        except zipfile.BadZipFile as error:
            raise DirectoryError(f"{path.name} : archive ZIP illisible / unreadable ZIP archive") from error
        texts = [one.filename for one in members if one.filename.lower().endswith((".txt", ".csv"))]
        if len(members) > MAX_MEMBERS or not texts:
            raise DirectoryError(f"{path.name} : archive sans extraction, ou trop de fichiers / no extraction inside")
        found += [Source(path, member) for member in texts]
    if not found:
        raise DirectoryError("Aucun fichier à importer / no file to import")
    return found


def lines(source: Source) -> Iterator[bytes]:
    """The lines of a source, without their end. Raises DirectoryError on a bomb, a damaged archive, a truncated file."""
    try:
        if not source.member:
            with source.path.open("rb") as file:
                yield from _lines(file, source, source.path.stat().st_size, MAX_FILE)
            return
        with zipfile.ZipFile(source.path) as archive:
            info = archive.getinfo(source.member)
            if info.flag_bits & 1:
                raise DirectoryError(f"{source.name} : archive chiffrée / encrypted archive")
            bound = min(MAX_FILE, max(_SMALL, info.compress_size * MAX_RATIO))
            with archive.open(info) as member:
                # zipfile's own readline is slow: it is given a buffer made in C.
                yield from _lines(io.BufferedReader(member, 1 << 20), source, info.file_size, bound)  # type: ignore[type-var]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, KeyError) as error:
        raise DirectoryError(f"{source.name} : archive abîmée ou tronquée / damaged or truncated archive") from error


def _lines(file: IO[bytes], source: Source, announced: int, bound: int) -> Iterator[bytes]:
    total, first, ended = 0, True, True
    while line := file.readline(MAX_LINE + 1):
        total += len(line)
        if total > bound:
            raise DirectoryError(
                f"{source.name} : contenu démesuré (plus de {bound >> 20} Mio) / content out of proportion"
            )
        ended = line.endswith(b"\n")
        if not ended and len(line) > MAX_LINE:
            raise DirectoryError(f"{source.name} : ligne de plus de {MAX_LINE} octets / line too long")
        bare = line.rstrip(b"\r\n")
        if first:
            bare, first = _without_mark(bare, source), False
        yield bare
    if total < announced or not ended:
        # Deliveries end their last line; one that does not was cut on its way.
        raise DirectoryError(f"{source.name} : fichier tronqué (dernière ligne inachevée) / truncated file")


def _without_mark(line: bytes, source: Source) -> bytes:
    if line.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in line:
        raise DirectoryError(f"{source.name} : encodage UTF-16, UTF-8 attendu / UTF-16 text, UTF-8 expected")
    return line.removeprefix(b"\xef\xbb\xbf")
