"""One connection to another operator: reach it, make sure who it is, hand over.

Invariants: before the peer's certificate is authorised for the recipient domain, nothing but EHLO and STARTTLS is sent
(mssante.md §1.4 "on send"); no TLS or no authorised certificate means a deferral, never a delivery; the evidence (host,
certificate name, rule, list) goes into the audit trail with the result.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

from smtp import metrics
from smtp.client import SmtpClient
from smtp.dialogue import Answer, ClientError, Patience
from smtp.replies import to_ascii
from smtp.routes import NoRoute, Route, Router, parse_route
from smtp.services import Services, in_thread
from trustspace import Usage


class Unreachable(Exception):
    """No place of the domain could be used; `answer` is what recipients get (4yz: try later)."""

    def __init__(self, answer: Answer, detail: Mapping[str, str]) -> None:
        super().__init__(str(answer))
        self.answer = answer
        self.detail = dict(detail)


@dataclass(frozen=True, slots=True)
class Peer:
    """An authorised connection and the evidence for it."""

    client: SmtpClient
    evidence: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Carrier:
    """Opens authorised connections. `tls` is the operator's client context: own certificate, no host name check."""

    services: Services
    router: Router
    tls: ssl.SSLContext
    patience: Patience = field(default_factory=Patience)

    async def open(self, domain: str, by: str = "") -> Peer:
        """Connect to the first usable place of `domain`, or to `by` (`host:port`) when a person said so: the peer must be
        authorised for the domain all the same. Raises Unreachable, with the last reason."""
        try:
            routes = [parse_route(by)] if by else await self.router.routes(domain)
        except NoRoute as error:
            answer = Answer(556, "5.1.10", str(error)) if error.permanent else Answer(451, "4.4.3", str(error))
            raise Unreachable(answer, {}) from error
        last = Unreachable(Answer(451, "4.4.4", "aucune route / no route"), {})
        for route in routes:
            try:
                return await self._open(domain, route)
            except Unreachable as error:
                last = error
            except ClientError as error:
                last = Unreachable(Answer(451, "4.4.1", to_ascii(str(error))), {"host": f"{route.host}:{route.port}"})
        raise last

    async def _open(self, domain: str, route: Route) -> Peer:
        client = await SmtpClient.connect(
            route.host, route.port, hostname=self.services.hostname, patience=self.patience
        )
        try:
            await client.starttls(self.tls, server_hostname=route.host)
            evidence = await self._authorise(client, domain, route)
            await client.ehlo()
        except BaseException:
            client.close()
            raise
        return Peer(client, evidence)

    async def _authorise(self, client: SmtpClient, domain: str, route: Route) -> dict[str, str]:
        certificate = client.peer_certificate
        detail = {"host": f"{route.host}:{route.port}", "tls": client.tls_version}
        if certificate is None:
            raise Unreachable(
                Answer(451, "4.7.5", "aucun certificat lisible en face / the peer showed no readable certificate"),
                detail,
            )
        decision = await in_thread(
            self.services.trust.authorise,
            certificate,
            domain,
            self.services.clock(),
            supplied=client.peer_chain,
            usage=Usage.TLS_SERVER,
            stapled=client.stapled,
        )
        metrics.TRUST.labels("sending", decision.rule).inc()
        detail |= {
            "dn": certificate.subject.rfc4514_string(),
            "rule": decision.rule,
            "list": decision.list_digest,
        }
        if not decision.allowed:
            text = to_ascii(f"{decision.reason_fr} / {decision.reason_en}")
            raise Unreachable(Answer(451, "4.7.5", text), detail)
        return detail
