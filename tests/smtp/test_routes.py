"""Routes: static, MX in order, implicit MX, null MX, no DNS."""

from __future__ import annotations

import random
from typing import Any

import dns.exception
import dns.resolver
import dns.rrset
import pytest

from smtp import DomainRouter, NoRoute, Route
from smtp.routes import parse_route


class _Zone:
    """Stands for the resolver: answers from a zone given as text."""

    def __init__(self, answer: object) -> None:
        self._answer = answer

    async def resolve(self, domain: str, kind: str, lifetime: float) -> Any:
        if isinstance(self._answer, type):
            raise self._answer()
        return dns.rrset.from_text_list(f"{domain}.", 60, "IN", kind, self._answer)  # type: ignore[arg-type]


def _router(answer: object) -> DomainRouter:
    return DomainRouter({"static.test": "127.0.0.1:2525"}, resolver=_Zone(answer), chance=random.Random(1))  # type: ignore[arg-type]


async def test_static_first() -> None:
    assert await _router(dns.exception.Timeout).routes("static.test") == [Route("127.0.0.1", 2525)]


async def test_mx_by_preference() -> None:
    routes = await _router(["20 b.test.", "10 a.test.", "30 c.test."]).routes("x.test")
    assert routes == [Route("a.test", 25), Route("b.test", 25), Route("c.test", 25)]


async def test_implicit_mx() -> None:
    assert await _router(dns.resolver.NoAnswer).routes("x.test") == [Route("x.test", 25)]


async def test_null_mx_is_permanent() -> None:
    with pytest.raises(NoRoute) as refusal:
        await _router(["0 ."]).routes("x.test")
    assert refusal.value.permanent


@pytest.mark.parametrize("error", [dns.resolver.NXDOMAIN, dns.exception.Timeout, dns.resolver.NoNameservers])
async def test_dns_trouble_is_temporary(error: type[Exception]) -> None:
    with pytest.raises(NoRoute) as refusal:
        await _router(error).routes("x.test")
    assert not refusal.value.permanent


async def test_no_resolver_configuration_is_temporary(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without /etc/resolv.conf defers, and says so."""

    def missing(self: object, filename: str) -> None:
        raise dns.resolver.NoResolverConfiguration

    monkeypatch.setattr(dns.resolver.BaseResolver, "read_resolv_conf", missing)
    with pytest.raises(NoRoute):
        await DomainRouter({}).routes("x.test")


@pytest.mark.parametrize(
    ("text", "route"),
    [
        ("a.test:26", Route("a.test", 26)),
        ("a.test", Route("a.test", 25)),
        ("[::1]:26", Route("::1", 26)),
        ("[::1]", Route("::1", 25)),
    ],
)
def test_route_forms(text: str, route: Route) -> None:
    assert parse_route(text) == route


@pytest.mark.parametrize("text", [":25", "a:0", "a:99999", "a:b"])
def test_bad_routes(text: str) -> None:
    with pytest.raises(ValueError):
        parse_route(text)
