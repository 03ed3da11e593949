"""Who read which message, when, from where: the trace of every FETCH of a body, written in batches.

Invariants: a reading is in the audit trail within a second or so (a killed process loses what it held, at most that);
repeated readings of one message in a batch are one line with their number; when the trail cannot be written and too much
waits, reading is refused: no untraced reading for long.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import select

from mailstore.audit import insert_events
from mailstore.core import BATCH, Core, batches
from mailstore.model import Event, StoreError, StoreUnavailable
from mailstore.tables import accounts, contents, folders, messages

FLUSH_SECONDS = 1.0
WAITING_LIMIT = 20_000  # readings not yet written
_log = structlog.get_logger(__name__)
_Key = tuple[int, int, int, str]  # reader, folder, UID, source


@dataclass(slots=True)
class _Reading:
    at: datetime
    times: int = 1


class ReadingVerbs(Core):
    """Verbs on the trace of readings."""

    def note_reading(
        self, reader_id: int, folder_id: int, uids: Sequence[int], at: datetime, *, source: str = ""
    ) -> None:
        """Trace that an account read the bodies of these messages. Microseconds; written within FLUSH_SECONDS. Raises
        StoreUnavailable when the trail could not be written for long."""
        with self._readings_lock:
            waiting = self._readings
            if len(waiting) + len(uids) > WAITING_LIMIT and waiting:
                raise StoreUnavailable("Trace de lecture indisponible. / Reading trace unavailable.")
            for uid in uids:
                known = waiting.setdefault((reader_id, folder_id, uid, source), _Reading(at, 0))
                known.times += 1
            if self._readings_timer is None:
                self._readings_timer = threading.Timer(FLUSH_SECONDS, self._flush_in_time)
                self._readings_timer.daemon = True
                self._readings_timer.start()

    def flush_readings(self) -> None:
        """Write now what waits. Raises StoreUnavailable: it then still waits."""
        with self._readings_lock:
            taken, self._readings = self._readings, {}
            if self._readings_timer is not None:
                self._readings_timer.cancel()
                self._readings_timer = None
        try:
            self._write_readings(taken)
        except BaseException:
            with self._readings_lock:
                self._readings = taken | self._readings
            raise

    def _flush_in_time(self) -> None:
        try:
            self.flush_readings()
        except StoreError as error:
            _log.error("reading trace put off", error=type(error).__name__)
            with self._readings_lock:
                if self._readings_timer is None and self._readings:
                    self._readings_timer = threading.Timer(FLUSH_SECONDS, self._flush_in_time)
                    self._readings_timer.daemon = True
                    self._readings_timer.start()

    def _write_readings(self, taken: dict[_Key, _Reading]) -> None:
        if not taken:
            return
        people, owners, ids = self._named(taken)
        with self._db.write() as connection:
            for (reader, folder, uid, source), reading in taken.items():
                detail = {
                    "reader": people.get(reader, str(reader)),
                    "mailbox": owners.get(folder, ""),
                    "folder": f"F{folder}",
                    "uid": str(uid),
                    "source": source,
                    "times": str(reading.times),
                }
                insert_events(connection, [Event("message.read", detail)], "", ids.get((folder, uid), ""), reading.at)

    def _named(self, taken: dict[_Key, _Reading]) -> tuple[dict[int, str], dict[int, str], dict[tuple[int, int], str]]:
        """Addresses of readers, addresses of folders' mailboxes, Message-IDs of messages."""
        readers = sorted({key[0] for key in taken})
        uids: dict[int, set[int]] = {}
        for _, folder, uid, _ in taken:
            uids.setdefault(folder, set()).add(uid)
        people: dict[int, str] = {}
        owners: dict[int, str] = {}
        ids: dict[tuple[int, int], str] = {}
        with self._db.read() as connection:
            for batch in batches(readers, BATCH):
                known = select(accounts.c.id, accounts.c.address).where(accounts.c.id.in_(batch))
                people.update((row[0], row[1]) for row in connection.execute(known))
            for batch in batches(sorted(uids), BATCH):
                known = select(folders.c.id, accounts.c.address).join(accounts, accounts.c.id == folders.c.account_id)
                owners.update((row[0], row[1]) for row in connection.execute(known.where(folders.c.id.in_(batch))))
            for folder, those in uids.items():
                named = select(messages.c.uid, contents.c.message_id).join(contents, contents.c.blob == messages.c.blob)
                for batch in batches(sorted(those), BATCH):
                    here = (messages.c.folder_id == folder, messages.c.uid.in_(batch))
                    ids.update(((folder, row[0]), row[1] or "") for row in connection.execute(named.where(*here)))
        return people, owners, ids
