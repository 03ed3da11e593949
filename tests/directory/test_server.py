"""slapd's life: making, starting, dying, coming back; and what is said when something is wrong."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import directory.configuration as configuration
import directory.tools as tools
from directory import (
    CLAIRE_EXEMPLE,
    Directory,
    DirectoryError,
    DirectoryUnavailable,
    Entry,
    MailboxKind,
    Slapd,
    TooManyEntries,
    entry_dn,
    synthetic_entries,
)
from directory.configuration import Limits, hash_password
from tests.directory.helpers import NOW, PASSWORD, Authority, free_port, witness

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Slapd]:
    """A small slapd that the test may maltreat."""
    server = Slapd(tmp_path / "annuaire", ldap_port=free_port())
    server.initialise(synthetic_entries(20, seed=1), PASSWORD)
    yield server
    server.stop()


def _status(pid: int, name: str) -> list[str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1:] for line in lines if line.startswith(f"{name}:"))


def test_it_never_runs_as_root_and_keeps_no_privilege(slapd: Slapd) -> None:
    assert slapd.pid is not None
    assert "0" not in _status(slapd.pid, "Uid") + _status(slapd.pid, "Gid") + _status(slapd.pid, "Groups")
    assert _status(slapd.pid, "CapEff") == ["0" * 16]
    assert _status(slapd.pid, "NoNewPrivs") == ["1"]


def test_its_files_are_closed_to_others(slapd: Slapd) -> None:
    for path in slapd.folder.rglob("*"):
        guarded = path.parent if path.is_socket() else path  # slapd makes its socket open to all; its folder is not
        assert guarded.stat().st_mode & 0o007 == 0, path
    for secret in (slapd.folder / "operateur.hash", slapd.folder / "tls" / "cle.pem"):
        assert secret.stat().st_mode & 0o777 == 0o600
    if os.geteuid() == 0:
        assert (slapd.folder / "operateur.hash").stat().st_uid == 0
    everything = b"".join(path.read_bytes() for path in (slapd.folder / "slapd.d").rglob("*.ldif"))
    assert PASSWORD.encode() not in everything


def test_the_command_is_one_process_for_a_supervisor(own: Slapd) -> None:
    process = subprocess.Popen(own.command())
    try:
        own.wait_ready(10)
        assert Path(f"/proc/{process.pid}/comm").read_text().strip() == "slapd"
        with closing(Directory(own.url)) as directory:
            assert directory.by_address(CLAIRE_EXEMPLE.mail)
    finally:
        process.terminate()
        assert process.wait(10) in (0, 1)  # 1: slapd 2.5 told to end in the moment it begins


def test_killed_it_serves_the_same_data_again(own: Slapd) -> None:
    own.start()
    directory = Directory(own.url, bind_dn=own.admin_dn, password=PASSWORD)
    mail = "nouveau@medecin.mssante.fr"
    new = Entry(entry_dn(mail), mail, MailboxKind.ORG, organisation="CHU EXEMPLE", structure_id="1990000010")
    directory.publish(new)
    assert own.pid is not None
    os.kill(own.pid, signal.SIGKILL)
    own.stop()
    began = time.monotonic()
    with pytest.raises(DirectoryUnavailable):
        directory.by_address(mail)
    with pytest.raises(DirectoryUnavailable):
        directory.encryption_certificates(mail, NOW)
    assert time.monotonic() - began < 1
    own.start()
    assert directory.by_address(mail) == new  # the same client object, whose pooled connection had died
    assert directory.by_address(CLAIRE_EXEMPLE.mail) == CLAIRE_EXEMPLE.entry()
    directory.close()


def test_it_dies_with_its_parent(own: Slapd) -> None:
    """The parent is killed without a chance to clean up; slapd must free its port by itself."""
    script = (
        "import sys, os, signal\nfrom pathlib import Path\nfrom directory import Slapd\n"
        "server = Slapd(Path(sys.argv[1]), ldap_port=int(sys.argv[2]))\nserver.start()\n"
        "print(server.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    port = own.url.rpartition(":")[2]
    parent = subprocess.run(
        [sys.executable, "-c", script, str(own.folder), port],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=20,
        check=False,
    )
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    pid = int(parent.stdout)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and _runs(pid):
        time.sleep(0.02)
    assert not _runs(pid)
    own.check_ports()


def test_what_a_parent_started_while_being_killed_runs_nothing(tmp_path: Path) -> None:
    """Gone before the tool could ask to die with it: half of such tools stayed for ever."""
    script = (
        "import sys, os, subprocess\nfrom pathlib import Path\nfrom directory.tools import find_program, prefix\n"
        "subprocess.Popen([*prefix(Path(sys.argv[1])), find_program('sleep'), '60'])\nos._exit(0)\n"
    )
    argv = [sys.executable, "-c", script, str(tmp_path)]
    for _ in range(5):
        # The tool holds the other end of the pipe: its output ends when it does.
        subprocess.run(argv, stdout=subprocess.PIPE, cwd=REPOSITORY, timeout=20, check=True)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


def test_a_port_taken_is_said(own: Slapd) -> None:
    port = int(own.url.rpartition(":")[2])
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(DirectoryError, match=f"{port}.*changer de port"):
            own.start()
    own.start()


@pytest.mark.parametrize("damage", [b"", b"ceci n'est pas une base" * 1000])
def test_a_damaged_database_is_said_and_not_served(own: Slapd, damage: bytes) -> None:
    (own.folder / own.generations.current() / "data.mdb").write_bytes(damage)
    with pytest.raises(DirectoryError) as caught:
        own.start(5)
    assert not isinstance(caught.value, DirectoryUnavailable)
    assert own.pid is None


def test_slapd_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "SEARCH_PATH", str(tmp_path))
    with pytest.raises(DirectoryError, match="apt install"):
        Slapd(tmp_path / "annuaire", ldap_port=free_port()).initialise([], PASSWORD)


def test_initialise_only_once_and_only_good_entries(own: Slapd, tmp_path: Path) -> None:
    with pytest.raises(DirectoryError, match="déjà"):
        own.initialise([], PASSWORD)
    other = Slapd(tmp_path / "autre", ldap_port=free_port())
    with pytest.raises(DirectoryError, match="pas initialisé"):
        other.start()
    twice = [CLAIRE_EXEMPLE.entry(), CLAIRE_EXEMPLE.entry()]
    with pytest.raises(DirectoryError, match="slapadd"):
        other.initialise(twice, PASSWORD)
    with pytest.raises(DirectoryError, match="vide"):
        other.initialise([], "")
    assert not other.initialised
    other.initialise(twice[:1], PASSWORD)  # the refused attempts left nothing in the way
    assert other.initialised


def test_impossible_settings_are_refused(tmp_path: Path, authority: Authority) -> None:
    chain, key = authority.server()
    for settings in (
        {"ldap_port": 389},
        {"ldap_port": 99999},
        {"ldap_port": 23456, "ldaps_port": 23457},
        {"ldap_port": 23456, "certificate": chain},
        {"ldap_port": 23456, "host": "annuaire.exemple"},
    ):
        with pytest.raises(DirectoryError):
            Slapd(tmp_path, **settings)
    absent = Slapd(tmp_path / "a", ldap_port=23456, ldaps_port=23457, certificate=chain, key=tmp_path / "absente.key")
    with pytest.raises(DirectoryError, match="absente"):
        absent.initialise([], PASSWORD)
    assert "127.0.0.1" in Slapd(tmp_path, ldap_port=23456, host="192.0.2.1", certificate=chain, key=key).url


def test_a_key_that_does_not_fit_is_said(tmp_path: Path, authority: Authority) -> None:
    chain, _ = authority.server()
    _, other_key = authority.server("127.0.0.2")
    server = Slapd(
        tmp_path / "annuaire", ldap_port=free_port(), ldaps_port=free_port(), certificate=chain, key=other_key
    )
    with pytest.raises(DirectoryError):
        server.initialise([], PASSWORD)
        server.start(5)
    assert server.pid is None


def test_a_search_without_an_index_is_refused_when_it_is_too_broad(tmp_path: Path) -> None:
    server = Slapd(tmp_path / "annuaire", ldap_port=free_port(), limits=Limits(unchecked=50, size=5, size_hard=20))
    server.initialise(synthetic_entries(200, seed=1), PASSWORD)
    server.start()
    try:
        common = ("ldapsearch", "-x", "-LLL", "-H", server.url, "-b", server.base)
        for broad in ("(description=*S*)", "(l=*YO*)", "(!(sn=EXEMPLE))", "(objectClass=*)", "(sn=*X*)"):
            assert witness(*common, broad).returncode == 11, broad  # adminLimitExceeded
        assert witness(*common, "(sn=EXEMP*)").stdout.count("dn: ") == 1
        with closing(Directory(server.url)) as directory:
            assert directory.search(surname="EXEMPLE")
            with pytest.raises(TooManyEntries):
                directory.search(profession="10")
        pharmacists = witness(*common, "(profession=21)", "1.1")
        assert (pharmacists.returncode, pharmacists.stdout.count("dn: ")) == (4, 5)  # sizeLimitExceeded
        greedy = witness(*common, "-z", "100000", "(profession=21)", "1.1")
        assert greedy.returncode in (4, 11) and greedy.stdout.count("dn: ") <= 20
    finally:
        server.stop()


def test_passwords_are_salted_hashes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert hash_password(PASSWORD) != hash_password(PASSWORD)
    folder, names = configuration._modules()
    monkeypatch.setattr(configuration, "_modules", lambda: (folder, [one for one in names if one != "argon2"]))
    assert hash_password(PASSWORD).startswith("{SSHA}")
    server = Slapd(tmp_path / "annuaire", ldap_port=free_port())
    server.initialise([], PASSWORD)
    server.start()
    try:
        bind = ("ldapwhoami", "-x", "-H", server.url, "-D", server.admin_dn)
        assert witness(*bind, "-w", PASSWORD).returncode == 0
        assert witness(*bind, "-w", "autre").returncode == 49
    finally:
        server.stop()


def test_an_oversize_entry_is_refused_and_the_others_served(slapd: Slapd) -> None:
    """Before a bind 256 KiB a message, after it 4 MiB (olcSockbufMaxIncoming): more ends that connection, and it alone."""
    with closing(Directory(slapd.url)) as other:
        other.check()
        dn = entry_dn("enorme@exercice.mssante.fr")
        for size, bind in ((300_000, []), (5_000_000, ["-D", slapd.admin_dn, "-w", PASSWORD])):
            ldif = f"dn: {dn}\nobjectClass: balMSSante\nmail: {dn[5:30]}\nTypeBAL: ORG\ndescription: {'x' * size}\n"
            done = witness("ldapadd", "-x", "-H", slapd.url, *bind, stdin=ldif)
            assert done.returncode not in (0, 50), done.stderr
            other.check()
        found = witness("ldapsearch", "-x", "-LLL", "-H", slapd.url, "-b", slapd.base, "(mail=enorme@*)", "mail")
        assert found.stdout.strip() == ""


def test_a_surname_that_is_a_town_finds_the_people(tmp_path: Path) -> None:
    """The common index of names must not make everybody of a town candidates for a surname."""

    def person(mail: str, given: str, surname: str, city: str = "") -> Entry:
        return Entry(entry_dn(mail), mail, MailboxKind.PER, given, surname, "810999000010", "10", city=city)

    people = [person(f"p{n}@x.mssante.fr", "Anne", f"NOM{n}", "Paris") for n in range(60)]
    people.append(person("jean.paris@x.mssante.fr", "Jean", "PARIS"))
    server = Slapd(tmp_path / "a", ldap_port=free_port(), limits=Limits(unchecked=20))
    server.initialise(people, PASSWORD)
    server.start()
    try:
        search = ("ldapsearch", "-x", "-LLL", "-H", server.url, "-b", server.base)
        for condition in ("(sn=Paris)", "(sn=par*)", "(&(objectClass=balMSSante)(sn=*aris*))"):
            done = witness(*search, condition, "mail")
            assert done.stdout.count("mail: ") == 1, (condition, done.stderr)
        assert witness(*search, "(l=Paris)", "mail").returncode == 11  # 61 candidates: too broad here
    finally:
        server.stop()
