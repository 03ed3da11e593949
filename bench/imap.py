"""The IMAP server beside Debian's Dovecot, on the same messages, in one run: `python -m bench.imap --help`.

Both serve IMAPS on loopback, each in its own process, with a warm cache; the client is the same. Figures are the best of
several runs, in milliseconds unless a column says otherwise; the ratio is Dovecot's figure over ours (more than 1: ours is
quicker).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from bench.imap_peers import (
    DISTINCT,
    DOVECOT_PASSWORD,
    DOVECOT_USER,
    Client,
    Pair,
    by_certificate,
    children,
    fill,
    message,
    progress,
    rss,
    servers,
)

ROUNDS = 9
WARM_UP = 100
LISTED = (
    "From To Cc Bcc Subject Date Message-ID Priority X-Priority References Newsgroups In-Reply-To Content-Type Reply-To"
)
"""The header fields that Thunderbird asks for when it opens a folder."""


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

    The sides take turns, ROUNDS times, and the median round counts: how long a disk takes to sync varies from one second
    to the next, with what else the machine does."""
    clients = pair.clients()
    if pair.always is not None:
        clients["always"] = Client(pair.always.port_tls, DOVECOT_USER, DOVECOT_PASSWORD)
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
        always = figures.pop("always", 0.0)
        yield _row(name, figures, "per s", "ratio >= 1", more_is_better=True)
        if always:
            beside = {"ours": figures["ours"], "dovecot": always}
            yield _row(f"{name}, mail_fsync = always", beside, "per s", "ratio >= 1", more_is_better=True)


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
        first = by_certificate(pair, side)
        first.command("SELECT INBOX")
        before = rss(children(pid))
        waiting = []
        for number in range(wanted):
            client = by_certificate(pair, side)
            client.command("SELECT INBOX")
            client._socket.sendall(b"i IDLE\r\n")
            client._read_until(b"+ idling\r\n")
            waiting.append(client)
            progress(f"idle {side}: {number + 1}/{wanted}")
        time.sleep(2)
        memory[side] = (rss(children(pid)) - before) / wanted
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
    progress("")
    print(json.dumps(rows, ensure_ascii=False, indent=1) if options.json else _table(rows))


if __name__ == "__main__":
    main()
