"""Stock clients against the server: imaplib, aioimaplib, mbsync, mutt."""

from __future__ import annotations

import asyncio
import imaplib
import os
import shutil
from pathlib import Path

import aioimaplib
import pytest

from imap import ImapServer
from tests.imap.support import ADDRESS, MULTIPART, PASSWORD, SIMPLE, House


def _imaplib_session(house: House, port: int) -> None:
    with imaplib.IMAP4_SSL("127.0.0.1", port, ssl_context=house.client_context()) as client:
        assert client.login(ADDRESS, PASSWORD)[0] == "OK"
        kind, folders = client.list()
        assert kind == "OK" and b'(\\HasNoChildren \\Sent) "/" Envoy&AOk-s' in folders
        assert client.append("Brouillons", "\\Draft", None, SIMPLE)[0] == "OK"
        assert client.select("Brouillons") == ("OK", [b"1"])
        kind, data = client.fetch("1", "(FLAGS BODY.PEEK[])")
        first = data[0]
        assert isinstance(first, tuple) and first[1] == SIMPLE
        assert client.search(None, "SUBJECT", '"bilan"') == ("OK", [b"1"])
        assert client.store("1", "+FLAGS", "(\\Deleted)")[0] == "OK"
        assert client.expunge() == ("OK", [b"1"])
        assert client.close()[0] == "OK"


async def test_imaplib(house: House) -> None:
    async with house.serving() as server:
        await asyncio.to_thread(_imaplib_session, house, server.ports[0])


async def test_aioimaplib(house: House) -> None:
    house.deliver()
    async with house.serving() as server:
        client = aioimaplib.IMAP4_SSL("127.0.0.1", server.ports[0], ssl_context=house.client_context())
        await client.wait_hello_from_server()
        assert (await client.login(ADDRESS, PASSWORD)).result == "OK"
        assert (await client.select("INBOX")).result == "OK"
        answer = await client.uid("fetch", "1", "(FLAGS BODY.PEEK[])")
        assert answer.result == "OK" and SIMPLE in [bytes(line) for line in answer.lines]
        idle = await client.idle_start(timeout=10)
        await asyncio.to_thread(house.deliver)
        assert b"2 EXISTS" in await client.wait_server_push(timeout=5)
        client.idle_done()
        await asyncio.wait_for(idle, 5)
        assert (await client.uid("move", "1", "Archives")).result == "OK"
        assert (await client.logout()).result == "OK"
    assert house.store.folder(house.account.id, "Archives").total == 1


async def _run(command: list[str], home: Path) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "TERM": "dumb"}
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 30)
    except TimeoutError:
        process.kill()
        raise
    text = output.decode("utf-8", "replace")
    assert process.returncode == 0, text
    return text


def _mbsync_configuration(house: House, server: ImapServer, home: Path, starttls: bool) -> Path:
    (home / "mail").mkdir()
    file = home / "mbsyncrc"
    file.write_text(
        f"""IMAPAccount a
Host 127.0.0.1
Port {server.ports[1 if starttls else 0]}
User {ADDRESS}
Pass "{PASSWORD}"
SSLType {"STARTTLS" if starttls else "IMAPS"}
SystemCertificates no
CertificateFile {house.certificate}

IMAPStore far
Account a

MaildirStore near
Path {home}/mail/
Inbox {home}/mail/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns *
Create Both
Expunge Both
SyncState *
"""
    )
    return file


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mbsync") is None, reason="mbsync is not installed")
@pytest.mark.parametrize("starttls", [False, True])
async def test_mbsync_both_ways(house: House, tmp_path: Path, starttls: bool) -> None:
    house.deliver(SIMPLE)
    house.deliver(MULTIPART, "Envoyés", frozenset({"\\Seen"}))
    async with house.serving() as server:
        configuration = _mbsync_configuration(house, server, tmp_path, starttls)
        command = ["mbsync", "-c", str(configuration), "all"]
        await _run(command, tmp_path)
        (arrived,) = [*(tmp_path / "mail/INBOX").glob("*/*,U=*")]
        # Maildir holds LF line ends and, in front of the body, mbsync's own X-TUID at most.
        assert b"Glyc\xc3\xa9mie normale." in arrived.read_bytes()
        # Read here, filed there, written here: all three must reach the server.
        arrived.rename(arrived.parent.parent / "cur" / (arrived.name.split(":")[0] + ":2,S"))
        new = tmp_path / "mail/INBOX/cur/1.new.here:2,F"
        new.write_bytes(b"From: a@b\nSubject: written here\n\nhello\n")
        (tmp_path / "mail/Patients").mkdir()
        for part in ("cur", "new", "tmp"):
            (tmp_path / "mail/Patients" / part).mkdir()
        await _run(command, tmp_path)
        folder = house.store.folder(house.account.id, "INBOX")
        view = house.store.view(folder.id)
        assert view.flags == [frozenset({"\\Seen"}), frozenset({"\\Flagged"})]
        assert b"Subject: written here" in house.store.read_blob(view.blobs[1])
        assert house.store.folder(house.account.id, "Patients").total == 0
        # Deleted here: gone there.
        next((tmp_path / "mail/INBOX/cur").glob("1.new.here*")).unlink()
        await _run(command, tmp_path)
        assert house.store.folder(house.account.id, "INBOX").total == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mutt") is None, reason="mutt is not installed")
async def test_mutt_opens_the_inbox_and_saves_a_message(house: House, tmp_path: Path) -> None:
    house.deliver(SIMPLE)
    async with house.serving() as server:
        configuration = tmp_path / "muttrc"
        configuration.write_text(
            f"""set imap_user="{ADDRESS}"
set imap_pass="{PASSWORD}"
set certificate_file="{house.certificate}"
set ssl_starttls=yes
set ssl_force_tls=yes
set ssl_verify_host=no
set folder="imaps://127.0.0.1:{server.ports[0]}/"
set spoolfile="+INBOX"
set header_cache=""
set move=no
set confirmappend=no
set delete=yes
set wait_key=no
push "<first-entry><flag-message><copy-message>=Archives<enter><delete-message><sync-mailbox><quit>"
"""
        )
        # mutt wants a terminal: script(1) gives it one.
        await _run(["script", "-qec", f"mutt -n -F {configuration}", "/dev/null"], tmp_path)
    assert house.store.folder(house.account.id, "INBOX").total == 0
    archives = house.store.folder(house.account.id, "Archives")
    view = house.store.view(archives.id)
    assert [house.store.read_blob(blob) for blob in view.blobs] == [SIMPLE]
    assert "\\Flagged" in view.flags[0]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_reads_and_adds(house: House, tmp_path: Path) -> None:
    house.deliver(SIMPLE)
    message = tmp_path / "message.eml"
    message.write_bytes(MULTIPART)
    async with house.serving() as server:
        curl = ["curl", "-s", "-S", "--cacert", str(house.certificate), "-u", f"{ADDRESS}:{PASSWORD}"]
        url = f"imaps://127.0.0.1:{server.ports[0]}"
        assert "Glyc\xe9mie normale." in await _run([*curl, f"{url}/INBOX;MAILINDEX=1"], tmp_path)
        assert "* SEARCH 1" in await _run([*curl, f"{url}/INBOX?SUBJECT%20bilan"], tmp_path)
        await _run([*curl, "-T", str(message), f"{url}/Archives"], tmp_path)
    view = house.store.view(house.store.folder(house.account.id, "Archives").id)
    assert [house.store.read_blob(blob) for blob in view.blobs] == [MULTIPART]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("offlineimap") is None, reason="offlineimap is not installed")
async def test_offlineimap_both_ways(house: House, tmp_path: Path) -> None:
    house.deliver(SIMPLE)
    async with house.serving() as server:
        configuration = tmp_path / "offlineimaprc"
        configuration.write_text(
            f"""[general]
accounts = a
metadata = {tmp_path}/metadata
[Account a]
localrepository = near
remoterepository = far
[Repository near]
type = Maildir
localfolders = {tmp_path}/mail
[Repository far]
type = IMAP
remotehost = 127.0.0.1
remoteport = {server.ports[0]}
remoteuser = {ADDRESS}
remotepass = {PASSWORD}
ssl = yes
sslcacertfile = {house.certificate}
"""
        )
        command = ["offlineimap", "-o", "-u", "basic", "-c", str(configuration)]
        await _run(command, tmp_path)
        (arrived,) = [path for path in (tmp_path / "mail/INBOX").glob("*/*") if path.is_file()]
        assert b"Glyc\xc3\xa9mie normale." in arrived.read_bytes()
        arrived.rename(arrived.parent.parent / "cur" / (arrived.name.split(":")[0] + ":2,S"))
        (tmp_path / "mail/INBOX/new/1.new.here").write_bytes(b"From: a@b\nSubject: written here\n\nhello\n")
        await _run(command, tmp_path)
    view = house.store.view(house.store.folder(house.account.id, "INBOX").id)
    assert view.flags[0] == frozenset({"\\Seen"})
    assert b"Subject: written here" in house.store.read_blob(view.blobs[1])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("neomutt") is None, reason="neomutt is not installed")
async def test_neomutt_files_a_message(house: House, tmp_path: Path) -> None:
    house.deliver(SIMPLE)
    async with house.serving() as server:
        configuration = tmp_path / "neomuttrc"
        configuration.write_text(
            f"""set imap_user="{ADDRESS}"
set imap_pass="{PASSWORD}"
set certificate_file="{house.certificate}"
set ssl_force_tls=yes
set ssl_verify_host=no
set imap_qresync=yes
set folder="imaps://127.0.0.1:{server.ports[0]}/"
set spoolfile="+INBOX"
set header_cache="{tmp_path}/cache"
set confirmappend=no
set delete=yes
set wait_key=no
push "<first-entry><flag-message><save-message>=Archives<enter><sync-mailbox><quit>"
"""
        )
        await _run(["script", "-qec", f"neomutt -n -F {configuration}", "/dev/null"], tmp_path)
    view = house.store.view(house.store.folder(house.account.id, "Archives").id)
    assert [house.store.read_blob(blob) for blob in view.blobs] == [SIMPLE]
