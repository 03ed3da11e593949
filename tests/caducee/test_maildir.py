"""Whole mailboxes as Maildir: folders, flags and keywords go out and come back; Dovecot reads what we write, and writes what
we read."""

from __future__ import annotations

import imaplib
import json
import os
import pwd
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caducee.folder import OperatorFolder
from caducee.maildir import KEYWORDS_FILE, Maildir, folder_name, name_of, read
from caducee.mailfiles import FiledMessage
from caducee.settings import load_settings
from caducee.wiring import open_store
from mailstore import NewMessage
from tests.caducee.test_cli import folder, practice, refused
from tests.caducee.test_mailbox import _account, caducee
from tests.imap.dovecot import PASSWORD, USER, Dovecot, available

__all__ = ["folder", "practice"]
DATE = datetime(2025, 7, 3, 8, 9, 10, tzinfo=UTC)
NAMES = st.lists(st.text("aé.&\\~ 2e5c-", min_size=1, max_size=6), min_size=1, max_size=3).map("/".join)


def message(number: int, *flags: str) -> FiledMessage:
    return FiledMessage(b"Subject: %d\r\n\r\nbonjour\r\n" % number, frozenset(flags), DATE)


@given(NAMES)
def test_a_folder_s_name_comes_back(name: str) -> None:
    written = folder_name(name)
    assert written.isascii() and written.count(".") == name.count("/") + 1
    assert name_of(written) == name


def test_keywords_come_back_as_far_as_there_are_letters(tmp_path: Path) -> None:
    target = Maildir(tmp_path / "d")
    target.write(message(1, "\\Seen", "$Forwarded", "urgent", "vu-par-le-secretariat"))
    target.write(message(2, *(f"mot{number:02d}" for number in range(24))))
    first, second = read(tmp_path / "d")
    assert first.flags == {"\\Seen", "$Forwarded", "urgent", "vu-par-le-secretariat"}
    assert second.flags == {f"mot{number:02d}" for number in range(23)}
    assert target.lost == {"mot23"}


def test_what_is_no_keyword_and_no_message_is_passed_over(tmp_path: Path) -> None:
    Maildir(tmp_path / "d").below("A").write(message(1, "un"))
    (tmp_path / "d" / KEYWORDS_FILE).write_bytes(b"0 bon\n1 (faux\n2\n99 trop\n-1 non\nx y\n3 \xff\n" + b"z" * 100_000)
    cur = tmp_path / "d" / "cur"
    (cur / "a:2,Sabcdz").write_bytes(b"Subject: x\n\n")
    secret = tmp_path / "secret"
    secret.write_bytes(b"of this machine")
    (cur / "b:2,").symlink_to(secret)
    (tmp_path / "d" / ".B").symlink_to(tmp_path / "d" / ".A")
    assert [(one.folder, set(one.flags)) for one in read(tmp_path / "d")] == [("", {"\\Seen", "bon"}), ("A", {"un"})]


@pytest.mark.slow
def test_a_whole_mailbox_goes_out_and_comes_back(folder: Path, tmp_path: Path) -> None:
    address = _account(folder)
    source = tmp_path / "in"
    top = Maildir(source)
    top.write(message(1, "\\Seen", "urgent"))
    top.below("Sent").write(message(2, "\\Seen"))
    top.below("Éléments supprimés").write(message(3))
    top.below("Patients/M. Dupont").write(message(4, "\\Flagged", "$Label1"))
    options = ("--all", "--json", "-d", str(folder))
    done = caducee("mailbox", "import", address, str(source), *options)
    assert json.loads(done.stdout) == [{"imported": 4, "present": 0}], done.stderr
    out = tmp_path / "out"
    done = caducee("mailbox", "export", address, str(out), *options)
    assert json.loads(done.stdout) == [{"exported": 4, "keywords_lost": []}], done.stderr
    assert {one.folder: (one.content, set(one.flags)) for one in read(out)} == {
        "": (message(1).content, {"\\Seen", "urgent"}),
        "Envoyés": (message(2).content, {"\\Seen"}),
        "Corbeille": (message(3).content, set()),
        "Patients/M. Dupont": (message(4).content, {"\\Flagged", "$Label1"}),
    }
    assert {one.date for one in read(out)} == {DATE}
    assert all(path.stat().st_mode & 0o077 == 0 for path in (out, *out.rglob("*")))
    again = caducee("mailbox", "import", address, str(out), *options)
    assert json.loads(again.stdout) == [{"imported": 0, "present": 4}]
    assert "--folder" in refused(caducee("mailbox", "export", address, str(tmp_path / "x"), "-f", "A", *options))
    (tmp_path / "mbox").write_bytes(b"From x\n\n")
    assert "Maildir" in refused(caducee("mailbox", "import", address, str(tmp_path / "mbox"), *options))


@pytest.mark.slow
def test_a_name_that_no_file_can_bear_is_told_before_anything_is_written(folder: Path, tmp_path: Path) -> None:
    address = _account(folder)
    store = open_store(OperatorFolder(folder), load_settings(folder))
    account = store.find_account(address)
    assert account is not None
    store.create_folder(account.id, "é" * 200)
    store.close()
    out = tmp_path / "out"
    assert "renommer" in refused(caducee("mailbox", "export", address, str(out), "--all", "-d", str(folder)))
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.skipif(not available(), reason="Dovecot is not installed, or this is not root")
def test_dovecot_reads_what_we_write_and_writes_what_we_read(
    folder: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    address = _account(folder)
    store = open_store(OperatorFolder(folder), load_settings(folder))
    account = store.find_account(address)
    assert account is not None
    flags = frozenset({"\\Flagged", "urgent"})
    store.append_messages(account.id, "Envoyés", [NewMessage(message(1).content, flags, DATE)], DATE)
    store.close()
    options = ("--all", "--json", "-d", str(folder))
    place = tmp_path_factory.mktemp("d")  # short: Dovecot's sockets are below it
    dovecot = Dovecot(place, mail="maildir:~/mail")
    try:
        mail = place / "home" / "mail"
        assert caducee("mailbox", "export", address, str(mail), *options).returncode == 0
        nobody = pwd.getpwnam("nobody")
        for path in (mail, *mail.rglob("*")):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        client = imaplib.IMAP4("127.0.0.1", dovecot.port)
        client.login(USER, PASSWORD)
        client.select("Envoy&AOk-s")
        (found,) = client.fetch("1", "(FLAGS INTERNALDATE)")[1]
        assert isinstance(found, bytes)
        assert b"\\Flagged" in found and b"urgent" in found and b'"03-Jul-2025 08:09:10 +0000"' in found
        assert client.store("1", "+FLAGS", "(dovecot-dit)")[0] == "OK"
        client.create("Neuf/Dedans")
        client.append("Neuf/Dedans", "(\\Seen ici)", None, message(2).content)
        client.logout()
    finally:
        dovecot.stop()
    shutil.copytree(mail, tmp_path / "copy")
    done = caducee("mailbox", "import", address, str(tmp_path / "copy"), *options)
    assert json.loads(done.stdout) == [{"imported": 1, "present": 1}], done.stderr
    out = tmp_path / "out"
    assert caducee("mailbox", "export", address, str(out), *options).returncode == 0
    assert {one.folder: set(one.flags) for one in read(out)} == {
        "Envoyés": {"\\Flagged", "urgent"},  # the message was there: its flags stay ours
        "Neuf/Dedans": {"\\Seen", "ici"},
    }
