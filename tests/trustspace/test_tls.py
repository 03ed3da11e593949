"""TLS contexts, by real handshakes in memory."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from trustspace import Anchors, Issued, PracticeAuthority, UnreadableFile, client_context, server_context
from trustspace.tls import TLS12_SUITES

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def current(tmp_path_factory: pytest.TempPathFactory) -> PracticeAuthority:
    """OpenSSL looks at the clock itself: an authority of today."""
    return PracticeAuthority.create(tmp_path_factory.mktemp("current"), at=NOW - timedelta(days=2000))


def issue(authority: PracticeAuthority, cn: str = "localhost", at: datetime = NOW) -> Issued:
    return authority.issue_server(cn, "HOPITAL A", "1750000018", "Paris (75)", dns=[cn], at=at)


def handshake(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str = "localhost"
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends after a handshake through memory. Raises ssl.SSLError as the end that fails does."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname=name)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    waiting = [near, far]
    for _ in range(10):
        for end in tuple(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                pass
        if not waiting:
            return near, far
    raise AssertionError("no end to the handshake")


def peer(end: ssl.SSLObject) -> x509.Certificate | None:
    der = end.getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(der) if der else None


def test_mutual_authentication(current: PracticeAuthority, tmp_path: Path) -> None:
    anchors = Anchors.load(current.folder)
    ours, theirs = issue(current), issue(current, "mss.hopital-a.example")
    server = server_context(ours.chain, ours.key, client_anchors=anchors, client="required")
    near, far = handshake(
        server, client_context(*theirs.write(tmp_path / "k", "client"), anchors, check_hostname=False)
    )
    assert peer(far) == theirs.certificate and peer(near) == ours.certificate
    assert near.version() == "TLSv1.3"
    handshake(server, client_context(theirs.chain, theirs.key, anchors, check_hostname=True))


def test_a_client_without_certificate(current: PracticeAuthority) -> None:
    anchors = Anchors.load(current.folder)
    ours = issue(current)
    bare = client_context(None, None, anchors, check_hostname=True)
    for client in ("none", "optional"):
        context = server_context(ours.chain, ours.key, client_anchors=anchors, client=client)
        assert peer(handshake(context, bare)[1]) is None
    with pytest.raises(ssl.SSLError, match="peer did not return a certificate"):
        handshake(server_context(ours.chain, ours.key, client_anchors=anchors, client="required"), bare)
    with pytest.raises(ValueError, match="anchors"):
        server_context(ours.chain, ours.key, client="required")


@pytest.mark.parametrize("client", ["optional", "required"])
def test_expired_and_foreign_clients_fail_the_handshake(
    current: PracticeAuthority, foreign: PracticeAuthority, client: str
) -> None:
    anchors = Anchors.load(current.folder)
    ours = issue(current)
    context = server_context(ours.chain, ours.key, client_anchors=anchors, client=client)  # type: ignore[arg-type]
    for bad in (issue(current, at=NOW - timedelta(days=1500)), issue(foreign)):
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(context, client_context(bad.chain, bad.key, anchors, check_hostname=False))


def test_servers_are_verified(current: PracticeAuthority, foreign: PracticeAuthority) -> None:
    anchors = Anchors.load(current.folder)
    mine = issue(current)
    client = client_context(mine.chain, mine.key, anchors, check_hostname=False)
    for bad in (issue(foreign), issue(current, at=NOW - timedelta(days=1500))):
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(server_context(bad.chain, bad.key), client)
    strict = client_context(None, None, anchors, check_hostname=True)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"[Hh]ostname"):
        handshake(server_context(mine.chain, mine.key), strict, "other.example")


def test_an_intermediate_alone_is_not_a_root(current: PracticeAuthority) -> None:
    anchors = Anchors((current.intermediates[0],))
    mine = issue(current)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server_context(mine.chain, mine.key), client_context(None, None, anchors, check_hostname=True))


@pytest.mark.parametrize("suite", TLS12_SUITES)
def test_the_four_suites_of_eco_1_1_3(current: PracticeAuthority, suite: str) -> None:
    mine = issue(current)
    client = client_context(None, None, Anchors.load(current.folder), check_hostname=True)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(suite)
    near, _ = handshake(server_context(mine.chain, mine.key), client)
    assert near.cipher() is not None and near.cipher()[0] == suite  # type: ignore[index]


@pytest.mark.parametrize("suite", ["AES128-GCM-SHA256", "ECDHE-RSA-AES256-SHA", "ECDHE-RSA-CHACHA20-POLY1305"])
def test_other_suites_and_versions_are_refused(current: PracticeAuthority, suite: str) -> None:
    mine = issue(current)
    server = server_context(mine.chain, mine.key)
    client = client_context(None, None, Anchors.load(current.folder), check_hostname=True)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(f"{suite}:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        handshake(server, client)
    assert server.minimum_version is ssl.TLSVersion.TLSv1_2 and client.minimum_version is ssl.TLSVersion.TLSv1_2
    assert server.num_tickets == 0 and server.options & ssl.OP_NO_TICKET


def test_unusable_files_are_named(current: PracticeAuthority, tmp_path: Path) -> None:
    mine = issue(current)
    chain, _ = mine.write(tmp_path / "k", "mine")
    with pytest.raises(UnreadableFile, match=r"absent\.key"):
        server_context(chain, tmp_path / "absent.key")
