"""The sender: takes due rows of the outgoing queue, hands them to other operators, settles each recipient.

Invariants: the SQL row is the truth, this worker holds only leases; a row whose lease has run out is left alone; one
connection at a time for a domain, a bounded number of domains at once; a temporary failure is tried again with a
capped, jittered back-off until `give_up`; a permanent one is never retried, and its sender is told by a notice that is
stored before the row is settled, so that a crash in between repeats the notice's fingerprint and not the notice.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from mailstore import BlobDamaged, ChangeKind, DeliveryState, Leased, NoSuchMessage, Settlement, StoreChange, StoreError
from smtp import replies
from smtp.client import Answer, ClientError
from smtp.delivery import Carrier, Peer, Unreachable
from smtp.notices import Failure, notice
from smtp.services import Services, in_thread

log = structlog.get_logger()
_LEASE_MARGIN = timedelta(seconds=30)
_HEADER_START = 64 * 1024
_DAMAGED = Answer(554, "5.3.0", "contenu illisible ici, a renvoyer / content unreadable here, send it again")


@dataclass(frozen=True, slots=True)
class SenderSettings:
    """How patient the sender is. `batch` is how many rows are leased at once."""

    concurrency: int = 20
    batch: int = 200
    lease: timedelta = timedelta(minutes=20)
    first_retry: timedelta = timedelta(minutes=1)
    longest_retry: timedelta = timedelta(hours=1)
    give_up: timedelta = timedelta(hours=48)
    poll: timedelta = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class _Job:
    """One message for recipients of one domain."""

    domain: str
    blob: str
    rows: tuple[Leased, ...]


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
        self._domains: dict[str, list[_Job]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(self._settings.concurrency)
        self._awake = asyncio.Event()
        self._stopping = False

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
        finally:
            unsubscribe()
            await self._finish()

    def stop(self) -> None:
        """Take no more rows; `run` ends when what is under way is settled."""
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
            if len(self._domains) < self._settings.concurrency and await self._take():
                return 0
            now = self._services.clock()
            due = await in_thread(self._services.store.next_due, now)
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
            if job.domain in self._domains:
                self._domains[job.domain].append(job)
                continue
            self._domains[job.domain] = [job]
            task = asyncio.create_task(self._serve(job.domain))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return len(rows)

    async def _serve(self, domain: str) -> None:
        """Deliver everything that waits for one domain, over one connection as long as it lasts."""
        peer: Peer | None = None
        try:
            async with self._slots:
                while self._domains[domain] and not self._stopping:
                    job = self._domains[domain].pop(0)
                    try:
                        peer = await self._deliver(job, peer)
                    except StoreError as error:
                        # The lease runs out and the row is taken again: nothing is lost, and the others are served.
                        log.error("content not readable", domain=domain, error=replies.describe(error))
        finally:
            del self._domains[domain]
            self._awake.set()
            if peer is not None:
                await peer.client.quit()

    async def _deliver(self, job: _Job, peer: Peer | None) -> Peer | None:
        """Deliver one job and settle its rows; answers the connection when it can serve again."""
        now = self._services.clock()
        rows = [row for row in job.rows if row.lease_until - now > _LEASE_MARGIN]
        if not rows:
            return peer
        try:
            content = await in_thread(self._services.store.read_blob, job.blob)
        except (BlobDamaged, NoSuchMessage):
            # Trying again would not mend it: the sender must know, and send the message anew.
            await self._settle([(row, _DAMAGED) for row in rows], b"", {"reason": "content damaged"})
            return peer
        try:
            # Past its lease a row may be in another worker's hands: a slow peer must not get it twice.
            held = min(row.lease_until for row in rows) - _LEASE_MARGIN / 2 - now
            async with asyncio.timeout(held.total_seconds()):
                if peer is None:
                    peer = await self._carrier.open(job.domain)
                answers = await peer.client.send(rows[0].mail_from, [row.recipient for row in rows], content)
            detail = dict(peer.evidence)
        except Unreachable as error:
            answers, detail = {row.recipient: error.answer for row in rows}, error.detail
        except Exception as error:
            answer = _broken(error)
            answers, detail = {row.recipient: answer for row in rows}, dict(peer.evidence) if peer else {}
            if peer is not None:
                peer.client.close()
            peer = None
        await self._settle([(row, answers[row.recipient]) for row in rows], content, detail)
        return peer

    async def _settle(self, results: Sequence[tuple[Leased, Answer]], content: bytes, detail: dict[str, str]) -> None:
        now = self._services.clock()
        late = [one for one in results if self._is_late(one[0], one[1], now)]
        refused = [one for one in results if one[1].permanent]
        # One pause for the whole group: what is tried again together reaches the peer as it did the first time.
        retry_at = now + self.delay(max((row.attempts for row, _ in results), default=0))
        # Failures come last: a notice that cannot be stored must not have sent again what the peer has taken.
        others = [one for one in results if one not in late and one not in refused]
        try:
            for group in (others, refused, late):
                if group and group is not others:
                    await self._tell(group, content, group is late, now)
                for row, answer in group:
                    settlement = self._settlement(row, answer, detail, now, retry_at)
                    await in_thread(self._services.store.settle_outgoing, row.row_id, self._owner, settlement, now)
        except Exception as error:
            # The lease runs out and the row is taken again: nothing is lost.
            log.error("delivery not settled", domain=results[0][0].domain, error=replies.describe(error))

    def _is_late(self, row: Leased, answer: Answer, now: datetime) -> bool:
        temporary = not answer.ok and not answer.permanent
        return temporary and now - row.accepted_at >= self._settings.give_up

    def _settlement(
        self, row: Leased, answer: Answer, detail: dict[str, str], now: datetime, retry_at: datetime
    ) -> Settlement:
        if answer.ok:
            return Settlement(DeliveryState.DELIVERED, str(answer), detail=detail)
        if answer.permanent or self._is_late(row, answer, now):
            return Settlement(DeliveryState.FAILED, str(answer), detail=detail)
        return Settlement(DeliveryState.QUEUED, str(answer), retry_at, detail)

    def delay(self, attempts: int) -> timedelta:
        """How long to wait after `attempts` earlier attempts: doubling, capped, between three quarters and the whole."""
        settings = self._settings
        doubled: timedelta = settings.first_retry * (1 << min(attempts, 20))
        whole = min(settings.longest_retry, doubled)
        return whole * (0.75 + 0.25 * self._chance.random())

    async def _tell(
        self, failures: Sequence[tuple[Leased, Answer]], content: bytes, gave_up: bool, now: datetime
    ) -> None:
        """Store a failure notice for the sender, when it is a mailbox here; the null sender is never told (RFC 5321 §6.1)."""
        row = failures[0][0]
        account = await in_thread(self._services.store.find_account, row.mail_from) if row.mail_from else None
        if account is None:
            return
        acceptance = notice(
            account,
            [Failure(one, answer) for one, answer in failures],
            content[:_HEADER_START],
            hostname=self._services.hostname,
            gave_up=gave_up,
            at=now,
        )
        await in_thread(self._services.store.accept, acceptance, now)


def _broken(error: Exception) -> Answer:
    """What recipients get when the hand-over broke: later, whatever it was. One bad message never holds up its domain."""
    if isinstance(error, TimeoutError):
        error = ClientError("the peer is too slow")
    if isinstance(error, ClientError):
        return Answer(451, "4.4.2", replies.to_ascii(str(error)))
    reply = replies.reply_for(error)
    return Answer(reply.code, reply.enhanced, replies.to_ascii(f"{reply.text_fr} / {reply.text_en}"))


def _grouped(rows: Sequence[Leased]) -> list[_Job]:
    """Rows of one message and one domain go together, in a fixed order: a repeated hand-over must look the same."""
    groups: dict[tuple[str, str, str], list[Leased]] = {}
    for row in sorted(rows, key=lambda row: row.row_id):
        groups.setdefault((row.submission_id, row.blob, row.domain), []).append(row)
    return [_Job(domain, blob, tuple(members)) for (_, blob, domain), members in groups.items()]
