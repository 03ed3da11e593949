"""Mailboxes as files and from the command line: what goes out comes back, flags and dates kept."""

from __future__ import annotations

import contextlib
import io
import json
import mailbox
import subprocess
import sys
import time
import tomllib
import unittest.mock
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pyotp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caducee import cli
from caducee.folder import OperatorFolder
from caducee.maildir import Maildir
from caducee.maildir import read as read_maildir
from caducee.mailfiles import FiledMessage, read_mbox, write_mbox
from caducee.settings import load_settings
from caducee.wiring import open_store
from mailstore import Store
from tests.caducee.test_cli import folder, practice, refused

__all__ = ["folder", "practice"]
SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
DATE = datetime(2025, 7, 3, 8, 9, 10, tzinfo=UTC)
BODY = b"Subject: t\xc3\xa9st\r\nMessage-ID: <1@x>\r\n\r\nFrom here\r\n>From there\r\n\r\nFrom Paris Thu Jan  1 00:00:00 1970\r\n"
LINES = st.lists(st.sampled_from([b"From x", b">From y", b"", b"Bonjour", b">>From z"]), max_size=8)


@given(
    LINES, st.sets(st.sampled_from(["\\Seen", "\\Flagged", "\\Answered", "\\Draft", "\\Deleted", "$Forwarded", "mot"]))
)
def test_mbox_gives_back_what_it_was_given(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], flags: set[str]
) -> None:
    path = tmp_path_factory.mktemp("mbox") / "mbox"
    content = b"Subject: x\r\n\r\n" + b"".join(line + b"\r\n" for line in lines)
    given_ones = [FiledMessage(content, frozenset(flags), DATE), FiledMessage(BODY, frozenset(), DATE)]
    with path.open("wb") as file:
        for one in given_ones:
            write_mbox(file, one)
    assert list(read_mbox(path)) == given_ones


def test_pythons_mailbox_reads_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / "mbox"
    with path.open("wb") as file:
        write_mbox(file, FiledMessage(BODY, frozenset({"\\Seen", "\\Flagged"}), DATE))
        write_mbox(file, FiledMessage(BODY, frozenset(), DATE))
    first, _ = mailbox.mbox(path)
    assert set(first.get_flags()) == {"R", "O", "F"}
    assert first.get_from() == "MAILER-DAEMON Thu Jul  3 08:09:10 2025"
    Maildir(tmp_path / "dir").write(FiledMessage(BODY, frozenset({"\\Seen", "$Forwarded"}), DATE))
    (read,) = mailbox.Maildir(tmp_path / "dir")
    assert read.get_flags() == "PSa"
    assert read.get_date() == DATE.timestamp()


def test_what_others_write_is_read(tmp_path: Path) -> None:
    box = mailbox.mbox(tmp_path / "mbox")
    message = mailbox.mboxMessage(b"Subject: autre\nDate: Tue, 1 Apr 2025 10:00:00 +0200\n\nbonjour\nFrom nobody\n")
    message.set_flags("RA")
    box.add(message)
    box.close()
    (read,) = read_mbox(tmp_path / "mbox")
    assert read.content == b"Subject: autre\r\nDate: Tue, 1 Apr 2025 10:00:00 +0200\r\n\r\nbonjour\r\nFrom nobody\r\n"
    assert read.flags == {"\\Seen", "\\Answered"}
    path = tmp_path / "raw"
    path.write_bytes(b"From nobody\nDate: Tue, 1 Apr 2025 10:00:00 +0200\n\nx\n")
    (read,) = read_mbox(path)
    assert read.date == datetime(2025, 4, 1, 8, tzinfo=UTC)
    path.write_bytes(b"\x00\xff nothing of an mbox\n")
    assert list(read_mbox(path)) == []
    Maildir(tmp_path / "dir").below("Archives/2025")
    (tmp_path / "dir" / "new" / "x").write_bytes(b"Subject: neuf\n\n")
    (tmp_path / "dir" / ".Archives.2025" / "cur" / "y:2,S").write_bytes(b"Subject: vieux\n\n")
    assert [(one.folder, *one.flags) for one in read_maildir(tmp_path / "dir")] == [("",), ("Archives/2025", "\\Seen")]


def rows_of(store: Store, statement: str) -> list[tuple[object, ...]]:
    """Rows of the database, past the verbs."""
    with store._db.read() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(statement)]


def caducee(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """The command, in this process: starting Python for each would take most of the time. One test of this file, and all
    of test_cli, start the real one."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        unittest.mock.patch.object(sys, "argv", ["caducee", *arguments]),
        unittest.mock.patch.object(sys, "stdin", io.StringIO(given)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    return subprocess.CompletedProcess(arguments, code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())


PERSON = ("--national-id", "810000000017", "--name", "Dr Léa Martin", "--surname", "MARTIN", "--given-name", "Léa")


def _add(folder: Path, address: str, person: tuple[str, ...] = PERSON) -> subprocess.CompletedProcess[str]:
    options = ("--no-publish", "--stdin", "-d", str(folder))
    return caducee("account", "add", address, "--kind", "PER", *person, *options, given="un mot de passe bien long\n")


def _account(folder: Path) -> str:
    """A mailbox of this operator, with a password."""
    domain = tomllib.loads((folder / "caducee.toml").read_text())["operator"]["domains"][0]
    address = f"lea@{domain}"
    done = _add(folder, address)
    assert done.returncode == 0, done.stderr
    return address


@pytest.mark.slow
def test_import_then_export(folder: Path, tmp_path: Path) -> None:
    address = _account(folder)
    source = tmp_path / "in"
    top = Maildir(source)
    for number in range(3):
        top.write(FiledMessage(b"Subject: %d\r\n\r\n" % number + BODY, frozenset({"\\Seen"}), DATE))
    top.below("Patients").write(FiledMessage(BODY, frozenset({"\\Flagged"}), DATE))
    first = caducee("mailbox", "import", address, str(source), "--json", "-d", str(folder))
    assert json.loads(first.stdout) == [{"imported": 4, "present": 0}], first.stderr
    again = caducee("mailbox", "import", address, str(source), "--json", "-d", str(folder))
    assert json.loads(again.stdout) == [{"imported": 0, "present": 4}], "an import that was cut is begun again"
    out = tmp_path / "out.mbox"
    assert caducee("mailbox", "export", address, str(out), "-d", str(folder)).returncode == 0
    assert out.stat().st_mode & 0o077 == 0
    assert [(one.content, one.flags, one.date) for one in read_mbox(out)] == [
        (one.content, one.flags, one.date) for one in read_maildir(source) if not one.folder
    ]
    maildir = tmp_path / "out"
    options = ("--format", "maildir", "--folder", "INBOX/Patients")
    assert caducee("mailbox", "export", address, str(maildir), *options, "-d", str(folder)).returncode == 0
    assert [(one.content, one.flags, one.date) for one in read_maildir(maildir)] == [
        (BODY, frozenset({"\\Flagged"}), DATE)
    ]
    assert "existe déjà" in refused(caducee("mailbox", "export", address, str(out), "-d", str(folder)))
    assert "mbox" in refused(caducee("mailbox", "import", address, str(tmp_path / "none"), "-d", str(folder)))
    rows = json.loads(caducee("mailbox", "folders", address, "--json", "-d", str(folder)).stdout)
    assert {row["dossier"]: row["messages"] for row in rows}["INBOX"] == 3
    limited = caducee("mailbox", "quota", address, "--messages", "4", "--json", "-d", str(folder))
    assert json.loads(limited.stdout)[0]["limite_messages"] == 4
    top.write(FiledMessage(b"Subject: trop\r\n\r\n", frozenset(), DATE))
    assert "pleine" in refused(caducee("mailbox", "import", address, str(source), "--json", "-d", str(folder)))
    assert (
        caducee("mailbox", "retention", address, "-f", "Corbeille", "--days", "30", "-d", str(folder)).returncode == 0
    )
    state = json.loads(caducee("account", "show", address, "--json", "-d", str(folder)).stdout)[0]
    assert (state["messages"], state["second_facteur"], state["verrouillee_jusqua"]) == (4, False, None)
    _keys(folder, address)


def _keys(folder: Path, address: str) -> None:
    """The master key is replaced; everything still opens, with the new one only."""
    old = (folder / "keys" / "master.key").read_bytes()
    done = caducee("keys", "rotate-master", "-d", str(folder))
    assert done.returncode == 0, done.stderr
    new = (folder / "keys" / "master.key").read_bytes()
    assert new != old
    assert not (folder / "keys" / "master.new").exists()
    rows = json.loads(caducee("mailbox", "folders", address, "--json", "-d", str(folder)).stdout)
    assert sum(row["messages"] for row in rows) == 4
    # As if it had been killed between the database and the files: the old key is in place, the new one beside it.
    (folder / "keys" / "master.new").write_bytes(new)
    (folder / "keys" / "master.new").chmod(0o600)
    (folder / "keys" / "master.key").write_bytes(old)
    assert "master key" in refused(caducee("mailbox", "folders", address, "-d", str(folder)))
    assert caducee("keys", "rotate-master", "-d", str(folder)).returncode == 0
    assert caducee("mailbox", "folders", address, "-d", str(folder)).returncode == 0


@pytest.mark.slow
def test_second_factor_and_application_passwords(folder: Path) -> None:
    address = _account(folder)
    with unittest.mock.patch("pyotp.random_base32", return_value=SECRET):
        code = pyotp.TOTP(SECRET).now()
        done = caducee("account", "totp", address, "--stdin", "-d", str(folder), given=f"{code}\n")
    assert done.returncode == 0, done.stderr
    assert parse_qs(urlsplit(done.stdout.splitlines()[0]).query)["secret"] == [SECRET]
    assert json.loads(caducee("account", "show", address, "--json", "-d", str(folder)).stdout)[0]["second_facteur"]
    assert caducee("account", "totp", address, "--off", "-d", str(folder)).returncode == 0
    assert "code faux" in refused(caducee("account", "totp", address, "--stdin", "-d", str(folder)))
    drawn = caducee("account", "app-password", "add", address, "--label", "téléphone", "-d", str(folder))
    assert len(drawn.stdout.strip()) == 24
    (row,) = json.loads(caducee("account", "app-password", "list", address, "--json", "-d", str(folder)).stdout)
    assert row["client"] == "téléphone"
    assert drawn.stdout.strip() not in json.dumps(row)
    assert caducee("account", "app-password", "revoke", address, str(row["numero"]), "-d", str(folder)).returncode == 0
    assert "inconnu" in refused(caducee("account", "app-password", "revoke", address, "99", "-d", str(folder)))
    for verb in ("unlock", "close", "open"):
        assert caducee("account", verb, address, "-d", str(folder)).returncode == 0
        assert "inconnue" in refused(caducee("account", verb, "x@x.fr", "-d", str(folder)))


@pytest.mark.slow
def test_a_deleted_mailbox_leaves_its_trail_and_its_address_to_nobody(folder: Path, tmp_path: Path) -> None:
    address = _account(folder)
    source = tmp_path / "mbox"
    with source.open("wb") as file:
        for number in range(3):
            write_mbox(file, FiledMessage(b"Subject: %d\r\n\r\n" % number + BODY, frozenset(), DATE))
    assert caducee("mailbox", "import", address, str(source), "--json", "-d", str(folder)).returncode == 0
    delete = ("account", "delete", address, "--no-publish", "-d", str(folder))
    assert "rien n'est supprimé" in refused(caducee(*delete, given="lea@ailleurs.fr\n"))
    done = caducee(*delete, given=f"{address}\n")
    assert done.returncode == 0, done.stderr
    assert "3 messages" in done.stdout
    assert "inconnue" in refused(caducee("account", "show", address, "-d", str(folder)))
    other = ("--national-id", "810000000025", "--name", "Dr Luc Petit", "--surname", "PETIT", "--given-name", "Luc")
    assert "réattribuée" in refused(_add(folder, address, other))
    assert _add(folder, address).returncode == 0, "its own holder may come back"
    store = open_store(OperatorFolder(folder), load_settings(folder))
    names = [row[0] for row in rows_of(store, "SELECT name FROM audit ORDER BY id")]
    assert names == ["mailbox.imported", "account.erased"]
    store.close()


@pytest.mark.slow
def test_an_import_that_is_killed_is_begun_again(folder: Path, tmp_path: Path) -> None:
    """`kill -9` in the middle: what was imported is whole, and a second run brings the rest, nothing twice."""
    address = _account(folder)
    source = tmp_path / "mbox"
    with source.open("wb") as file:
        for number in range(1500):
            write_mbox(file, FiledMessage(b"Subject: %d\r\n\r\n" % number + BODY, frozenset({"\\Seen"}), DATE))
    command = [
        sys.executable,
        "-m",
        "caducee.cli",
        "mailbox",
        "import",
        address,
        str(source),
        "--json",
        "-d",
        str(folder),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(0.05)
            rows = json.loads(caducee("mailbox", "folders", address, "--json", "-d", str(folder)).stdout)
            if any(row["messages"] for row in rows):
                process.kill()
                break
    done = caducee("mailbox", "import", address, str(source), "--json", "-d", str(folder))
    (counts,) = json.loads(done.stdout)
    assert counts["imported"] + counts["present"] == 1500
    assert counts["present"] > 0
    out = tmp_path / "out"
    assert caducee("mailbox", "export", address, str(out), "-d", str(folder)).returncode == 0
    assert [one.content for one in read_mbox(out)] == [one.content for one in read_mbox(source)]
