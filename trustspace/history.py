"""Every version of the white list that was ever in force here, and every refusal: which list, when, why.

Invariants: a version is kept as it came, compressed, under its own date and SHA-256, before the journal names it, so
that a crash leaves at most a file that the next attempt writes again; nothing kept is ever changed; a version, and a
refusal that repeats the last one, are written once; refusals are bounded, versions are not (a few hundred kilobytes,
several a month). Readers trust nothing of it: what comes back into force is verified again.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from trustspace import pem
from trustspace.listshape import MAX_LIST_SIZE

_JOURNAL = "journal.jsonl"
_MAX_JOURNAL = 16 * 1024 * 1024
_MAX_REFUSALS = 1000
_STAMP = "%Y%m%dT%H%M%SZ"


class Outcome(StrEnum):
    """What became of a list that was presented."""

    ACCEPTED = "accepted"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class HistoryLine:
    """One line of the journal. `at` and `generated` are aware UTC; `digest` the hexadecimal SHA-256 of the file.

    `generated` is None for a refused file whose date was not read; `reason` is "" for an accepted one.
    """

    at: datetime
    outcome: Outcome
    digest: str
    generated: datetime | None = None
    entries: int = 0
    reason: str = ""


class ListHistory:
    """The folder of versions and its journal. Several processes may use it at once."""

    def __init__(self, folder: Path) -> None:
        """Nothing is read or made before it is needed."""
        self.folder = folder

    def keep(self, content: bytes, *, generated: datetime, entries: int, at: datetime) -> bool:
        """Keep a version accepted at `at` (aware); False when it was kept already. Raises OSError."""
        digest = hashlib.sha256(content).hexdigest()
        with self._locked():
            lines = self.lines()
            if any(line.outcome is Outcome.ACCEPTED and line.digest == digest for line in lines):
                return False
            # mtime 0: the same list always gives the same octets.
            pem.write_public(self._path(generated, digest), gzip.compress(content, 6, mtime=0))
            self._write([*lines, HistoryLine(at, Outcome.ACCEPTED, digest, generated, entries)])
        return True

    def refuse(self, digest: str, reason: str, at: datetime) -> None:
        """Write a refusal down, unless the last line says the same. Raises OSError."""
        with self._locked():
            lines = self.lines()
            if lines and (lines[-1].digest, lines[-1].reason) == (digest, reason):
                return
            self._write([*lines, HistoryLine(at, Outcome.REFUSED, digest, None, 0, reason)])

    def lines(self) -> list[HistoryLine]:
        """The journal, oldest first; [] when there is none. A line that cannot be read is passed over."""
        try:
            text = pem.read_bounded(self.folder / _JOURNAL, _MAX_JOURNAL).decode("utf-8", "replace")
        except pem.UnreadableFile:
            return []
        found: list[HistoryLine] = []
        for line in text.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                found.append(_line(json.loads(line)))
        return found

    def versions(self) -> list[HistoryLine]:
        """The accepted lines, oldest list first."""
        accepted = [line for line in self.lines() if line.outcome is Outcome.ACCEPTED]
        return sorted(accepted, key=lambda line: (line.generated or line.at, line.at))

    def read(self, line: HistoryLine) -> bytes:
        """The octets of a version. Raises pem.UnreadableFile when they are gone or are not those that were kept."""
        path = self._path(line.generated or line.at, line.digest)
        packed = pem.read_bounded(path, MAX_LIST_SIZE)
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            content = unpacker.decompress(packed, MAX_LIST_SIZE + 1)
        except zlib.error as error:
            raise pem.UnreadableFile(f"{path.name}: damaged") from error
        if hashlib.sha256(content).hexdigest() != line.digest:
            raise pem.UnreadableFile(f"{path.name}: not the version that was kept")
        return content

    def latest(self) -> tuple[bytes, datetime] | None:
        """The newest version that can be read, and when it was accepted; None when there is none."""
        for line in reversed(self.versions()):
            with contextlib.suppress(pem.UnreadableFile):
                return self.read(line), line.at
        return None

    def _path(self, generated: datetime, digest: str) -> Path:
        return self.folder / f"{generated.astimezone(UTC).strftime(_STAMP)}-{digest[:16]}.xml.gz"

    def _write(self, lines: list[HistoryLine]) -> None:
        excess = sum(line.outcome is Outcome.REFUSED for line in lines) - _MAX_REFUSALS
        kept: list[HistoryLine] = []
        for line in lines:
            if line.outcome is Outcome.REFUSED and excess > 0:
                excess -= 1
            else:
                kept.append(line)
        text = "".join(json.dumps(_record(line), ensure_ascii=False) + "\n" for line in kept)
        pem.write_public(self.folder / _JOURNAL, text.encode())

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _record(line: HistoryLine) -> dict[str, Any]:
    return {
        "at": line.at.astimezone(UTC).isoformat(),
        "outcome": line.outcome.value,
        "digest": line.digest,
        "generated": line.generated.astimezone(UTC).isoformat() if line.generated else None,
        "entries": line.entries,
        "reason": line.reason,
    }


def _line(record: dict[str, Any]) -> HistoryLine:
    generated = record["generated"]
    return HistoryLine(
        at=datetime.fromisoformat(record["at"]),
        outcome=Outcome(record["outcome"]),
        digest=str(record["digest"]),
        generated=datetime.fromisoformat(generated) if generated else None,
        entries=int(record["entries"]),
        reason=str(record["reason"]),
    )
