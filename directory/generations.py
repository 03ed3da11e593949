"""The data folders of a directory: `data-1`, `data-2`... one of them served, the one before kept.

Invariant: which one is served is what slapd's own configuration says; the file `current` repeats it for the moments when
`slapd.d` is being rebuilt or is lost. A folder is `current` only after its data is complete and durable.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Final

from directory.errors import DirectoryError
from directory.tools import sync_folder, write_private

LEGACY: Final = "data"  # the one folder of the first version
FORMAT: Final = 3
"""Grows when the entries above mailboxes, the derived attributes or the indexes change (see `upgrading`)."""
FORMAT_FILE: Final = "format"
_NAME: Final = re.compile(r"data(?:-[0-9]{1,9})?")
_LINE: Final = re.compile(r"^olcDbDirectory: (data.*)$", re.MULTILINE)
_HIDDEN: Final = re.compile(r"^olcHidden: TRUE$", re.MULTILINE)
_DATABASE: Final = re.compile(r"olcDatabase=\{([0-9]+)\}mdb\.ldif")


class Generations:
    """The data folders in slapd's `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def current(self) -> str:
        """Name of the served data folder. Raises DirectoryError when there is none."""
        remembered = self._folder / "current"
        names = [*self._configured(), remembered.read_text("ascii").strip() if remembered.is_file() else ""]
        for name in names:
            if _NAME.fullmatch(name) and (self._folder / name).is_dir():
                return name
        if (self._folder / LEGACY).is_dir():
            return LEGACY
        raise DirectoryError(
            f"Données de l'annuaire introuvables dans {self._folder} : restaurer une sauvegarde (caducee directory "
            "restore) / directory data not found: restore a backup"
        )

    def _configured(self) -> list[str]:
        """The data folders of the databases that slapd's configuration shows, in the order slapd looks at them."""
        found: list[tuple[int, str]] = []
        for path in (self._folder / "slapd.d" / "cn=config").glob("olcDatabase=*mdb.ldif"):
            try:
                number, text = _DATABASE.fullmatch(path.name), path.read_text("utf-8")
            except FileNotFoundError:  # slapd gives its databases new numbers: `current` says it meanwhile
                continue
            line = _LINE.search(text)
            if number and line and not _HIDDEN.search(text):
                found.append((int(number.group(1)), line.group(1).strip()))
        return [name for _, name in sorted(found)]

    def format(self, name: str) -> int:
        """The format of a data folder; 1 when it is older than formats are."""
        try:
            return int((self._folder / name / FORMAT_FILE).read_text("ascii"))
        except (FileNotFoundError, ValueError):
            return 1

    def fresh(self) -> str:
        """Make an empty data folder with a number never used before, and return its name.

        Never: what a killed load started may still be ending, and slapd keeps what it retired, under the old number.
        """
        last = self._folder / "last"
        given = int(last.read_text("ascii")) if last.is_file() else 0
        name = f"data-{max(given, *map(_number, self._names()), 0) + 1}"
        write_private(last, name.rpartition("-")[2].encode())
        (self._folder / name).mkdir(mode=0o700)
        return name

    def adopt(self, name: str) -> None:
        """Make the complete folder `name` durable and remember it as the one to serve at the next start."""
        for path in (self._folder / name).iterdir():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(self._folder / name)
        write_private(self._folder / "current", name.encode())

    def remove(self, name: str) -> None:
        """Remove a data folder that is not served."""
        shutil.rmtree(self._folder / name, ignore_errors=True)

    def prune(self, current: str) -> None:
        """Keep `current` and the one before; remove older ones, and what a killed load left (newer, never served)."""
        older = [name for name in self._names() if _number(name) < _number(current)]
        for name in self._names():
            if name not in (current, *older[-1:]):
                self.remove(name)
        for left in self._folder.glob("slapd.data-*"):
            shutil.rmtree(left, ignore_errors=True)

    def clear(self) -> None:
        """Remove every data folder and what says which one is served."""
        for name in self._names():
            self.remove(name)
        shutil.rmtree(self._folder / "slapd.d", ignore_errors=True)
        (self._folder / "current").unlink(missing_ok=True)

    def _names(self) -> list[str]:
        found = [path.name for path in self._folder.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
        return sorted(found, key=_number)


def _number(name: str) -> int:
    return 0 if name == LEGACY else int(name.rpartition("-")[2])
