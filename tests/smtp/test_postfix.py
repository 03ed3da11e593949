"""The same transcripts against a private Postfix: where the rule is common, both give the same code."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from smtp import Kind, Listen, SmtpServers
from smtp.shell import Shell
from tests.smtp.transcript import Dialogue
from tests.smtp.world import World, free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("postfix") is None, reason="Debian package postfix is not installed"),
]

COMMON = [
    "EHLO client.test\nMAIL FROM:<a@b.mssante.fr>\nMAIL FROM:<a@b.mssante.fr>",
    "EHLO client.test\nRCPT TO:<bob@a.mssante.fr>",
    "EHLO client.test\nDATA",
    "EHLO client.test\nMAIL FROM:<a@b.mssante.fr>\nDATA",
    "EHLO client.test\nMAIL FROM:<a@b.mssante.fr> SIZE=999999999999",
    "EHLO client.test\nMAIL FROM:<a@b.mssante.fr> NONSENSE=1",
    "EHLO client.test\nMAIL FROM:<a@b.mssante.fr> RET=NOTHING",
    "EHLO client.test\nMAIL FROM:<a@b.mssante.fr> BODY=9BIT",
    "EHLO client.test\nMAIL a@b.mssante.fr",
    "EHLO client.test\nMAIL FROM:<a@b.mssante.fr>\nRCPT TO:<nobody@elsewhere.test>",
    "EHLO client.test\nMAIL FROM:<a@b.mssante.fr>\nRCPT TO:<bob@a.mssante.fr> NOTIFY=NEVER,SUCCESS",
    "EHLO client.test\nMAIL FROM:<a@b.mssante.fr>\nRCPT TO:<bob@a.mssante.fr>\nRSET\nDATA",
    "EHLO client.test\nNOOP\nRSET\nVRFY bob@a.mssante.fr\nQUIT",
    "HELO client.test\nMAIL FROM:<a@b.mssante.fr>\nRCPT TO:<bob@a.mssante.fr>\nQUIT",
    "EHLO client.test\nBDAT x",
    "EHLO client.test\nMAIL FROM:<>\nRCPT TO:<bob@a.mssante.fr>\nQUIT",
    "EHLO client.test\nRSET now\nVRFY\nNOOP now\nBDAT 0 LAST",
    "EHLO client.test\nMAIL FROM:<@x.test:a@b.mssante.fr>\nRCPT TO:<@x.test,@y.test:bob@a.mssante.fr>\nDATA now",
    'EHLO client.test\nMAIL FROM:<"a b"@b.mssante.fr>\nRCPT TO:<"bob"@a.mssante.fr>\nQUIT',
    "EHLO client.test\nMAIL FROM:<a@b.mssante.fr>\nRCPT TO:<bob@[192.0.2.1]>\nRCPT TO:<>",
    "EHLO client.test\nMAIL FROM:<a@b.mssante.fr> ENVID=a+0D+0Ab",
    "EHLO client.test\nMAIL FROM:<a@b.mssante.fr> ENVID=+zz",
    "EHLO client.test\nMAIL FROM:<a@b.mssante.fr> RET=FULL ENVID=a+2Bb",
    "EHLO client.test\nMAIL FROM:<a@b.mssante.fr>\nRCPT TO:<bob@a.mssante.fr> ORCPT=rfc822;b+2Bb",
    "EHLO client.test\nMAIL FROM:<a@b.mssante.fr>\nRCPT TO:<bob@a.mssante.fr> ORCPT=bob",
    "EHLO client.test\nMAIL FROM:<a@b.mssante.fr>\nRCPT TO:<bob@a.mssante.fr> NOTIFY=SUCCESS,SOON",
    "EHLO client.test\nMAIL FROM:<a@b.mssante.fr>\nRCPT TO:<bob@a.mssante.fr>\nMAIL FROM:<c@b.mssante.fr>\nEHLO again\nDATA",
    "HELO client.test\nMAIL FROM:<a@b.mssante.fr>\nHELO again\nRCPT TO:<bob@a.mssante.fr>",
]
SAME_CLASS = {"VRFY", "MAIL", "RCPT", "DATA", "BDAT"}
"""Where RFC 5321 leaves a choice of code (252 or 250; 501, 503, 504, 554 or 555): the class is common."""


@pytest.fixture(scope="module")
def postfix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a Postfix that takes mail for bob@a.mssante.fr and throws it away."""
    root: Path = tmp_path_factory.mktemp("postfix")
    for parent in (root, *list(root.parents)[:3]):
        parent.chmod(0o755)
    port = free_port()
    for name in ("etc", "data", "queue"):
        (root / name).mkdir()
    shutil.chown(root / "data", "postfix")
    values = {
        "compatibility_level": "3.6", "queue_directory": root / "queue", "data_directory": root / "data",
        "inet_interfaces": "127.0.0.1", "inet_protocols": "ipv4", "myhostname": "oracle.test", "mydestination": "",
        "mynetworks": "", "relay_domains": "a.mssante.fr", "relay_transport": "discard", "relay_recipient_maps": "",
        "maillog_file": root / "log", "maillog_file_prefixes": root, "smtpd_relay_restrictions": "reject_unauth_destination",
    }  # fmt: skip
    (root / "etc" / "main.cf").write_text("".join(f"{key} = {value}\n" for key, value in values.items()))
    services = [f"127.0.0.1:{port} inet n - n - - smtpd"]
    for line in Path("/etc/postfix/master.cf").read_text().splitlines():
        words = line.split()
        if line and not line.startswith(("#", "smtp      inet")):
            services.append(line if line[0].isspace() or len(words) < 8 else " ".join([*words[:4], "n", *words[5:]]))
    (root / "etc" / "master.cf").write_text("\n".join(services) + "\n")
    subprocess.run(["postfix", "-c", str(root / "etc"), "start"], check=True, capture_output=True)
    time.sleep(1)
    yield port
    subprocess.run(["postfix", "-c", str(root / "etc"), "stop"], check=True, capture_output=True)


async def _codes(port: int, script: str) -> list[tuple[str, str]]:
    dialogue = await Dialogue.open(port)
    found = [("", (await dialogue.reply())[:3].decode())]
    for line in script.splitlines():
        await dialogue.raw(line.encode() + b"\r\n")
        found.append((line.split(" ")[0], (await dialogue.reply())[:3].decode()))
    await dialogue.close()
    return found


@pytest.fixture
async def ours(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """The port of our reception in clear, every client taken for operator B."""
    made = Shell.connection_made

    def known(self: Shell, transport: asyncio.BaseTransport) -> None:
        made(self, transport)
        self.talk.certificate = world.b.certificate.certificate

    monkeypatch.setattr(Shell, "connection_made", known)
    servers = SmtpServers(world.a.services, [Listen(Kind.RECEPTION, "127.0.0.1", 0, None, require_tls=False)], grace=1)
    await servers.start()
    yield servers.ports[Kind.RECEPTION]
    await servers.stop()


async def test_the_common_rules_are_postfixs_too(postfix: int, ours: int) -> None:
    for script in COMMON:
        for (command, mine), (_, oracle) in zip(await _codes(ours, script), await _codes(postfix, script), strict=True):
            assert mine == oracle or (command in SAME_CLASS and mine[0] == oracle[0]), (script, command, mine, oracle)


async def test_smtp_source_is_served(world: World, ours: int) -> None:
    """Postfix's own load generator: ten sessions, each message accepted and delivered once."""
    command = [shutil.which("smtp-source") or "/usr/sbin/smtp-source", "-s", "10", "-m", "60", "-l", "3000", "-d"]
    command += ["-f", "carol@b.mssante.fr", "-t", "bob@a.mssante.fr", f"127.0.0.1:{ours}"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    account = world.a.store.find_account("bob@a.mssante.fr")
    assert account is not None and world.a.store.folder(account.id, "INBOX").total == 60
