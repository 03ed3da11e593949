"""The directory, measured: full import, daily difference, look-ups and correspondent search, beside raw python-ldap.

    .venv/bin/python -m bench.directory                      # full size: 535,928 mailboxes, 2,000,000 activities
    .venv/bin/python -m bench.directory --mailboxes 20000    # a small country, a minute
    ... --folder DIR keeps (and takes again) the deliveries written there; --json prints one JSON object

What is measured, and against what (issue's bounds in brackets): wall time and peak resident memory of the importing process
[360 s, 1 GB], slapd's own memory beside; a difference of some 62,000 changes [180 s] with look-ups going on throughout
(errors, p50, p99 [5 ms], worst); look-ups through our pool against raw python-ldap on one connection, same addresses, same
server, alternating [80 %]; cached look-ups [50,000/s]; correspondent search as people type it [p95 50 ms].
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ldap

from directory import Directory, Slapd, TooManyEntries
from directory.entry import READ, from_attributes
from directory.extraction import Report, read_delivery
from directory.importing import PrivateTarget, apply_changes, difference, full_load
from directory.rights import READER, account_dn
from directory.synthetic_extraction import FULL_ACTIVITIES, FULL_MAILBOXES, Delivery, next_months, write_delivery

_READER_PASSWORD = "lecteur d'exercice, pour mesurer"  # noqa: S105
_LOOKUPS = 5000


def worker(kind: str, folder: Path, port: int, delivery: Path) -> None:
    """In a process of its own, so that its memory is its own: import, print what it took."""
    slapd = Slapd(folder, ldap_port=port)
    begin = time.perf_counter()
    national = read_delivery(sorted(delivery.iterdir()), Report())
    read = time.perf_counter() - begin
    if kind == "full":
        with slapd.maintenance():
            outcome = full_load(slapd, national)
    else:
        target = PrivateTarget(slapd)
        with slapd.maintenance():
            steps, outcome = difference(target, national)
            apply_changes(target, steps, outcome)
    own, tools = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    measured = {
        "seconds": time.perf_counter() - begin,
        "reading": read,
        "own_cpu_s": own.ru_utime + own.ru_stime,
        "tools_cpu_s": tools.ru_utime + tools.ru_stime,
        "peak_mib": own.ru_maxrss / 1024,
        "tools_peak_mib": tools.ru_maxrss / 1024,
    }
    print(json.dumps({**measured, **asdict(outcome)}))


class Traffic:
    """Look-ups that go on beside an import, some hundreds a second, and what they met."""

    def __init__(self, url: str, addresses: list[str]) -> None:
        self._url, self._addresses = url, addresses
        self._stop = threading.Event()
        self.seconds: list[float] = []
        self.errors = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        directory = Directory(self._url, bind_dn=account_dn(READER), password=_READER_PASSWORD)
        draw = random.Random(1)
        while not self._stop.wait(0.002):
            begin = time.perf_counter()
            try:
                if self._addresses:
                    self.errors += directory.by_address(draw.choice(self._addresses)) is None
                else:
                    directory.check()
            except Exception:
                self.errors += 1
            self.seconds.append(time.perf_counter() - begin)
        directory.close()

    def result(self) -> dict[str, float]:
        return {"lookups": len(self.seconds), "errors": self.errors, **milliseconds(self.seconds)}


def milliseconds(seconds: list[float]) -> dict[str, float]:
    """p50, p95, p99 and the worst, in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100)
    return {
        "p50_ms": cuts[49] * 1e3,
        "p95_ms": cuts[94] * 1e3,
        "p99_ms": cuts[98] * 1e3,
        "worst_ms": max(seconds) * 1e3,
    }


def run_import(kind: str, slapd: Slapd, delivery: Path, addresses: list[str]) -> dict[str, Any]:
    port = slapd.url.rpartition(":")[2]
    with Traffic(slapd.url, addresses) as traffic:
        command = [sys.executable, "-m", "bench.directory", "--worker", kind, str(slapd.folder), port, str(delivery)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return {**json.loads(done.stdout), "meanwhile": traffic.result(), "slapd_mib": resident(slapd.pid or 0)}


def resident(pid: int) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024


def addresses_of(delivery: Path) -> list[str]:
    path = next(delivery.glob("Extraction_*.txt"))
    with path.open(encoding="utf-8") as file:
        next(file)
        return [line.split("|", 2)[1] for line in file]


def rate(action: Callable[[str], object], keys: list[str]) -> float:
    begin = time.perf_counter()
    for key in keys:
        action(key)
    return len(keys) / (time.perf_counter() - begin)


def lookups(slapd: Slapd, addresses: list[str]) -> dict[str, float]:
    """Pool against raw connection, in alternating rounds on the same keys; the median of the rounds' ratios."""
    raw = ldap.initialize(slapd.url)
    raw.simple_bind_s(account_dn(READER), _READER_PASSWORD)
    pool = Directory(slapd.url, bind_dn=account_dn(READER), password=_READER_PASSWORD)

    def ask(mail: str) -> object:
        dn, attributes = raw.search_ext_s(
            slapd.base, ldap.SCOPE_SUBTREE, f"(&(objectClass=balMSSante)(mail={mail}))", list(READ)
        )[0]
        return from_attributes(dn, attributes)

    def ask_only(mail: str) -> object:
        return raw.search_ext_s(slapd.base, ldap.SCOPE_SUBTREE, f"(&(objectClass=balMSSante)(mail={mail}))", list(READ))

    rounds = []
    draw = random.Random(2)
    rate(pool.by_address, draw.sample(addresses, 200))
    for _ in range(5):
        keys = draw.sample(addresses, min(_LOOKUPS // 5, len(addresses)))
        rounds.append((rate(ask_only, keys), rate(ask, keys), rate(pool.by_address, keys)))
    pool.watch()
    deadline = time.monotonic() + 10
    while not pool.cached and time.monotonic() < deadline:
        time.sleep(0.02)
    some = draw.sample(addresses, min(1000, len(addresses)))
    rate(pool.by_address, some)
    cached = rate(pool.by_address, some * 50)
    pool.close()
    middle = [statistics.median(column) for column in zip(*rounds, strict=True)]
    return {
        "raw_per_s": middle[0],
        "raw_and_entry_per_s": middle[1],
        "pool_per_s": middle[2],
        "pool_to_raw": statistics.median(r[2] / r[0] for r in rounds),
        "pool_to_raw_and_entry": statistics.median(r[2] / r[1] for r in rounds),
        "cached_per_s": cached,
    }


def correspondents(slapd: Slapd, addresses: list[str]) -> dict[str, float]:
    """Searches as people type them, made from real entries: names, swapped, a typo, speciality and place."""
    reader = Directory(slapd.url, bind_dn=account_dn(READER), password=_READER_PASSWORD)
    draw, seconds, broad = random.Random(3), list[float](), 0
    for number, mail in enumerate(draw.sample(addresses, 500)):
        entry = reader.by_address(mail)
        if entry is None or not entry.surname:
            continue
        name, place = entry.surname.lower(), entry.city.lower()
        wrong = name[:2] + name[3:] if len(name) > 4 else name
        forms = (
            f"{name} {entry.given_name}", f"{entry.given_name} {name}", f"{wrong} {entry.given_name}", f"cardio {place}",
            f"{name[:5]} {place}", name,
        )  # fmt: skip
        begin = time.perf_counter()
        try:
            reader.correspondents(forms[number % len(forms)])
        except TooManyEntries:
            broad += 1
        seconds.append(time.perf_counter() - begin)
    reader.close()
    return {"searches": len(seconds), "too_broad": broad, **milliseconds(seconds)}


def measure(mailboxes: int, activities: int, folder: Path) -> dict[str, Any]:
    wanted = Delivery(mailboxes, activities)
    deliveries = {"day": wanted, "later": next_months(wanted)}
    for name, delivery in deliveries.items():
        if not (folder / name).is_dir():
            (folder / name).mkdir(parents=True)
            write_delivery(folder / name, delivery)
    first, later = set(addresses_of(folder / "day")), set(addresses_of(folder / "later"))
    both = sorted(first & later)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        slapd = Slapd(Path(place) / "annuaire", ldap_port=_free_port())
        slapd.initialise([], "exercice", {READER: _READER_PASSWORD})
        slapd.start()
        try:
            result: dict[str, Any] = {
                "mailboxes": mailboxes,
                "activities": activities,
                "load_average": os.getloadavg()[0],
            }
            stages: dict[str, Callable[[], dict[str, Any]]] = {
                "full import": lambda: run_import("full", slapd, folder / "day", []),
                "look-ups": lambda: lookups(slapd, both),
                "correspondents": lambda: correspondents(slapd, both),
                "difference": lambda: run_import("difference", slapd, folder / "later", both),
                "full import, look-ups meanwhile": lambda: run_import("full", slapd, folder / "later", both),
            }
            for name, stage in stages.items():
                result[name] = stage()
                print(json.dumps({name: result[name]}), file=sys.stderr, flush=True)
            files = (slapd.folder / slapd.generations.current()).iterdir()
            result["database_mib"] = sum(file.stat().st_blocks * 512 for file in files) / 2**20
        finally:
            slapd.stop()
    return result


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def show(result: dict[str, Any], indent: str = "") -> None:
    for key, value in result.items():
        if isinstance(value, dict):
            print(f"{indent}{key}")
            show(value, indent + "  ")
        else:
            print(f"{indent}{key:24} {value:,.2f}" if isinstance(value, float) else f"{indent}{key:24} {value:,}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mailboxes", type=int, default=FULL_MAILBOXES)
    parser.add_argument("--activities", type=int, default=0, help="default: in proportion of the country's")
    parser.add_argument("--folder", type=Path, help="where deliveries are kept")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        kind, folder, port, delivery = options.worker
        return worker(kind, Path(folder), int(port), Path(delivery))
    activities = options.activities or round(options.mailboxes * FULL_ACTIVITIES / FULL_MAILBOXES)
    with tempfile.TemporaryDirectory() as temporary:
        result = measure(options.mailboxes, activities, options.folder or Path(temporary))
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)
    return None


if __name__ == "__main__":
    main()
