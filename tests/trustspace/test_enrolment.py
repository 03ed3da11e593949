"""The operator's certificates: PKCS#10 judged by openssl, what may be taken in, and the warnings before the end."""

from __future__ import annotations

import stat
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from tests.trustspace.authorities import issuer_of
from tests.trustspace.conftest import AT
from trustspace import Issued, PathReason, PracticeAuthority, TrustSpace, pem
from trustspace.enrolment import (
    PROFILES,
    Holder,
    Level,
    NotEnrolled,
    ProfileName,
    level_of,
    request,
    statuses,
    take_in,
)
from trustspace.issuing import CLOCK_SKEW

HOLDER = Holder(
    "mss.chu.example", "CHU EXEMPLE", "1990000010", "Rhône (69)", ("mss.chu.example", "autoconfig.chu.example")
)
DAY = timedelta(days=1)


def certify(authority: PracticeAuthority, csr: Path, *, days: int = 1000, drop_usage: bool = False) -> x509.Certificate:
    """What IGC-Santé does with a request: the subject and the extensions asked for, its own signature."""
    asked = x509.load_pem_x509_csr(csr.read_bytes())
    assert asked.is_signature_valid
    issuer = issuer_of(authority)
    builder = (
        x509.CertificateBuilder()
        .subject_name(asked.subject)
        .issuer_name(issuer.certificate.subject)
        .public_key(asked.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(AT - CLOCK_SKEW)
        .not_valid_after(AT + timedelta(days=days))
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
    )
    for extension in asked.extensions:
        if not (drop_usage and isinstance(extension.value, x509.KeyUsage)):
            builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(issuer.key, hashes.SHA256())


@pytest.fixture
def space(fresh: PracticeAuthority, tmp_path: Path) -> TrustSpace:
    fresh.copy_trust(tmp_path / "trust")
    return TrustSpace(tmp_path / "trust", signer_cn="alb.practice", practice=True)


@pytest.mark.parametrize("profile", list(ProfileName))
def test_from_request_to_use(fresh: PracticeAuthority, space: TrustSpace, tmp_path: Path, profile: ProfileName) -> None:
    keys = tmp_path / "keys"
    csr = request(keys, profile, HOLDER)
    shown = subprocess.run(
        ["openssl", "req", "-in", str(csr), "-verify", "-noout", "-subject", "-nameopt", "RFC2253,utf8,-esc_msb"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "CN=mss.chu.example,OU=1990000010,O=CHU EXEMPLE,ST=Rhône (69),C=FR" in shown.stdout
    name = PROFILES[profile].name
    key = keys / f"{name}.next.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and not (keys / f"{name}.key").exists()
    with pytest.raises(NotEnrolled, match="waits"):
        request(keys, profile, HOLDER)
    certificate = certify(fresh, csr)
    chain = take_in(keys, profile, [certificate], space, AT)
    assert chain == (certificate, *fresh.intermediates[:1]), "completed from what we know"
    issued = Issued.read(keys / f"{name}.pem", keys / f"{name}.key")
    assert issued.certificate == certificate and not key.exists() and not csr.exists()
    (one,) = statuses(keys, space, AT)
    assert (one.name, one.level, one.reason, one.waiting) == (name, Level.FINE, PathReason.TRUSTED, False)


def test_a_renewal_keeps_what_is_in_use_until_the_certificate_comes(
    fresh: PracticeAuthority, space: TrustSpace, tmp_path: Path
) -> None:
    keys, profile = tmp_path / "keys", ProfileName.SSL_SERV
    take_in(keys, profile, [certify(fresh, request(keys, profile, HOLDER), days=20)], space, AT)
    before = (keys / "server.pem").read_bytes(), (keys / "server.key").read_bytes()
    csr = request(keys, profile, HOLDER)
    assert ((keys / "server.pem").read_bytes(), (keys / "server.key").read_bytes()) == before
    (one,) = statuses(keys, space, AT)
    assert (one.level, one.days_left, one.waiting) == (Level.NEAR, 20, True)
    take_in(keys, profile, [certify(fresh, csr)], space, AT)
    assert ((keys / "server.previous.pem").read_bytes(), (keys / "server.previous.key").read_bytes()) == before
    assert stat.S_IMODE((keys / "server.previous.key").stat().st_mode) == 0o600
    assert statuses(keys, space, AT)[0].level is Level.FINE


def test_what_is_not_taken_in(
    fresh: PracticeAuthority, foreign: PracticeAuthority, space: TrustSpace, tmp_path: Path
) -> None:
    keys, profile = tmp_path / "keys", ProfileName.SSL_SERV
    csr = request(keys, profile, HOLDER)
    revoked = certify(fresh, csr)
    fresh.revoke(revoked, AT)
    fresh.copy_trust(space.folder)
    other = fresh.issue_server("mss.chu.example", "CHU EXEMPLE", "1990000010", "Rhône (69)", at=AT)
    for certificates, text in (
        ([other.certificate], "no certificate here is for the key"),
        ([certify(foreign, csr)], "UNTRUSTED"),
        ([certify(fresh, csr, drop_usage=True)], "not for tls-server"),
        ([revoked], "revoked"),
        ([], "no certificate here"),
    ):
        with pytest.raises(NotEnrolled, match=text):
            take_in(keys, profile, certificates, space, AT)
    with pytest.raises(NotEnrolled, match="EXPIRED"):
        take_in(keys, profile, [certify(fresh, csr, days=10)], space, AT + 11 * DAY)
    with pytest.raises(NotEnrolled, match="not for signature"):
        take_in(
            keys,
            ProfileName.SIGN,
            [certify(fresh, request(keys, ProfileName.SIGN, HOLDER), drop_usage=True)],
            space,
            AT,
        )
    assert not (keys / "server.pem").exists()


def test_what_a_request_needs(tmp_path: Path) -> None:
    with pytest.raises(NotEnrolled, match="structure_id"):
        request(tmp_path, ProfileName.SIGN, Holder("a", "b", "", "c"))
    with pytest.raises(NotEnrolled, match="too short"):
        request(tmp_path, ProfileName.SIGN, HOLDER, bits=1024)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("days", "level"),
    [
        (61, "fine"),
        (60, "soon"),
        (31, "soon"),
        (30, "near"),
        (8, "near"),
        (7, "urgent"),
        (0, "urgent"),
        (-1, "expired"),
    ],
)
def test_warnings(days: int, level: str) -> None:
    assert level_of(days) == level


def test_a_folder_without_anything_of_ours(tmp_path: Path) -> None:
    (tmp_path / "server.pem").write_text("nonsense")
    pem.write_public(tmp_path / "other.pem", b"")
    assert statuses(tmp_path, None, AT) == []
