"""`caducee directory` as an administrator meets it, on a real operator's folder with its slapd running."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from caducee.folder import OperatorFolder
from caducee.private_directory import private_directory
from caducee.publishing import published
from caducee.settings import Settings, load_settings
from caducee.wiring import now, open_directory, open_store
from directory import Slapd
from directory.rights import READER, WRITER, account_dn
from directory.synthetic_extraction import Delivery, write_delivery
from mailstore import MailboxKind
from tests.caducee.test_cli import caducee, refused
from tests.journey.support import free_base_port

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


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return caducee("directory", *arguments, "--dir", str(folder))


def test_the_processes_bind_with_the_least_rights(folder: Path, settings: Settings, slapd: Slapd) -> None:
    place = OperatorFolder(folder)
    for write, name in ((False, READER), (True, WRITER)):
        with closing(open_directory(place, settings, write=write)) as directory, directory.connection() as connection:
            assert connection.whoami_s() == f"dn:{account_dn(name)}"


@pytest.mark.slow
def test_an_administrators_day(folder: Path, slapd: Slapd, delivery: list[str], tmp_path: Path) -> None:
    report = tmp_path / "rejets.csv"
    dry = run(folder, "import", *delivery, "--dry-run", "--json")
    assert dry.returncode == 0, dry.stderr
    assert json.loads(dry.stdout)[0]["added"] == 150
    assert json.loads(run(folder, "diff", *delivery, "--json", "--limit", "500").stdout)[0]["changement"] == "ajout"
    done = run(folder, "import", *delivery, "--full", "--report", str(report))
    assert done.returncode == 0, done.stderr
    assert "150 ajouts" in done.stdout
    assert report.read_text().splitlines() == ["file,line,kind,reason"]
    again = json.loads(run(folder, "import", *delivery, "--json").stdout)[0]
    assert (again["unchanged"], again["added"]) == (150, 0)
    found = json.loads(run(folder, "search", "cardiologie", "--json").stdout)
    assert found
    shown = json.loads(run(folder, "show", found[0]["adresse"], "--json").stdout)
    assert shown[0]["adresse"] == found[0]["adresse"]
    assert run(folder, "search", "cardio", "lyon", "--filter").stdout.startswith("(&(objectClass=balMSSante)")
    checked = run(folder, "check", "--json")
    assert checked.returncode == 0, checked.stdout
    assert json.loads(checked.stdout)[0]["défauts"] == []
    backup = tmp_path / "annuaire.ldif.gz"
    assert run(folder, "backup", str(backup)).returncode == 0
    assert run(folder, "restore", str(backup), "--yes").returncode == 0
    assert json.loads(run(folder, "search", "cardiologie", "--json").stdout) == found


def test_publishing_follows_the_mailbox(folder: Path, settings: Settings, slapd: Slapd, tmp_path: Path) -> None:
    def publish(*arguments: str) -> str:
        done = run(folder, "publish", ADDRESS, "--json", *arguments)
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout)[0]["annuaire"])

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
    assert publish() == "modifiée"
    told = json.loads(run(folder, "history", ADDRESS, "--json").stdout)
    assert told and {one["qui"] for one in told} == {account_dn(WRITER)}


def test_the_trust_spaces_authorities_are_published(folder: Path, slapd: Slapd) -> None:
    for _ in range(2):
        done = run(folder, "publish", "--authorities", "--json")
        assert done.returncode == 0, done.stderr
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
def test_wrong_input_is_one_line(folder: Path, slapd: Slapd, arguments: tuple[str, ...], said: str) -> None:

    assert re.search(said, refused(run(folder, *arguments)))


def test_help_teaches() -> None:
    shown = caducee("directory", "--help").stdout
    for name in ("search", "show", "import", "diff", "publish", "check", "history", "backup", "restore"):
        assert name in shown
