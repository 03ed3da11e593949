"""Two operators keep exchanging, in the same processes, through a list refresh, a revocation, an expiry and a renewal.

Everything is real: SMTP over mutual TLS on loopback, the queue's sender, the list downloaded over HTTPS, CRLs over
HTTP. Nothing is restarted: the same servers, senders, trust spaces and TLS contexts live through the whole test.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from mailstore import Acceptance, Direction, OutgoingCopy
from smtp import Carrier, DecidingContext, DomainRouter, Kind, Listen, Patience, Sender, SenderSettings, SmtpServers
from tests.smtp import world as smtp_world
from tests.smtp.world import Operator, World, message
from tests.trustspace.authorities import crl, issuer_of, leaf
from tests.trustspace.web import Page, Web, serving
from trustspace import (
    Fetcher,
    Issued,
    ListedDomain,
    OwnCertificate,
    Purpose,
    Refresher,
    ReloadingContext,
    Schedule,
    client_context,
    client_tls,
    server_context,
)
from trustspace.refresher import Result

LIST, CRL = "/listeblanchemssante.xml", "/TEST-ACI-EL-ORG.crl"
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


class Country:
    """Operators A and B of the SMTP tests, with downloads and contexts that follow."""

    def __init__(self, world: World, lists: Web, crls: Web) -> None:
        self.world, self.lists, self.crls = world, lists, crls
        self.number, self.start = 10, world.clock.now
        self.refreshers = [self._refresher(one) for one in (world.a, world.b)]

    def _refresher(self, operator: Operator) -> Refresher:
        space = operator.services.trust
        schedule = Schedule(self.lists.url(LIST), crl_urls=(self.crls.url(CRL),), seconds=5)
        fetcher = Fetcher(
            tls=lambda: client_context(None, None, space.anchors_for(Purpose.DOWNLOAD), check_hostname=True)
        )
        return Refresher(space, fetcher, schedule)

    def publish(self, *entries: tuple[str, Issued]) -> None:
        """A new list on its host, downloaded by both."""
        listed = [ListedDomain.of(domain, issued.certificate) for domain, issued in entries]
        self.world.clock.forward(minutes=1)
        self.lists.pages[LIST] = Page(self.world.authority.publish_white_list(listed, self.world.clock.now))
        self.refresh()

    def revoke(self, *victims: Issued) -> None:
        """A new CRL of the operators' authority, downloaded by both."""
        self.number += 1
        made = crl(
            issuer_of(self.world.authority),
            self.world.clock.now,
            self.number,
            [(one.certificate, None) for one in victims],
        )
        self.crls.pages[CRL] = Page(made.public_bytes(Encoding.DER))
        self.refresh()

    def refresh(self) -> None:
        for refresher in self.refreshers:
            outcomes = refresher.tick(self.world.clock.now, force=True)
            assert {one.result for one in outcomes} <= {Result.NEW, Result.UNCHANGED}, outcomes


def _own(operator: Operator) -> OwnCertificate:
    return OwnCertificate(operator.folder / "operator.pem", operator.folder / "operator.key")


@asynccontextmanager
async def receiving(operator: Operator) -> AsyncIterator[int]:
    own = _own(operator)
    tls = ReloadingContext.following(lambda: DecidingContext.build(own.chain, own.key), own.stamp)
    servers = SmtpServers(operator.services, [Listen(Kind.RECEPTION, "127.0.0.1", 0, tls)], grace=2.0)
    await servers.start()
    try:
        yield servers.ports[Kind.RECEPTION]
    finally:
        await servers.stop()


def sender(operator: Operator, port: int) -> Sender:
    tls = client_tls(operator.services.trust, _own(operator), Purpose.PEERS)
    router = DomainRouter({"b.mssante.fr": f"127.0.0.1:{port}"})
    carrier = Carrier(operator.services, router, tls, Patience(connect=5, command=5, data_chunk=5, data_end=5))
    return Sender(
        operator.services,
        carrier,
        owner="one",
        settings=SenderSettings(poll=timedelta(seconds=1), give_up=timedelta(days=30)),
    )


@pytest.fixture
def country(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Country]:
    template = tmp_path_factory.mktemp("template")
    smtp_world.make_template(template)
    world = smtp_world.build(template, tmp_path)
    now = world.clock.now
    host = world.authority.issue_server("liste.example", "X", "1990000011", "P", ips=["127.0.0.1"], at=now - DAY)
    with ExitStack() as stack:
        lists = stack.enter_context(serving(server_context(host.chain, host.key)))
        crls = stack.enter_context(serving())
        country = Country(world, lists, crls)
        made = crl(issuer_of(world.authority), now, country.number)
        crls.pages[CRL] = Page(made.public_bytes(Encoding.DER))
        lists.pages[LIST] = Page((world.authority.folder / "listeblanche.xml").read_bytes())
        country.refresh()
        yield country
        for operator in (world.a, world.b):
            operator.store.close()


class Line:
    """Messages from A to B, one after the other, by one sender that lives through the test."""

    def __init__(self, country: Country, worker: Sender) -> None:
        self.country, self.worker, self.sent = country, worker, 0

    async def deliver(self) -> tuple[str, str]:
        """Queue a message, let the sender work once: the last event of that message and its trust rule."""
        self.sent += 1
        operator, name = self.country.world.a, f"m{self.sent}@test"
        content = message("alice@a.mssante.fr", "bob@b.mssante.fr", message_id=name)
        acceptance = Acceptance(
            direction=Direction.SUBMISSION,
            principal="alice@a.mssante.fr",
            mail_from="alice@a.mssante.fr",
            recipients=("bob@b.mssante.fr",),
            message_id=f"<{name}>",
            received=content,
            outgoing=(OutgoingCopy(("bob@b.mssante.fr",), content),),
        )
        operator.store.accept(acceptance, operator.clock.now)
        await self.worker.once()
        last = operator.store.trace(name)[-1].event
        return last.name, last.detail.get("rule", "")

    def arrived(self) -> int:
        return len(self.country.world.b.inbox("bob"))


DELIVERED = ("outgoing.delivered", "LISTED")


def renew(country: Country, operator: Operator, *, hours: float = 24 * 365) -> Issued:
    """A new certificate with the same name in the operator's files; nobody tells the running servers."""
    # From the true present: OpenSSL looks at the true clock in handshakes, the trust space at the test's.
    start = country.start
    life = country.world.clock.now - start + timedelta(hours=hours)
    old = operator.certificate.certificate
    made = leaf(issuer_of(country.world.authority), start, days=life / DAY, subject=old.subject)
    made.write(operator.folder, "operator")
    return made


@pytest.mark.slow
async def test_federation_survives_refresh_revocation_and_expiry_without_restart(country: Country) -> None:
    world = country.world
    a, b = world.a.certificate, world.b.certificate
    async with receiving(world.b) as port:
        line = Line(country, sender(world.a, port))
        assert await line.deliver() == DELIVERED

        # A refresh takes B out of the list, the next one brings it back.
        country.publish(("a.mssante.fr", a))
        assert await line.deliver() == ("outgoing.deferred", "DOMAIN_NOT_LISTED")
        country.publish(("a.mssante.fr", a), ("b.mssante.fr", b))
        assert await line.deliver() == DELIVERED

        # A refresh takes A out: B refuses at MAIL FROM, for good; then A is listed again.
        country.publish(("other.mssante.fr", a), ("b.mssante.fr", b))
        name, _ = await line.deliver()
        assert name in {"outgoing.failed", "notice.failure"}
        refused = [one.event.detail.get("rule") for one in world.b.store.refusals(5)]
        assert refused[0] == "DOMAIN_NOT_LISTED"
        country.publish(("a.mssante.fr", a), ("b.mssante.fr", b))
        assert await line.deliver() == DELIVERED

        # B's certificate is revoked: A sees it with the next CRL. B renews, same name: nothing else is needed.
        country.revoke(b)
        assert await line.deliver() == ("outgoing.deferred", "CERTIFICATE_REVOKED")
        renewed = renew(country, world.b, hours=2)
        assert await line.deliver() == DELIVERED

        # That one expires; B renews again.
        world.clock.forward(hours=3)
        country.refresh()
        assert await line.deliver() == ("outgoing.deferred", "CERTIFICATE_EXPIRED")
        renew(country, world.b)
        assert await line.deliver() == DELIVERED

        # No new CRL for a week: nobody can be known not to be revoked. The CRL comes, and all goes on.
        world.clock.forward(days=6, hours=23)
        assert (await line.deliver())[1] == "CERTIFICATE_REVOCATION_UNKNOWN"
        # The list itself goes stale a little later, and is confirmed.
        world.clock.forward(hours=5)
        assert (await line.deliver())[1] == "WHITE_LIST_STALE"
        country.revoke(b, renewed)
        assert await line.deliver() == DELIVERED

        # What waited leaves by itself, once; only what B refused for good did not arrive.
        world.clock.forward(hours=2)
        while await line.worker.once():
            pass
        assert (line.arrived(), line.sent, world.a.store.queue()) == (line.sent - 1, 12, [])
