"""LDAPS verification, time bounds against silent servers, and refusal of unsafe settings."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from directory import CLAIRE_EXEMPLE, Directory, DirectoryError, DirectoryUnavailable, Slapd
from tests.directory.helpers import PASSWORD, Authority, free_port, witness
from trustspace.tls import TLS12_SUITES


def test_ldaps_with_the_right_authority(slapd: Slapd, authority: Authority) -> None:
    assert slapd.ldaps_url is not None
    with closing(
        Directory(slapd.ldaps_url, bind_dn=slapd.admin_dn, password=PASSWORD, ca_file=authority.ca_file)
    ) as directory:
        assert directory.by_address(CLAIRE_EXEMPLE.mail) == CLAIRE_EXEMPLE.entry()
        assert directory.by_address(CLAIRE_EXEMPLE.mail) == CLAIRE_EXEMPLE.entry()


def test_openssl_sees_the_four_suites_and_tls_1_3_only(slapd: Slapd, authority: Authority) -> None:
    address = (slapd.ldaps_url or "").removeprefix("ldaps://")

    def connect(*options: str) -> str:
        command = (
            "openssl",
            "s_client",
            "-connect",
            address,
            "-CAfile",
            str(authority.ca_file),
            "-verify_return_error",
        )
        return witness(*command, "-verify_ip", "127.0.0.1", *options).stdout

    for version in ("TLSv1.3", "TLSv1.2"):
        shown = connect(*(["-tls1_2"] if version == "TLSv1.2" else []))
        assert f"New, {version}, Cipher is" in shown and "Verify return code: 0 (ok)" in shown
    assert "Cipher is (NONE)" in connect("-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0")
    for suite in TLS12_SUITES:
        assert f"Cipher is {suite}" in connect("-tls1_2", "-cipher", suite), "ECO.1.1.3"
    for suite in ("ECDHE-RSA-CHACHA20-POLY1305", "DHE-RSA-AES256-GCM-SHA384", "AES256-SHA", "ECDHE-RSA-AES256-SHA"):
        assert "Cipher is (NONE)" in connect("-tls1_2", "-cipher", suite)


def test_ldaps_refuses_another_authority(
    slapd: Slapd, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Authority.create(tmp_path_factory.mktemp("autre"))
    monkeypatch.setenv("LDAPTLS_REQCERT", "never")  # an environment must not weaken us
    assert slapd.ldaps_url is not None
    with closing(Directory(slapd.ldaps_url, ca_file=other.ca_file)) as directory, pytest.raises(DirectoryUnavailable):
        directory.check()


def test_ldaps_refuses_another_servers_certificate(tmp_path: Path, authority: Authority) -> None:
    chain, key = authority.server("127.0.0.9")
    server = Slapd(tmp_path / "a", ldap_port=free_port(), ldaps_port=free_port(), certificate=chain, key=key)
    server.initialise([], PASSWORD)
    server.start()
    assert server.ldaps_url is not None
    try:
        directory = Directory(server.ldaps_url, ca_file=authority.ca_file)
        with closing(directory), pytest.raises(DirectoryUnavailable):
            directory.check()
    finally:
        server.stop()


def test_a_renewed_certificate_is_taken_at_the_next_start(tmp_path: Path, authority: Authority) -> None:
    chain, key = authority.server("127.0.0.1")
    ldap_port, ldaps_port = free_port(), free_port()
    server = Slapd(tmp_path / "a", ldap_port=ldap_port, ldaps_port=ldaps_port, certificate=chain, key=key)
    server.initialise([CLAIRE_EXEMPLE.entry()], PASSWORD)
    renewed = Authority.create(tmp_path)
    chain, key = renewed.server("127.0.0.1")
    server = Slapd(tmp_path / "a", ldap_port=ldap_port, ldaps_port=ldaps_port, certificate=chain, key=key)
    server.start()
    try:
        assert server.ldaps_url is not None
        with closing(Directory(server.ldaps_url, ca_file=renewed.ca_file)) as directory:
            assert directory.by_address(CLAIRE_EXEMPLE.mail)
    finally:
        server.stop()


@pytest.fixture
def mute() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(20)
        yield server.getsockname()[1]


@pytest.mark.parametrize("scheme", ["ldap", "ldaps"])
def test_a_mute_server_does_not_hold_us(mute: int, scheme: str, authority: Authority) -> None:
    directory = Directory(f"{scheme}://127.0.0.1:{mute}", timeout=0.6, ca_file=authority.ca_file)
    began = time.monotonic()
    with pytest.raises(DirectoryUnavailable):
        directory.check()
    assert time.monotonic() - began < 2  # one time-out; the net below it would take four


@pytest.mark.parametrize("cut", [5, 100, 300, 700])
def test_a_server_falling_silent_inside_tls_does_not_hold_us(slapd: Slapd, authority: Authority, cut: int) -> None:
    """A relay lets `cut` bytes of the server's answers through, then nothing more."""
    target = int((slapd.ldaps_url or "").rpartition(":")[2])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        threading.Thread(target=_relay, args=(listener, target, cut), daemon=True).start()
        port = listener.getsockname()[1]
        directory = Directory(f"ldaps://127.0.0.1:{port}", timeout=0.3, ca_file=authority.ca_file)
        began = time.monotonic()
        with pytest.raises(DirectoryUnavailable):
            directory.by_address(CLAIRE_EXEMPLE.mail)
        assert time.monotonic() - began < 2


def _relay(listener: socket.socket, target: int, cut: int) -> None:
    client, _ = listener.accept()
    with client, socket.create_connection(("127.0.0.1", target)) as server:
        threading.Thread(target=_pump, args=(client, server, None), daemon=True).start()
        _pump(server, client, cut)
        time.sleep(3)  # stays connected, silent, for longer than the client may wait


def _pump(source: socket.socket, sink: socket.socket, limit: int | None) -> None:
    try:
        while data := source.recv(4096):
            sink.sendall(data if limit is None else data[:limit])
            if limit is not None and (limit := limit - len(data)) <= 0:
                return
    except OSError:
        return


def test_a_pool_that_is_full_is_unavailable_not_stuck(mute: int) -> None:
    directory = Directory(f"ldap://127.0.0.1:{mute}", timeout=0.3)
    outcomes: list[type[BaseException]] = []

    def ask() -> None:
        try:
            directory.check()
        except DirectoryError as error:
            outcomes.append(type(error))

    threads = [threading.Thread(target=ask) for _ in range(24)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert outcomes == [DirectoryUnavailable] * 24
    assert time.monotonic() - began < 3


def test_down_is_unavailable_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(DirectoryUnavailable) as caught:
        Directory(f"ldap://127.0.0.1:{free_port()}").by_address(CLAIRE_EXEMPLE.mail)
    assert time.monotonic() - began < 1
    assert CLAIRE_EXEMPLE.mail not in str(caught.value)


def test_a_wrong_password_or_base_is_an_error_not_an_outage(slapd: Slapd) -> None:
    for directory in (
        Directory(slapd.url, bind_dn=slapd.admin_dn, password="autre"),
        Directory(slapd.url, base="dc=autre,dc=fr"),
    ):
        with closing(directory), pytest.raises(DirectoryError) as caught:
            directory.check()
        assert not isinstance(caught.value, DirectoryUnavailable)
        assert "autre" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "bind_dn", "password"),
    [
        ("ldap://192.0.2.1", "cn=operateur,dc=mssante,dc=fr", "secret"),  # a password in clear text over a network
        ("ldap://127.0.0.1", "cn=operateur,dc=mssante,dc=fr", ""),  # would be an anonymous bind
        ("ldap://127.0.0.1", "cn=operateur,dc=mssante,dc=fr", None),
        ("ldap://127.0.0.1", None, "secret"),
        ("ldaps://127.0.0.1", None, None),  # no authority to trust
        ("http://127.0.0.1", None, None),
        ("ldap://127.0.0.1 ldap://192.0.2.1", None, None),
        ("ldap:///", None, None),
        ("", None, None),
    ],
)
def test_unsafe_settings_are_refused(url: str, bind_dn: str | None, password: str | None) -> None:
    with pytest.raises(DirectoryError):
        Directory(url, bind_dn=bind_dn, password=password)
