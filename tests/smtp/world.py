"""Two real operators on loopback for the tests: real store, real trust space, real TLS; identity proxy, empty bridge.

The proxy here changes nothing (it says so in an event): what is tested is the SMTP room; the real proxy has its own
tests and is joined in the journey tests.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

from mailstore import Account, Event, MailboxKind, NewDeposit, OutgoingCopy, Store
from proxy.model import Opened, Protected, Refusal
from smtp import (
    AskingContext,
    Carrier,
    DecidingContext,
    DomainRouter,
    Kind,
    Limits,
    Listen,
    Patience,
    Sender,
    SenderSettings,
    Services,
    SmtpServers,
)
from trustspace import (
    PRACTICE_SIGNER_CN,
    Issued,
    ListedDomain,
    PracticeAuthority,
    TrustSpace,
)

PASSWORD = "correct horse battery"
_MASTER_KEY = bytes(range(32))


class Clock:
    """A clock that moves only when told."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **kwargs: float) -> None:
        """Let time pass."""
        self.now += timedelta(**kwargs)


@dataclass
class IdentityProtector:
    """Delivers what it is given; refuses what says so in a header field."""

    local_domains: frozenset[str]

    def protect(
        self,
        raw: bytes,
        *,
        sender: Account,
        recipients: Sequence[str],
        at: datetime,
        peer: str = "",
        vouched: bool = False,
    ) -> Protected | Refusal:
        if b"X-Test: refuse" in raw:
            return Refusal(550, "5.7.8", "code d'envoi refusé", "send code refused", (Event("code.refused"),))
        if b"X-Test: crash" in raw:
            raise KeyError("secret content of the message")
        local = {one: raw for one in recipients if one.rpartition("@")[2] in self.local_domains}
        away = tuple(one for one in recipients if one not in local)
        return Protected(raw, local, (OutgoingCopy(away, raw),) if away else (), (Event("protected.identity"),))

    def open(self, raw: bytes, *, recipient: Account, sender: str, at: datetime) -> Opened:
        return Opened(raw, ("smime=none",), raw)


class NoDeposits:
    """A bridge that finds nothing."""

    def searches(self, recipient: Account) -> bool:
        return False

    def plan_received(
        self,
        clear: bytes,
        *,
        recipient: Account,
        at: datetime,
        mail_from: str = "",
        original: Callable[[], bytes] = bytes,
    ) -> tuple[NewDeposit, ...]:
        return ()

    def plan(
        self, clear: bytes, *, sender: Account, at: datetime, original: Callable[[], bytes] = bytes
    ) -> tuple[NewDeposit, ...]:
        return ()

    def labels(self, clear: bytes) -> Mapping[str, str]:
        return {"X-MSS-CODECDA": "34112-3", "X-MSS-INS": "O"} if b"X-Test: documents" in clear else {}


@dataclass
class Operator:
    """One operator: its services, its certificate, its listeners once started."""

    name: str
    domain: str
    folder: Path
    certificate: Issued
    services: Services
    clock: Clock
    ports: dict[Kind, int] = field(default_factory=dict)
    servers: SmtpServers = field(init=False, repr=False)

    @property
    def store(self) -> Store:
        return self.services.store

    def inbox(self, local: str) -> list[bytes]:
        """The messages in a mailbox's INBOX."""
        account = self.store.find_account(f"{local}@{self.domain}")
        assert account is not None
        view = self.store.view(self.store.folder(account.id, "INBOX").id)
        return [self.store.read_blob(blob) for blob in view.blobs]

    def events(self, message_id: str) -> list[str]:
        """Names of the audit events of a message."""
        return [traced.event.name for traced in self.store.trace(message_id)]

    @contextlib.asynccontextmanager
    async def listening(self, *kinds: Kind, port: int = 0) -> AsyncIterator[SmtpServers]:
        """Run listeners on loopback."""
        tls = DecidingContext.build(self.certificate.chain, self.certificate.key)
        servers = SmtpServers(self.services, [Listen(kind, "127.0.0.1", port, tls) for kind in kinds], grace=2.0)
        await servers.start()
        self.ports, self.servers = servers.ports, servers
        try:
            yield servers
        finally:
            await servers.stop()

    def sender(
        self, routes: Mapping[str, str], *, certificate: Issued | None = None, owner: str = "sender-1"
    ) -> Sender:
        """A sender worker with static routes."""
        own = certificate or self.certificate
        tls = AskingContext.build(own.chain, own.key)
        patience = Patience(connect=5, command=5, data_chunk=5, data_end=5)
        carrier = Carrier(self.services, DomainRouter(routes), tls, patience)
        settings = SenderSettings(poll=timedelta(seconds=1))
        return Sender(self.services, carrier, owner=owner, settings=settings)


@dataclass
class World:
    """The practice authority, and two operators A (ours) and B (the other)."""

    authority: PracticeAuthority
    clock: Clock
    a: Operator
    b: Operator

    def issue(self, cn: str, *, organisation: str = "AUTRE", structure: str = "1990000099") -> Issued:
        """Another operator certificate of the same authority."""
        return self.authority.issue_server(
            cn, organisation, structure, "Paris (75)", ips=("127.0.0.1",), at=self.clock.now - timedelta(days=1)
        )

    def publish(self, entries: Sequence[ListedDomain]) -> None:
        """A new white list for both operators, in force at once."""
        self.authority.publish_white_list(entries, self.clock.now)
        self.trust_again()

    def trust_again(self) -> None:
        """Give both operators the authority's present files."""
        for operator in (self.a, self.b):
            self.authority.copy_trust(operator.folder / "trust")
            operator.services.trust.refresh(self.clock.now)


def make_template(folder: Path) -> None:
    """Make once what takes time: keys, certificates, databases with their accounts. `build` copies it."""
    now = datetime.now(UTC).replace(microsecond=0)
    start = now - timedelta(days=1)
    authority = PracticeAuthority.create(folder / "authority", at=start)
    entries: list[ListedDomain] = []
    for digit, name in enumerate("ab"):
        issued = authority.issue_server(
            f"mss.{name}.test", name.upper(), f"199000001{digit}", "Paris (75)", ips=("127.0.0.1",), at=start
        )
        issued.write(folder / name, "operator")
        entries.append(ListedDomain.of(f"{name}.mssante.fr", issued.certificate))
        _make_store(folder / name, f"{name}.mssante.fr", now)
    entries.append(ListedDomain("patient.mssante.fr", entries[1].operator_dn))
    authority.publish_white_list(entries, now)
    (folder / "now").write_text(now.isoformat())


def _make_store(folder: Path, domain: str, now: datetime) -> None:
    store = Store.create(f"sqlite:///{folder / 'mail.db'}", folder / "blobs", _MASTER_KEY)
    for local in ("alice", "bob"):
        store.add_account(
            f"{local}@{domain}",
            MailboxKind.PER,
            display_name=local.title(),
            national_id="899700000000",
            password=PASSWORD,
            at=now,
        )
    store.close()


@lru_cache(maxsize=4)
def _keys(template: Path) -> tuple[PracticeAuthority, dict[str, Issued]]:
    """What every world of a template shares, read once: loading an RSA key checks it, for 30 ms."""
    issued = {name: Issued.read(template / name / "operator.pem", template / name / "operator.key") for name in "ab"}
    return PracticeAuthority.open(template / "authority"), issued


def build(template: Path, folder: Path, *, limits: Limits | None = None) -> World:
    """Copy the template into `folder` and open it. Errors are answered at once, unless the limits say otherwise."""
    shutil.copytree(template, folder, dirs_exist_ok=True)
    clock = Clock(datetime.fromisoformat((folder / "now").read_text()))
    known, issued = _keys(template)
    authority = PracticeAuthority(folder / "authority", known._authorities, known._signer)
    for name in "ab":
        (folder / name / "trust").mkdir()
        authority.copy_trust(folder / name / "trust")
    kept = limits or Limits(tarpit_step=0.0)
    a, b = (_opened(folder / name, name, clock, kept, issued[name]) for name in "ab")
    return World(authority, clock, a, b)


def reopen(folder: Path, name: str, limits: Limits | None = None) -> Operator:
    """One operator of a world built before, from another process."""
    clock = Clock(datetime.fromisoformat((folder / "now").read_text()))
    issued = Issued.read(folder / name / "operator.pem", folder / name / "operator.key")
    return _opened(folder / name, name, clock, limits or Limits(connections_per_address=500), issued)


def _opened(folder: Path, name: str, clock: Clock, limits: Limits, issued: Issued) -> Operator:
    trust = TrustSpace(folder / "trust", signer_cn=PRACTICE_SIGNER_CN, practice=True, clock=clock)
    domain = f"{name}.mssante.fr"
    services = Services(
        store=Store.open(f"sqlite:///{folder / 'mail.db'}", folder / "blobs", _MASTER_KEY),
        trust=trust,
        protector=IdentityProtector(frozenset([domain])),
        planner=NoDeposits(),
        clock=clock,
        hostname=f"mss.{name}.test",
        local_domains=frozenset([domain]),
        limits=limits,
    )
    return Operator(name, domain, folder, issued, services, clock)


def free_port() -> int:
    """A loopback port that nothing uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def message(sender: str, recipient: str, *extra: str, body: str = "Bonjour.", message_id: str = "m1@test") -> bytes:
    """A small message with CRLF lines."""
    head = [f"From: {sender}", f"To: {recipient}", "Subject: sujet-confidentiel", *extra]
    if message_id:
        head.append(f"Message-ID: <{message_id}>")
    return ("\r\n".join([*head, "Date: Fri, 20 Nov 2026 10:00:00 +0000", "", body]) + "\r\n").encode()
