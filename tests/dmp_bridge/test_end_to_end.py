"""From a message to the record, over real mutual TLS: once, exactly, whatever dies on the way."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dmp_bridge import DepositDispatcher, Depositor, DmpOutlet, make_app, plan_deposits
from dossier import RecordView
from ihe.cda import read_cda
from ihe.samples import synthetic_patient
from mailstore.model import Acceptance, DepositState, Direction
from mailstore.store import Store
from tests.dmp_bridge.bridge import accept, context, message, now, open_mailstore, outlet, xml
from tests.dossier.house import House, Trust, house, make_cda
from trustspace import server_context

PATIENT = synthetic_patient(1)


class SlowAnswers:
    """Lets the record store the deposit, then withholds the answer while `seconds` is not zero."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.stored = threading.Event()
        self.calls = 0

    def __call__(self, app: ASGIApp) -> ASGIApp:
        """Wrap the record's application."""

        async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
            async def late(event: Message) -> None:
                if self.seconds and not self.stored.is_set():
                    self.stored.set()
                    await asyncio.sleep(self.seconds)
                await send(event)

            self.calls += 1
            await app(scope, receive, late)

        return wrapped


def way(record: House, *, timeout: float = 10.0) -> DmpOutlet:
    """The outlet to the running record."""
    return outlet(record.repository, record.trust.peer, record.trust.signer, record.trust.anchors, timeout=timeout)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A mail store."""
    opened = open_mailstore(tmp_path)
    yield opened
    opened.close()


def shown(record: House) -> list[str]:
    """The uniqueIds kept for the patient."""
    return [entry.unique_id for entry in RecordView(record.store, "test").show(PATIENT.ins)]


def test_a_report_sent_by_mail_is_in_the_record_byte_for_byte(record: House, store: Store) -> None:
    content = make_cda(PATIENT)
    accept(store, message(xml(content)))
    [deposit_id] = store.due_deposits(now(), 10)
    outcome = Depositor(store, way(record)).run(deposit_id)
    assert outcome is not None and outcome.state is DepositState.DEPOSITED, outcome
    [deposit] = store.deposits()
    assert deposit.state is DepositState.DEPOSITED
    assert shown(record) == [deposit.unique_id]
    assert record.store.read(deposit.unique_id) == content
    assert Depositor(store, way(record)).run(deposit_id) is None


def test_a_physician_and_an_automaton_both_pass(record: House, store: Store) -> None:
    person = {
        "responsible_id": "899900000019",
        "responsible_surname": "EXEMPLE",
        "responsible_given_name": "Alice",
        "profession": "10",
        "specialty": "SM54",
    }
    accept(store, message(xml(make_cda(PATIENT))), context(**person))
    [deposit_id] = store.due_deposits(now(), 10)
    outcome = Depositor(store, way(record)).run(deposit_id)
    assert outcome is not None and outcome.state is DepositState.DEPOSITED, outcome
    deposited = RecordView(record.store, "test").accesses(PATIENT.ins)[0]
    assert deposited.caller.subject == "Alice EXEMPLE"


@pytest.mark.slow
def test_a_lost_answer_is_retried_and_kept_once(trust: Trust, tmp_path: Path, store: Store) -> None:
    slow = SlowAnswers()
    slow.seconds = 2.5
    with house(trust, tmp_path, wrap=slow) as record:
        accept(store, message(xml(make_cda(PATIENT))))
        [deposit_id] = store.due_deposits(now(), 10)
        depositor = Depositor(store, way(record, timeout=1.0), pause=lambda _: timedelta(0))
        first = depositor.run(deposit_id)
        assert first is not None and (first.state, first.code) == (DepositState.RETRY, "transport")
        assert slow.stored.is_set()
        set_id = store.deposits()[0].submission_set_id
        second = depositor.run(deposit_id)
        assert second is not None
        assert (second.state, second.code) == (DepositState.DEPOSITED, "XDSDuplicateUniqueIdInRegistry")
        assert store.deposits()[0].submission_set_id == set_id
        assert len(shown(record)) == 1


def test_no_record_at_all_is_a_retry(trust: Trust, store: Store) -> None:
    accept(store, message(xml(make_cda(PATIENT))))
    [deposit_id] = store.due_deposits(now(), 10)
    nowhere = outlet("https://localhost:1/x", trust.peer, trust.signer, trust.anchors, timeout=1.0)
    outcome = Depositor(store, nowhere).run(deposit_id)
    assert outcome is not None and outcome.state is DepositState.RETRY
    [deposit] = store.deposits()
    assert deposit.next_attempt_at is not None and deposit.next_attempt_at > now()


def test_an_untrusted_record_gets_nothing(record: House, store: Store, tmp_path: Path) -> None:
    stranger = Trust.create(tmp_path / "stranger")
    accept(store, message(xml(make_cda(PATIENT))))
    [deposit_id] = store.due_deposits(now(), 10)
    wrong = outlet(record.repository, record.trust.peer, record.trust.signer, stranger.anchors)
    outcome = Depositor(store, wrong).run(deposit_id)
    assert outcome is not None and outcome.state is DepositState.RETRY
    assert shown(record) == []


def test_a_structure_we_may_not_act_for_needs_attention(record: House, store: Store) -> None:
    content = make_cda(PATIENT, structure="1990000029")
    accept(store, message(xml(content)), context(structure_id="1990000029"))
    [deposit_id] = store.due_deposits(now(), 10)
    outcome = Depositor(store, way(record)).run(deposit_id)
    assert outcome is not None and outcome.state is DepositState.NEEDS_ATTENTION
    assert outcome.code == "FailedAuthentication"
    assert shown(record) == []


def start_worker(
    record: House, folder: Path, *, lease: float, timeout: float, pool: str = "threads"
) -> subprocess.Popen[bytes]:
    """A worker process over the mail store of `folder`."""
    record.trust.peer.write(folder, "peer")
    record.trust.signer.write(folder, "signer")
    settings = {
        "url": record.repository,
        "trust": str(record.trust.folder),
        "lease": lease,
        "timeout": timeout,
        "pool": pool,
    }
    (folder / "worker.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "tests.dmp_bridge.worker_main", str(folder)]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@contextmanager
def dispatching(store: Store, folder: Path, lease: timedelta) -> Iterator[DepositDispatcher]:
    """A dispatcher in a loop of its own."""
    dispatcher = DepositDispatcher(make_app(folder / "broker"), store, lease=lease)
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(dispatcher.run(stop)), daemon=True)
    thread.start()
    try:
        yield dispatcher
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(5)
        loop.close()


def wait_for(condition: Callable[[], bool], seconds: float) -> float:
    """Wait until `condition` holds; returns how long it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "it did not happen in time"
        time.sleep(0.02)
    return time.monotonic() - start


@pytest.mark.slow
def test_worker_killed_after_the_record_stored(trust: Trust, tmp_path: Path, store: Store) -> None:
    slow = SlowAnswers()
    slow.seconds = 1.5
    lease = timedelta(seconds=2)
    with house(trust, tmp_path, wrap=slow) as record, dispatching(store, tmp_path, lease):
        accept(store, message(xml(make_cda(PATIENT))))
        worker = start_worker(record, tmp_path, lease=2, timeout=10)
        assert slow.stored.wait(15)
        worker.kill()
        worker.wait(10)
        assert store.deposits()[0].state is DepositState.READY
        # The lease of the dead runs out, and any other worker goes on.
        again = Depositor(store, way(record))
        wait_for(lambda: again.run(store.deposits()[0].id) is not None, 15)
        assert store.deposits()[0].state is DepositState.DEPOSITED
        assert len(shown(record)) == 1
        assert store.deposits()[0].attempts == 2


@pytest.mark.slow
def test_start_within_a_second_and_loss_of_the_broker(trust: Trust, tmp_path: Path, store: Store) -> None:
    with house(trust, tmp_path) as record, dispatching(store, tmp_path, timedelta(seconds=1)):
        worker = start_worker(record, tmp_path, lease=5, timeout=4)
        try:
            accept(store, message(xml(make_cda(PATIENT, text="warm up"))))
            wait_for(lambda: store.deposits(DepositState.DEPOSITED) != [], 15)
            accept(store, message(xml(make_cda(PATIENT, text="measured"))))
            taken = wait_for(lambda: len(store.deposits(DepositState.DEPOSITED)) == 2, 10)
            assert taken < 1.0
            worker.send_signal(signal.SIGSTOP)
            accept(store, message(xml(make_cda(PATIENT, text="lost"))))
            queue = tmp_path / "broker" / "queue"
            wait_for(lambda: any(queue.iterdir()), 5)
            for file in list(queue.iterdir()):
                file.unlink()
            worker.send_signal(signal.SIGCONT)
            wait_for(lambda: len(store.deposits(DepositState.DEPOSITED)) == 3, 10)
        finally:
            worker.send_signal(signal.SIGCONT)
            worker.send_signal(signal.SIGTERM)
            output, _ = worker.communicate(timeout=15)
        assert worker.returncode == 0
        assert PATIENT.ins.encode() not in output


def test_a_whole_deposit_logs_no_content(record: House, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        accept(store, message(xml(make_cda(PATIENT))))
        [deposit_id] = store.due_deposits(now(), 10)
        Depositor(store, way(record)).run(deposit_id)
    assert "deposited" in caplog.text
    for word in (PATIENT.ins, PATIENT.birth_name, "EXEMPLE"):
        assert word not in caplog.text


@pytest.mark.slow
def test_official_examples_reach_the_record_unchanged(record: House, store: Store) -> None:
    samples = sorted((Path(__file__).parents[3] / "shared" / "samples" / "ansforge").glob("cda-*/*.xml"))
    if not samples:
        pytest.skip("shared/samples/ansforge is absent")
    expected: dict[str, bytes] = {}
    for path in samples:
        content = path.read_bytes()
        header = read_cda(content)
        custodian = header.custodian.identifier
        assert custodian is not None
        [planned] = plan_deposits(message(xml(content)), context(structure_id=custodian.extension))
        if planned.state is not DepositState.READY:
            continue
        expected[header.unique_id] = content
        # The examples are of many structures; the record accepts our certificate for its own structure only.
        ours = replace(planned, context=context().to_json())
        store.accept(
            Acceptance(Direction.SUBMISSION, "t", "a@b.fr", ("c@d.fr",), path.name, content, deposits=(ours,)), now()
        )
    assert len(expected) >= 5
    depositor = Depositor(store, way(record))
    for deposit_id in store.due_deposits(now(), 100):
        outcome = depositor.run(deposit_id)
        assert outcome is not None
        if outcome.code == "replacement-unknown":  # a second version, whose first one this record never had
            deposit = store.deposit(deposit_id)
            assert deposit is not None
            assert read_cda(expected.pop(deposit.unique_id)).replaces, deposit
            continue
        assert outcome.state is DepositState.DEPOSITED, outcome
    assert len(expected) >= 5
    assert {unique_id: record.store.read(unique_id) for unique_id in expected} == expected


Answer = Callable[[Send], Awaitable[None]]


async def dripping(send: Send) -> None:
    """A body that goes on, a byte at a time."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(20):
        await send({"type": "http.response.body", "body": b" ", "more_body": True})
        await asyncio.sleep(0.1)


async def endless(send: Send) -> None:
    """More than any answer needs."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(64):
        await send({"type": "http.response.body", "body": bytes(64 * 1024), "more_body": True})


# Made before the clock runs: it takes longer than the exchange may.
_BOMB = gzip.compress(bytes(64 * 1024 * 1024))


async def compressed(send: Send) -> None:
    """An encoded answer, which nobody asked for and which expands to 64 MB."""
    headers = [(b"content-encoding", b"gzip"), (b"content-type", b"application/soap+xml")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _BOMB})


@pytest.mark.parametrize(
    ("speak", "state", "reason"),
    [
        (dripping, DepositState.RETRY, "TimeoutError"),
        (endless, DepositState.RETRY, "AnswerTooLarge"),
        (compressed, DepositState.NEEDS_ATTENTION, "answer"),
    ],
)
def test_a_hostile_answer_costs_neither_time_nor_memory(
    trust: Trust, tmp_path: Path, store: Store, speak: Answer, state: DepositState, reason: str
) -> None:
    async def dmp(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await speak(send)

    accept(store, message(xml(make_cda(PATIENT))))
    [deposit_id] = store.due_deposits(now(), 10)
    with house(trust, tmp_path, wrap=lambda _: dmp) as record:
        begun = time.monotonic()
        outcome = Depositor(store, way(record, timeout=1.0)).run(deposit_id)
        assert time.monotonic() - begun < 3
    assert outcome is not None and outcome.state is state
    assert reason in outcome.reason


def test_a_head_that_drips_is_given_up_in_time(trust: Trust, tmp_path: Path, store: Store) -> None:
    """Every byte starts httpx's own time-out again: only a limit on the whole exchange ends this one."""
    listener = socket.create_server(("127.0.0.1", 0))
    context_ = server_context(trust.server.chain, trust.server.key, client_anchors=trust.anchors, client="required")
    stop = threading.Event()

    def drip() -> None:
        with contextlib.suppress(OSError), context_.wrap_socket(listener.accept()[0], server_side=True) as tls:
            tls.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not stop.wait(0.1):
                tls.sendall(b"a")

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    accept(store, message(xml(make_cda(PATIENT))))
    [deposit_id] = store.due_deposits(now(), 10)
    slow = outlet(
        f"https://localhost:{listener.getsockname()[1]}/x", trust.peer, trust.signer, trust.anchors, timeout=1.0
    )
    begun = time.monotonic()
    outcome = Depositor(store, slow).run(deposit_id)
    taken = time.monotonic() - begun
    stop.set()
    listener.close()
    thread.join(5)
    assert outcome is not None and (outcome.state, outcome.code) == (DepositState.RETRY, "transport")
    assert taken < 3


def test_a_document_whose_file_is_gone_needs_attention(record: House, store: Store, tmp_path: Path) -> None:
    accept(store, message(xml(make_cda(PATIENT))))
    [deposit_id] = store.due_deposits(now(), 10)
    store._journal.settle()
    for path in (tmp_path / "blobs").glob("*/*"):
        path.unlink()
    outcome = Depositor(store, way(record)).run(deposit_id)
    assert outcome is not None and outcome.code == "damaged"
    assert store.deposits()[0].state is DepositState.NEEDS_ATTENTION
    assert store.due_deposits(now() + timedelta(days=1), 10) == []
