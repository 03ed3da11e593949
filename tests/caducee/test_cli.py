"""The command as a person meets it: help that teaches, and errors that are one line, code 2, without a traceback."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from caducee.demo.country import all_settings
from caducee.initialise import create_operator
from caducee.sections import ListenSection, ServicesSection
from tests.journey.support import free_base_port


def caducee(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "caducee.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "COLUMNS": "200", **env},
    )


@pytest.fixture(scope="module")
def practice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An operator made by the command itself."""
    folder = tmp_path_factory.mktemp("cli") / "op"
    done = caducee("init", str(folder), "--practice", "--ports-above", str(free_base_port()))
    assert done.returncode == 0, done.stderr
    yield folder


@pytest.fixture
def folder(practice: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(practice, tmp_path / "op", ignore=shutil.ignore_patterns("directory")))


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a clean refusal."""
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("caducee")
    return done.stderr


def test_init_says_what_comes_next(tmp_path: Path) -> None:
    done = caducee("init", str(tmp_path / "op"), "--practice", "--domain", "essai.mssante.fr", "--ports-above", "30000")
    assert done.returncode == 0
    assert "_imaps._tcp.essai.mssante.fr. SRV 0 1 30993" in done.stdout
    assert "caducee serve" in done.stdout
    for name in ("keys/master.key", "keys/server.pem", "caducee.db", "trust/listeblanche.xml", "directory", "pki"):
        assert (tmp_path / "op" / name).exists(), name


def test_init_without_practice_makes_a_certificate_request(tmp_path: Path) -> None:
    done = caducee(
        "init", str(tmp_path / "op"), "--domain", "chu.mssante.fr", "--organisation", "CHU", "--structure-id", "1990000010",
        "--ports-above", str(free_base_port()),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = subprocess.run(
        ["openssl", "req", "-in", str(tmp_path / "op/keys/server.csr"), "-noout", "-subject", "-verify"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "anchors" in refused(caducee("serve", str(tmp_path / "op"), CADUCEE_SERVICES__DIRECTORY="false"))
    assert "OU = 1990000010" in said.stdout
    assert "CN = mss.chu.mssante.fr" in said.stdout


def test_init_refuses_and_leaves_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("precious")
    assert "n'est pas vide" in refused(caducee("init", str(tmp_path), "--practice"))
    assert [path.name for path in tmp_path.iterdir()] == ["letter"]
    assert "--structure-id" in refused(
        caducee("init", str(tmp_path / "x"), "--practice", "--structure-id", "1990000011")
    )
    assert not (tmp_path / "x").exists()


def test_config_check_and_show(practice: Path) -> None:
    done = caducee("config", "check", "--dir", str(practice))
    assert done.returncode == 0, done.stderr
    assert "liste blanche du" in done.stdout
    assert "[listen]" in caducee("config", "show", "--dir", str(practice)).stdout


@pytest.mark.parametrize("command", [("serve",), ("config", "check"), ("account", "list"), ("queue",), ("trace", "x")])
def test_a_folder_that_is_no_operator(command: tuple[str, ...], tmp_path: Path) -> None:
    arguments = (*command, str(tmp_path)) if command == ("serve",) else (*command, "--dir", str(tmp_path))
    assert "caducee init" in refused(caducee(*arguments))


def test_a_wrong_setting_is_named(folder: Path) -> None:
    settings = folder / "caducee.toml"
    settings.write_text(settings.read_text().replace("imaps = ", "imaps = 9"))
    assert "listen.imaps: " in refused(caducee("serve", str(folder)))


def test_a_wrong_variable_is_named(folder: Path) -> None:
    said = refused(caducee("config", "check", "--dir", str(folder), CADUCEE_TRUST__STOP_AFTER_HOURS="jamais"))
    assert "trust.stop_after_hours" in said
    assert "CADUCEE_TRUST__STOP_AFTER_HOURS" in said


def in_own_mounts(script: str) -> subprocess.CompletedProcess[str]:
    """A shell script with mounts of its own; the test is skipped where that is not allowed."""
    command = ["unshare", "-m", "sh", "-c", f"{script}; code=$?; echo done; exit $code"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if os.geteuid() != 0 or "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip("mounts of our own need root")
    return done


def test_a_missing_slapd_is_named(practice: Path) -> None:
    """As on a machine where slapd was never installed."""
    slapd = shutil.which("slapd", path="/usr/sbin:/usr/libexec:/usr/lib/openldap")
    done = in_own_mounts(f"mount --bind /dev/null {slapd} && {sys.executable} -m caducee.cli serve {practice}")
    assert "slapd" in refused(done)


def test_a_damaged_database_is_named(folder: Path) -> None:
    with (folder / "caducee.db").open("r+b") as file:
        file.write(b"not a database at all")
    assert "caducee.db" in refused(caducee("account", "list", "--dir", str(folder)))
    said = refused(caducee("serve", str(folder), CADUCEE_SERVICES__DIRECTORY="false"))
    assert "caducee.db" in said


def test_a_foreign_database_is_refused(folder: Path) -> None:
    (folder / "caducee.db").unlink()
    with sqlite3.connect(folder / "caducee.db") as other:
        other.execute("create table customers (id integer)")
    refused(caducee("account", "list", "--dir", str(folder)))


def test_a_missing_or_open_master_key_is_refused(folder: Path) -> None:
    (folder / "keys" / "master.key").chmod(0o644)
    assert "master.key" in refused(caducee("account", "list", "--dir", str(folder)))
    (folder / "keys" / "master.key").unlink()
    assert "master.key" in refused(caducee("account", "list", "--dir", str(folder)))


def test_no_space_left_is_said(tmp_path: Path) -> None:
    """A file system of 300 KiB: init does not fit, says so, and leaves it empty."""
    init = f"{sys.executable} -m caducee.cli init {tmp_path}/op --practice"
    done = in_own_mounts(
        f"mount -t tmpfs -o size=300k tmpfs {tmp_path} && ({init}; code=$?; ls -A {tmp_path}; exit $code)"
    )
    assert "place" in refused(done)
    assert done.stdout == "done\n"


def test_a_practice_authority_is_refused_in_production(folder: Path) -> None:
    for command in (("serve", str(folder)), ("config", "check", "--dir", str(folder))):
        said = refused(caducee(*command, CADUCEE_TRUST__PRACTICE="false", CADUCEE_SERVICES__DIRECTORY="false"))
        assert "trust.practice" in said


def test_an_aged_white_list_fails_the_check(folder: Path) -> None:
    old = time.time() - 30 * 3600
    os.utime(folder / "trust" / "listeblanche.xml", (old, old))
    assert "ageing" in refused(caducee("config", "check", "--dir", str(folder)))


def test_account_life(folder: Path) -> None:
    password = "un mot de passe assez long\n"
    add = [
        "account",
        "add",
        "claire@exercice.mssante.fr",
        "--kind",
        "PER",
        "--national-id",
        "810999000010",
        "--name",
        "Dr Claire",
    ]
    person = ["--surname", "EXEMPLE", "--given-name", "Claire", "--profession", "Médecin", "--dir", str(folder)]
    command = [sys.executable, "-m", "caducee.cli", *add, "--no-publish", "--stdin", *person]
    done = subprocess.run(command, input=password, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "claire@exercice.mssante.fr" in caducee("account", "list", "--json", "--dir", str(folder)).stdout
    again = subprocess.run(command, input=password, capture_output=True, text=True, check=False)
    assert "claire@exercice.mssante.fr" in refused(again)
    short = subprocess.run(
        [sys.executable, "-m", "caducee.cli", "account", "password", add[2], "--stdin", "--dir", str(folder)],
        input="court\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "trop court" in refused(short)
    assert "exercice.mssante.fr" in refused(
        caducee(
            "account",
            "add",
            "x@ailleurs.fr",
            "--kind",
            "PER",
            "--national-id",
            "8",
            "--name",
            "x",
            "--dir",
            str(folder),
        )
    )


def test_a_failed_init_leaves_nothing(tmp_path: Path) -> None:
    """slapd's port is under 1024, which its unprivileged process cannot have: refused after keys and database were made."""
    settings = all_settings(20000)["national"].model_copy(
        update={"listen": ListenSection.above(0), "services": ServicesSection(directory=True)}
    )
    with pytest.raises(Exception, match="389"):
        create_operator(tmp_path / "op", settings, at=datetime.now(UTC))
    assert not (tmp_path / "op").exists()
