"""Fetching: every bound holds, whatever the server does."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.trustspace.web import Page, Web, serving
from trustspace import Anchors, Fetcher, FetchFailed, PracticeAuthority, client_context, server_context
from trustspace.locations import is_usable

NOW = datetime.now(UTC)


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as one:
        yield one


def get(web: Web, path: str = "/x", **values: object) -> bytes | None:
    settings = {"size": 1000, "seconds": 5.0} | values
    return Fetcher().get(web.url(path), **settings).content  # type: ignore[arg-type]


def test_a_body_and_its_validators_come_back(web: Web) -> None:
    web.pages["/x"] = Page(b"body", etag='"1"')
    first = Fetcher().get(web.url("/x"), size=4, seconds=5)
    assert (first.content, first.etag, bool(first.modified), first.peer) == (b"body", '"1"', True, None)
    again = Fetcher().get(web.url("/x"), size=4, seconds=5, etag=first.etag, modified=first.modified)
    assert again.content is None and web.asked[-1][2] == '"1"'


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (Page(b"x" * 1001), "more than 1000 octets"),
        (Page(status=500), "HTTP 500"),
        (Page(status=302, headers={"Location": "http://127.0.0.1/elsewhere"}), "HTTP 302"),
        (Page(b"\x1f\x8b", headers={"Content-Encoding": "gzip"}), "compressed"),
    ],
)
def test_what_is_not_asked_for_is_refused(web: Web, page: Page, text: str) -> None:
    web.pages["/x"] = page
    with pytest.raises(FetchFailed, match=text):
        get(web)


def test_two_hundred_megabytes_stop_at_the_bound(web: Web) -> None:
    web.pages["/x"] = Page(b"x" * 1024 * 1024, pieces=200)
    began = time.perf_counter()
    with pytest.raises(FetchFailed, match="more than"):
        get(web, size=2 * 1024 * 1024)
    assert time.perf_counter() - began < 5


def test_a_body_that_drips_ends_in_time(web: Web) -> None:
    web.pages["/x"] = Page(b".", pieces=200, pause=0.1)
    began = time.perf_counter()
    with pytest.raises(FetchFailed, match="no answer within"):
        get(web, seconds=0.6)
    assert time.perf_counter() - began < 3


def test_nobody_there(web: Web) -> None:
    with pytest.raises(FetchFailed, match=r"127\.0\.0\.1: ConnectError"):
        Fetcher().get("http://127.0.0.1:1/x", size=1, seconds=5)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ldap://annuaire.example/x",
        "http://",
        "http://[",
        "http://a b/",
        "http://x:99999/",
        "http://crl.practice.invalid/x.crl",
        "http://é.fr/",
        "gopher://x/",
    ],
)
def test_addresses_that_are_not_fetched(url: str) -> None:
    assert not is_usable(url)
    with pytest.raises(FetchFailed):
        Fetcher().get(url, size=1, seconds=1)


def test_inside_a_running_loop(web: Web) -> None:
    web.pages["/x"] = Page(b"body")

    async def inside() -> bytes | None:
        return get(web)

    assert asyncio.run(inside()) == b"body"


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory) -> PracticeAuthority:
    return PracticeAuthority.create(tmp_path_factory.mktemp("today"), at=NOW - timedelta(days=1))


def _tls(authority: PracticeAuthority) -> Callable[[], ssl.SSLContext]:
    anchors = Anchors.load(authority.folder)
    return lambda: client_context(None, None, anchors, check_hostname=True)


def test_https_verifies_chain_and_name(today: PracticeAuthority, tmp_path: Path) -> None:
    other = PracticeAuthority.create(tmp_path / "other", at=NOW - timedelta(days=1))
    issued = today.issue_server("liste.example", "X", "1750000018", "Paris (75)", ips=["127.0.0.1"], at=NOW)
    with serving(server_context(issued.chain, issued.key)) as web:
        web.pages["/x"] = Page(b"body")
        got = Fetcher(tls=_tls(today)).get(web.url("/x"), size=10, seconds=5)
        assert (got.content, got.peer) == (b"body", issued.certificate)
        with pytest.raises(FetchFailed, match="certificate refused"):
            Fetcher(tls=_tls(other)).get(web.url("/x"), size=10, seconds=5)
        with pytest.raises(FetchFailed, match="certificate refused"):
            Fetcher(tls=_tls(today)).get(web.url("/x", "localhost"), size=10, seconds=5)
        with pytest.raises(FetchFailed, match="no anchors"):
            Fetcher().get(web.url("/x"), size=10, seconds=5)
