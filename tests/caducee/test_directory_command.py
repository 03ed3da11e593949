"""`caducee directory` as an administrator meets it, on a real operator's folder with its slapd running."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import ldap
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typer.testing import CliRunner, Result

from caducee.cli import app
from caducee.folder import OperatorFolder
from caducee.mailboxes import NewMailbox, add_mailbox, practice_keys
from caducee.private_directory import private_directory
from caducee.publishing import CREATED, Follower, national_publisher, published
from caducee.settings import Settings, load_settings
from caducee.wiring import now, open_directory, open_store
from directory import Entry, Slapd
from directory.rights import READER, WRITER, account_dn
from directory.synthetic_extraction import Delivery, write_delivery
from mailstore import MailboxKind
from tests.caducee.test_cli import caducee, refused
from tests.directory.test_publication import KEY, Practice
from tests.journey.support import free_base_port
from trustspace import PracticeAuthority, pem

ADDRESS = "cardiologie@exercice.mssante.fr"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("annuaire") / "op"
    done = caducee("init", str(place), "--practice", "--ports-above", str(free_base_port()))
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture(scope="module")
def settings(folder: Path) -> Settings:
    return load_settings(folder)


@pytest.fixture(scope="module")
def slapd(folder: Path, settings: Settings) -> Iterator[Slapd]:
    server = private_directory(OperatorFolder(folder), settings)
    server.start()
    store = open_store(OperatorFolder(folder), settings)
    store.add_account(
        ADDRESS, MailboxKind.ORG, display_name="Cardiologie", national_id="1990000010", password="x" * 20, at=now()
    )
    store.close()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def delivery(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [
        str(path) for path in write_delivery(tmp_path_factory.mktemp("zip"), Delivery(150, 300, seed=4), zipped=True)
    ]


def invoke(folder: Path, *arguments: str) -> Result:
    """In this process, which is much quicker than a new one; what people see of an error is tested with a new one."""
    return CliRunner().invoke(app, [*arguments, "--dir", str(folder)])


def run(folder: Path, *arguments: str) -> Result:
    result = invoke(folder, "directory", *arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def imported(folder: Path, *arguments: str) -> str:
    """An import lowers the priority of its process: it gets one of its own."""
    done = caducee("directory", "import", *arguments, "--dir", str(folder))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_processes_bind_with_the_least_rights(folder: Path, settings: Settings, slapd: Slapd) -> None:
    place = OperatorFolder(folder)
    for write, name in ((False, READER), (True, WRITER)):
        with closing(open_directory(place, settings, write=write)) as directory, directory.connection() as connection:
            assert connection.whoami_s() == f"dn:{account_dn(name)}"


@pytest.mark.slow
def test_an_administrators_day(folder: Path, slapd: Slapd, delivery: list[str], tmp_path: Path) -> None:
    report = tmp_path / "rejets.csv"
    assert json.loads(imported(folder, *delivery, "--dry-run", "--json"))[0]["added"] == 150
    assert json.loads(run(folder, "diff", *delivery, "--json", "--limit", "500").stdout)[0]["changement"] == "ajout"
    assert "150 ajouts" in imported(folder, *delivery, "--full", "--report", str(report))
    assert report.read_text().splitlines() == ["file,line,kind,reason"]
    again = json.loads(imported(folder, *delivery, "--json"))[0]
    assert (again["unchanged"], again["added"]) == (150, 0)
    found = json.loads(run(folder, "search", "cardiologie", "--json").stdout)
    assert found
    shown = json.loads(run(folder, "show", found[0]["adresse"], "--json").stdout)
    assert shown[0]["adresse"] == found[0]["adresse"]
    assert run(folder, "search", "cardio", "lyon", "--filter").stdout.startswith("(&(objectClass=balMSSante)")
    checked = run(folder, "check", "--json")
    assert json.loads(checked.stdout)[0]["défauts"] == []
    backup = tmp_path / "annuaire.ldif.gz"
    run(folder, "backup", str(backup))
    run(folder, "restore", str(backup), "--yes")
    assert json.loads(run(folder, "search", "cardiologie", "--json").stdout) == found


def test_publishing_follows_the_mailbox(folder: Path, settings: Settings, slapd: Slapd, tmp_path: Path) -> None:
    def publish(*arguments: str) -> str:
        return str(json.loads(run(folder, "publish", ADDRESS, "--json", *arguments).stdout)[0]["annuaire"])

    place, requests = OperatorFolder(folder), tmp_path / "national.jsonl"
    assert [publish("--to-file", str(requests)), publish(), publish("--red-list"), publish()] == [
        "créée", "inchangée", "modifiée", "inchangée",
    ]  # fmt: skip
    assert json.loads(requests.read_text())["body"]["resourceType"] == "Parameters"
    store = open_store(place, settings)
    with closing(open_directory(place, settings, write=True)) as directory:
        store.set_active(ADDRESS, False)
        account = store.find_account(ADDRESS)
        assert account is not None
        entry, change = published(directory, account, settings.operator, red_list=False)
        assert (entry.suspended, entry.red_list, change) == (True, False, "modifiée")
        store.set_active(ADDRESS, True)
    store.close()
    assert publish() == "rétablie"
    told = json.loads(run(folder, "history", ADDRESS, "--json").stdout)
    assert told and {one["qui"] for one in told} == {account_dn(WRITER)}


def test_certificates_follow_the_keys(folder: Path, settings: Settings, slapd: Slapd) -> None:
    """Issued, renewed, retired, suspended, red-listed by an administrator: the mail process's pass publishes each."""
    place, address = OperatorFolder(folder), "suivi@exercice.mssante.fr"
    authority = PracticeAuthority.open(place.resolve(settings.trust.authority))
    store = open_store(place, settings)
    with closing(store), closing(open_directory(place, settings, write=True)) as directory:
        new = NewMailbox(address, MailboxKind.ORG, "1990000010", "Suivi", password="x" * 20)
        entry, _ = add_mailbox(store, new, settings.operator, at=now(), authority=authority)
        follower = Follower(store, directory, settings.operator)
        assert follower.follow() == [] and directory.by_address(address) is None  # opened with --no-publish
        directory.publish(entry)
        follower = Follower(store, directory, settings.operator)

        def shown() -> Entry:
            found = directory.by_address(address)
            assert found is not None
            return found

        assert address not in follower.follow() and len(shown().certificates) == 1
        (old,) = shown().certificates
        renewed = practice_keys(authority, new, settings.operator, now())["smime"]
        private = renewed.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        store.put_key(address, "smime", pem.chain_to_pem(renewed.chain), private, now())
        assert follower.follow() == [address]
        assert renewed.certificate in shown().certificates
        retired = next(
            one for one in store.key_records(address) if old == x509.load_pem_x509_certificate(one.chain_pem)
        )
        if retired.retired_at is None:
            store.retire_key(retired.id, now())
            assert follower.follow() == [address]
        assert shown().certificates == (renewed.certificate,)
        with slapd.manager() as admin:
            admin.modify_s(shown().dn, [(ldap.MOD_REPLACE, "listeRouge", [b"TRUE"])])
        store.set_active(address, False)
        assert follower.follow() == [address]
        assert (shown().suspended, shown().red_list) == (True, True)
        assert follower.follow() == []


def test_the_national_directory_follows(folder: Path, settings: Settings, slapd: Slapd, tmp_path: Path) -> None:
    """Against a practice endpoint that applies the FHIR Patch: by command, and by the mail process's pass."""
    place = OperatorFolder(folder)
    run(folder, "publish", ADDRESS)
    (tmp_path / "cle").write_text(KEY)
    server = Practice()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    section = {"national_url": server.base, "national_key_file": str(tmp_path / "cle")}
    changed = settings.model_copy(update={"directory": settings.directory.model_copy(update=section)})
    (telecoms,) = [one for (kind, _), one in server.holders.items() if kind == "Organization"]
    store = open_store(place, settings)
    try:
        with closing(store), closing(open_directory(place, settings, write=True)) as directory:
            national = national_publisher(place, changed)
            entry = directory.by_address(ADDRESS)
            assert entry is not None
            assert national(replace(entry, red_list=False, suspended=False), CREATED) == "done"
            assert [one["value"] for one in telecoms] == [ADDRESS]
            follower = Follower(store, directory, settings.operator, national)
            follower.follow()
            server.forced = 503  # down: nothing is lost, the next pass sends it
            store.set_active(ADDRESS, False)
            assert follower.follow() == [ADDRESS]
            assert [one["value"] for one in telecoms] == [ADDRESS]
            server.forced = 0
            assert follower.follow() == []
            assert telecoms == []  # suspended: taken out there
            store.set_active(ADDRESS, True)
            follower.follow()
            assert [one["value"] for one in telecoms] == [ADDRESS]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_closing_a_mailbox_hides_it_at_once(folder: Path, slapd: Slapd) -> None:
    run(folder, "publish", ADDRESS)
    search = ("ldapsearch", "-x", "-LLL", "-H", slapd.url, "-b", slapd.base, f"(mail={ADDRESS})", "mail")
    for command, seen in (("close", False), ("open", True)):
        assert invoke(folder, "account", command, ADDRESS).exit_code == 0
        assert (ADDRESS in subprocess.run(search, capture_output=True, text=True, check=True).stdout) is seen


def test_the_trust_spaces_authorities_are_published(folder: Path, slapd: Slapd) -> None:
    for _ in range(2):
        done = run(folder, "publish", "--authorities", "--json")
        assert [one for one in json.loads(done.stdout) if one["annuaire"] == "autorité"]
    search = ("ldapsearch", "-x", "-LLL", "-H", slapd.url, "-b", f"ou=ac,{slapd.base}", "(objectClass=pkiCA)")
    shown = subprocess.run(search, capture_output=True, text=True, check=True).stdout
    assert "cACertificate;binary::" in shown and "certificateRevocationList;binary::" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "inconnu@x.fr"), "inconnu"),
        (("show", "810999000011"), "clé de contrôle"),
        (("search", "a"), "deux lettres"),
        (("import", "absent.zip"), "absent"),
        (("publish", "ailleurs@x.fr"), "pas|inconnue"),
        (("publish", "--national"), "national_url"),
        (("restore", "absent.ldif", "--yes"), "absent"),
    ],
)
def test_wrong_input_is_said(folder: Path, slapd: Slapd, arguments: tuple[str, ...], said: str) -> None:
    result = invoke(folder, "directory", *arguments)
    assert result.exit_code != 0
    assert re.search(said, str(result.exception))


def test_wrong_input_is_one_line(folder: Path, slapd: Slapd) -> None:
    done = caducee("directory", "import", "absent.zip", "--dir", str(folder))
    assert re.search("absent", refused(done))


def test_help_teaches() -> None:
    shown = CliRunner().invoke(app, ["directory", "--help"]).stdout
    for name in ("search", "show", "import", "diff", "publish", "check", "history", "backup", "restore"):
        assert name in shown
