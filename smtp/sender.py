"""The sender: takes due rows of the outgoing queue, hands them to other operators, settles each recipient.

Invariants: the SQL row is the truth, this worker holds only leases; a row whose lease has run out is left alone; a
bounded number of connections for a domain, and of domains at once; a sender is told of a failure by a notice that is
stored before the row is settled, so that a crash in between repeats the notice's fingerprint and not the notice. What becomes of
a recipient, and when it is tried again, is in `outcomes`.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog

from mailstore import (
    BlobDamaged,
    ChangeKind,
    Leased,
    NoSuchMessage,
    StoreChange,
    StoreError,
)
from smtp import metrics, replies
from smtp.content import IN_MEMORY
from smtp.delivery import Carrier, Peer, Unreachable
from smtp.dialogue import Answer
from smtp.notices import Kind
from smtp.outcomes import SenderSettings, broken, delay, settlement, verdict
from smtp.outgoing import Outgoing
from smtp.services import Services, in_thread
from smtp.settling import Settler, Telling, tell_silences
from smtp.together import Together

log = structlog.get_logger()
_LEASE_MARGIN = timedelta(seconds=30)
_BACKLOG = 25
"""Messages that keep one connection busy."""
UNSETTLED = 4
"""Messages of one connection that were handed over and are not settled yet: the peer takes the next ones meanwhile. A crash
then repeats these, as it repeated one; a peer of this kind knows them again by their fingerprint."""
_ROUND_EVERY = 0.05
"""Seconds between two looks at the queue, however often it changes."""
_READ_TOGETHER = 20
_DAMAGED = Answer(554, "5.3.0", "contenu illisible ici, a renvoyer / content unreadable here, send it again")


@dataclass(frozen=True, slots=True)
class _Job:
    """One message for recipients of one domain, by one route, with the same options."""

    domain: str
    blob: str
    rows: tuple[Leased, ...]


@dataclass(slots=True)
class _Lane:
    """What waits for one domain by one route, and who serves it."""

    jobs: deque[_Job]
    workers: int = 0


class Sender:
    """One sender worker; several may run, in one or many processes, over the same store."""

    def __init__(
        self,
        services: Services,
        carrier: Carrier,
        *,
        owner: str,
        settings: SenderSettings | None = None,
        chance: random.Random | None = None,
    ) -> None:
        """`owner` names this worker in leases: unique among the living ones."""
        self._services = services
        self._carrier = carrier
        self._owner = owner
        self._settings = settings or SenderSettings()
        self._chance = chance or random.SystemRandom()
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(self._settings.concurrency)
        self._awake = asyncio.Event()
        self._stopping = False
        self._settler = Settler(services, owner)
        self._reading: Together[str, bytes] = Together(self._read, _READ_TOGETHER)

    async def run(self) -> None:
        """Work until `stop`. Wakes on each change of the queue in this process, and when a row falls due."""
        loop = asyncio.get_running_loop()

        def changed(change: StoreChange) -> None:
            if change.kind is ChangeKind.QUEUE:
                loop.call_soon_threadsafe(self._awake.set)

        unsubscribe = self._services.store.subscribe_changes(changed)
        try:
            while not self._stopping:
                self._awake.clear()
                pause = await self._safe_round()
                if pause > 0 and not self._stopping:
                    await self._wait(pause)
                    await asyncio.sleep(0 if self._stopping else _ROUND_EVERY)
        finally:
            unsubscribe()
            await self._finish()

    def stop(self) -> None:
        """Take no more rows; `run` ends when what is under way is settled, and the rest given back."""
        self._stopping = True
        self._awake.set()

    async def once(self) -> int:
        """Lease what is due, deliver it, settle it; answers how many rows were taken. For tests and commands."""
        taken = await self._take()
        await self._finish()
        return taken

    async def _safe_round(self) -> float:
        """One look at the queue; answers how many seconds to wait before the next (0: at once)."""
        try:
            if sum(len(lane.jobs) for lane in self._lanes.values()) < self._settings.batch and await self._take():
                return 0
            now = self._services.clock()
            if self._settings.tells_silences:
                await in_thread(tell_silences, self._services, now)
            due = await in_thread(self._services.store.next_due, now)
            sizes = await in_thread(self._services.store.queue_sizes)
            for state, count in sizes.items():
                metrics.QUEUE.labels(state).set(count)
        except StoreError as error:
            log.error("queue not readable", error=replies.describe(error))
            return self._settings.poll.total_seconds()
        longest = self._settings.poll.total_seconds()
        # A due row that could not be taken waits for a free slot or for its lease: no busy loop.
        return longest if due is None else min(longest, max(1.0, (due - now).total_seconds()))

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._awake.wait()
        except TimeoutError:
            return

    async def _finish(self) -> None:
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self) -> int:
        settings, now = self._settings, self._services.clock()
        rows = await in_thread(self._services.store.lease_outgoing, self._owner, now, settings.lease, settings.batch)
        for job in _grouped(rows):
            key = (job.domain, job.rows[0].route)
            lane = self._lanes.setdefault(key, _Lane(deque()))
            lane.jobs.append(job)
            # One more connection when what waits would keep it busy.
            if lane.workers < settings.connections and len(lane.jobs) > _BACKLOG * lane.workers:
                lane.workers += 1
                task = asyncio.create_task(self._serve(key, lane))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        return len(rows)

    async def _serve(self, key: tuple[str, str], lane: _Lane) -> None:
        """Deliver what waits for one domain, over one connection as long as it lasts."""
        domain, _ = key
        peer: Peer | None = None
        settling: deque[asyncio.Task[None]] = deque()
        try:
            async with self._slots:
                while lane.jobs and not self._stopping:
                    job = lane.jobs.popleft()
                    try:
                        peer, settle = await self._deliver(job, peer)
                    except StoreError as error:
                        # The lease runs out and the row is taken again: nothing is lost, and the others are served.
                        log.error("content not readable", domain=domain, error=replies.describe(error))
                        continue
                    settling.append(asyncio.create_task(settle))
                    while len(settling) > UNSETTLED:
                        await settling.popleft()
        finally:
            await asyncio.gather(*settling)
            lane.workers -= 1
            if not lane.workers:
                self._lanes.pop(key, None)
                await self._give_back(lane)
            self._awake.set()
            if peer is not None:
                await peer.client.quit()

    async def _give_back(self, lane: _Lane) -> None:
        """Rows that were leased and not tried are due again at once: a clean shutdown loses no lease."""
        left = [row.row_id for job in lane.jobs for row in job.rows]
        if not left:
            return
        try:
            await in_thread(self._services.store.give_back, self._owner, left)
        except StoreError as error:
            log.error("leases not given back", error=replies.describe(error))

    async def _deliver(self, job: _Job, peer: Peer | None) -> tuple[Peer | None, Coroutine[Any, Any, None]]:
        """Deliver one job; answers the connection when it can serve again, and what settles the rows. Raises StoreError."""
        now = self._services.clock()
        rows = [row for row in job.rows if row.lease_until - now > _LEASE_MARGIN]
        if not rows:
            return peer, _nothing()
        try:
            message = await self._outgoing(job.blob)
        except (BlobDamaged, NoSuchMessage):
            # Trying again would not mend it: the sender must know, and send the message anew.
            return peer, self._settle([(row, _DAMAGED) for row in rows], job.blob, {"reason": "content damaged"})
        try:
            # Past its lease a row may be in another worker's hands: a slow peer must not get it twice.
            held = min(row.lease_until for row in rows) - _LEASE_MARGIN / 2 - now
            async with asyncio.timeout(held.total_seconds()):
                if peer is None:
                    peer = await self._carrier.open(job.domain, rows[0].route)
                # No ENVID of our own (RFC 3461 §5.2.1): what comes back is known by the Message-ID it returns.
                options = rows[0].options
                originals = {row.recipient: row.options.get("orcpt", "") for row in rows}
                recipients = [row.recipient for row in rows]
                answers = await peer.client.send(rows[0].mail_from, recipients, message, options, originals)
            detail = dict(peer.evidence)
        except Unreachable as error:
            answers, detail = {row.recipient: error.answer for row in rows}, error.detail
        except Exception as error:
            answer = broken(error)
            answers, detail = {row.recipient: answer for row in rows}, dict(peer.evidence) if peer else {}
            if peer is not None:
                peer.client.close()
            peer = None
        returns = peer is not None and "DSN" in peer.client.capabilities
        results = [(row, answers[row.recipient]) for row in rows]
        return peer, self._settle(results, job.blob, detail, returns=returns)

    async def _outgoing(self, blob: str) -> Outgoing:
        """The message to send, in memory when small. Raises StoreError."""
        start = await self._reading.do(blob)
        if len(start) <= IN_MEMORY:
            return Outgoing.of(start)
        return await in_thread(Outgoing.from_pieces, lambda: self._services.store.pieces(blob))

    def _read(self, blobs: Sequence[str]) -> list[bytes | Exception]:
        """The small contents whole, of the others a little more than is small. Blocking."""
        found: list[bytes | Exception] = []
        for blob in blobs:
            try:
                found.append(self._services.store.read_blob(blob, 0, IN_MEMORY + 1))
            except StoreError as error:
                found.append(error)
        return found

    async def _settle(
        self,
        results: Sequence[tuple[Leased, Answer]],
        blob: str,
        detail: dict[str, str],
        *,
        returns: bool = False,
    ) -> None:
        """Tell the senders, then settle. `returns`: the peer returns receipts itself (it offers DSN)."""
        settings, now = self._settings, self._services.clock()
        # One pause for the whole group: what is tried again together reaches the peer as it did the first time.
        retry_at = now + delay(settings, max((row.attempts for row, _ in results), default=0), self._chance)
        verdicts = [(row, answer, verdict(settings, row, answer, now)) for row, answer in results]
        settled = [(row.row_id, settlement(kind, answer, detail, retry_at)) for row, answer, kind in verdicts]
        try:
            # What the peer has taken is settled first: a notice that cannot be stored must not send it again.
            taken = [one for one, (_, _, kind) in zip(settled, verdicts, strict=True) if kind is Kind.DELIVERED]
            if taken:
                await self._settler.settle(taken)
            told = Telling(self._services, blob, verdicts, detail, returns, settings.give_up)
            if told.needed:
                await in_thread(told.tell, now)
            others = [one for one in settled if one not in taken]
            if others:
                await self._settler.settle(others)
        except Exception as error:
            # The lease runs out and the row is taken again: nothing is lost.
            log.error("delivery not settled", domain=results[0][0].domain, error=replies.describe(error))


async def _nothing() -> None:
    """Nothing is to be settled."""


def _grouped(rows: Sequence[Leased]) -> list[_Job]:
    """Rows of one message, domain, route and options go together, in a fixed order: a repeated hand-over must look the
    same."""
    groups: dict[tuple[object, ...], list[Leased]] = {}
    for row in sorted(rows, key=lambda row: row.row_id):
        options = tuple(sorted(one for one in row.options.items() if one[0] != "orcpt"))
        groups.setdefault((row.submission_id, row.blob, row.domain, row.route, options), []).append(row)
    return [_Job(members[0].domain, members[0].blob, tuple(members)) for members in groups.values()]
