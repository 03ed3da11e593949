"""Downloading for real, over HTTPS and HTTP on loopback: what is taken, what is refused, and that nothing good is lost."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.trustspace.authorities import ROOT, crl, issuer_of, leaf
from tests.trustspace.web import Page, Web, serving
from trustspace import (
    Fetcher,
    Freshness,
    ListedDomain,
    PracticeAuthority,
    Purpose,
    Refresher,
    Schedule,
    TrustSpace,
    client_context,
    server_context,
)
from trustspace.downloads import read_downloads
from trustspace.history import ListHistory, Outcome
from trustspace.loading import HISTORY_FOLDER
from trustspace.refresher import Kind, Result
from trustspace.signing import sign_white_list

# OpenSSL looks at the clock itself during handshakes: these tests live today.
NOW = datetime.now(UTC).replace(microsecond=0)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
PATH = "/listeblanchemssante.xml"


class Place:
    """An authority, an operator's trust folder, and the host of the list."""

    def __init__(self, authority: PracticeAuthority, folder: Path, web: Web) -> None:
        self.authority, self.folder, self.web = authority, folder, web
        self.ticks = 0.0
        self.space = TrustSpace(folder, signer_cn="alb.practice", practice=True, monotonic=lambda: self.ticks)
        self.refresher = self.make()

    def make(self, *crl_urls: str, wanted: Callable[[], tuple[str, ...]] = tuple) -> Refresher:
        """A refresher, as a restarted process would make one."""
        anchors = lambda: client_context(None, None, self.space.anchors_for(Purpose.DOWNLOAD), check_hostname=True)  # noqa: E731
        schedule = Schedule(list_url=self.web.url(PATH), crl_urls=crl_urls, seconds=5)
        return Refresher(self.space, Fetcher(tls=anchors), schedule, wanted_crls=wanted)

    def offer(self, *domains: str, at: datetime = NOW, etag: str = "") -> bytes:
        """Put a signed list on the host."""
        entries = [ListedDomain.of(domain, self.authority.list_signer) for domain in domains]
        xml = sign_white_list(entries, at=at, key=self.authority.signer.key, certificate=self.authority.list_signer)
        self.web.pages[PATH] = Page(xml, etag=etag)
        return xml

    def tick(self, at: datetime = NOW, *, force: bool = True) -> tuple[Result, str]:
        """The outcome of the list's download."""
        outcome = next(one for one in self.refresher.tick(at, force=force) if one.kind is Kind.LIST)
        return outcome.result, outcome.detail

    def listed(self) -> set[str]:
        white_list = self.space.white_list
        return set(white_list.names) if white_list is not None else set()

    def history(self) -> list[tuple[Outcome, str]]:
        return [(line.outcome, line.reason) for line in ListHistory(self.folder / HISTORY_FOLDER).lines()]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    authority = PracticeAuthority.create(tmp_path / "pki", at=NOW - DAY)
    authority.copy_trust(tmp_path / "trust")
    host = authority.issue_server("liste.example", "X", "1750000018", "Paris (75)", ips=["127.0.0.1"], at=NOW - DAY)
    with serving(server_context(host.chain, host.key)) as web:
        place = Place(authority, tmp_path / "trust", web)
        place.host = host.certificate  # type: ignore[attr-defined]
        yield place


def test_a_list_comes_and_is_in_force_at_once(place: Place) -> None:
    place.offer("a.mssante.example", etag='"1"')
    assert place.tick()[0] is Result.NEW
    assert place.listed() == {"a.mssante.example"}
    assert place.tick(NOW + HOUR) == (Result.UNCHANGED, "")
    assert place.web.asked[-1] == ("GET", PATH, '"1"'), "asked for with the validator"
    assert place.space.state(NOW + HOUR).list_age == timedelta(0), "confirmed is as good as brought"
    place.offer("a.mssante.example", "b.mssante.example", at=NOW + HOUR, etag='"2"')
    assert place.tick(NOW + HOUR)[0] is Result.NEW
    assert place.listed() == {"a.mssante.example", "b.mssante.example"}
    assert place.history() == [(Outcome.ACCEPTED, "")] * 2


def test_a_validator_is_not_used_for_another_file(place: Place) -> None:
    place.offer("a.mssante.example", etag='"1"')
    place.tick()
    (place.folder / "listeblanche.xml").write_bytes(b"damaged")
    place.refresher = place.make()
    assert place.tick(NOW + HOUR)[0] is Result.UNCHANGED, "the list in force, brought whole"
    assert place.web.asked[-1][2] == ""
    assert place.space.alarm is None


def test_the_cadence(place: Place) -> None:
    place.offer("a.mssante.example")
    assert [one.kind for one in place.refresher.tick(NOW)] == [Kind.LIST]
    assert place.refresher.tick(NOW + 14 * MINUTE) == []
    assert len(place.refresher.tick(NOW + 15 * MINUTE)) == 1
    place.web.pages[PATH] = Page(status=503)
    assert place.refresher.tick(NOW + 30 * MINUTE)[0].result is Result.FAILED
    assert place.make().tick(NOW + 34 * MINUTE) == [], "also after a restart"
    assert len(place.refresher.tick(NOW + 35 * MINUTE)) == 1, "a failure is tried again sooner"
    place.offer("a.mssante.example")
    assert place.make().tick(NOW + 40 * MINUTE)[0].result is Result.UNCHANGED
    assert read_downloads(place.folder)[place.web.url(PATH)].error == ""


def test_every_bad_answer_leaves_the_list_in_force_and_says_why(place: Place, tmp_path: Path) -> None:
    good = place.offer("a.mssante.example")
    place.tick()
    foreign = PracticeAuthority.create(tmp_path / "foreign", at=NOW - DAY)
    evil = [ListedDomain.of("evil.mssante.example", place.authority.list_signer)]
    bomb = b'<!DOCTYPE b [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><ListeBlancheMSSante>&b;</ListeBlancheMSSante>'
    xxe = b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>' + good.partition(b"?>")[2]
    bad = {
        "HTTP 500": Page(status=500),
        "HTTP 302": Page(status=302, headers={"Location": place.web.url("/x")}),
        "more than": Page(b"<a/>" * (1024 * 1024), pieces=50),
        "NOT_XML": Page(bomb),
        "the file has a document type": Page(xxe),
        "WRONG_ROOT": Page(b"<html xmlns='http://www.w3.org/1999/xhtml'><body>Maintenance</body></html>"),
        "UNSIGNED": Page(re.sub(rb"<Signature .*</Signature>", b"", good, flags=re.DOTALL)),
        "SIGNATURE_INVALID": Page(good.replace(b"a.mssante", b"z.mssante")),
        "SIGNER_UNTRUSTED": Page(foreign.publish_white_list(evil, NOW + MINUTE)),
        "SIGNATURE_SHAPE": Page(re.sub(rb"(<Signature .*</Signature>)", rb"\1\1", good, flags=re.DOTALL)),
        "ROLLED_BACK": Page(place.offer("old.mssante.example", at=NOW - HOUR)),
        "FROM_THE_FUTURE": Page(place.offer("new.mssante.example", at=NOW + 3 * HOUR)),
    }
    before = (place.folder / "listeblanche.xml").read_bytes()
    for text, page in bad.items():
        place.web.pages[PATH] = page
        result, detail = place.tick(NOW + MINUTE)
        assert result in {Result.REFUSED, Result.FAILED} and text in detail
        assert place.listed() == {"a.mssante.example"}
        assert (place.folder / "listeblanche.xml").read_bytes() == before, "nothing is half applied"
        assert text in read_downloads(place.folder)[place.web.url(PATH)].error
    assert place.space.freshness(NOW + 25 * HOUR) is Freshness.AGEING, "refusals do not confirm anything"
    reasons = [reason.partition(":")[0] for outcome, reason in place.history() if outcome is Outcome.REFUSED]
    assert reasons[-1] == "FROM_THE_FUTURE" and len(reasons) == 9
    place.offer("b.mssante.example", at=NOW + MINUTE)
    assert place.tick(NOW + MINUTE)[0] is Result.NEW


def test_clock_skew_of_an_hour_is_tolerated(place: Place) -> None:
    place.offer("a.mssante.example", at=NOW + timedelta(minutes=59))
    assert place.tick()[0] is Result.NEW


def test_an_expired_or_revoked_signer(place: Place) -> None:
    place.offer("a.mssante.example")
    place.tick()
    place.offer("late.mssante.example", at=NOW + 4 * 365 * DAY)
    assert "SIGNER_UNTRUSTED: the signer is not trusted: EXPIRED" in place.tick(NOW + MINUTE)[1]
    place.authority.revoke(place.authority.list_signer, NOW)
    place.authority.copy_trust(place.folder)
    place.offer("b.mssante.example", at=NOW + MINUTE)
    assert "SIGNER_REVOKED" in place.tick(NOW + MINUTE)[1]
    assert place.listed() == {"a.mssante.example"}


def test_the_host_of_the_list_is_checked_for_revocation(place: Place) -> None:
    place.offer("a.mssante.example")
    assert place.tick()[0] is Result.NEW
    place.authority.revoke(place.host, NOW)  # type: ignore[attr-defined]
    place.authority.copy_trust(place.folder)
    place.ticks += 2
    place.offer("b.mssante.example", at=NOW + MINUTE)
    result, detail = place.tick(NOW + MINUTE)
    assert (result, detail.partition(" CN")[0]) == (Result.REFUSED, "certificate of the list's host: REVOKED")


def test_import_is_a_download_by_hand(place: Place) -> None:
    first = place.offer("a.mssante.example")
    assert place.refresher.install_list(first, NOW)
    assert not place.refresher.install_list(first, NOW + HOUR)
    assert place.space.state(NOW + HOUR).list_age == timedelta(0)


def test_crls_from_settings_certificates_and_decisions(place: Place) -> None:
    issuer, root = issuer_of(place.authority), issuer_of(place.authority, ROOT)
    with serving() as web:
        one = leaf(issuer, NOW, crls=[web.url("/met.crl")], deltas=[web.url("/delta.crl")])
        place.refresher = Refresher(
            place.space,
            Fetcher(),
            Schedule(crl_urls=(web.url("/settings.crl"),)),
            certificates=lambda: [one.certificate],
            wanted_crls=lambda: (web.url("/wanted.crl"),),
        )
        for path, made in {
            "/settings.crl": crl(root, NOW, 5),
            "/met.crl": crl(issuer, NOW, 6),
            "/delta.crl": crl(issuer, NOW, 8, base=6),
            "/wanted.crl": crl(issuer, NOW, 6),
        }.items():
            web.pages[path] = Page(made.public_bytes(Encoding.DER))
        outcomes = place.refresher.tick(NOW)
        assert {one.url.rpartition("/")[2]: one.result for one in outcomes} == dict.fromkeys(
            ["settings.crl", "met.crl", "delta.crl", "wanted.crl"], Result.NEW
        )
        assert {"settings.crl", "met.crl", "delta.crl", "wanted.crl"} <= {
            p.name for p in (place.folder / "crl").iterdir()
        }
        again = Refresher(place.space, Fetcher(), Schedule())
        assert {one.url for one in again.tick(NOW + 2 * HOUR)} >= {web.url("/wanted.crl")}, "what was met is kept fresh"


def test_the_last_valid_crl_is_kept_and_a_new_one_counts_at_once(place: Place) -> None:
    """ECO.1.1.7, for each way in which a download can be bad."""
    issuer = issuer_of(place.authority)
    victim = leaf(issuer, NOW)
    with serving() as web:
        url = web.url("/TEST-ACI-EL-ORG.crl")
        refresher = Refresher(place.space, Fetcher(), Schedule(crl_urls=(url,)))

        def offer(content: bytes, at: datetime = NOW) -> tuple[Result, str]:
            web.pages["/TEST-ACI-EL-ORG.crl"] = Page(content)
            (outcome,) = refresher.tick(at, force=True)
            return outcome.result, outcome.detail

        def der(made: x509.CertificateRevocationList) -> bytes:
            return made.public_bytes(Encoding.DER)

        revoking = crl(issuer, NOW, 9, [(victim.certificate, None)])
        assert offer(der(revoking)) == (Result.NEW, "")
        place.ticks += 2
        check = place.space.path_checker("tls-client")
        assert check(victim.certificate, (), NOW).reason == "REVOKED", "at the next decision, without restart"
        kept = (place.folder / "crl" / "TEST-ACI-EL-ORG.crl").read_bytes()
        forged = PracticeAuthority.create(place.folder.parent / "forged", at=NOW - DAY)
        for content, reason in (
            (b"", "neither a PEM nor a DER"),
            (b"<html>", "neither a PEM nor a DER"),
            (kept[:-5], "neither a PEM nor a DER"),
            (der(crl(issuer_of(forged), NOW + HOUR, 99)), "not signed by the authority it names"),
            (der(crl(issuer, NOW, 8, back=HOUR)), "older than the CRL in force"),
            (der(crl(issuer, NOW - 9 * DAY, 8)), "out of date"),
            (der(crl(victim, NOW, 1)), "of an authority we do not know"),
        ):
            result, detail = offer(content)
            assert (result, reason in detail) == (Result.REFUSED, True), detail
            assert (place.folder / "crl" / "TEST-ACI-EL-ORG.crl").read_bytes() == kept
        web.pages.clear()
        assert refresher.tick(NOW, force=True)[0].result is Result.FAILED
        assert check(victim.certificate, (), NOW).reason == "REVOKED"


def test_names_of_files_cannot_leave_the_folder(place: Place) -> None:
    issuer = issuer_of(place.authority)
    with serving() as web:
        paths = ["/..%2f..%2fx", "/a/../../../etc/cron.crl", "/.hidden.crl", "/?q=/x.crl", "/one/x.crl", "/two/x.crl"]
        for path in paths:
            web.pages[path] = Page(crl(issuer, NOW, 9).public_bytes(Encoding.DER))
        urls = tuple(web.url(path) for path in paths)
        Refresher(place.space, Fetcher(), Schedule(crl_urls=urls)).tick(NOW)
        names = {one.file for one in read_downloads(place.folder).values()}
        assert len(names) == len(paths) and all(
            re.fullmatch(r"[A-Za-z0-9_%-][A-Za-z0-9._-]*\.crl", one) for one in names
        )
        written = {path.name for path in (place.folder / "crl").iterdir()}
        assert {path.name for path in place.folder.parent.iterdir()} == {"pki", "trust"} and "x.crl" in written
