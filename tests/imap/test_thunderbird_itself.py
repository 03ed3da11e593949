"""Thunderbird itself, without a screen: it logs in with a certificate, lists the folders, and takes the messages home.

The password manager of a new profile cannot be filled from outside; a client certificate in its NSS database can (EXTERNAL).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import ssl
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.imap.support import ADDRESS, House, make_certificate
from trustspace import PracticeAuthority

NEEDED = ("thunderbird", "certutil", "pk12util", "openssl")
MISSING = [name for name in NEEDED if shutil.which(name) is None]
PATIENCE = 90.0  # seconds
MESSAGES = [
    f"From: Docteur {n} <d{n}@medecin.mssante.fr>\r\nTo: {ADDRESS}\r\nSubject: Bilan {n}\r\n"
    f"Date: Sat, 21 Nov 2026 10:0{n}:00 +0100\r\nMessage-ID: <tb{n}@medecin.mssante.fr>\r\n\r\nCorps unique{n}x.\r\n"
    for n in range(3)
]


async def _run(*command: str | Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()


def _preferences(port: int) -> str:
    server = {
        "type": "imap",
        "hostname": "127.0.0.1",
        "port": port,
        "userName": ADDRESS,
        "name": "Essai",
        "socketType": 3,  # implicit TLS
        "authMethod": 7,  # EXTERNAL
        "login_at_startup": True,
        "check_new_mail": True,
        "offline_download": True,
        "autosync_offline_stores": True,
        "directory-rel": "[ProfD]ImapMail/essai",
    }
    values: dict[str, object] = {
        "mail.accountmanager.accounts": "account1",
        "mail.accountmanager.defaultaccount": "account1",
        "mail.account.account1.server": "server1",
        "mail.account.account1.identities": "id1",
        "mail.identity.id1.useremail": ADDRESS,
        "mail.identity.id1.fullName": "Claire Martin",
        "mail.identity.id1.valid": True,
        **{f"mail.server.server1.{name}": value for name, value in server.items()},
        "security.default_personal_cert": "Select Automatically",
        "mail.autosync.max_idle_time": 1,
        "mail.idle.message_check": 1,
        "mail.provider.suppress_dialog_on_startup": True,
        "mail.shell.checkDefaultClient": False,
        "mailnews.start_page.enabled": False,
        "app.donation.eoy.version.viewed": 999,
        "datareporting.policy.bypassNotification": True,
        "app.update.enabled": False,
        "security.OCSP.enabled": 0,
        "network.captive-portal-service.enabled": False,
        "network.connectivity-service.enabled": False,
    }

    def written(value: object) -> str:
        return str(value).lower() if isinstance(value, bool | int) else f'"{value}"'

    return "".join(f'user_pref("{name}", {written(value)});\n' for name, value in values.items())


def _context(house: House, place: Path) -> ssl.SSLContext:
    """A server's context whose certificate an authority has issued, as Mozilla's library demands, and which asks for a
    client's certificate; the key of the one made here is registered for the mailbox."""
    authority = PracticeAuthority.create(place / "pki", at=datetime.now(UTC))
    issued = authority.issue_server(
        "localhost", "Essai", "1990000010", "Rhône (69)", ips=["127.0.0.1"], at=datetime.now(UTC)
    )
    chain, key = issued.write(place, "server")
    make_certificate(place / "client")
    public = x509.load_pem_x509_certificate((place / "client/server.pem").read_bytes()).public_key()
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    house.store.set_client_key(ADDRESS, hashlib.sha256(spki).digest())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    context.load_verify_locations(place / "client/server.pem")
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


async def _profile(place: Path, port: int) -> Path:
    """A profile that trusts the authority and holds the client's key."""
    profile, bundle = place / "profile", place / "client.p12"
    profile.mkdir(mode=0o700)
    database = f"sql:{profile}"
    await _run("certutil", "-N", "-d", database, "--empty-password")
    for anchor in sorted((place / "pki/anchors").iterdir()):
        await _run("certutil", "-A", "-d", database, "-n", anchor.name, "-t", "CT,,", "-a", "-i", anchor)
    client = place / "client"
    await _run(
        *("openssl", "pkcs12", "-export", "-in", client / "server.pem", "-inkey", client / "server.key"),
        *("-out", bundle, "-name", "moi", "-passout", "pass:"),
    )
    await _run("pk12util", "-i", bundle, "-d", database, "-W", "", "-K", "")
    (profile / "user.js").write_text(_preferences(port))
    return profile


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
async def test_thunderbird_takes_its_mail_home(house: House, tmp_path: Path) -> None:
    for content in MESSAGES:
        house.deliver(content.encode())
    (tmp_path / "client").mkdir()
    async with house.serving(context=_context(house, tmp_path)) as server:
        profile = await _profile(tmp_path, server.ports[0])
        home = tmp_path / "home"
        home.mkdir()
        environment = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "fr_FR.UTF-8", "MOZ_HEADLESS": "1"}
        process = await asyncio.create_subprocess_exec(
            *("thunderbird", "--headless", "--no-remote", "--profile", str(profile)),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            kept = profile / "ImapMail" / "essai"
            await _until(lambda: _holds_all(kept / "INBOX"))
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    state = house.store.login_state(ADDRESS)
    assert (state.service, state.source) == ("imap", "127.0.0.1")
    names = {path.name for path in kept.glob("*.msf")}
    assert {"INBOX.msf", "Brouillons.msf", "Archives.msf", "Corbeille.msf"} <= names
    house.store.flush_readings()
    for number in range(len(MESSAGES)):
        events = [one.event for one in house.store.trace(f"<tb{number}@medecin.mssante.fr>")]
        assert [one.detail["reader"] for one in events if one.name == "message.read"][:1] == [ADDRESS]


def _holds_all(inbox: Path) -> bool:
    said = inbox.read_bytes() if inbox.exists() else b""
    return all(f"Corps unique{number}x.".encode() in said for number in range(len(MESSAGES)))


async def _until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not done():
            await asyncio.sleep(0.2)
