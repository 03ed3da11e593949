"""Backup and restoration of the directory: slapcat out, slapadd in.

Invariants: a backup is one consistent snapshot (one LMDB read transaction), taken while slapd serves or not; it is
complete, durable and closed to other users, or absent; a restoration is loaded aside and served only when whole, so a
bad file changes nothing.
"""

from __future__ import annotations

import contextlib
import gzip
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from directory.entry import Attributes
from directory.errors import DirectoryError
from directory.ldif_stream import read_ldif, record_bytes
from directory.tools import TOOL_SECONDS, first_lines, open_tool

if TYPE_CHECKING:
    from directory.installation import Installation
    from directory.server import Slapd

_CHUNK: Final = 1 << 20
# What slapd keeps for itself in each entry and would refuse, or make anew, in a load.
_OWN_BOOKKEEPING: Final = frozenset({"contextcsn", "structuralobjectclass", "subschemasubentry", "hassubordinates"})


def read_records(slapd: Installation, configuration: str = "slapd.d") -> Iterator[tuple[str, Attributes]]:
    """(dn, attributes) of every entry, operational attributes included, parents first. Raises DirectoryError."""
    command = ["slapcat", "-o", "ldif-wrap=no", "-F", configuration, "-b", slapd.base]
    with open_tool(slapd.folder, command) as process:
        if process.stdout is None or process.stderr is None:
            raise DirectoryError("slapcat : pas de canal / no pipe")
        try:
            yield from read_ldif(process.stdout)
        except BaseException:
            process.kill()
            raise
        said = process.stderr.read()
        if process.wait(TOOL_SECONDS) != 0:
            raise DirectoryError(f"slapcat : {first_lines(said)}")


def backup(slapd: Slapd, target: Path, on_entry: Callable[[], object] | None = None) -> int:
    """Write every entry as LDIF (gzip when the name ends in .gz); returns how many. Raises DirectoryError, OSError."""
    if target.exists():
        raise DirectoryError(f"{target} existe déjà / already exists")
    fresh = target.with_name(target.name + ".part")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    count = 0
    try:
        with os.fdopen(descriptor, "wb") as raw:
            with _packed(raw, target) as sink:
                for dn, attributes in read_records(slapd):
                    sink.write(record_bytes(dn, attributes))
                    count += 1
                    if on_entry:
                        on_entry()
            raw.flush()
            os.fsync(raw.fileno())
        fresh.rename(target)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    return count


def _packed(raw: IO[bytes], target: Path) -> contextlib.AbstractContextManager[IO[bytes]]:
    if target.suffix == ".gz":
        return gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=3)  # type: ignore[return-value]
    return contextlib.nullcontext(raw)


def _opened(source: Path) -> contextlib.AbstractContextManager[IO[bytes]]:
    return gzip.open(source, "rb") if source.suffix == ".gz" else source.open("rb")  # type: ignore[return-value]


def restore(slapd: Slapd, source: Path, on_entry: Callable[[], object] | None = None) -> int:
    """Replace the whole directory by a backup (LDIF, or LDIF in gzip); returns how many entries it has.

    While slapd runs, look-ups go on and see the old directory until the new one is complete. Changes made since the
    backup are lost: that is what a restoration is for. Raises DirectoryError (the old directory stays), OSError.
    """
    from directory.loading import replace_data

    count = 0

    def chunks() -> Iterator[bytes]:
        nonlocal count
        with _opened(source) as file:
            try:
                for dn, attributes in read_ldif(file):
                    count += 1
                    if on_entry:
                        on_entry()
                    kept = {name: some for name, some in attributes.items() if name.lower() not in _OWN_BOOKKEEPING}
                    yield record_bytes(dn, kept)
            except (EOFError, gzip.BadGzipFile) as error:
                raise DirectoryError(
                    f"{source} : sauvegarde tronquée ou abîmée / truncated or damaged backup"
                ) from error

    replace_data(slapd, chunks(), replay=False)
    return count
