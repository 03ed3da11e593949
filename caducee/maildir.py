"""Mailboxes as Maildir folders, with Maildir++ sub-folders and Dovecot's names of keywords. Reading and writing.

Each message is a file whose name ends with its flags. Small letters are keywords, up to 26 a folder, which the file
`dovecot-keywords` names; `.Archives.2026` is the folder Archives/2026, in modified UTF-7, with `.` in a name written `\\2e` (as
Dovecot's plugin listescape does). The invariants are those of `mailfiles`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from caducee.mailfiles import MESSAGE_LIMIT, FiledMessage, TooLarge, keywords
from imap import utf7
from mime import to_crlf

KEYWORDS_FILE = "dovecot-keywords"
MOST_KEYWORDS = 26
LONGEST_NAME = 255
"""Octets of a file's name."""
_KEYWORDS_LIMIT = 64 * 1024
_FLAGS = {"D": "\\Draft", "F": "\\Flagged", "P": "$Forwarded", "R": "\\Answered", "S": "\\Seen", "T": "\\Deleted"}
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Maildir:
    """A folder to be written. `lost` are the keywords that found no letter any more."""

    def __init__(self, path: Path) -> None:
        """Make it, empty. Raises FileExistsError."""
        path.mkdir(mode=0o700)
        for name in ("cur", "new", "tmp"):
            (path / name).mkdir(mode=0o700)
        self._path = path
        self._count = 0
        self._keywords: dict[str, str] = {}
        self.lost: set[str] = set()

    def below(self, name: str) -> Maildir:
        """Make the sub-folder of a folder's name (levels divided by `/`)."""
        return Maildir(self._path / folder_name(name))

    def write(self, message: FiledMessage) -> None:
        """Write one message, under a name made of its date and its place."""
        known = {letter for letter, flag in _FLAGS.items() if flag in message.flags}
        known |= {self._letter(flag) for flag in sorted(message.flags) if not flag.startswith("\\")}
        date = (message.date or datetime.fromtimestamp(0, UTC)).timestamp()
        self._count += 1
        final = self._path / "cur" / f"{int(date)}.M{self._count:09d}.caducee:2,{''.join(sorted(known))}"
        _write(final, message.content.replace(b"\r\n", b"\n"), os.O_EXCL)
        os.utime(final, (date, date))

    def _letter(self, keyword: str) -> str:
        """The letter of a keyword, "" when there are too many. It is named before a message bears it."""
        if keyword not in self._keywords:
            number = len(self._keywords)
            if number >= MOST_KEYWORDS:
                self.lost.add(keyword)
                return ""
            _write(self._path / KEYWORDS_FILE, f"{number} {keyword}\n".encode("ascii"), os.O_APPEND)
            self._keywords[keyword] = _LETTERS[number]
        return self._keywords[keyword]


def is_maildir(path: Path) -> bool:
    """Whether a path is a Maildir rather than an mbox file."""
    return path.is_dir() and (path / "cur").is_dir()


def size(path: Path) -> int:
    """Octets to be read, for a progress bar."""
    return sum(one.stat().st_size for folder in _folders(path) for one in _files(folder))


def read(path: Path) -> Iterator[FiledMessage]:
    """The messages of a Maildir and its sub-folders. Raises TooLarge, OSError."""
    for folder in _folders(path):
        name = name_of(folder.name) if folder != path else ""
        letters = {**_FLAGS, **_named(folder)}
        for file in sorted(_files(folder), key=lambda one: one.name):
            status = file.stat()
            if status.st_size > MESSAGE_LIMIT:
                raise TooLarge(str(file))
            _, _, written = file.name.partition(":2,")
            flags = frozenset(letters[letter] for letter in written if letter in letters)
            date = datetime.fromtimestamp(int(status.st_mtime), UTC)
            yield FiledMessage(to_crlf(file.read_bytes()), flags, date, name)


def folder_name(name: str) -> str:
    """The Maildir++ form of a folder's name: `Archives/2026` is `.Archives.2026`."""
    levels = [re.sub(r"[.\\]", lambda found: f"\\{ord(found[0]):02x}", level) for level in name.split("/")]
    return "".join("." + utf7.encode(level).decode("ascii") for level in levels)


def name_of(folder: str) -> str:
    """What `folder_name` was made of; a part that is not in modified UTF-7 stays as it is."""
    return "/".join(_level(part) for part in folder.split(".") if part)


def _level(part: str) -> str:
    with suppress(ValueError):  # other programs write UTF-8, or whatever they like
        part = utf7.decode(part.encode("utf-8", "surrogateescape"))
    # `/` would make a level of its own.
    return re.sub(r"\\(2e|5c)", lambda found: chr(int(found[1], 16)), part).replace("/", "_")


def _named(folder: Path) -> dict[str, str]:
    """The keyword of each letter."""
    try:
        with (folder / KEYWORDS_FILE).open("rb") as file:
            text = file.read(_KEYWORDS_LIMIT).decode("ascii", "replace")
    except FileNotFoundError:
        return {}
    found = {}
    for line in text.splitlines():
        number, _, word = line.partition(" ")
        if number.isascii() and number.isdigit() and len(number) < 3 and int(number) < MOST_KEYWORDS:
            found.update({_LETTERS[int(number)]: one for one in keywords([word])})
    return found


def _folders(path: Path) -> list[Path]:
    inner = sorted(
        one for one in path.iterdir() if one.name.startswith(".") and is_maildir(one) and not one.is_symlink()
    )
    return [path, *inner]


def _files(folder: Path) -> list[Path]:
    """Its messages. Not what a link leads to: somebody else's Maildir must not name files of this machine."""
    places = [folder / name for name in ("cur", "new") if (folder / name).is_dir()]
    return [one for place in places for one in place.iterdir() if one.is_file() and not one.is_symlink()]


def _write(path: Path, content: bytes, how: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o600), "wb") as file:
        file.write(content)
