"""The two IMAP servers of `bench.imap`, ours and Dovecot, over the same messages, and their client."""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import multiprocessing.connection
import resource
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mailstore import MailboxKind, NewMessage, Store
from tests.imap.dovecot import PASSWORD as DOVECOT_PASSWORD
from tests.imap.dovecot import USER as DOVECOT_USER
from tests.imap.dovecot import Dovecot, available
from tests.imap.support import make_certificate

ADDRESS = "banc@medecin.mssante.fr"
PASSWORD = "correct horse battery"  # noqa: S105 - of a mailbox made for this run
MASTER = bytes(range(32))
AT = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
_WORDS = (
    "bilan",
    "glycémie",
    "résultat",
    "patient",
    "ordonnance",
    "suivi",
    "traitement",
    "courrier",
    "dossier",
    "avis",
)


def message(number: int) -> bytes:
    """A small letter, different each time."""
    words = " ".join(_WORDS[(number * step) % len(_WORDS)] for step in range(1, 60))
    return (
        f"From: Docteur {number % 97} <d{number % 97}@medecin.mssante.fr>\r\n"
        f"To: Claire Martin <claire.martin@medecin.mssante.fr>\r\nSubject: Compte rendu {number}\r\n"
        f"Date: Sat, 21 Nov 2026 {number % 24:02d}:00:00 +0100\r\nMessage-ID: <{number}@medecin.mssante.fr>\r\n"
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        f"{words}\r\nRéférence unique{number}x.\r\n"
    ).encode()


class Client:
    """A blocking client that reads as fast as it can."""

    def __init__(self, port: int, user: str, password: str, certificate: Path | None = None) -> None:
        """With a certificate (and its key beside it), the login is EXTERNAL: 5,000 password hashes would take minutes."""
        context = ssl._create_unverified_context()  # noqa: S323 - loopback, a certificate made a moment ago
        if certificate is not None:
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        self._socket = context.wrap_socket(socket.create_connection(("127.0.0.1", port)))
        self._number = 0
        self._buffer = b""
        self._read_until(b"\r\n")
        self.command("AUTHENTICATE EXTERNAL =" if certificate else f'LOGIN {user} "{password}"')

    def _read_until(self, end: bytes) -> bytes:
        out = [self._buffer]
        tail = self._buffer
        while end not in tail or not tail.endswith(b"\r\n"):
            data = self._socket.recv(1 << 18)
            if not data:
                raise ConnectionError("the server has closed")
            out.append(data)
            tail = (tail + data)[-4096:]
        self._buffer = b""
        return b"".join(out)

    def command(self, text: str | bytes) -> bytes:
        """Everything up to the tagged answer, which must be OK."""
        self._number += 1
        tag = b"t%d" % self._number
        raw = text.encode() if isinstance(text, str) else text
        self._socket.sendall(tag + b" " + raw + b"\r\n")
        answer = self._read_until(tag + b" ")
        last = answer[answer.rindex(tag + b" ") :]
        if not last.startswith(tag + b" OK"):
            raise RuntimeError(last.decode("utf-8", "replace"))
        return answer

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()


def _serve(url: str, folder: Path, certificate: Path, key: Path, ready: multiprocessing.connection.Connection) -> None:
    """The server's process."""
    import asyncio
    import signal

    import uvloop

    from imap import ImapServer, Limits, summarise

    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)

    async def run() -> None:
        store = Store.open(url, folder, MASTER, index=summarise)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = 0  # as trustspace.server_context
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(certificate)
        context.verify_mode = ssl.CERT_OPTIONAL
        limits = Limits(connections_per_address=20_000, connections_per_account=20_000, connections=20_000)
        server = ImapServer(store, context, port_tls=0, limits=limits)
        await server.start()
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        gc.freeze()  # as every process of `caducee serve`
        ready.send(server.ports[0])
        await stop.wait()
        await server.stop()
        store.close()

    uvloop.run(run())


@dataclass(frozen=True)
class Pair:
    """The two servers; `always` is a second Dovecot, that syncs after every write (mail_fsync)."""

    ours: int
    ours_pid: int
    dovecot: Dovecot | None
    always: Dovecot | None
    store: Store
    account: int
    certificate: Path

    def clients(self) -> dict[str, Client]:
        """A logged-in client of each."""
        found = {"ours": Client(self.ours, ADDRESS, PASSWORD)}
        if self.dovecot is not None:
            found["dovecot"] = Client(self.dovecot.port_tls, DOVECOT_USER, DOVECOT_PASSWORD)
        return found


@contextmanager
def servers(folder: Path) -> Iterator[Pair]:
    """Both servers over empty mailboxes, stopped at the end."""
    from imap import summarise

    make_certificate(folder)
    public = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes()).public_key()
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    certificate, key = folder / "server.pem", folder / "server.key"
    url, blobs = f"sqlite:///{folder / 'store.db'}", folder / "blobs"
    store = Store.create(url, blobs, MASTER, index=summarise)
    account = store.add_account(
        ADDRESS,
        MailboxKind.PER,
        display_name="Banc",
        national_id="810002909371",
        password=PASSWORD,
        at=AT,
        client_key=hashlib.sha256(spki).digest(),
    )
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(url, blobs, certificate, key, theirs))
    process.start()
    dovecot = always = None
    try:
        port = ours.recv()
        if available():
            dovecot = Dovecot(folder / "dovecot", certificate=(certificate, key))
            always = Dovecot(folder / "always", certificate=(certificate, key), fsync="always")
        yield Pair(port, process.pid or 0, dovecot, always, store, account.id, certificate)
    finally:
        process.terminate()
        process.join(20)
        for one in (dovecot, always):
            if one is not None:
                one.stop()
        store.close()


DISTINCT = 2000
"""Messages that differ; the large folders hold each several times, as copies, on both sides: filling would else take longer
than measuring, because every message is synced. Ours remembers envelopes by content: `--distinct` of the folder's size shows
what it costs to read each once."""


def fill(pair: Pair, folder: str, count: int, distinct: int) -> None:
    """The same messages on both sides: the distinct ones into a folder of their own, then copied until there are enough."""
    raws = [message(number) for number in range(min(count, distinct))]
    base = f"{folder}-base"
    source, target = (pair.store.create_folder(pair.account, name).id for name in (base, folder))
    _, uids = pair.store.append_messages(pair.account, base, [NewMessage(raw, frozenset(), AT) for raw in raws], AT)
    for _ in range(0, count, len(raws)):
        pair.store.copy(source, uids, target, AT)
    progress(f"{folder}: {count} (ours)")
    if pair.dovecot is None:
        return
    client = Client(pair.dovecot.port_tls, DOVECOT_USER, DOVECOT_PASSWORD)
    for name in (base, folder):
        client.command(f"CREATE {name}")
    for start in range(0, len(raws), 100):
        batch = raws[start : start + 100]
        client.command(f"APPEND {base}".encode() + b"".join(b" {%d+}\r\n%b" % (len(raw), raw) for raw in batch))
    client.command(f"SELECT {base}")
    for start in range(0, count, len(raws)):
        client.command(f"COPY 1:* {folder}")
        progress(f"{folder}: {start + len(raws)}/{count} (Dovecot)")
    client.close()


def by_certificate(pair: Pair, side: str) -> Client:
    """A client of one side, without the price of a password where that can be spared."""
    if side == "ours":
        return Client(pair.ours, ADDRESS, PASSWORD, pair.certificate)
    return Client(pair.dovecot.port_tls, DOVECOT_USER, DOVECOT_PASSWORD)  # type: ignore[union-attr]


def rss(pids: list[int]) -> int:
    """Proportional memory of processes, in KiB (shared pages counted once)."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total


def children(pid: int) -> list[int]:
    """A process and all those below it."""
    found = [pid]
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:
                found += children(int(path.parent.name))
    return found


def progress(text: str) -> None:
    """One line that the next one overwrites."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{text}\x1b[K")
