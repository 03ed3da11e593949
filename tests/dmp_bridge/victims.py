"""Processes that end themselves with SIGKILL at a named step: `python -m tests.dmp_bridge.victims worker|record FOLDER`.

The program forks one child a step, so that nothing is loaded twice. `worker`: child number i takes deposit number i as a worker
does, and dies at step i of WORKER_STEPS. `record`: child number i serves the record and dies at step i of RECORD_STEPS, in
the first deposit it is given; after the last, the program itself serves.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dmp_bridge.exchange as wire
from dmp_bridge import Depositor, Outcome
from dmp_bridge.exchange import Answer, Exchange
from dmp_bridge.register import Register
from dmp_bridge.tell import Teller, Voice
from dossier import Authority, Caller, NewSubmission, RecordServer, RecordStore, bind, make_record_app
from mailstore.model import DepositJob, DepositLease
from tests.dmp_bridge.bridge import MASTER_KEY, open_mailstore, outlet
from tests.dossier.house import Trust
from trustspace import Anchors, Issued, PathValidator, Usage, read_crl, server_context

WORKER_STEPS = (
    "taken from the broker",
    "leased",
    "existence answered",
    "reference answered",
    "deposit half sent",
    "deposit sent",
    "deposit answered",
    "told",
    "settled",
)
RECORD_STEPS = ("received", "files written", "rows written", "committed")
OWNER = "victim"
VICTIM = "victim: "


def die() -> None:
    """As `kill -9` does it: nothing is flushed, closed or caught."""
    os.kill(os.getpid(), signal.SIGKILL)


class DyingExchange:
    """The exchange with the record, up to a step."""

    def __init__(self, real: Exchange, step: str) -> None:
        self._real = real
        self._step = step

    def request(self, method: str, url: str, *, headers: Mapping[str, str], content: bytes, seconds: float) -> Answer:
        """One exchange, or a part of it."""
        service = url.rpartition("/")[2]
        if service == "repository" and self._step == "deposit half sent":
            send = wire._Connection.send

            def half(connection: wire._Connection, data: Any) -> None:
                if len(data) > len(content) // 2:
                    send(connection, data[: len(data) // 2])
                    die()
                send(connection, data)

            wire._Connection.send = half  # type: ignore[method-assign,assignment]
        if service == "repository" and self._step == "deposit sent":
            wire._read = lambda _connection: die()  # type: ignore[assignment,return-value]
        answer = self._real.request(method, url, headers=headers, content=content, seconds=seconds)
        ends = {"patients": "existence answered", "registry": "reference answered", "repository": "deposit answered"}
        if ends[service] == self._step:
            die()
        return answer


def deposit_until(folder: Path, step: str, deposit_id: int) -> None:
    """Attempt one deposit and die at `step`."""
    if step == "taken from the broker":
        die()
    settings = json.loads((folder / "victim.json").read_text())
    peer = Issued.read(folder / "peer.pem", folder / "peer.key")
    signer = Issued.read(folder / "signer.pem", folder / "signer.key")
    store = open_mailstore(folder, MASTER_KEY)
    way = outlet(settings["url"], peer, signer, Anchors.load(Path(settings["trust"])), existence=True)
    assert way.exchange is not None
    way = replace(way, exchange=DyingExchange(way.exchange, step))  # type: ignore[arg-type]
    teller = Teller(
        store, Register(f"sqlite:///{folder / 'bridge.db'}", MASTER_KEY), hostname="mss.test", voice=Voice.ALWAYS
    )

    def tell(job: DepositJob, outcome: Outcome, at: datetime) -> None:
        teller(job, outcome, at)
        if step == "told":
            die()

    class Rows:
        """The store, up to a step."""

        open_deposit = staticmethod(store.open_deposit)
        settle_deposits = staticmethod(store.settle_deposits)
        give_back_deposits = staticmethod(store.give_back_deposits)

        @staticmethod
        def lease_deposits(*arguments: Any, **named: Any) -> list[DepositLease]:
            leases = store.lease_deposits(*arguments, **named)
            if step == "leased":
                die()
            return leases

    Depositor(Rows(), way, tell=tell, owner=OWNER, lease=timedelta(minutes=5)).run(deposit_id)
    if step == "settled":
        die()


class DyingRecord(RecordStore):
    """The record's store, up to a step of its first deposit."""

    step = ""

    def save(self, submission: NewSubmission, caller: Caller | None = None) -> tuple[str, ...]:
        """Keep, or not quite."""
        if self.step == "received":
            die()
        kept = super().save(submission, caller)
        if self.step == "committed":
            die()
        return kept

    def _insert(self, submission: NewSubmission, blobs: dict[str, str], caller: Caller | None) -> tuple[str, ...]:
        if self.step == "files written":
            die()
        return super()._insert(submission, blobs, caller)

    def _insert_rows(self, *arguments: Any) -> tuple[str, ...]:
        written = super()._insert_rows(*arguments)
        if self.step == "rows written":
            die()
        return written


def serve_until(folder: Path, step: str, listener: socket.socket) -> None:
    """Serve the record; die at `step` of a deposit ("" never)."""
    trust = Path((folder / "trust.txt").read_text())
    anchors = Anchors.load(trust)
    validator = PathValidator(anchors, [read_crl(path) for path in sorted((trust / "crl").glob("*.crl"))])
    authority = Authority(
        lambda certificate, supplied, at: validator.check(certificate, supplied, at=at, usage=Usage.SIGNATURE),
        lambda certificate, supplied, at: validator.check(certificate, supplied, at=at, usage=Usage.TLS_CLIENT),
    )
    store = DyingRecord(f"sqlite:///{folder / 'record.sqlite'}", folder / "documents", MASTER_KEY)
    store.step = step
    own = Issued.read(folder / "server.pem", folder / "server.key")
    tls = server_context(own.chain, own.key, client_anchors=anchors, client="required")
    server = RecordServer(make_record_app(store, authority), tls)
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    asyncio.run(server.serve(listener))
    store.close()


def say(text: str) -> None:
    """A line for the test, among those of the log."""
    sys.stdout.write(f"{VICTIM}{text}\n")
    sys.stdout.flush()


def in_children(steps: Sequence[str], work: Callable[[int, str], None]) -> None:
    """One child a step; each must have been killed."""
    for number, step in enumerate(steps, 1):
        child = os.fork()
        if not child:
            work(number, step)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        say(f"{step}: {os.WTERMSIG(status) if os.WIFSIGNALED(status) else 'not killed'}")


def write_trust(trust: Trust, folder: Path) -> None:
    """What a victim reads."""
    for name, issued in (("peer", trust.peer), ("signer", trust.signer), ("server", trust.server)):
        issued.write(folder, name)
    (folder / "trust.txt").write_text(str(trust.folder))


def main(role: str, folder: Path) -> None:
    """Die, step after step."""
    if role == "worker":
        numbers = json.loads((folder / "victim.json").read_text())["deposits"]
        in_children(WORKER_STEPS, lambda number, step: deposit_until(folder, step, numbers[number - 1]))
        return
    listener = bind("127.0.0.1", 0)
    say(str(listener.getsockname()[1]))
    in_children(RECORD_STEPS, lambda _, step: serve_until(folder, step, listener))
    serve_until(folder, "", listener)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
