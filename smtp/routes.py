"""Where a domain's messages go: a static route, else MX records, else the domain's own address (RFC 5321 §5.1).

Invariants: routes only say where to connect; who the peer is, is decided on its certificate alone (mssante.md §2:
nothing in the white list ties host names).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import dns.asyncresolver
import dns.exception
import dns.resolver

MAX_HOSTS = 5


@dataclass(frozen=True, slots=True)
class Route:
    """One place to try."""

    host: str
    port: int


class NoRoute(Exception):
    """There is nowhere to connect to. `permanent` when the domain says that it takes no mail (RFC 7505)."""

    def __init__(self, reason: str, *, permanent: bool = False) -> None:
        super().__init__(reason)
        self.permanent = permanent


class Router(Protocol):
    """Finds the places to try for a domain, best first. Raises NoRoute."""

    async def routes(self, domain: str) -> list[Route]:
        """Places to try, in order."""
        ...


def parse_route(text: str) -> Route:
    """Read `host:port`, `[ipv6]:port` or `host`. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or (text.startswith("[") and text.endswith("]")):
        host, port = text, "25"
    number = int(port)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not 0 < number < 65536:
        raise ValueError("a route is written host:port")
    return Route(host, number)


class DomainRouter:
    """Static routes first, then DNS."""

    def __init__(
        self,
        static: Mapping[str, str],
        *,
        resolver: dns.asyncresolver.Resolver | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self._static = {domain.lower(): parse_route(text) for domain, text in static.items()}
        self._resolver = resolver
        self._chance = chance or random.SystemRandom()

    async def routes(self, domain: str) -> list[Route]:
        """Places to try; hosts of equal preference in random order (RFC 5321 §5.1)."""
        if domain in self._static:
            return [self._static[domain]]
        try:
            resolver = self._resolver or dns.asyncresolver.Resolver()
            found = await resolver.resolve(domain, "MX", lifetime=10.0)
        except dns.resolver.NoAnswer:
            return [Route(domain, 25)]  # implicit MX
        except dns.exception.DNSException as error:
            raise NoRoute(_why(error)) from error
        hosts = [(record.preference, self._chance.random(), record.exchange.to_text(True)) for record in found]
        if [host for _, _, host in hosts] in (["."], [""], ["@"]):
            raise NoRoute("ce domaine ne prend pas de courrier / the domain takes no mail (null MX)", permanent=True)
        return [Route(host, 25) for _, _, host in sorted(hosts)[:MAX_HOSTS]]


def _why(error: dns.exception.DNSException) -> str:
    """What DNS said, in words."""
    match error:
        case dns.resolver.NXDOMAIN():
            return "DNS : ce domaine n'existe pas / no such domain"
        case dns.exception.Timeout():
            return "DNS : delai depasse / timed out"
        case _:
            return "DNS : pas de reponse utilisable / no usable answer"
