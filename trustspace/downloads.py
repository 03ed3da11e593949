"""What the last downloads gave: validators, dates and errors, by address, in one small file beside the trust material.

Invariants: the file only saves work and explains; nothing of it is trusted. It is replaced as a whole; one that cannot
be read counts as none; addresses are bounded.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from trustspace import pem

FILE = ".downloads.json"
_MAX_SIZE = 1024 * 1024
_MAX_ADDRESSES = 512


@dataclass(frozen=True, slots=True)
class Download:
    """One address. Times are aware UTC, None for never; `digest` is of the file that `etag` and `modified` validate.

    `tried` is the last attempt, `succeeded` the last one that brought or confirmed something usable, `error` why the
    last attempt did not ("" when it did), `file` the name it is kept under.
    """

    file: str
    etag: str = ""
    modified: str = ""
    digest: str = ""
    tried: datetime | None = None
    succeeded: datetime | None = None
    error: str = ""

    def failed(self, error: str, at: datetime) -> Download:
        """The same after a failure at `at`."""
        return replace(self, tried=at, error=error)


def read_downloads(folder: Path) -> dict[str, Download]:
    """The downloads of a trust folder by address; {} when there are none."""
    try:
        records = json.loads(pem.read_bounded(folder / FILE, _MAX_SIZE))
        items = list(records.items())
    except (pem.UnreadableFile, ValueError, AttributeError):
        return {}
    found: dict[str, Download] = {}
    for address, record in items[:_MAX_ADDRESSES]:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            found[str(address)] = _read(record)
    return found


def write_downloads(folder: Path, downloads: Mapping[str, Download]) -> None:
    """Replace the file. Raises OSError."""
    records = {address: _plain(one) for address, one in list(downloads.items())[-_MAX_ADDRESSES:]}
    pem.write_public(folder / FILE, json.dumps(records, ensure_ascii=False, indent=1).encode())


def _plain(one: Download) -> dict[str, Any]:
    return {key: value.isoformat() if isinstance(value, datetime) else value for key, value in asdict(one).items()}


def _read(record: Mapping[str, Any]) -> Download:
    texts = {key: str(record[key]) for key in ("file", "etag", "modified", "digest", "error")}
    times = {key: datetime.fromisoformat(record[key]) if record[key] else None for key in ("tried", "succeeded")}
    return Download(**texts, **times)  # type: ignore[arg-type]  # texts and times, by their own keys
