"""The mail store, measured beside Dovecot's own store (Maildir, no full-text index) on the same messages, in one run.

    .venv/bin/python -m bench.mailstore [--messages 20000] [--appends 500] [--url postgresql+psycopg://...] [--json]

Dovecot is driven by doveadm, without IMAP: what it takes to start is measured apart and taken off. IMAP's own figures are
bench/imap.py's. Times are medians of several runs, in milliseconds; rates are per second. Without Dovecot its column is
empty. The store is on SQLite unless --url names an empty database.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import imap
from mailstore import FlagOperation, MailboxKind, NewMessage, SearchPart, Store

FLOOR = 5.0  # milliseconds
NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
Row = dict[str, object]


def letters(count: int, seed: int = 20260302) -> Iterator[bytes]:
    """Messages of about 3 KB, of five thousand made-up words."""
    chance = random.Random(seed)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(3, 10))) for _ in range(5000)]
    for number in range(count):
        body = "\r\n".join(" ".join(chance.choices(words, k=10)) for _ in range(40))
        yield (
            f"From: Dr Alice <alice@x.fr>\r\nTo: bob@x.fr\r\nSubject: compte rendu {number}\r\n"
            f"Message-ID: <{seed}.{number}@x.fr>\r\nDate: Mon, 2 Mar 2026 10:00:00 +0100\r\nMIME-Version: 1.0\r\n"
            f"Content-Type: text/plain; charset=utf-8\r\n\r\n{body}\r\n"
            + ("le mot rarissime est ici\r\n" if number % 5000 == 7 else "")
        ).encode()


class Dovecot:
    """A private Dovecot store: one Maildir, filled by us, asked through doveadm."""

    def __init__(self, folder: Path, messages: int) -> None:
        self._folder = folder
        maildir = folder / "mail"
        for name in ("cur", "new", "tmp"):
            (maildir / name).mkdir(parents=True)
        for number, raw in enumerate(letters(messages)):
            (maildir / "cur" / f"1772442000.M{number:06d}.bench:2,").write_bytes(raw.replace(b"\r\n", b"\n"))
        owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        self._config = folder / "dovecot.conf"
        self._config.write_text(
            f"mail_location = maildir:{maildir}\nfirst_valid_uid = 0\nmail_fsync = always\nlog_path = /dev/stderr\n"
            f"base_dir = {folder}/run\nssl = no\nprotocols =\nmail_uid = {owner.pw_uid}\nmail_gid = {owner.pw_gid}\n"
        )
        if os.geteuid() == 0:
            folder.parent.chmod(0o711)
            folder.chmod(0o755)
            for path in (folder, *folder.rglob("*")):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        self._environment = {**os.environ, "USER": owner.pw_name, "HOME": str(folder)}
        self.search("zzwarm")
        self._start = self._timed("mailbox", "status", "messages", "INBOX")

    def search(self, needle: str) -> float:
        """Seconds of SEARCH TEXT."""
        return max(self._timed("search", "mailbox", "INBOX", "text", needle) - getattr(self, "_start", 0.0), 1e-6)

    def save(self, raw: bytes) -> float:
        """Seconds of one durable delivery."""
        return max(self._timed("save", "-m", "INBOX", given=raw) - self._start, 1e-6)

    def _timed(self, *arguments: str, given: bytes = b"") -> float:
        begin = time.perf_counter()
        command = ["doveadm", "-c", str(self._config), *arguments]
        subprocess.run(command, input=given, check=True, capture_output=True, env=self._environment)
        return time.perf_counter() - begin


def median(action: Callable[[], object], times: int = 5) -> float:
    """Median milliseconds of an action."""
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        action()
        found.append(time.perf_counter() - begin)
    return statistics.median(found) * 1000


def row(name: str, ours: float, unit: str, peer: float | None = None, bound: str = "") -> Row:
    """One line; the ratio is how many times better we are."""
    if peer is not None and peer < FLOOR and unit == "ms":
        peer = None  # under what starting doveadm varies by
    better = None if peer is None else (ours / peer if unit == "/s" else peer / ours)
    return {
        "what": name,
        "ours": round(ours, 2),
        "unit": unit,
        "dovecot": peer and round(peer, 2),
        "ratio": better and round(better, 1),
        "bound": bound,
    }


def appends(store: Store, account_id: int, dovecot: Dovecot | None, count: int) -> list[Row]:
    """Durable appends: one client, eight clients, batches."""
    raws = list(letters(3 * count, seed=1))
    begin = time.perf_counter()
    for raw in raws[:count]:
        store.append(account_id, "Archives", raw, (), NOW, NOW)
    alone = count / (time.perf_counter() - begin)
    begin = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda raw: store.append(account_id, "Archives", raw, (), NOW, NOW), raws[count : 2 * count]))
    together = count / (time.perf_counter() - begin)
    begin = time.perf_counter()
    for start in range(2 * count, 3 * count, 50):
        batch = [NewMessage(raw, frozenset(), NOW) for raw in raws[start : start + 50]]
        store.append_messages(account_id, "Archives", batch, NOW)
    batched = count / (time.perf_counter() - begin)
    peer = None
    if dovecot is not None:
        peer = 1 / statistics.median(dovecot.save(raw) for raw in raws[:30])
    return [
        row("append, durable, one client", alone, "/s", peer, "see bench/imap.py"),
        row("append, durable, eight clients", together, "/s"),
        row("append in batches of 50", batched, "/s"),
    ]


def views(store: Store, reopen: Callable[[], Store], folder_id: int, count: int) -> list[Row]:
    """What SELECT, FETCH and QRESYNC ask of the store."""
    fresh = reopen()
    cold = median(lambda: fresh.view(folder_id), 1)
    fresh.close()
    view = store.view(folder_id)
    warm = median(lambda: store.view(folder_id))

    def summaries() -> None:
        for start in range(0, count, 2000):
            store.summaries(folder_id, view.uids[start : start + 2000])

    reached = view.folder.highest_modseq
    store.store_flags(folder_id, view.uids[:10], FlagOperation.ADD, ["\\Flagged"])
    return [
        row(f"view of {count} messages, first in a process", cold, "ms"),
        row(f"view of {count} messages, afterwards", warm, "ms", bound="SELECT <= 50 ms"),
        row("changes: nothing new", median(lambda: store.changes(folder_id, reached + 1), 50), "ms"),
        row("changes: 10 messages", median(lambda: store.changes(folder_id, reached)), "ms", bound="QRESYNC <= 10 ms"),
        row(f"summaries of {count} messages", median(summaries, 3), "ms"),
        row(
            "summary and content of one message",
            median(lambda: (store.summaries(folder_id, [99]), store.read_blob(view.blobs[98])), 50),
            "ms",
            bound="UID FETCH <= 2 ms",
        ),
    ]


def searches(
    store: Store, reopen: Callable[[], Store], folder_id: int, dovecot: Dovecot | None, count: int
) -> list[Row]:
    """SEARCH TEXT: a rare word, a word of one message in eight or so, a word of all of them, and none."""
    begin = time.perf_counter()
    while store.index_pending(2000):
        continue
    rows = [row(f"indexing {count} messages", count / (time.perf_counter() - begin), "/s")]
    for name, needle in (
        ("rare", "mot rarissime"),
        ("in 20 messages", "compte rendu 77"),
        ("in all", "compte rendu"),
        ("in none", "zzqqzz"),
    ):
        fresh = reopen()
        cold = median(lambda text=needle, one=fresh: one.search_text(folder_id, SearchPart.TEXT, text), 1)  # type: ignore[misc]
        fresh.close()
        warm = median(lambda text=needle: store.search_text(folder_id, SearchPart.TEXT, text))  # type: ignore[misc]
        peer = None if dovecot is None else statistics.median(dovecot.search(needle) for _ in range(3)) * 1000
        rows.append(row(f"search, {name}, first in a process", cold, "ms", peer))
        rows.append(row(f"search, {name}, afterwards", warm, "ms", peer, "20x"))
    return rows


def main() -> None:
    """Fill both stores, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--appends", type=int, default=500)
    parser.add_argument("--url", default="", help="SQLAlchemy URL of an empty database (default: SQLite)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="caducee-bench-") as name:
        folder = Path(name)
        url = options.url or f"sqlite:///{folder / 'mail.db'}"

        def reopen() -> Store:
            return Store.open(url, folder / "blobs", bytes(32), index=imap.summarise)

        store = Store.create(url, folder / "blobs", bytes(32), index=imap.summarise)
        account = store.add_account("a@x.fr", MailboxKind.PER, display_name="A", national_id="8", at=NOW)
        batch: list[NewMessage] = []
        for raw in letters(options.messages):
            batch.append(NewMessage(raw, frozenset(), NOW))
            if len(batch) == 500:
                store.append_messages(account.id, "INBOX", batch, NOW)
                batch = []
        if batch:
            store.append_messages(account.id, "INBOX", batch, NOW)
        dovecot = Dovecot(folder / "dovecot", options.messages) if shutil.which("doveadm") else None
        folder_id = store.folder(account.id, "INBOX").id
        rows = appends(store, account.id, dovecot, options.appends)
        rows += views(store, reopen, folder_id, options.messages)
        rows += searches(store, reopen, folder_id, dovecot, options.messages)
        store.close()
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    for one in rows:
        print("{what:46} {ours:>10} {unit:3} dovecot {dovecot!s:>10}  x{ratio!s:6} {bound}".format(**one))


if __name__ == "__main__":
    main()
