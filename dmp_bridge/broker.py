"""The embedded broker: kombu's filesystem transport with hand-overs made atomic.

kombu's own channel writes a message into the very file readers look for, and readers do not take the writer's lock: a reader can
pick up an empty file, and the decoding error stops the worker. Here a message is written under a name nobody looks for and renamed;
a file that still cannot be decoded is dropped. Losing a message, or this whole folder, loses nothing: the deposit row is the truth
and the dispatcher enqueues it again.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, filesystem

MAX_MESSAGE = 64 * 1024


class Channel(filesystem.Channel):
    """One folder per broker: `queue/` holds a file per message, `taken/` the one being read."""

    def _put(self, queue: str, payload: Any, **_: Any) -> None:  # type: ignore[override]  # kombu's own two bases disagree
        folder = Path(self.data_folder_out)
        name = f"{time.time_ns():020d}_{uuid.uuid4().hex}.{queue}.msg"
        partial = folder / f".{name}.partial"
        partial.write_text(json.dumps(payload), encoding="utf-8")
        partial.replace(folder / name)

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        folder = Path(self.data_folder_in)
        wanted = f"{queue}.msg"
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or path.name.partition(".")[2] != wanted:
                continue
            payload = self._take(path)
            if payload is not None:
                return payload
        raise Empty

    def _take(self, path: Path) -> Any:
        """Claim one file by renaming it, so that two workers never share a message; None when lost or unreadable."""
        claimed = Path(self.processed_folder) / path.name
        try:
            path.rename(claimed)
            with claimed.open("rb") as stream:
                data = stream.read(MAX_MESSAGE)
            claimed.unlink()
            return json.loads(data)
        except (OSError, ValueError):
            return None


class Transport(filesystem.Transport):
    """The transport Celery is given; see Channel."""

    Channel = Channel


URL = "caduceefiles://"
# kombu finds a transport by the scheme of its URL, and only through this table.
TRANSPORT_ALIASES["caduceefiles"] = "dmp_bridge.broker:Transport"


def options(folder: Path, *, polling_interval: float) -> dict[str, object]:
    """Make the broker's folders under `folder` and return Celery's transport options (interval in seconds)."""
    queue, taken, control = folder / "queue", folder / "taken", folder / "control"
    for made in (queue, taken, control):
        made.mkdir(parents=True, exist_ok=True, mode=0o700)
    for stale in queue.glob(".*.partial"):
        # Left by a writer killed in the middle; a live writer's file is younger than a minute.
        if time.time() - stale.stat().st_mtime > 60:
            stale.unlink(missing_ok=True)
    return {
        "data_folder_in": str(queue),
        "data_folder_out": str(queue),
        "processed_folder": str(taken),
        "control_folder": str(control),
        "store_processed": True,
        "polling_interval": polling_interval,
    }


def waiting(transport_options: Mapping[str, Any]) -> int:
    """How many messages wait in the broker of these options (see `options`)."""
    return sum(1 for _ in Path(transport_options["data_folder_in"]).iterdir())
