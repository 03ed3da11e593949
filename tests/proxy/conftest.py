"""A real store, a real slapd and a practice authority: what the proxy stands on."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from caducee.mailboxes import NewMailbox, add_mailbox
from caducee.sections import OperatorSection
from directory import Directory, Entry, Slapd
from mailstore import Account, MailboxKind, Store
from proxy import EncryptPolicy, Protector, ProxyPolicy, SignPolicy, Tokens
from trustspace import Anchors, Issued, PracticeAuthority, Usage, check_path, pem

OURS = "chu-exemple.mssante.fr"
ALICE = f"alice@{OURS}"
GATEWAY = f"passerelle@{OURS}"
BRUNO = f"bruno@{OURS}"
CLAIRE = "claire@medecin.mssante.fr"
WITHOUT = "sans.certificat@medecin.mssante.fr"


@dataclass
class Desk:
    """The proxy under test and what tests look at around it. Bruno keeps his own keys."""

    store: Store
    slapd: Slapd
    directory: Directory
    authority: PracticeAuthority
    keys: dict[str, dict[str, Issued]]
    now: datetime

    def protector(
        self,
        *,
        encrypt: EncryptPolicy = EncryptPolicy.WHEN_POSSIBLE,
        sign: SignPolicy = SignPolicy.WITH_CODE,
        tokens: Tokens | None = None,
    ) -> Protector:
        policy = ProxyPolicy(dict.fromkeys(MailboxKind, SignPolicy.ALWAYS) | {MailboxKind.APP: sign}, encrypt)
        return Protector(
            self.store,
            self.directory,
            policy,
            signers=self.checker(Usage.SIGNATURE),
            recipients=self.checker(Usage.ENCRYPTION),
            is_local=lambda address: address.endswith(f"@{OURS}"),
            tokens=tokens,
        )

    def checker(self, usage: Usage):  # type: ignore[no-untyped-def]
        anchors = Anchors.load(self.authority.folder)

        def check(certificate, others, at):  # type: ignore[no-untyped-def]
            crls = [pem.read_crl(path) for path in (self.authority.folder / "crl").glob("*.crl")]
            return check_path(certificate, others, anchors=anchors, crls=crls, at=at, usage=usage)

        return check

    def account(self, address: str) -> Account:
        found = self.store.find_account(address)
        assert found is not None
        return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@dataclass
class Town:
    """What is made once for all tests: the authority's keys, a store with its mailboxes, the directory that publishes them."""

    folder: Path
    slapd: Slapd
    keys: dict[str, dict[str, Issued]]
    now: datetime


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    folder = tmp_path_factory.mktemp("town")
    now = datetime.now(UTC)
    authority = PracticeAuthority.create(folder / "pki", at=now - timedelta(days=1))
    operator = OperatorSection(
        hostname="mss.chu.fr", domains=(OURS,), organisation="CHU", structure_id="1990000010", department="Rhône (69)"
    )
    store = Store.create(f"sqlite:///{folder / 'mail.db'}", folder / "blobs", bytes(32))
    entries: list[Entry] = []
    keys: dict[str, dict[str, Issued]] = {}
    for mailbox, custody in (
        (NewMailbox(ALICE, MailboxKind.PER, "810999000010", "Dr Alice", "EXEMPLE", "Alice", "Médecin", "10"), True),
        (NewMailbox(BRUNO, MailboxKind.PER, "810999000028", "Dr Bruno", "EXEMPLE", "Bruno", "Médecin", "10"), False),
        (NewMailbox(GATEWAY, MailboxKind.APP, "1990000010", "CHU - Passerelle"), True),
        (NewMailbox(CLAIRE, MailboxKind.PER, "810999000036", "Dr Claire", "EXEMPLE", "Claire", "Médecin", "10"), False),
    ):
        entry, keys[mailbox.address] = add_mailbox(
            store, mailbox, operator, at=now - timedelta(hours=1), authority=authority, custody=custody
        )
        entries.append(entry)
    store.close()
    slapd = Slapd(folder / "ldap", ldap_port=_free_port())
    slapd.initialise(entries, "a long enough password")
    slapd.start()
    yield Town(folder, slapd, keys, now)
    slapd.stop()


@pytest.fixture
def desk(town: Town, tmp_path: Path) -> Iterator[Desk]:
    """A copy of its own of the authority and the store; the directory, which no test writes to, is shared."""
    for name in ("pki", "blobs"):
        shutil.copytree(town.folder / name, tmp_path / name)
    for file in town.folder.glob("mail.db*"):
        shutil.copy(file, tmp_path)
    authority = PracticeAuthority.open(tmp_path / "pki")
    store = Store.open(f"sqlite:///{tmp_path / 'mail.db'}", tmp_path / "blobs", bytes(32))
    directory = Directory(town.slapd.url)
    yield Desk(store, town.slapd, directory, authority, {name: dict(of) for name, of in town.keys.items()}, town.now)
    directory.close()
    store.close()
    if town.slapd.pid is None:  # a test about its absence
        town.slapd.start()
