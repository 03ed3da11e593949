"""The same transcripts against a private Postfix: where the rule is common, both give the same code."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtp import Kind, Listen, SmtpServers
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


@pytest.mark.parametrize("script", COMMON)
async def test_the_common_rules_are_postfixs_too(
    world: World, postfix: int, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smtp.shell import Shell

    made = Shell.connection_made

    def known(self: Shell, transport: object) -> None:
        made(self, transport)  # type: ignore[arg-type]
        self.talk.certificate = world.b.certificate.certificate

    monkeypatch.setattr(Shell, "connection_made", known)
    servers = SmtpServers(world.a.services, [Listen(Kind.RECEPTION, "127.0.0.1", 0, None, require_tls=False)], grace=1)
    await servers.start()
    ours, theirs = await _codes(servers.ports[Kind.RECEPTION], script), await _codes(postfix, script)
    await servers.stop()
    for (command, mine), (_, oracle) in zip(ours, theirs, strict=True):
        assert mine == oracle or (command in SAME_CLASS and mine[0] == oracle[0]), (command, mine, oracle)
