"""The trust space over time: reloads, bad files, roll-back, staleness, revocation."""

from __future__ import annotations

import base64
import os
import re
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.trustspace.conftest import AT, new_server
from trustspace import Freshness, Issued, ListedDomain, PracticeAuthority, TrustSpace, TrustUnavailable, Usage, pem
from trustspace.signing import sign_white_list

DOMAIN = "hopital-a.mssante.example"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class World:
    """An authority, an operator's folder and a trust space whose monotonic clock the test drives."""

    def __init__(self, authority: PracticeAuthority, folder: Path) -> None:
        self.authority = authority
        self.folder = folder
        self.server = new_server(authority)
        self.ticks = 0.0
        self.space = TrustSpace(folder, signer_cn="alb.practice", practice=True, monotonic=lambda: self.ticks)

    def publish(self, *entries: ListedDomain, at: datetime = AT) -> None:
        self.authority.publish_white_list(entries or [ListedDomain.of(DOMAIN, self.server.certificate)], at)
        self.give()

    def give(self) -> None:
        self.authority.copy_trust(self.folder)
        self.ticks += 2

    def overwrite(self, content: bytes, at: datetime = AT) -> None:
        path = self.folder / "listeblanche.xml"
        path.write_bytes(content)
        os.utime(path, (at.timestamp(), at.timestamp()))
        self.ticks += 2

    def rule(self, at: datetime = AT, domain: str = DOMAIN, issued: Issued | None = None) -> tuple[bool, bool, str]:
        decision = self.space.authorise((issued or self.server).certificate, domain, at)
        return decision.allowed, decision.temporary, decision.rule


@pytest.fixture
def world(fresh: PracticeAuthority, tmp_path: Path) -> World:
    return World(fresh, tmp_path / "trust")


def test_an_empty_folder_answers_for_now(world: World) -> None:
    assert world.rule() == (False, True, "NO_TRUST_ANCHORS")
    with pytest.raises(TrustUnavailable):
        world.space.is_listed(DOMAIN, AT)
    with pytest.raises(TrustUnavailable):
        _ = world.space.anchors
    world.give()
    assert world.rule() == (False, True, "NO_WHITE_LIST")
    world.publish()
    assert world.rule() == (True, False, "LISTED")
    assert world.space.alarm is None


def test_audit_cases_of_the_national_space(world: World, foreign: PracticeAuthority) -> None:
    """The cases that the national audit domains try on operators (mssante.md §1.3)."""
    authority, at = world.authority, AT
    expired = authority.issue_server(
        "mss.hopital-a.example", "HOPITAL A", "1750000018", "Paris (75)", at=at - 1200 * DAY
    )
    revoked = new_server(authority)
    authority.revoke(revoked.certificate, at)
    world.publish()
    assert world.rule() == (True, False, "LISTED")
    assert world.rule(issued=expired) == (False, False, "CERTIFICATE_EXPIRED")
    assert world.rule(issued=revoked) == (False, False, "CERTIFICATE_REVOKED")
    assert world.rule(issued=new_server(foreign)) == (False, False, "CERTIFICATE_UNTRUSTED")
    assert world.rule(issued=new_server(authority, "mss.inconnu.example"))[2] == "CERTIFICATE_NOT_LISTED"
    assert world.rule(issued=new_server(authority, organisation="HOPITAL Z"))[2] == "CERTIFICATE_NOT_LISTED"
    assert world.rule(domain="autre.mssante.example")[2] == "DOMAIN_NOT_LISTED"
    client = authority.issue_organisation(
        "mss.hopital-a.example", "HOPITAL A", "1750000018", "Paris (75)", usage="auth", at=at
    )
    assert world.rule(issued=client)[0]
    assert not world.space.authorise(client.certificate, DOMAIN, at, usage=Usage.TLS_SERVER).allowed


def test_a_new_list_is_seen_within_a_second(world: World) -> None:
    world.publish()
    assert world.space.is_listed(DOMAIN, AT)
    world.publish(ListedDomain.of("nouveau.mssante.example", world.server.certificate), at=AT + HOUR)
    world.ticks -= 2
    assert world.space.is_listed(DOMAIN, AT + HOUR)
    world.ticks += 1
    assert not world.space.is_listed(DOMAIN, AT + HOUR)
    assert world.space.is_listed("NOUVEAU.mssante.example", AT + HOUR)
    white_list = world.space.white_list
    assert white_list is not None
    decision = world.space.authorise(world.server.certificate, "nouveau.mssante.example", AT + HOUR)
    assert decision.list_digest == white_list.digest and len(decision.list_digest) == 64


@pytest.mark.parametrize("garbage", [b"", b"<html/>", b"<ListeBlancheMSSante/>"])
def test_a_bad_list_leaves_the_good_one_in_force(world: World, garbage: bytes) -> None:
    world.publish()
    assert world.rule()[0]
    world.overwrite(garbage)
    assert world.rule()[0]
    assert (world.space.alarm is not None and "NOT_XML" in world.space.alarm) or "WRONG_ROOT" in str(world.space.alarm)
    again = TrustSpace(world.folder, signer_cn="alb.practice", practice=True)
    assert again.authorise(world.server.certificate, DOMAIN, AT).allowed, "a restart must not lose the list"
    world.publish()
    assert world.rule()[0] and world.space.alarm is None


def test_an_unsigned_or_foreign_list_changes_nothing(world: World, foreign: PracticeAuthority) -> None:
    world.publish()
    assert world.rule()[0]
    evil = [ListedDomain.of("evil.mssante.example", world.server.certificate)]
    world.overwrite(foreign.publish_white_list(evil, AT + HOUR))
    assert not world.space.is_listed("evil.mssante.example", AT + HOUR)
    assert world.rule(AT + HOUR)[0]
    assert "SIGNER_UNTRUSTED" in str(world.space.alarm)


def test_roll_back_is_refused_also_after_a_restart(world: World) -> None:
    signer = world.authority._signer
    world.publish()
    assert world.rule()[0]
    old = sign_white_list(
        [ListedDomain.of("ancien.mssante.example", signer.certificate)],
        at=AT - timedelta(minutes=1),
        key=signer.key,
        certificate=signer.certificate,
    )
    world.overwrite(old)
    assert not world.space.is_listed("ancien.mssante.example", AT)
    assert "ROLLED_BACK" in str(world.space.alarm)
    assert not TrustSpace(world.folder, signer_cn="alb.practice", practice=True).is_listed("ancien.mssante.example", AT)


def test_a_list_from_the_future_would_block_the_next_ones(world: World) -> None:
    world.publish()
    assert world.rule()[0]
    world.publish(ListedDomain.of("futur.mssante.example", world.server.certificate), at=AT + 2 * DAY)
    assert not world.space.is_listed("futur.mssante.example", AT)
    assert "FROM_THE_FUTURE" in str(world.space.alarm)
    world.ticks += 2
    assert world.space.is_listed("futur.mssante.example", AT + 2 * DAY), "tried again when its time has come"


def test_staleness(world: World) -> None:
    world.authority.write_crls(AT, days=60)
    world.publish()
    assert (world.rule(), world.space.freshness(AT)) == ((True, False, "LISTED"), Freshness.FRESH)
    assert world.space.freshness(AT + 25 * HOUR) is Freshness.AGEING
    assert world.rule(AT + 6 * DAY)[0]
    late = AT + 7 * DAY + HOUR
    assert world.rule(late) == (False, True, "WHITE_LIST_STALE")
    assert world.space.is_listed(DOMAIN, late), "the message may be queued; its sending waits"
    os.utime(world.folder / "listeblanche.xml", (late.timestamp(), late.timestamp()))
    world.ticks += 2
    assert world.rule(late)[0], "fetched again, unchanged: fresh again"


def test_a_file_dated_in_the_future_does_not_stay_fresh_for_ever(world: World) -> None:
    world.authority.write_crls(AT, days=60)
    world.publish()
    far = AT + 365 * DAY
    os.utime(world.folder / "listeblanche.xml", (far.timestamp(), far.timestamp()))
    assert world.rule()[0]
    assert world.rule(AT + 8 * DAY) == (False, True, "WHITE_LIST_STALE")


def test_crls_come_and_go(world: World) -> None:
    world.publish()
    assert world.rule()[0]
    assert world.rule(AT + 31 * DAY)[1:] == (True, "WHITE_LIST_STALE")
    world.authority.write_crls(AT, days=1)
    world.give()
    assert world.rule(AT + 2 * DAY) == (False, True, "CERTIFICATE_REVOCATION_UNKNOWN")
    world.authority.revoke(world.server.certificate, AT + 2 * DAY)
    world.give()
    assert world.rule(AT + 2 * DAY) == (False, False, "CERTIFICATE_REVOKED")


def test_the_last_good_crl_is_kept(world: World) -> None:
    """ECO.1.1.7: a failed download, or an older CRL, does not replace the CRL in force."""
    world.publish()
    path = world.folder / "crl" / "TEST-ACI-EL-ORG.crl"
    old = path.read_bytes()
    other = new_server(world.authority)
    world.authority.revoke(other.certificate, AT + HOUR)
    world.give()
    assert world.rule(AT + HOUR, issued=other)[2] == "CERTIFICATE_REVOKED"
    for bad, alarm in ((b"<html>", "neither"), (old, "older")):
        path.write_bytes(bad)
        world.ticks += 2
        assert world.rule(AT + HOUR, issued=other)[2] == "CERTIFICATE_REVOKED"
        assert world.rule(AT + HOUR)[0]
        assert alarm in str(world.space.alarm)


def test_a_withdrawn_anchor_withdraws_the_list(world: World, foreign: PracticeAuthority) -> None:
    world.publish()
    assert world.rule()[0]
    for part in ("anchors", "intermediates"):
        for path in (world.folder / part).iterdir():
            path.write_bytes((foreign.folder / part / path.name).read_bytes())
    world.ticks += 2
    assert world.rule()[0] is False
    assert world.space.white_list is None


def test_a_revoked_list_signer_brings_no_new_list(world: World) -> None:
    world.publish()
    assert world.rule()[0]
    world.authority.revoke(world.authority.list_signer, AT)
    world.publish(ListedDomain.of("evil.mssante.example", world.server.certificate), at=AT + HOUR)
    assert not world.space.is_listed("evil.mssante.example", AT + HOUR)
    assert "SIGNER_REVOKED" in str(world.space.alarm)


def test_the_path_checker_follows_reloads(world: World) -> None:
    world.publish()
    issued = world.authority.issue_professional(
        "899700366240", "DOC", "KIT", "Médecin", usage="sign", email="kit.doc@medecin.mssante.example", at=AT
    )
    check = world.space.path_checker("signature")
    assert check(issued.certificate, issued.chain[1:], AT).trusted
    assert not world.space.path_checker(Usage.ENCRYPTION)(issued.certificate, (), AT).trusted
    world.authority.revoke(issued.certificate, AT)
    world.give()
    verdict = check(issued.certificate, issued.chain[1:], AT)
    assert (verdict.trusted, verdict.reason) == (False, "REVOKED")
    with pytest.raises(ValueError, match="sing"):
        world.space.path_checker("sing")


def test_a_forged_crl_does_not_push_the_good_one_out(world: World, foreign: PracticeAuthority) -> None:
    """CRLs travel by plain HTTP: same names, later dates and another key must not win over the list in force."""
    world.publish()
    assert world.rule()[0]
    foreign.write_crls(AT + DAY)
    for source in (foreign.folder / "crl").iterdir():
        (world.folder / "crl" / source.name).write_bytes(source.read_bytes())
    world.ticks += 2
    assert world.rule(AT + DAY)[0]
    assert "not signed by the authority it names" in (world.space.alarm or "")
    world.authority.revoke(world.server.certificate, AT + HOUR)  # dated before the forged ones, and seen at once
    world.give()
    assert world.rule(AT + DAY)[2] == "CERTIFICATE_REVOKED"


@pytest.mark.parametrize("part", ["crl", "intermediates"])
def test_a_file_with_an_unreadable_name_inside_leaves_the_good_one_in_force(world: World, part: str) -> None:
    world.publish()
    assert world.rule()[0]
    for path in (world.folder / part).iterdir():
        content = path.read_bytes()
        der = content if part == "crl" else pem.read_certificates(path)[0].public_bytes(Encoding.DER)
        path.write_bytes(der.replace(b"PRATIQUE CADUCEE", b"PRATIQUE \xff\xfeDUCEE"))
    world.ticks += 2
    assert world.rule()[0]
    assert "neither a PEM nor a DER" in (world.space.alarm or "")


def test_a_list_whose_signer_has_an_unreadable_name_leaves_the_good_one_in_force(world: World) -> None:
    world.publish()
    good = (world.folder / "listeblanche.xml").read_bytes()
    signer = world.authority.list_signer.public_bytes(Encoding.DER)
    held = re.search(rb"<X509Certificate>(.*?)</X509Certificate>", good, re.DOTALL)
    assert held is not None and world.rule()[0]
    broken = signer.replace(b"alb.practice", b"alb.\xff\xfe\xff\xff\xff\xff\xff\xff", 1)
    world.overwrite(good.replace(held[1], base64.b64encode(broken)))
    assert world.rule()[0]
    assert (world.space.alarm or "").startswith("SIGNATURE_SHAPE")
