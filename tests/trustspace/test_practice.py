"""The practice authority, judged by OpenSSL."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from datetime import timedelta
from pathlib import Path

import pytest

from tests.trustspace.conftest import AT, new_server
from trustspace import Issued, PracticeAuthority, TrustSpaceError, UnreadableFile, pem, read_private_key


def openssl(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)


def verify(authority: PracticeAuthority, chain: Path, tmp_path: Path, purpose: str) -> str:
    folder = authority.folder
    bundle = tmp_path / "all.pem"
    texts = [path.read_text() for path in sorted((folder / "anchors").iterdir())]
    for crl in sorted((folder / "crl").iterdir()):
        texts.append(openssl("crl", "-inform", "der", "-in", crl).stdout)
    bundle.write_text("".join(texts))
    moment = str(int((AT + timedelta(hours=1)).timestamp()))
    result = openssl(
        *("verify", "-x509_strict", "-crl_check_all", "-attime", moment, "-purpose", purpose),
        *("-CAfile", bundle, "-untrusted", chain, chain),
    )
    return "OK" if result.returncode == 0 else result.stdout + result.stderr


def test_openssl_accepts_what_is_issued_and_refuses_what_is_revoked(fresh: PracticeAuthority, tmp_path: Path) -> None:
    server = new_server(fresh)
    person = fresh.issue_professional(
        "899700366240", "DOC", "KIT", "Médecin", usage="sign", email="kit.doc@medecin.mssante.example", at=AT
    )
    server_path, _ = server.write(tmp_path / "keys", "server")
    person_path, _ = person.write(tmp_path / "keys", "person")
    assert verify(fresh, server_path, tmp_path, "sslserver") == "OK"
    assert verify(fresh, server_path, tmp_path, "sslclient") == "OK"
    assert verify(fresh, person_path, tmp_path, "smimesign") == "OK"
    assert verify(fresh, person_path, tmp_path, "sslclient") != "OK"
    fresh.revoke(server.certificate, AT)
    assert "certificate revoked" in verify(fresh, server_path, tmp_path, "sslserver")
    assert verify(fresh, person_path, tmp_path, "smimesign") == "OK"


def test_subjects_as_openssl_reads_them(authority: PracticeAuthority, server: Issued, tmp_path: Path) -> None:
    person = authority.issue_professional(
        "899700366240", "DOC", "KIT", "Médecin", usage="auth", email="kit.doc@medecin.mssante.example", at=AT
    )
    path, _ = person.write(tmp_path / "keys", "person")
    text = openssl("x509", "-in", path, "-noout", "-subject", "-issuer", "-nameopt", "utf8,sep_comma_plus").stdout
    assert "subject=C=FR,title=Médecin," in text
    assert "CN=899700366240" in text and text.count("+") == 2
    assert "CN=TEST AC IGC-SANTE FORT PERSONNES" in text and "OU=IGC-SANTE TEST" in text
    path, _ = server.write(tmp_path / "keys", "server")
    text = openssl("x509", "-in", path, "-noout", "-subject", "-nameopt", "utf8,sep_comma_plus").stdout.strip()
    assert text == "subject=C=FR,ST=Paris (75),O=HOPITAL A,OU=1750000018,CN=mss.hopital-a.example"


def test_alternative_names(authority: PracticeAuthority, tmp_path: Path) -> None:
    issued = authority.issue_server(
        "mss.a.example", "A", "1750000018", "P", dns=["localhost"], ips=["127.0.0.1"], at=AT
    )
    path, _ = issued.write(tmp_path / "keys", "server")
    text = openssl("x509", "-in", path, "-noout", "-ext", "subjectAltName,extendedKeyUsage").stdout
    assert "DNS:mss.a.example, DNS:localhost, IP Address:127.0.0.1" in text
    assert "TLS Web Server Authentication, TLS Web Client Authentication" in text


def test_keys_are_private(fresh: PracticeAuthority, tmp_path: Path) -> None:
    new_server(fresh).write(tmp_path / "keys", "server")
    private = fresh.folder / "private"
    for folder in (private, tmp_path / "keys"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    keys = [*private.glob("*.key"), *(tmp_path / "keys").glob("*.key")]
    assert len(keys) == 6
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}
    public = [path for path in fresh.folder.rglob("*") if path.is_file() and path.parent != private]
    assert public and not any(b"PRIVATE" in path.read_bytes() for path in public)


def test_what_is_written_is_read_again(fresh: PracticeAuthority, tmp_path: Path) -> None:
    first, second = new_server(fresh), new_server(fresh)
    paths = first.write(tmp_path / "keys", "first")
    other_paths = second.write(tmp_path / "keys", "second")
    assert Issued.read(*paths).chain == first.chain
    with pytest.raises(UnreadableFile, match="not the key of"):
        Issued.read(paths[0], other_paths[1])
    with pytest.raises(UnreadableFile, match="not a private key"):
        read_private_key(paths[0])
    with pytest.raises(UnreadableFile):
        read_private_key(tmp_path / "absent")


def test_the_authority_survives_a_restart(fresh: PracticeAuthority, tmp_path: Path) -> None:
    server = new_server(fresh)
    fresh.revoke(server.certificate, AT)
    again = PracticeAuthority.open(fresh.folder)
    again.write_crls(AT)
    path, _ = server.write(tmp_path / "keys", "server")
    assert "certificate revoked" in verify(again, path, tmp_path, "sslserver")
    number = openssl(
        "crl", "-inform", "der", "-in", fresh.folder / "crl" / "TEST-ACI-EL-ORG.crl", "-noout", "-crlnumber"
    )
    assert number.stdout.strip() == "crlNumber=0x03"
    with pytest.raises(TrustSpaceError):
        PracticeAuthority.create(fresh.folder, at=AT)


def test_creation_is_quick(tmp_path: Path) -> None:
    start = time.perf_counter()
    PracticeAuthority.create(tmp_path, at=AT)
    assert time.perf_counter() - start < 5


def test_only_certificates_issued_here_are_revoked(fresh: PracticeAuthority, foreign: PracticeAuthority) -> None:
    """Every practice authority bears the same names: the key tells them apart."""
    with pytest.raises(TrustSpaceError):
        fresh.revoke(new_server(foreign).certificate, AT)


def test_the_name_of_a_written_file_is_synced_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the folder's own sync a crash may forget a key for which success was told."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    pem.write_private(tmp_path / "key", b"secret")
    assert synced == [(tmp_path / "key").stat().st_ino, tmp_path.stat().st_ino]
