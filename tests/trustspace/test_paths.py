"""Certificate paths: each way of being bad has its own reason, and none raises."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from tests.trustspace.conftest import AT, new_server, sample
from trustspace import Anchors, Issued, PathReason, PathValidator, PracticeAuthority, Usage, check_path, read_crl
from trustspace.issuing import CA_VALIDITY, CaPlan, Profile, build_crl, issue, key_usage, new_authority, structure_name
from trustspace.paths import MAX_SUPPLIED
from trustspace.pem import crl_files, read_certificate_folder
from trustspace.practice import ProfessionalUsage
from trustspace.verdict import suits

DAY = timedelta(days=1)


def crls_of(authority: PracticeAuthority) -> list[x509.CertificateRevocationList]:
    return [read_crl(path) for path in crl_files(authority.folder / "crl")]


def validator_of(authority: PracticeAuthority) -> PathValidator:
    return PathValidator(Anchors.load(authority.folder), crls_of(authority))


def reason(
    validator: PathValidator, issued: Issued, at: datetime = AT, usage: Usage = Usage.TLS_CLIENT
) -> tuple[bool, str, str]:
    verdict = validator.check(issued.certificate, issued.chain[1:], at=at, usage=usage)
    return verdict.trusted, verdict.reason.value, verdict.failing_subject.split(",")[0]


def test_a_good_certificate_is_trusted_for_what_it_is_for(authority: PracticeAuthority, server: Issued) -> None:
    validator = validator_of(authority)
    assert reason(validator, server) == (True, "TRUSTED", "")
    assert reason(validator, server, usage=Usage.TLS_SERVER) == (True, "TRUSTED", "")
    assert reason(validator, server, usage=Usage.SIGNATURE)[1] == "BAD_USAGE"
    assert reason(validator, server, usage=Usage.LIST_SIGNATURE)[1] == "BAD_USAGE"


def test_usages_of_each_kind(authority: PracticeAuthority) -> None:
    validator = validator_of(authority)
    expected: dict[ProfessionalUsage, set[Usage]] = {
        "auth": {Usage.TLS_CLIENT},
        "sign": {Usage.SIGNATURE, Usage.LIST_SIGNATURE},
        "encrypt": {Usage.ENCRYPTION},
    }
    for usage, wanted in expected.items():
        issued = authority.issue_professional(
            "899700366240",
            "DOC",
            "KIT",
            "Médecin",
            usage=usage,
            email="d@e.example",
            at=AT,
        )
        assert {u for u in Usage if reason(validator, issued, usage=u)[0]} == wanted
    both = authority.issue_organisation("S", "O", "1750000018", "Paris (75)", usage="smime", email="s@o.example", at=AT)
    assert {u for u in Usage if reason(validator, both, usage=u)[0]} == {
        Usage.SIGNATURE,
        Usage.ENCRYPTION,
        Usage.LIST_SIGNATURE,
    }


def test_time(authority: PracticeAuthority, server: Issued) -> None:
    validator = validator_of(authority)
    assert reason(validator, server, AT + 4 * 365 * DAY)[1:] == ("EXPIRED", "CN=mss.hopital-a.example")
    assert reason(validator, server, AT - DAY)[1:] == ("NOT_YET_VALID", "CN=mss.hopital-a.example")


def test_an_expired_root_ends_the_path() -> None:
    """The library does not look at the root's dates; the intermediate and the leaf outlive this one."""
    root = new_authority(CaPlan("R", "TEST ROOT", None), None, AT - CA_VALIDITY + DAY, 2048)
    middle = new_authority(CaPlan("I", "TEST MIDDLE", "R"), root, AT, 2048)
    profile = Profile(key_usage(digital_signature=True))
    leaf = issue(middle, "I", structure_name("late.example", "O", "1750000018", "P"), profile, AT)
    crls = [build_crl(authority, [], AT, 30, 1) for authority in (root, middle)]
    validator = PathValidator(Anchors((root.certificate,), (middle.certificate,)), crls)
    assert reason(validator, leaf)[0]
    assert reason(validator, leaf, AT + 2 * DAY) == (False, "EXPIRED", "CN=TEST ROOT")


def test_an_authority_suits_no_usage_even_if_it_may_sign(authority: PracticeAuthority) -> None:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(AT - DAY).not_valid_after(AT + DAY)
    builder = builder.add_extension(key_usage(digital_signature=True, key_cert_sign=True), critical=True)
    for ca in (False, True):
        certificate = builder.add_extension(x509.BasicConstraints(ca, None), critical=True).sign(key, hashes.SHA256())
        assert suits(certificate, Usage.TLS_CLIENT) is not ca


def test_supplied_certificates_are_ignored_when_ours_name_the_issuer(
    authority: PracticeAuthority, server: Issued
) -> None:
    known, bare = Anchors.load(authority.folder), Anchors(authority.anchors)
    crowd = server.chain * 10
    assert PathValidator(known, [])._others(server.certificate, crowd) == known.intermediates
    assert len(PathValidator(bare, [])._others(server.certificate, crowd)) == MAX_SUPPLIED


def test_revocation_names_what_is_revoked(fresh: PracticeAuthority) -> None:
    first, second = new_server(fresh), new_server(fresh, "mss.other.example")
    fresh.revoke(first.certificate, AT)
    validator = validator_of(fresh)
    assert reason(validator, first)[1:] == ("REVOKED", "CN=mss.hopital-a.example")
    assert reason(validator, second)[0]
    fresh.revoke(fresh.intermediates[0], AT + DAY)
    validator = validator_of(fresh)
    assert reason(validator, second, AT + DAY)[1:] == ("REVOKED", "CN=TEST AC IGC-SANTE ELEMENTAIRE ORGANISATIONS")


def test_without_a_crl_in_force_nothing_is_trusted(fresh: PracticeAuthority) -> None:
    server = new_server(fresh)
    validator = validator_of(fresh)
    assert reason(validator, server, AT + 29 * DAY)[0]
    assert reason(validator, server, AT + 31 * DAY)[1] == "REVOCATION_UNKNOWN"
    for path in crl_files(fresh.folder / "crl"):
        content = path.read_bytes()
        path.unlink()
        expected = "TRUSTED" if "FO" in path.name else "REVOCATION_UNKNOWN"
        assert reason(validator_of(fresh), server)[1] == expected, path.name
        path.write_bytes(content)
    assert reason(PathValidator(Anchors.load(fresh.folder), []), server)[1] == "REVOCATION_UNKNOWN"


def test_a_crl_counts_only_with_its_issuers_signature(fresh: PracticeAuthority, foreign: PracticeAuthority) -> None:
    """The other authority bears the same names: its empty CRL must not hide a revocation, nor stand in for one."""
    server = new_server(fresh)
    fresh.revoke(server.certificate, AT)
    anchors = Anchors.load(fresh.folder)
    assert reason(PathValidator(anchors, crls_of(foreign)), server)[1] == "REVOCATION_UNKNOWN"
    for crls in (crls_of(foreign) + crls_of(fresh), crls_of(fresh) + crls_of(foreign)):
        assert reason(PathValidator(anchors, crls), server)[1] == "REVOKED"


def test_a_partial_crl_is_not_taken_for_a_full_one(fresh: PracticeAuthority) -> None:
    server = new_server(fresh)
    issuer = fresh._authorities["TEST-ACI-EL-ORG"]
    partial = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(AT - DAY)
        .next_update(AT + DAY)
        .add_extension(x509.DeltaCRLIndicator(1), critical=True)
        .sign(issuer.key, hashes.SHA256())
    )
    roots = [crl for crl in crls_of(fresh) if crl.issuer != issuer.certificate.subject]
    assert reason(PathValidator(Anchors.load(fresh.folder), [*roots, partial]), server)[1] == "REVOCATION_UNKNOWN"


def test_a_foreign_issuer_with_the_same_names_is_not_trusted(
    authority: PracticeAuthority, foreign: PracticeAuthority
) -> None:
    validator = PathValidator(Anchors.load(authority.folder), crls_of(authority) + crls_of(foreign))
    assert reason(validator, new_server(foreign))[:2] == (False, "UNTRUSTED")
    bare = PathValidator(Anchors(authority.anchors), crls_of(authority) + crls_of(foreign))
    stranger = new_server(foreign)
    supplied = (*stranger.chain[1:], *foreign.anchors)
    assert not bare.check(stranger.certificate, supplied, at=AT, usage=Usage.TLS_CLIENT).trusted


def test_what_the_peer_sends_serves_only_when_we_lack_it(authority: PracticeAuthority, server: Issued) -> None:
    bare = PathValidator(Anchors(authority.anchors), crls_of(authority))
    assert bare.check(server.certificate, server.chain[1:], at=AT, usage=Usage.TLS_CLIENT).trusted
    assert (
        not PathValidator(Anchors(authority.anchors), crls_of(authority))
        .check(server.certificate, at=AT, usage=Usage.TLS_CLIENT)
        .trusted
    )


def test_authorities_and_self_signed_certificates_are_not_peers(authority: PracticeAuthority) -> None:
    validator = validator_of(authority)
    for certificate in (*authority.anchors, *authority.intermediates):
        verdict = validator.check(certificate, at=AT, usage=Usage.TLS_CLIENT)
        assert (verdict.trusted, verdict.reason) == (False, PathReason.BAD_USAGE)
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    alone = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(AT - DAY)
        .not_valid_after(AT + DAY)
        .add_extension(x509.KeyUsage(True, *[False] * 8), critical=True)
        .sign(key, hashes.SHA256())
    )
    assert suits(alone, Usage.TLS_CLIENT)
    verdict = validator.check(alone, [alone] * 50, at=AT, usage=Usage.TLS_CLIENT)
    assert (verdict.trusted, verdict.reason) == (False, PathReason.UNTRUSTED)


def test_every_broken_octet_gives_a_verdict(authority: PracticeAuthority, server: Issued) -> None:
    """Certificates damaged anywhere are refused by a verdict (or do not parse), and never raise."""
    validator = validator_of(authority)
    der = server.certificate.public_bytes(Encoding.DER)
    for position in range(4, len(der), 23):
        damaged = der[:position] + bytes([der[position] ^ 0x20]) + der[position + 1 :]
        try:
            certificate = x509.load_der_x509_certificate(damaged)
        except ValueError:
            continue
        assert not validator.check(certificate, at=AT, usage=Usage.TLS_CLIENT).trusted


def test_a_cached_verdict_ends_with_the_certificate_and_the_crl(authority: PracticeAuthority, server: Issued) -> None:
    validator = validator_of(authority)
    end = server.certificate.not_valid_after_utc
    near = AT + 30 * DAY - timedelta(seconds=10)
    verdict = validator.check(server.certificate, at=near, usage=Usage.TLS_CLIENT)
    assert verdict.trusted and verdict.until == AT + 30 * DAY
    assert reason(validator, server, near + timedelta(seconds=11))[1] == "REVOCATION_UNKNOWN"
    assert reason(validator, server, end + timedelta(seconds=1))[1] == "EXPIRED"


def test_from_threads_and_from_a_running_loop(authority: PracticeAuthority, server: Issued) -> None:
    validator = validator_of(authority)

    def check(number: int) -> bool:
        return validator._check(server.certificate, (), AT, Usage.TLS_CLIENT, True).trusted

    async def inside() -> bool:
        return check(0)

    assert asyncio.run(inside())
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(check, range(40)))


def test_a_long_crl_does_not_slow_checks_down(authority: PracticeAuthority, server: Issued) -> None:
    anchors = Anchors.load(authority.folder)
    issuer = authority._authorities["TEST-ACI-EL-ORG"]
    long = build_crl(issuer, [(10**20 + number, AT) for number in range(10_000)], AT, 30, 9)
    roots = [crl for crl in crls_of(authority) if crl.issuer != issuer.certificate.subject]
    validator = PathValidator(anchors, [*roots, long])
    start = time.perf_counter()
    for _ in range(20):
        assert validator._check(server.certificate, (), AT, Usage.TLS_CLIENT, True).trusted
    assert (time.perf_counter() - start) / 20 < 0.03


def test_the_real_authorities_chain(server: Issued) -> None:
    certificates = read_certificate_folder(sample("igc-sante"))
    roots = tuple(c for c in certificates if c.subject == c.issuer)
    anchors = Anchors(roots, tuple(c for c in certificates if c.subject != c.issuer))
    assert (len(roots), len(anchors.intermediates)) == (3, 6)
    verdict = check_path(server.certificate, server.chain, anchors=anchors, crls=[], at=AT, usage=Usage.TLS_SERVER)
    assert verdict.reason is PathReason.UNTRUSTED


def test_a_verdict_has_no_truth_value(authority: PracticeAuthority, server: Issued) -> None:
    with pytest.raises(TypeError):
        bool(validator_of(authority).check(server.certificate, at=AT, usage=Usage.TLS_CLIENT))


def test_a_folder_without_anchor_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no trust anchor"):
        Anchors.load(tmp_path)
