"""The IMAP server beside Debian's Dovecot, on the same messages, in one run: `python -m bench.imap --help`.

Both serve IMAPS on loopback, each in its own process, with a warm cache; the client is the same. Figures are the best of
several runs, in milliseconds unless a column says otherwise; the ratio is Dovecot's figure over ours (more than 1: ours is
quicker).
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import resource
import socket
import ssl
import statistics
import sys
import tempfile
import time
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
ROUNDS = 9
WARM_UP = 100
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
    """The two servers."""

    ours: int
    ours_pid: int
    dovecot: Dovecot | None
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
    dovecot = None
    try:
        port = ours.recv()
        if available():
            dovecot = Dovecot(folder / "dovecot", certificate=(certificate, key))
        yield Pair(port, process.pid or 0, dovecot, store, account.id, certificate)
    finally:
        process.terminate()
        process.join(20)
        if dovecot is not None:
            dovecot.stop()
        store.close()


DISTINCT = 2000
"""Messages that differ; the large folders hold each several times, as copies, on both sides: filling would else take longer
than measuring, because every message is synced. Ours remembers envelopes by content: `--distinct` of the folder's size shows
what it costs to read each once."""
LISTED = (
    "From To Cc Bcc Subject Date Message-ID Priority X-Priority References Newsgroups In-Reply-To Content-Type Reply-To"
)
"""The header fields that Thunderbird asks for when it opens a folder."""


def fill(pair: Pair, folder: str, count: int, distinct: int) -> None:
    """The same messages on both sides: the distinct ones into a folder of their own, then copied until there are enough."""
    raws = [message(number) for number in range(min(count, distinct))]
    base = f"{folder}-base"
    source, target = (pair.store.create_folder(pair.account, name).id for name in (base, folder))
    _, uids = pair.store.append_messages(pair.account, base, [NewMessage(raw, frozenset(), AT) for raw in raws], AT)
    for _ in range(0, count, len(raws)):
        pair.store.copy(source, uids, target, AT)
    _progress(f"{folder}: {count} (ours)")
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
        _progress(f"{folder}: {start + len(raws)}/{count} (Dovecot)")
    client.close()


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{text}\x1b[K")


def best(client: Client, command: str | bytes, runs: int) -> float:
    """The best time of a command, in milliseconds."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        client.command(command)
        times.append((time.perf_counter() - began) * 1000)
    return min(times)


def _row(
    name: str, figures: dict[str, float], unit: str, target: str, *, more_is_better: bool = False
) -> dict[str, object]:
    ratio = None
    if figures.get("dovecot") and figures.get("ours"):
        ratio = figures["dovecot"] / figures["ours"]
        ratio = 1 / ratio if more_is_better else ratio
    return {"what": name, "unit": unit, "target": target, **figures, "ratio": ratio}


def measure_listing(pair: Pair, folder: str, count: int) -> Iterator[dict[str, object]]:
    """SELECT, FETCH and resynchronisation in a large folder."""
    clients = pair.clients()
    commands = (
        ("SELECT", f"SELECT {folder}", 5, "<= 50 ms"),
        ("FETCH 1:* (FLAGS UID)", "FETCH 1:* (FLAGS UID)", 5, "ratio >= 1"),
        ("FETCH 1:* ENVELOPE", "FETCH 1:* ENVELOPE", 3, "ratio >= 1"),
        ("UID FETCH one BODY.PEEK[]", f"UID FETCH {count // 2} BODY.PEEK[]", 50, "<= 2 ms"),
        ("FETCH 1:1000 two header fields", "FETCH 1:1000 BODY.PEEK[HEADER.FIELDS (From Subject)]", 3, ""),
        ("FETCH 1:1000, as Thunderbird", f"FETCH 1:1000 (UID FLAGS BODY.PEEK[HEADER.FIELDS ({LISTED})])", 3, ""),
    )
    first = {}
    for side, client in clients.items():
        client.command(f"SELECT {folder}")
        first[side] = best(client, "FETCH 1:* ENVELOPE", 1)
    yield _row("FETCH 1:* ENVELOPE, first time", first, "ms", "")
    for name, command, runs, target in commands:
        figures = {}
        for side, client in clients.items():
            client.command(command)
            figures[side] = best(client, command, runs)
        yield _row(name, figures, "ms", target)
    figures = {}
    for side, client in clients.items():
        client.command("ENABLE QRESYNC")
        answer = client.command(f"SELECT {folder}").decode()
        validity, modseq = (
            int(answer.split(f"[{word} ")[1].split("]")[0]) for word in ("UIDVALIDITY", "HIGHESTMODSEQ")
        )
        for number in range(10):
            client.command(f"UID STORE {number * 100 + 1} +FLAGS.SILENT (\\Flagged)")
        resync = f"SELECT {folder} (QRESYNC ({validity} {modseq}))"
        figures[side] = best(client, resync, 10)
    yield _row("SELECT QRESYNC, 10 changes", figures, "ms", "<= 10 ms")
    for client in clients.values():
        client.close()


def measure_search(pair: Pair, folder: str, count: int) -> Iterator[dict[str, object]]:
    """Text search: a word that one message has, and one that all have."""
    clients = pair.clients()
    while pair.store.index_pending(1000):
        pass
    for client in clients.values():
        client.command(f"SELECT {folder}")
    for name, text in (("a rare word", f"unique{count // 3}x"), ("a common word", "glycémie"), ("no message", "zzyzx")):
        command = b"SEARCH CHARSET UTF-8 TEXT {%d+}\r\n%b" % (len(text.encode()), text.encode())
        figures = {}
        for side, client in clients.items():
            client.command(command)
            figures[side] = best(client, command, 3)
        yield _row(f"SEARCH TEXT, {name}", figures, "ms", "ratio >= 20")
    for client in clients.values():
        client.close()


def measure_append(pair: Pair, count: int) -> Iterator[dict[str, object]]:
    """Durable APPEND, one after the other on one connection, then in batches (MULTIAPPEND).

    The two sides take turns, ROUNDS times, and the median round counts: how long a disk takes to sync varies from one second
    to the next, with what else the machine does."""
    clients = pair.clients()
    rates: dict[str, dict[str, list[float]]] = {what: {side: [] for side in clients} for what in ("one", "batch")}
    each = max(1, count // ROUNDS)
    for client in clients.values():
        with suppress(RuntimeError):
            client.command("CREATE Ajouts")
        # A service that has run for a while: journals and indexes have their size, and are written over.
        for number in range(WARM_UP):
            raw = message(9_000_000 + number)
            client.command(b"APPEND Ajouts {%d+}\r\n%b" % (len(raw), raw))
    for turn in range(ROUNDS):
        raws = [message(10_000_000 + turn * 10_000 + number) for number in range(2 * each)]
        literals = [b" {%d+}\r\n%b" % (len(raw), raw) for raw in raws]
        for side, client in clients.items():
            began = time.perf_counter()
            for literal in literals[:each]:
                client.command(b"APPEND Ajouts" + literal)
            rates["one"][side].append(each / (time.perf_counter() - began))
            began = time.perf_counter()
            client.command(b"APPEND Ajouts" + b"".join(literals[each:]))
            rates["batch"][side].append(each / (time.perf_counter() - began))
    for client in clients.values():
        client.close()
    for what, name in (("one", "APPEND, synced"), ("batch", f"MULTIAPPEND of {each}, synced")):
        figures = {side: statistics.median(found) for side, found in rates[what].items()}
        yield _row(name, figures, "per s", "ratio >= 1", more_is_better=True)


def _rss(pids: list[int]) -> int:
    """Proportional memory of processes, in KiB (shared pages counted once)."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total


def _children(pid: int) -> list[int]:
    found = [pid]
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:
                found += _children(int(path.parent.name))
    return found


def measure_idle(pair: Pair, count: int, dovecot_count: int) -> Iterator[dict[str, object]]:
    """Memory of idle TLS connections, and how long a delivery takes to be told to the last of them."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    memory: dict[str, float] = {}
    waits: dict[str, float] = {}
    for side in ("ours", "dovecot"):
        if side == "dovecot" and pair.dovecot is None:
            continue
        pid = pair.ours_pid if side == "ours" else pair.dovecot.pid  # type: ignore[union-attr]
        wanted = count if side == "ours" else dovecot_count
        first = _client(pair, side)
        first.command("SELECT INBOX")
        before = _rss(_children(pid))
        waiting = []
        for number in range(wanted):
            client = _client(pair, side)
            client.command("SELECT INBOX")
            client._socket.sendall(b"i IDLE\r\n")
            client._read_until(b"+ idling\r\n")
            waiting.append(client)
            _progress(f"idle {side}: {number + 1}/{wanted}")
        time.sleep(2)
        memory[side] = (_rss(_children(pid)) - before) / wanted
        began = time.perf_counter()
        raw = message(20_000_000)
        first.command(b"APPEND INBOX {%d+}\r\n%b" % (len(raw), raw))
        for client in waiting:
            client._read_until(b"EXISTS")
        waits[side] = (time.perf_counter() - began) * 1000
        for client in waiting:
            client.close()
    yield _row(f"{count} idle TLS connections (Dovecot: {dovecot_count})", memory, "KiB each", "<= 40 KiB")
    yield _row("told to all of them", waits, "ms", "<= 1000 ms")


def _client(pair: Pair, side: str) -> Client:
    if side == "ours":
        return Client(pair.ours, ADDRESS, PASSWORD, pair.certificate)
    return Client(pair.dovecot.port_tls, DOVECOT_USER, DOVECOT_PASSWORD)  # type: ignore[union-attr]


def _table(rows: list[dict[str, object]]) -> str:
    def cell(value: object) -> str:
        return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)

    columns = ("what", "unit", "ours", "dovecot", "ratio", "target")
    lines = [[*columns], *([cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines)


def main() -> None:
    """Measures, prints a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000, help="messages of the large folder (100000)")
    parser.add_argument("--distinct", type=int, default=DISTINCT, help=f"messages that differ ({DISTINCT})")
    parser.add_argument("--searched", type=int, default=20_000, help="messages of the folder searched (20000)")
    parser.add_argument("--appends", type=int, default=900, help="messages added one by one (900)")
    parser.add_argument("--idle", type=int, default=5000, help="idle connections (5000)")
    parser.add_argument(
        "--idle-dovecot", type=int, default=200, help="idle connections of Dovecot: a process each (200)"
    )
    parser.add_argument("--only", choices=("listing", "search", "append", "idle"), help="one part only")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="caducee-bench-") as name, servers(Path(name)) as pair:
        if options.only in (None, "append"):
            rows += measure_append(pair, options.appends)
        if options.only in (None, "listing"):
            fill(pair, "Grand", options.messages, options.distinct)
            rows += measure_listing(pair, "Grand", options.messages)
        if options.only in (None, "search"):
            fill(pair, "Cherche", options.searched, options.distinct)
            rows += measure_search(pair, "Cherche", options.searched)
        if options.only in (None, "idle"):
            rows += measure_idle(pair, options.idle, options.idle_dovecot)
    _progress("")
    print(json.dumps(rows, ensure_ascii=False, indent=1) if options.json else _table(rows))


if __name__ == "__main__":
    main()
