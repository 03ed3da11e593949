"""What stands beside our SMTP in its measurements: a private Postfix, its smtp-source, and a peer that takes everything."""

from __future__ import annotations

import asyncio
import multiprocessing.sharedctypes
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import uvloop

from tests.smtp.world import free_port

SOURCE = shutil.which("smtp-source") or "/usr/sbin/smtp-source"
MB = 1_000_000


@contextmanager
def postfix(size: int, **more: str) -> Iterator[tuple[int, Path]]:
    """(port, queue folder) of a private Postfix on loopback."""
    root = Path(tempfile.mkdtemp(prefix="postfix-bench-", dir=os.environ.get("BENCH_DIR")))
    port = free_port()
    config, data = root / "etc", root / "data"
    for folder in (config, data, root / "queue"):
        folder.mkdir()
    root.chmod(0o755)
    shutil.chown(data, "postfix")
    settings = {
        "compatibility_level": "3.6",
        "queue_directory": str(root / "queue"),
        "data_directory": str(data),
        "inet_interfaces": "127.0.0.1",
        "inet_protocols": "ipv4",
        "myhostname": "postfix.bench.test",
        "mydestination": "",
        "mynetworks": "127.0.0.0/8",
        "default_transport": "discard",
        "message_size_limit": str(size),
        "smtpd_client_connection_count_limit": "0",
        "default_process_limit": "1100",
        "maillog_file": str(root / "log"),
        "maillog_file_prefixes": str(root),
        **more,
    }
    (config / "main.cf").write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
    master = Path("/etc/postfix/master.cf").read_text().splitlines()
    kept = [line for line in master if line and not line.startswith(("smtp      inet", "#"))]
    # Nothing of the machine's chroot is there: every service runs outside.
    kept = [
        " ".join([*line.split()[:4], "n", *line.split()[5:]])
        if not line[0].isspace() and len(line.split()) > 7
        else line
        for line in kept
    ]
    # smtp keeps TLS connections for the next message through tlsproxy, which Debian leaves commented out.
    own = [f"127.0.0.1:{port} inet n - n - - smtpd", "tlsproxy unix - - n - 0 tlsproxy"]
    (config / "master.cf").write_text("\n".join([*own, *kept]) + "\n")
    subprocess.run(["postfix", "-c", str(config), "start"], check=True, capture_output=True)
    try:
        wait_greeting(port)
        yield port, root / "queue"
    finally:
        subprocess.run(["postfix", "-c", str(config), "stop"], check=False, capture_output=True)
        shutil.rmtree(root, ignore_errors=True)


def wait_greeting(port: int) -> None:
    for _ in range(200):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as probe:
            if probe.recv(10).startswith(b"220"):
                return
        time.sleep(0.05)
    raise RuntimeError("no greeting")


def drive(port: int, count: int, size: int, sessions: int) -> float:
    """Seconds that smtp-source takes."""
    command = [SOURCE, "-s", str(sessions), "-m", str(count), "-l", str(size), "-d"]
    command += ["-f", "carol@b.mssante.fr", "-t", "bob@a.mssante.fr", f"127.0.0.1:{port}"]
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begin


def sink(port: int, chain: str, key: str, got: multiprocessing.sharedctypes.Synchronized[int]) -> None:
    """A peer that takes everything, over mutual TLS, with the extensions that both sides use."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(chain, key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 sink ESMTP\r\n")
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                word = line[:4].upper()
                if word == b"EHLO":
                    writer.write(
                        b"250-sink\r\n250-PIPELINING\r\n250-SIZE 0\r\n250-8BITMIME\r\n250-CHUNKING\r\n250 STARTTLS\r\n"
                    )
                elif word == b"STAR":
                    writer.write(b"220 go\r\n")
                    await writer.start_tls(tls)
                elif word == b"DATA":
                    writer.write(b"354 go\r\n")
                    await reader.readuntil(b"\r\n.\r\n")
                    got.value += 1
                    writer.write(b"250 ok\r\n")
                elif word == b"BDAT":
                    await reader.readexactly(int(line.split()[1]))
                    got.value += 1
                    writer.write(b"250 ok\r\n")
                elif word == b"QUIT":
                    writer.write(b"221 bye\r\n")
                    break
                else:
                    writer.write(b"250 ok\r\n")
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", port, limit=1 << 20)
        await server.serve_forever()

    uvloop.run(main())
