"""The status a peer staples to its certificate (RFC 6066 §8) is asked for, judged, and counts; never more than a CRL."""

from __future__ import annotations

import ssl
from datetime import timedelta

import pytest
from cryptography.x509 import ocsp

from smtp import AskingContext, DecidingContext, Kind, Listen, SmtpServers
from tests.smtp.test_sender import _last, _queue, _route
from tests.smtp.world import World
from tests.trustspace.authorities import ocsp_answer
from trustspace import Issued, pem, read_crl


class StaplingContext(DecidingContext):
    """A peer that staples what it is told to."""

    @classmethod
    def with_status(cls, issued: Issued, status: bytes) -> StaplingContext:
        context = cls.build(issued.chain, issued.key)
        context._inner.set_ocsp_server_callback(lambda _connection, _data: status)
        return context


async def deliver(world: World, status: bytes) -> tuple[str, dict[str, str]]:
    """One attempt of A towards B, which staples `status` (b"" for none)."""
    _queue(world.a, "bob@b.mssante.fr")
    tls = StaplingContext.with_status(world.b.certificate, status)
    servers = SmtpServers(world.b.services, [Listen(Kind.RECEPTION, "127.0.0.1", 0, tls)], grace=2.0)
    await servers.start()
    world.b.ports = servers.ports
    try:
        await world.a.sender(_route(world.b)).once()
    finally:
        await servers.stop()
    return _last(world.a)


def answer(world: World, status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD, hours: float = 12) -> bytes:
    """What the authority above B's certificate says of it, from an hour ago on."""
    leaf, folder = world.b.certificate.certificate, world.authority.folder
    [issuer] = [
        Issued.read(path, folder / "private" / f"{path.stem}.key")
        for path in (folder / "intermediates").glob("*.pem")
        if pem.read_certificates(path)[0].subject == leaf.issuer
    ]
    return ocsp_answer(leaf, issuer, world.clock.now - timedelta(hours=1), status=status, hours=hours)


def forget_crl(world: World) -> None:
    """A holds no list of the authority above B's certificate; that of the root stays."""
    [path] = [
        path
        for path in (world.a.folder / "trust" / "crl").glob("*.crl")
        if read_crl(path).issuer == world.b.certificate.certificate.issuer
    ]
    path.unlink()
    world.a.services.trust.refresh(world.clock.now)


@pytest.mark.parametrize("stapled", ["nothing", "an answer of yesterday", "no answer at all"])
async def test_without_list_or_good_status_nothing_leaves(world: World, stapled: str) -> None:
    forget_crl(world)
    late = answer(world, hours=0.5)
    given = {"nothing": b"", "an answer of yesterday": late, "no answer at all": b"\x30\x03\x0a\x01\x00"}[stapled]
    name, detail = await deliver(world, given)
    assert (name, detail.get("rule", detail)) == ("outgoing.deferred", "CERTIFICATE_REVOCATION_UNKNOWN")
    assert world.b.inbox("bob") == []


async def test_a_good_status_stands_in_for_a_list_that_is_missing(world: World) -> None:
    forget_crl(world)
    name, _ = await deliver(world, answer(world))
    assert name == "outgoing.delivered"
    assert len(world.b.inbox("bob")) == 1


async def test_a_revocation_that_the_peer_itself_staples_counts_before_the_list_knows(world: World) -> None:
    name, detail = await deliver(world, answer(world, ocsp.OCSPCertStatus.REVOKED))
    assert (name, detail.get("rule", detail)) == ("outgoing.deferred", "CERTIFICATE_REVOKED")
    assert world.b.inbox("bob") == []


def test_a_host_that_is_no_server_name_is_connected_to_without_one(world: World) -> None:
    """DNS is the peer's to write: a name that cannot be encoded must not end the sender's attempt by a defect."""
    tls = AskingContext.build(world.a.certificate.chain, world.a.certificate.key)
    for host in ("127.0.0.1", "::1", "", "a..b", "x" * 64 + ".test", "mss.b.test."):
        channel = tls.wrap_bio(ssl.MemoryBIO(), hello := ssl.MemoryBIO(), server_hostname=host)
        with pytest.raises(ssl.SSLWantReadError):
            channel.do_handshake()
        assert (b"mss.b.test" in hello.read()) == host.startswith("mss")


async def test_a_good_status_does_not_undo_a_revocation_of_the_list(world: World) -> None:
    good = answer(world)
    world.authority.revoke(world.b.certificate.certificate, world.clock.now)
    world.trust_again()
    assert (await deliver(world, good))[1]["rule"] == "CERTIFICATE_REVOKED"
