"""Deposits leave from here: the Celery application, its one task, a worker, and the dispatcher that feeds it.

Invariants
* The deposit's SQL row is the truth; a broker message carries ids only. Losing the broker delays, never loses.
* The task is idempotent: it takes a lease or does nothing. A worker killed with -9 leaves a lease that expires; the same
  submission set id is then used again, and the record's answer "already there" is a success.
* Nothing of a document, and no identity, is logged.

The broker was chosen by measurement. kombu's filesystem transport, polled every 0.1 s: a task starts after 50 ms (median; 105 ms at
most), idle CPU 0.3 %. Its SQLAlchemy transport cannot be polled faster than once a second: 446 ms median, 1,004 ms at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import structlog
from celery import Celery
from celery.worker import state

from dmp_bridge import broker, metrics
from dmp_bridge.outlet import Outcome, Outlet, attention, new_submission_set_id
from mailstore.crypto import SealBroken
from mailstore.model import (
    BlobDamaged,
    DepositEnd,
    DepositJob,
    DepositLease,
    DepositState,
    NoSuchMessage,
    StoreError,
)

TASK = "dmp_bridge.deposit_documents"
DEFAULT_LEASE = timedelta(seconds=30)
GIVE_UP_AFTER = timedelta(days=5)
_FIRST_PAUSE = timedelta(seconds=5)
_LONGEST_PAUSE = timedelta(hours=1)
THREADS = 16
"""Deposits at once in the worker: they wait for the record, and for commits that they share. More of them only wait for each
other: the interpreter runs one at a time."""
BATCH = 8
"""Rows of one task, at most."""
_SETTLE_WITHIN = timedelta(seconds=1)
_jitter = random.SystemRandom()
_log = structlog.get_logger()


class DueRows(Protocol):
    """The verb of `mailstore.Store` that the dispatcher needs."""

    def due_deposits(self, now: datetime, limit: int) -> Sequence[int]: ...


class DepositRows(Protocol):
    """The verbs of `mailstore.Store` that a deposit needs."""

    def lease_deposits(
        self, wanted: Mapping[int, str], owner: str, now: datetime, lease: timedelta
    ) -> list[DepositLease]: ...

    def open_deposit(self, lease: DepositLease) -> DepositJob: ...

    def settle_deposits(self, owner: str, ends: Sequence[DepositEnd], at: datetime) -> list[int]: ...

    def give_back_deposits(self, owner: str, numbers: Sequence[int]) -> None: ...


Tell = Callable[[DepositJob, Outcome, datetime], None]
"""Hears of a final outcome and its time. A failure here leaves the lease to run out, and the deposit to be tried again."""


def _tell_nobody(job: DepositJob, outcome: Outcome, at: datetime) -> None:
    """Without anybody to tell."""


def utc_now() -> datetime:
    """The wall clock, aware, in UTC."""
    return datetime.now(UTC)


def pause_after(attempts: int) -> timedelta:
    """How long to wait after the given number of attempts: doubled each time, capped at an hour, with 20 % jitter."""
    doubled: timedelta = _FIRST_PAUSE * (1 << min(max(attempts - 1, 0), 16))
    return min(doubled, _LONGEST_PAUSE) * _jitter.uniform(0.9, 1.1)


class Depositor:
    """Carries out deposit rows: lease, attempt, tell, settle."""

    def __init__(
        self,
        rows: DepositRows,
        outlet: Outlet,
        *,
        tell: Tell | None = None,
        owner: str = "",
        lease: timedelta = DEFAULT_LEASE,
        clock: Callable[[], datetime] = utc_now,
        pause: Callable[[int], timedelta] = pause_after,
    ) -> None:
        """`lease` must be longer than the outlet's time-outs, or two workers may try the same deposit at once (harmless).

        `tell` hears of every final outcome *before* it is settled, and may hear of it again after a crash in between: it must
        recognise a repetition."""
        self._rows = rows
        self._tell = tell or _tell_nobody
        self._outlet = outlet
        self._owner = owner or f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        self._lease = lease
        self._clock = clock
        self._pause = pause

    def run(self, deposit_id: int) -> Outcome | None:
        """Attempt the deposit of this row; None when it is not due, or leased elsewhere, or already settled."""
        return self.run_all((deposit_id,)).get(deposit_id)

    def run_all(self, deposit_ids: Sequence[int], *, stop: Callable[[], bool] = lambda: False) -> dict[int, Outcome]:
        """Attempt the deposits of these rows one after the other; those of the answer were attempted.

        One transaction leases them, few settle them: an outcome waits for those after it, a second at most beside the attempt
        under way. Rows whose attempt would begin late in their lease, or after `stop` says so, are given back untried."""
        wanted = {number: new_submission_set_id() for number in deposit_ids}
        leases = self._rows.lease_deposits(wanted, self._owner, self._clock(), self._lease)
        outcomes: dict[int, Outcome] = {}
        ends: list[DepositEnd] = []
        since = self._clock()
        for place, lease in enumerate(leases):
            if place and (stop() or self._clock() + self._lease / 2 > lease.until):
                self._rows.give_back_deposits(self._owner, [one.deposit.id for one in leases[place:]])
                break
            found = self._one(lease)
            if found is None:
                continue
            outcomes[lease.deposit.id] = found[0]
            ends.append(found[1])
            if self._clock() - since > _SETTLE_WITHIN:
                self._settle(ends, outcomes)
                ends, since = [], self._clock()
        self._settle(ends, outcomes)
        return outcomes

    def _one(self, lease: DepositLease) -> tuple[Outcome, DepositEnd] | None:
        """Open, attempt, tell; None when nobody could be told: the lease runs out and the deposit is tried again."""
        deposit = lease.deposit
        try:
            job = self._rows.open_deposit(lease)
        except (BlobDamaged, NoSuchMessage, SealBroken):
            # The lease is ours and time heals nothing here: without a verdict the row would come back for ever.
            _log.error("deposit damaged", deposit_id=deposit.id)
            damaged = attention("damaged", "contenu altéré ou absent / content altered or gone")
            return damaged, DepositEnd(deposit.id, damaged.state, damaged.reason)
        with metrics.ATTEMPT_SECONDS.time():
            outcome = self._attempt(job)
        at = self._clock()
        next_attempt_at = None
        if outcome.state is DepositState.RETRY:
            if at - deposit.created_at > GIVE_UP_AFTER:
                outcome = Outcome(DepositState.NEEDS_ATTENTION, outcome.code, outcome.reason)
            else:
                next_attempt_at = at + self._pause(deposit.attempts + 1)
        if outcome.state is not DepositState.RETRY:
            try:
                self._tell(job, outcome, at)
            except Exception as error:
                _log.warning("deposit not told", deposit_id=deposit.id, error=type(error).__name__)
                return None
        return outcome, DepositEnd(deposit.id, outcome.state, outcome.reason, next_attempt_at)

    def _settle(self, ends: Sequence[DepositEnd], outcomes: Mapping[int, Outcome]) -> None:
        if not ends:
            return
        for number in self._rows.settle_deposits(self._owner, ends, self._clock()):
            _log.warning("deposit held too long", deposit_id=number)
        for end in ends:
            metrics.ATTEMPTS.labels(end.state.value).inc()
            _log.info("deposit attempted", deposit_id=end.id, state=end.state.value, code=outcomes[end.id].code)

    def _attempt(self, job: DepositJob) -> Outcome:
        try:
            return self._outlet.carry_out(job, self._clock())
        except Exception as error:
            # A defect of ours must not lose the deposit nor stop the worker; its text could quote the document, its class cannot.
            name = type(error).__name__
            _log.error("deposit failed by a defect", deposit_id=job.deposit.id, error=name)
            return Outcome(DepositState.RETRY, f"internal:{name}", f"erreur interne / internal error: {name}")


def make_app(broker_folder: Path, *, polling_interval: float = 0.1) -> Celery:
    """The Celery application over the broker in `broker_folder`; enough to enqueue, `bind` gives it the means to work."""
    app = Celery("dmp_bridge", set_as_current=False)
    app.conf.update(
        broker_url=broker.URL,
        broker_transport_options=broker.options(broker_folder, polling_interval=polling_interval),
        broker_connection_retry_on_startup=True,
        task_default_queue="deposits",
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,
        worker_prefetch_multiplier=4,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
    )

    @app.task(name=TASK, bind=True, shared=False)  # type: ignore[untyped-decorator]  # celery has no types
    def deposit_documents(self: Any, deposit_ids: list[int]) -> None:
        depositor: Depositor | None = getattr(self.app, "caducee_depositor", None)
        if depositor is None:
            raise RuntimeError("this process only enqueues: bind a Depositor before working")
        # The store being away is no failure of the task: the rows stay due and come back by the dispatcher.
        with contextlib.suppress(StoreError):
            depositor.run_all(deposit_ids, stop=lambda: bool(state.should_stop or state.should_terminate))

    return app


def bind(app: Celery, depositor: Depositor) -> None:
    """Give the application's task the means to deposit."""
    app.caducee_depositor = depositor


def enqueue(app: Celery, *deposit_ids: int) -> None:
    """Put the ids of some rows on the broker, as one task."""
    app.tasks[TASK].apply_async((list(deposit_ids),), retry=False)


def run_worker(app: Celery, depositor: Depositor, *, pool: str = "threads", concurrency: int = THREADS) -> int:
    """Work until SIGTERM or SIGINT (running deposits are finished first, within some four seconds when idle); exit status.

    Must be called in the main thread of a process of its own: Celery installs signal handlers.
    """
    bind(app, depositor)
    worker = app.Worker(
        pool=pool,
        concurrency=concurrency,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel="WARNING",
        quiet=True,
        hostname=f"deposits@{socket.gethostname()}",
    )
    worker.start()
    return int(worker.exitcode or 0)


class DepositDispatcher:
    """Watches the rows and enqueues what is due: when woken after an acceptance, and every `interval` seconds anyway."""

    def __init__(
        self,
        app: Celery,
        rows: DueRows,
        *,
        lease: timedelta = DEFAULT_LEASE,
        interval: float = 0.25,
        limit: int = 96,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """`limit` bounds what is looked at, and what may wait in the broker: without a worker, rows that stay due would otherwise
        fill it again at every lease time."""
        self._app = app
        self._rows = rows
        self._lease = lease
        self._interval = interval
        self._limit = limit
        self._clock = clock
        self._enqueued: dict[int, datetime] = {}
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def wake(self) -> None:
        """Look now instead of at the next tick; may be called from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)

    def dispatch(self) -> int:
        """Enqueue what is due and not enqueued yet; returns how many. A row that left the due list is forgotten, so that its
        next attempt is enqueued at once; one that stays due is enqueued again only when the lease time has passed."""
        now = self._clock()
        due = list(self._rows.due_deposits(now, self._limit))
        self._enqueued = {key: until for key, until in self._enqueued.items() if key in due and until > now}
        fresh = [key for key in due if key not in self._enqueued]
        if fresh:
            fresh = fresh[: max(self._limit - broker.waiting(self._app.conf.broker_transport_options), 0)]
        # A task, and each of its transactions, costs about a millisecond: when many wait, one takes several, and every thread
        # still gets its share.
        size = min(BATCH, 1 + len(fresh) // THREADS)
        for begin in range(0, len(fresh), size):
            batch = fresh[begin : begin + size]
            enqueue(self._app, *batch)
            self._enqueued |= dict.fromkeys(batch, now + self._lease)
        return len(fresh)

    async def run(self, stop: asyncio.Event | None = None) -> None:
        """Dispatch until `stop` is set or the task is cancelled; a failing store or broker is tried again at the next tick."""
        self._loop = asyncio.get_running_loop()
        while stop is None or not stop.is_set():
            self._wake.clear()
            try:
                await asyncio.to_thread(self.dispatch)
            except Exception as error:
                _log.error("deposits not dispatched", error=type(error).__name__)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._interval)
