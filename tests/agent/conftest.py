"""A real operator (submission over TLS, store, directory, proxy), a virtual reader, and the agent as its user runs it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import subprocess
import sys
import termios
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from typer.testing import CliRunner

from caducee.commands.agent import app
from smtp import DecidingContext, Kind, Listen, Services, SmtpServers
from tests.cards.conftest import Factory, insert, make_pairs, pcscd
from tests.proxy.conftest import ALICE, OURS, Desk, desk
from tests.smtp.world import NoDeposits, free_port
from trustspace import PRACTICE_SIGNER_CN, ListedDomain, TrustSpace, pem

__all__ = ["desk", "insert", "pcscd"]
PASSWORD = "mot de passe d'Alice"


@dataclass
class Operator:
    """Where the agent submits to, and what arrives there."""

    desk: Desk
    port: int
    anchors: Path
    cards: Factory

    def inbox(self, address: str) -> list[bytes]:
        store = self.desk.store
        view = store.view(store.folder(self.desk.account(address).id, "INBOX").id)
        return [store.read_blob(blob) for blob in view.blobs]

    def accept_card(self) -> None:
        """Bind Alice's card to her mailbox, as the operator's administrator does."""
        public = self.cards.pairs[1].certificate.public_key()
        spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.desk.store.set_client_key(ALICE, sha256(spki).digest())


@pytest_asyncio.fixture
async def operator(desk: Desk, tmp_path: Path) -> AsyncIterator[Operator]:
    """Alice's operator, on 127.0.0.1."""
    authority = desk.authority
    server = authority.issue_server(
        "mss.chu.fr", "CHU", "1990000010", "Rhône (69)", ips=("127.0.0.1",), dns=("localhost",), at=desk.now
    )
    authority.publish_white_list(
        [ListedDomain.of(one, server.certificate) for one in (OURS, "medecin.mssante.fr")], desk.now
    )
    (tmp_path / "trust").mkdir()
    authority.copy_trust(tmp_path / "trust")
    trust = TrustSpace(tmp_path / "trust", signer_cn=PRACTICE_SIGNER_CN, practice=True, clock=lambda: desk.now)
    services = Services(
        store=desk.store,
        trust=trust,
        protector=desk.protector(),
        planner=NoDeposits(),
        clock=lambda: desk.now,
        hostname="mss.chu.fr",
        local_domains=frozenset([OURS]),
    )
    desk.store.set_password(ALICE, PASSWORD)
    tls = DecidingContext.build(server.chain, server.key)
    servers = SmtpServers(services, [Listen(Kind.SUBMISSION_TLS, "127.0.0.1", 0, tls)], grace=2.0)
    await servers.start()
    anchors = tmp_path / "anchors.pem"
    anchors.write_bytes(pem.chain_to_pem((*authority.anchors, *authority.intermediates)))
    yield Operator(desk, servers.ports[Kind.SUBMISSION_TLS], anchors, Factory(authority, make_pairs(authority)))
    await servers.stop()


@dataclass
class Run:
    """The agent on a terminal of its own, whose user types `answers` one after the other."""

    port: int
    password: str
    process: subprocess.Popen[bytes]
    master: int
    answers: list[bytes]
    shown: str = ""
    asked: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def watch(self) -> None:
        while True:
            try:
                self.shown += os.read(self.master, 4096).decode("utf-8", "replace")
            except OSError:
                return
            if len(re.findall(r"Code PIN \(|Signer \? /", self.shown)) > self.asked:
                self.asked += 1
                time.sleep(0.05)  # getpass throws away what is typed before it is ready
                os.write(self.master, (self.answers.pop(0) if self.answers else b"") + b"\n")


@pytest.fixture
def start_agent(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Sets the agent up and runs it, by its commands; stopped at the end."""
    started: list[Run] = []

    def start(operator: Operator, answers: list[bytes], *options: str) -> Run:
        folder, port = tmp_path / f"agent{len(started)}", free_port()
        arguments = [
            "--address",
            ALICE,
            "--host",
            "127.0.0.1",
            "--port",
            str(operator.port),
            "--listen-port",
            str(port),
        ]
        made = CliRunner().invoke(app, ["init", str(folder), "--anchors", str(operator.anchors), *arguments, *options])
        assert made.exit_code == 0, made.output
        found = re.search(r"shown this once:\s+(\S+)", made.output)
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "caducee.cli", "agent", "run", str(folder)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        run = Run(port, found[1] if found else PASSWORD, process, master, list(answers))
        started.append(run)
        threading.Thread(target=run.watch, daemon=True).start()
        deadline = time.monotonic() + 20
        while "caducee agent ready" not in run.shown:
            assert process.poll() is None and time.monotonic() < deadline, run.shown
            time.sleep(0.05)
        return run

    yield start
    for run in started:
        run.process.terminate()
        run.process.wait(10)
        os.close(run.master)
