"""A real operator (submission over TLS, store, directory, proxy), a virtual reader, and the agent as its user runs it."""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from typer.testing import CliRunner

from caducee.commands.agent import app
from caducee.demo.surgery import AgentOnTerminal
from imap import ImapServer
from smtp import DecidingContext, Kind, Listen, Services, SmtpServers
from tests.cards.conftest import Factory, insert, make_pairs, pcscd, token_card
from tests.proxy.conftest import ALICE, OURS, Desk, desk, town
from tests.smtp.world import NoDeposits, free_port
from trustspace import PRACTICE_SIGNER_CN, ListedDomain, TrustSpace, pem

__all__ = ["desk", "insert", "pcscd", "token_card", "town"]
PASSWORD = "mot de passe d'Alice"


@dataclass
class Operator:
    """Where the agent submits to, and what arrives there."""

    desk: Desk
    port: int
    imap: ImapServer
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
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*server.write(tmp_path, "imap"))
    imap = ImapServer(desk.store, context, port_tls=0)
    await imap.start()
    anchors = tmp_path / "anchors.pem"
    anchors.write_bytes(pem.chain_to_pem((*authority.anchors, *authority.intermediates)))
    yield Operator(desk, servers.ports[Kind.SUBMISSION_TLS], imap, anchors, Factory(authority, make_pairs(authority)))
    await servers.stop()
    await imap.stop()


@dataclass
class Run:
    """The agent on a terminal, where it listens, and the password that a mail program shows it."""

    port: int
    password: str
    terminal: AgentOnTerminal

    @property
    def shown(self) -> str:
        return self.terminal.shown

    @property
    def asked(self) -> int:
        return self.terminal.asked


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
            "--imap-port",
            str(operator.imap.ports[0]),
            "--listen-port",
            str(port),
        ]
        made = CliRunner().invoke(app, ["init", str(folder), "--anchors", str(operator.anchors), *arguments, *options])
        assert made.exit_code == 0, made.output
        found = re.search(r"shown this once:\s+(\S+)", made.output)
        run = Run(port, found[1] if found else PASSWORD, AgentOnTerminal(folder, answers))
        started.append(run)
        run.terminal.wait_ready()
        return run

    yield start
    for run in started:
        run.terminal.stop()
