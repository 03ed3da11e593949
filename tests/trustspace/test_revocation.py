"""Deltas and OCSP: what adds up to GOOD, what to REVOKED, and everything that must stay UNKNOWN."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.smtp.world import free_port
from tests.trustspace.authorities import ROOT, crl, issuer_of, leaf, ocsp_answer
from tests.trustspace.conftest import AT
from tests.trustspace.web import Page, serving
from trustspace import (
    Anchors,
    Fetcher,
    Issued,
    OnlineRules,
    OnlineSources,
    PathReason,
    PathValidator,
    PracticeAuthority,
    Usage,
    pem,
)
from trustspace.ocsp import MAX_ANSWER, question, read_answer
from trustspace.revocation import RevocationIndex, Status

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
HOLD, REMOVED = x509.ReasonFlags.certificate_hold, x509.ReasonFlags.remove_from_crl
Answer = ocsp.OCSPCertStatus


@pytest.fixture(scope="module")
def issuer(authority: PracticeAuthority) -> Issued:
    return issuer_of(authority)


@pytest.fixture(scope="module")
def one(issuer: Issued) -> Issued:
    return leaf(issuer, AT)


def status(one: Issued, issuer: Issued, *lists: x509.CertificateRevocationList, at: datetime = AT) -> Status:
    return RevocationIndex(lists).status(one.certificate, issuer.certificate, at)


def test_deltas(one: Issued, issuer: Issued) -> None:
    other = leaf(issuer, AT, cn="other.example")
    full = crl(issuer, AT, 10)
    held = crl(issuer, AT, 10, [(one.certificate, HOLD)])
    adds = crl(issuer, AT, 12, [(one.certificate, None)], base=10)
    lifts = crl(issuer, AT, 12, [(one.certificate, REMOVED)], base=10)
    assert status(one, issuer, full) is Status.GOOD
    assert status(one, issuer, full, adds) is status(one, issuer, adds, full) is Status.REVOKED
    assert status(other, issuer, full, adds) is Status.GOOD
    assert status(one, issuer, held) is Status.REVOKED
    assert status(one, issuer, held, lifts) is Status.GOOD
    assert status(one, issuer, adds, crl(issuer, AT, 9)) is Status.REVOKED, "revoked by any delta in force"
    assert status(other, issuer, adds) is Status.UNKNOWN, "a delta alone vouches for nobody"


def test_a_delta_lifts_only_what_it_completes(one: Issued, issuer: Issued) -> None:
    held = crl(issuer, AT, 10, [(one.certificate, HOLD)])
    for number, base in ((12, 11), (10, 9), (9, 8)):
        lifts = crl(issuer, AT, number, [(one.certificate, REMOVED)], base=base)
        assert status(one, issuer, held, lifts) is Status.REVOKED, (number, base)
    over = crl(issuer, AT - 8 * DAY, 12, [(one.certificate, REMOVED)], base=10)
    assert status(one, issuer, held, over) is Status.REVOKED, "a delta out of date lifts nothing"


def test_good_ends_with_the_first_of_the_lists_that_made_it(one: Issued, issuer: Issued) -> None:
    full, delta = crl(issuer, AT, 10), crl(issuer, AT, 12, base=10, days=1)
    finding = RevocationIndex([full, delta]).look(one.certificate, issuer.certificate, AT)
    assert finding.until == AT + DAY and "CRL 10" in finding.source and "delta CRL 12" in finding.source
    assert status(one, issuer, full, delta, at=AT + 2 * DAY) is Status.GOOD, "the full list is still in force"
    assert status(one, issuer, full, at=AT + 8 * DAY) is Status.UNKNOWN


def test_the_validator_uses_deltas(authority: PracticeAuthority, one: Issued, issuer: Issued) -> None:
    root = crl(issuer_of(authority, ROOT), AT, 1)
    anchors = Anchors.load(authority.folder)
    for lists, wanted in (
        ([crl(issuer, AT, 10)], PathReason.TRUSTED),
        ([crl(issuer, AT, 10), crl(issuer, AT, 12, [(one.certificate, None)], base=10)], PathReason.REVOKED),
        ([crl(issuer, AT, 12, base=10)], PathReason.REVOCATION_UNKNOWN),
    ):
        verdict = PathValidator(anchors, [root, *lists]).check(one.certificate, at=AT, usage=Usage.TLS_CLIENT)
        assert verdict.reason is wanted


def test_a_critical_entry_extension_forbids_the_list(one: Issued, issuer: Issued) -> None:
    """RFC 5280 §5.3: an entry that cannot be understood (an indirect CRL's) makes the whole list unusable."""
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.certificate.subject)
    builder = builder.last_update(AT - HOUR).next_update(AT + DAY)
    entry = x509.RevokedCertificateBuilder().serial_number(5).revocation_date(AT - HOUR)
    entry = entry.add_extension(x509.CertificateIssuer([x509.DirectoryName(issuer.certificate.subject)]), critical=True)
    assert status(one, issuer, builder.add_revoked_certificate(entry.build()).sign(issuer.key, hashes.SHA256())) is (
        Status.UNKNOWN
    )


def found(content: bytes, one: Issued, issuer: Issued, at: datetime = AT) -> Status:
    return read_answer(content, one.certificate, issuer.certificate, at).status


def test_ocsp_answers(one: Issued, issuer: Issued, foreign: PracticeAuthority) -> None:
    other = leaf(issuer, AT, cn="other.example")
    good = ocsp_answer(one.certificate, issuer, AT)
    assert found(good, one, issuer) is Status.GOOD
    assert read_answer(good, one.certificate, issuer.certificate, AT).until == AT + 12 * HOUR
    assert found(good, other, issuer) is Status.UNKNOWN, "about another certificate"
    assert found(good, one, issuer, AT + 13 * HOUR) is Status.UNKNOWN, "out of date"
    assert found(good, one, issuer, AT - HOUR) is Status.UNKNOWN, "from the future"
    endless = ocsp_answer(one.certificate, issuer, AT, hours=None)
    assert found(endless, one, issuer) is Status.GOOD and found(endless, one, issuer, AT + 2 * HOUR) is Status.UNKNOWN
    revoked = ocsp_answer(one.certificate, issuer, AT, status=Answer.REVOKED)
    assert found(revoked, one, issuer) is Status.REVOKED
    assert found(revoked, one, issuer, AT + 30 * DAY) is Status.REVOKED, "a revocation does not age"
    assert found(ocsp_answer(one.certificate, issuer, AT, status=Answer.UNKNOWN), one, issuer) is Status.UNKNOWN
    namesake = issuer_of(foreign)  # the same name, another key
    assert found(ocsp_answer(one.certificate, namesake, AT), one, issuer) is Status.UNKNOWN
    assert found(ocsp_answer(one.certificate, issuer, AT, responder=namesake), one, issuer) is Status.UNKNOWN
    busy = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER)
    assert found(busy.public_bytes(Encoding.DER), one, issuer) is Status.UNKNOWN
    assert found(b"", one, issuer) is found(good + b"x" * MAX_ANSWER, one, issuer) is Status.UNKNOWN


def test_ocsp_responders(one: Issued, issuer: Issued, foreign: PracticeAuthority) -> None:
    signing = (ExtendedKeyUsageOID.OCSP_SIGNING,)
    right = leaf(issuer, AT, cn="ocsp", extended=signing)
    assert found(ocsp_answer(one.certificate, issuer, AT, responder=right), one, issuer) is Status.GOOD
    for wrong in (
        leaf(issuer, AT, cn="not for OCSP"),
        leaf(issuer, AT, cn="no usage", extended=()),
        leaf(issuer, AT - 30 * DAY, cn="expired", days=1, extended=signing),
        leaf(issuer_of(foreign), AT, cn="foreign", extended=signing),
    ):
        assert found(ocsp_answer(one.certificate, issuer, AT, responder=wrong), one, issuer) is Status.UNKNOWN


@settings(max_examples=150)
@given(st.data())
def test_a_damaged_answer_never_says_good(authority: PracticeAuthority, data: st.DataObject) -> None:
    issuer = issuer_of(authority)
    certificate = issuer.certificate
    answer = ocsp_answer(certificate, issuer_of(authority, ROOT), AT)
    place = data.draw(st.integers(0, len(answer) - 1))
    damaged = answer[:place] + bytes([answer[place] ^ data.draw(st.integers(1, 255))]) + answer[place + 1 :]
    said = read_answer(damaged, certificate, issuer_of(authority, ROOT).certificate, AT).status
    intact = ocsp.load_der_ocsp_response(answer)
    try:
        same = ocsp.load_der_ocsp_response(damaged).tbs_response_bytes == intact.tbs_response_bytes
    except ValueError:
        same = False
    assert said is Status.UNKNOWN or same, "only what is outside the signed part may differ"


def validator(authority: PracticeAuthority, *, rules: OnlineRules | None = None, bare: bool = False) -> PathValidator:
    """A validator that has the root's CRL only, and the network."""
    anchors = Anchors(authority.anchors) if bare else Anchors.load(authority.folder)
    online = OnlineSources(Fetcher(), rules or OnlineRules(seconds=2))
    return PathValidator(anchors, [crl(issuer_of(authority, ROOT), AT, 1)], online=online)


def test_ocsp_answers_when_no_crl_does_and_is_remembered(authority: PracticeAuthority, issuer: Issued) -> None:
    with serving() as web:
        one = leaf(issuer, AT, ocsps=[web.url("/ocsp")], crls=[web.url("/a.crl")])
        web.pages["/ocsp"] = Page(ocsp_answer(one.certificate, issuer, AT))
        checker = validator(authority)
        verdict = checker.check(one.certificate, at=AT, usage=Usage.TLS_CLIENT)
        assert verdict.trusted and verdict.evidence[0].startswith("OCSP")
        for minutes in range(2, 30):
            assert checker.check(one.certificate, at=AT + timedelta(minutes=minutes), usage=Usage.TLS_CLIENT).trusted
        assert len(web.asked) == 1
        assert checker._online is not None and checker._online.wanted_crls() == (web.url("/a.crl"),)  # type: ignore[attr-defined]
        web.pages["/ocsp"] = Page(ocsp_answer(one.certificate, issuer, AT, status=Answer.REVOKED))
        verdict = validator(authority).check(one.certificate, at=AT, usage=Usage.TLS_CLIENT)
        assert (verdict.reason, verdict.failing_subject.split(",")[0]) == ("REVOKED", "CN=mss.hopital-a.example")


@pytest.mark.parametrize(
    "page", [Page(status=500), Page(b"<html>"), Page(b"x" * 100_000), Page(b".", pieces=99, pause=0.2)]
)
def test_no_answer_is_unknown_quickly_and_not_asked_at_each_connection(
    authority: PracticeAuthority, issuer: Issued, page: Page
) -> None:
    with serving() as web:
        one = leaf(issuer, AT, ocsps=[web.url("/ocsp")])
        web.pages["/ocsp"] = page
        checker = validator(authority, rules=OnlineRules(seconds=0.5))
        began = time.perf_counter()
        for _ in range(20):
            verdict = checker.check(one.certificate, at=AT, usage=Usage.TLS_CLIENT)
            assert verdict.reason is PathReason.REVOCATION_UNKNOWN
        assert len(web.asked) == 1 and time.perf_counter() - began < 4


def test_ocsp_can_be_switched_off(authority: PracticeAuthority, issuer: Issued) -> None:
    with serving() as web:
        one = leaf(issuer, AT, ocsps=[web.url("/ocsp")])
        checker = validator(authority, rules=OnlineRules(ocsp=False))
        assert not checker.check(one.certificate, at=AT, usage=Usage.TLS_CLIENT).trusted
        assert not web.asked


def test_a_stapled_answer_is_accepted_and_judged_like_any(
    authority: PracticeAuthority, one: Issued, issuer: Issued
) -> None:
    anchors, root = Anchors.load(authority.folder), crl(issuer_of(authority, ROOT), AT, 1)
    good = ocsp_answer(one.certificate, issuer, AT)
    revoked = ocsp_answer(one.certificate, issuer, AT, status=Answer.REVOKED)

    def reason(stapled: bytes | None, *lists: x509.CertificateRevocationList) -> PathReason:
        checker = PathValidator(anchors, [root, *lists])
        return checker.check(one.certificate, at=AT, usage=Usage.TLS_CLIENT, stapled=stapled).reason

    assert reason(None) is PathReason.REVOCATION_UNKNOWN
    assert reason(good) is PathReason.TRUSTED
    assert reason(b"nonsense") is PathReason.REVOCATION_UNKNOWN
    assert reason(revoked, crl(issuer, AT, 1)) is PathReason.REVOKED, "newer news than the CRL's"
    assert reason(good, crl(issuer, AT, 1, [(one.certificate, None)])) is PathReason.REVOKED, "a peer cannot whitewash"
    checker = PathValidator(anchors, [root, crl(issuer, AT, 1)])
    assert checker.check(one.certificate, at=AT, usage=Usage.TLS_CLIENT).trusted
    again = checker.check(one.certificate, at=AT, usage=Usage.TLS_CLIENT, stapled=revoked)
    assert again.reason is PathReason.REVOKED, "also when a good verdict is remembered"


def p7c(certificates: list[x509.Certificate]) -> bytes:
    return pkcs7.serialize_certificates(certificates, Encoding.DER)


def test_a_missing_issuer_is_fetched_from_known_hosts_only(authority: PracticeAuthority, issuer: Issued) -> None:
    certificate = issuer.certificate
    with serving() as web:
        one = leaf(issuer, AT, above=[web.url("/ca.cer")])
        lists = [crl(issuer_of(authority, ROOT), AT, 1), crl(issuer, AT, 1)]

        def reason(rules: OnlineRules) -> PathReason:
            online = OnlineSources(Fetcher(), rules)
            checker = PathValidator(Anchors(authority.anchors), lists, online=online)
            return checker.check(one.certificate, at=AT, usage=Usage.TLS_CLIENT).reason

        known = OnlineRules(hosts=frozenset({"127.0.0.1"}))
        for body in (certificate.public_bytes(Encoding.DER), pem.chain_to_pem((certificate,)), p7c([certificate])):
            web.pages["/ca.cer"] = Page(body)
            assert reason(known) is PathReason.TRUSTED
        asked = len(web.asked)
        assert reason(OnlineRules()) is PathReason.UNTRUSTED, "a host that nobody we trust names"
        assert reason(OnlineRules(aia=False, hosts=known.hosts)) is PathReason.UNTRUSTED
        assert len(web.asked) == asked, "and nothing was asked of it"
        for bad in (b"", b"<html>", b"\x30\x80" * 5000, b"x" * 100_000, one.certificate.public_bytes(Encoding.DER)):
            web.pages["/ca.cer"] = Page(bad)
            assert reason(known) is PathReason.UNTRUSTED


def test_a_loop_of_issuers_ends(authority: PracticeAuthority) -> None:
    """Authorities that certify one another, each naming the other's address."""
    with serving() as web:
        above = [web.url("/ca.cer")]
        first = issuer_of(authority)
        ring = leaf(first, AT, cn="RING", above=above, ca=True)
        one = leaf(ring, AT, above=above)
        web.pages["/ca.cer"] = Page(p7c([ring.certificate] * 8))
        online = OnlineSources(Fetcher(), OnlineRules(hosts=frozenset({"127.0.0.1"})))
        checker = PathValidator(Anchors(authority.anchors), [], online=online)
        assert not checker.check(one.certificate, at=AT, usage=Usage.TLS_CLIENT).trusted
        assert len(web.asked) <= 2


@contextlib.contextmanager
def openssl_responder(folder: Path, issuer: Issued, lines: list[str]) -> Iterator[str]:
    """`openssl ocsp`: somebody else's responder, over its own index file."""
    (folder / "index.txt").write_text("".join(line + "\n" for line in lines))
    pem.write_public(folder / "ca.pem", pem.chain_to_pem((issuer.certificate,)))
    pem.write_private(folder / "ca.key", pem.key_to_pem(issuer.key))
    port = free_port()
    command = ["openssl", "ocsp", "-port", str(port), "-index", "index.txt", "-CA", "ca.pem", "-rsigner"]
    command += ["ca.pem", "-rkey", "ca.key", "-nmin", "60", "-ignore_err"]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ
    )
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(10)


def test_openssl_answers_our_questions(tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    authority = PracticeAuthority.create(tmp_path / "pki", at=now - DAY)
    issuer = issuer_of(authority)
    good, revoked, absent = (leaf(issuer, now, cn=cn) for cn in ("good", "revoked", "absent"))
    end = (now + 300 * DAY).strftime("%y%m%d%H%M%SZ")
    past = (now - HOUR).strftime("%y%m%d%H%M%SZ")
    lines = [
        f"V\t{end}\t\t{good.certificate.serial_number:X}\tunknown\t/CN=good",
        f"R\t{end}\t{past}\t{revoked.certificate.serial_number:X}\tunknown\t/CN=revoked",
    ]
    lines = [
        line.replace(hex_, hex_.zfill(len(hex_) + len(hex_) % 2)) for line in lines for hex_ in [line.split("\t")[3]]
    ]
    with openssl_responder(tmp_path, issuer, lines) as url:
        fetcher = Fetcher()
        answers = []
        for one in (good, revoked, absent):
            for attempt in range(50):
                try:
                    der = question(one.certificate, issuer.certificate)
                    answer = fetcher.post(url, der, "application/ocsp-request", size=MAX_ANSWER, seconds=5)
                    break
                except Exception:
                    if attempt == 49:
                        raise
                    time.sleep(0.1)
            answers.append(
                read_answer(answer.content or b"", one.certificate, issuer.certificate, datetime.now(UTC)).status
            )
    assert answers == [Status.GOOD, Status.REVOKED, Status.UNKNOWN]
