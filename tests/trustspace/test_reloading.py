"""Contexts that follow: renewed certificates, anchors that come and go, bad files; over asyncio and uvloop."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.trustspace.test_tls import handshake, peer
from trustspace import (
    Anchors,
    Issued,
    OwnCertificate,
    PracticeAuthority,
    Purpose,
    TrustSpace,
    TrustUnavailable,
    client_context,
    client_tls,
    pem,
    server_tls,
)

NOW = datetime.now(UTC)


class Place:
    """An operator's folder with a server certificate, and two authorities."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.first = PracticeAuthority.create(folder / "first", at=NOW - timedelta(days=1))
        self.second = PracticeAuthority.create(folder / "second", at=NOW - timedelta(days=1))
        self.first.copy_trust(folder / "trust")
        self.space = TrustSpace(folder / "trust", signer_cn="alb.practice", practice=True)
        self.own = OwnCertificate(folder / "keys" / "server.pem", folder / "keys" / "server.key")
        self.issued = self.renew()

    def renew(self, authority: PracticeAuthority | None = None) -> Issued:
        issued = self.issue(authority)
        issued.write(self.folder / "keys", "server")
        return issued

    def issue(self, authority: PracticeAuthority | None = None) -> Issued:
        return (authority or self.first).issue_server(
            "mss.a.example", "A", "1750000018", "Paris (75)", dns=["localhost"], at=NOW
        )

    def trust(self, authority: PracticeAuthority, purpose: Purpose | None = None) -> None:
        """Replace the anchors, of every purpose or of one."""
        place = self.folder / "trust" / "anchors"
        place = place / purpose if purpose else place
        place.mkdir(exist_ok=True)
        for part, target in (("anchors", place), ("intermediates", self.folder / "trust" / "intermediates")):
            for path in (authority.folder / part).iterdir():
                (target / path.name).write_bytes(path.read_bytes())
        self.space.refresh(NOW)

    def client(self, issued: Issued, authority: PracticeAuthority | None = None) -> ssl.SSLContext:
        anchors = Anchors.load((authority or self.first).folder)
        return client_context(issued.chain, _key(issued), anchors, check_hostname=False)


def _key(issued: Issued) -> Any:
    return issued.key


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_renewed_certificate_is_shown_at_the_next_handshake(place: Place) -> None:
    server = server_tls(place.space, place.own, Purpose.PEERS, client="required")
    near, far = handshake(server, place.client(place.issue()))
    assert peer(near) == place.issued.certificate
    renewed = place.renew()
    assert peer(handshake(server, place.client(place.issue()))[0]) == renewed.certificate
    far.write(b"still here")
    assert near.read(20) == b"still here", "what was open stays open"


def test_half_a_renewal_keeps_the_former_pair(place: Place) -> None:
    server = server_tls(place.space, place.own, Purpose.PEERS)
    before = place.issued.certificate
    client = place.client(place.issue())
    for key in (place.issue().key, None):
        place.own.key.write_bytes(b"garbage" if key is None else pem.key_to_pem(key))
        assert peer(handshake(server, client)[0]) == before
        assert server.problem
    place.own.key.unlink()
    assert peer(handshake(server, client)[0]) == before
    renewed = place.renew()
    assert peer(handshake(server, client)[0]) == renewed.certificate and server.problem == ""


def test_anchors_that_go_are_forgotten_and_those_that_come_count(place: Place) -> None:
    server = server_tls(place.space, place.own, Purpose.PEERS, client="required")
    ours = place.issue()
    handshake(server, place.client(ours))
    place.trust(place.second)
    with pytest.raises(ssl.SSLError):
        handshake(server, place.client(ours))
    theirs = place.issue(place.second)
    assert peer(handshake(server, place.client(theirs))[1]) == theirs.certificate
    assert place.space.state(NOW).alarms, "and the list signed under the former ones is gone"


def test_each_purpose_has_its_own_anchors(place: Place) -> None:
    """The second authority is trusted for clients only."""
    place.trust(place.second, Purpose.CLIENTS)
    theirs = place.issue(place.second)
    peers = server_tls(place.space, place.own, Purpose.PEERS, client="required")
    clients = server_tls(place.space, place.own, Purpose.CLIENTS, client="required")
    handshake(clients, place.client(theirs))
    with pytest.raises(ssl.SSLError):
        handshake(peers, place.client(theirs))
    with pytest.raises(ssl.SSLError):
        handshake(clients, place.client(place.issue()))
    assert not place.space.authorise(theirs.certificate, "a.example", NOW, supplied=theirs.chain[1:]).allowed


def test_names_by_purpose(place: Place) -> None:
    server = server_tls(place.space, place.own, Purpose.PEERS)
    for purpose, name, good in (
        (Purpose.PEERS, "another.example", True),
        (Purpose.DMP, "localhost", True),
        (Purpose.DMP, "another.example", False),
        (Purpose.DOWNLOAD, "another.example", False),
    ):
        client = client_tls(place.space, None, purpose)
        if good:
            handshake(server, client, name)
        else:
            with pytest.raises(ssl.SSLCertVerificationError, match="ostname"):
                handshake(server, client, name)


def test_the_record_is_refused_when_revoked_or_when_nobody_can_tell(place: Place) -> None:
    """OpenSSL checks our CRLs in the handshake, those of today, without restart."""
    seconds = itertools.count()
    place.space = TrustSpace(
        place.folder / "trust", signer_cn="alb.practice", practice=True, monotonic=lambda: float(next(seconds))
    )
    server = server_tls(place.space, place.own, Purpose.DMP)
    client = client_tls(place.space, None, Purpose.DMP)
    handshake(server, client)
    place.first.revoke(place.issue().certificate, NOW)
    place.first.copy_trust(place.folder / "trust")
    handshake(server, client)
    place.first.revoke(place.issued.certificate, NOW)
    place.first.copy_trust(place.folder / "trust")
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        handshake(server, client)
    place.renew()
    handshake(server, client)
    for path in (place.folder / "trust" / "crl").iterdir():
        path.unlink()
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get certificate CRL"):
        handshake(server, client)
    handshake(server, client_tls(place.space, None, Purpose.PEERS))  # authorise() decides, later


def test_without_anchors_there_is_no_context(tmp_path: Path) -> None:
    space = TrustSpace(tmp_path, signer_cn="x")
    with pytest.raises(TrustUnavailable):
        client_tls(space, None, Purpose.PEERS)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_over_event_loops_with_starttls(place: Place, run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    server_context = server_tls(place.space, place.own, Purpose.PEERS, client="required")
    client = client_tls(place.space, place.own, Purpose.PEERS)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"GO\n")
        await writer.start_tls(server_context)
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.write(f"{len(der)}\n".encode())
        await writer.drain()
        writer.close()

    async def ask(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"STARTTLS\n")
        await reader.readline()
        await writer.start_tls(client, server_hostname="localhost")
        der: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        await reader.readline()
        writer.close()
        return der

    async def scenario() -> None:
        listener = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        first = await ask(port)
        place.renew()
        assert await ask(port) != first
        listener.close()

    run(scenario())
