"""The directory, measured: full import, daily difference, look-ups and correspondent search, beside raw python-ldap.

    .venv/bin/python -m bench.directory                      # the country: 535,928 mailboxes, 2,000,000 activities
    .venv/bin/python -m bench.directory --scale 0.05         # a twentieth of it, a minute
    ... --folder DIR keeps (and takes again) the deliveries written there; --json prints one JSON object

What is measured, and against what (the bounds are for the whole country, on a machine that does nothing else):
* wall time, CPU time and peak resident memory of the process that imports [360 s, 1 GB]; slapd's tools beside;
* a difference of some 62,000 changes, made on a copy as it is at that size [180 s], with look-ups going on throughout:
  errors [0], p50, p99 [5 ms], worst; the same during a full load;
* cold look-ups through our pool against raw python-ldap on one connection, same question, same addresses, same server,
  alternating rounds [80 %]; "with filter" is the question national clients ask, which names the class;
* cached look-ups [50,000/s]; correspondent search as people type it [p95 50 ms].
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
from directory.entry import READ
from directory.extraction import Report, Silent, read_delivery
from directory.importing import full_load, update
from directory.rights import READER, account_dn
from directory.synthetic_extraction import FULL_ACTIVITIES, FULL_MAILBOXES, Delivery, next_months, write_delivery
from directory.tools import give_way

_READER_PASSWORD = "lecteur d'exercice, pour mesurer"  # noqa: S105
_LOOKUPS = 5000


def worker(kind: str, folder: Path, port: int, delivery: Path) -> None:
    """In a process of its own, so that its memory is its own: import, print what it took."""
    give_way()  # as `caducee directory import` does
    slapd = Slapd(folder, ldap_port=port)
    begin = time.perf_counter()
    national = read_delivery(sorted(delivery.iterdir()), Report())
    stages = {"reading": time.perf_counter() - begin}
    if kind == "full":
        with slapd.maintenance():
            outcome = full_load(slapd, national)
    else:
        with slapd.maintenance():
            # At a small scale too the way that the country's difference takes.
            outcome = update(slapd, national, progress=_Stages(stages, begin), large=1)
    own, tools = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    measured = {
        "seconds": time.perf_counter() - begin,
        **stages,
        "own_cpu_s": own.ru_utime + own.ru_stime,
        "tools_cpu_s": tools.ru_utime + tools.ru_stime,
        "peak_mib": own.ru_maxrss / 1024,
        "tools_peak_mib": tools.ru_maxrss / 1024,
    }
    print(json.dumps({**measured, **asdict(outcome)}))


class _Stages(Silent):
    """Notes when the changes begin to be made: the comparison, and the copy, are over."""

    def __init__(self, stages: dict[str, float], begin: float) -> None:
        self._stages, self._begin = stages, begin

    def begin(self, stage: str, total: int) -> None:
        if stage.endswith("changes"):
            self._stages["changing_from"] = time.perf_counter() - self._begin


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
        # In a session of its own, as a timer of the system starts it.
        done = subprocess.run(command, capture_output=True, text=True, check=False, start_new_session=True)
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


def rate(action: Callable[[str], object], keys: list[str]) -> tuple[float, float]:
    """(keys a second, our CPU time a key in microseconds)."""
    begin, used = time.perf_counter(), time.process_time()
    for key in keys:
        action(key)
    return len(keys) / (time.perf_counter() - begin), (time.process_time() - used) / len(keys) * 1e6


def lookups(slapd: Slapd, addresses: list[str]) -> dict[str, Any]:
    """Pool against raw connection, in alternating rounds on the same keys; the median of the rounds' ratios."""
    raw = ldap.initialize(slapd.url)
    raw.simple_bind_s(account_dn(READER), _READER_PASSWORD)
    pool = Directory(slapd.url, bind_dn=account_dn(READER), password=_READER_PASSWORD)

    def ask(mail: str) -> object:
        return raw.search_ext_s(slapd.base, ldap.SCOPE_SUBTREE, f"(mail={mail})", list(READ))

    def ask_with_class(mail: str) -> object:
        return raw.search_ext_s(slapd.base, ldap.SCOPE_SUBTREE, f"(&(objectClass=balMSSante)(mail={mail}))", list(READ))

    rounds = []
    draw = random.Random(2)
    keys = draw.sample(addresses, min(_LOOKUPS, len(addresses)))
    for action in (ask, pool.by_address):
        rate(action, keys[:200])
    # Small rounds, each key asked three ways: what the machine does besides falls on all alike.
    for start in range(0, len(keys), 250):
        some = keys[start : start + 250]
        rounds.append((*rate(ask, some), *rate(pool.by_address, some), *rate(ask_with_class, some)))
    pool.watch()
    deadline = time.monotonic() + 10
    while not pool.cached and time.monotonic() < deadline:
        time.sleep(0.02)
    some = keys[:1000]
    rate(pool.by_address, some)
    cached, _ = rate(pool.by_address, some * 50)
    pool.close()
    middle = [statistics.median(column) for column in zip(*rounds, strict=True)]
    return {
        "raw_per_s": middle[0],
        "raw_cpu_us": middle[1],
        "pool_per_s": middle[2],
        "pool_cpu_us": middle[3],
        "raw_with_filter_per_s": middle[4],
        "pool_to_raw": statistics.median(r[2] / r[0] for r in rounds),
        "pool_to_raw_with_filter": statistics.median(r[2] / r[4] for r in rounds),
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


def measure(scale: float, folder: Path, *, tell: bool) -> dict[str, Any]:
    """Every stage, in order; what each gave is told as it ends: its lines of the table (`tell`), all of it on stderr."""
    wanted = Delivery(round(FULL_MAILBOXES * scale), round(FULL_ACTIVITIES * scale))
    for name, delivery in {"day": wanted, "later": next_months(wanted)}.items():
        place = folder / f"{scale:g}" / name
        if not place.is_dir():
            _say(f"writing the delivery {name!r}: {delivery.mailboxes:,} mailboxes, {delivery.activities:,} activities")
            fresh = place.with_name(f"{name}.part")
            fresh.mkdir(parents=True)
            write_delivery(fresh, delivery)
            fresh.rename(place)
    day, later = folder / f"{scale:g}" / "day", folder / f"{scale:g}" / "later"
    both = sorted(set(addresses_of(day)) & set(addresses_of(later)))
    result: dict[str, Any] = {"scale": scale, "mailboxes": wanted.mailboxes, "activities": wanted.activities}
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        slapd = Slapd(Path(temporary) / "annuaire", ldap_port=_free_port())
        slapd.initialise([], "exercice", {READER: _READER_PASSWORD})
        slapd.start()
        stages: dict[str, Callable[[], dict[str, Any]]] = {
            "full import": lambda: run_import("full", slapd, day, []),
            "look-ups": lambda: lookups(slapd, both),
            "correspondents": lambda: correspondents(slapd, both),
            "difference": lambda: run_import("difference", slapd, later, both),
            "full import again": lambda: run_import("full", slapd, later, both),
        }
        try:
            for number, (name, stage) in enumerate(stages.items(), 1):
                _say(f"{number}/{len(stages)} {name} (load {os.getloadavg()[0]:.1f}) ...")
                begin = time.perf_counter()
                result[name] = {**stage(), "load": os.getloadavg()[0]}
                _say(f"    {time.perf_counter() - begin:.0f} s: {json.dumps(result[name])}")
                for row in rows(name, result[name], scale) if tell else ():
                    print(shown(row), flush=True)
            files = (slapd.folder / slapd.generations.current()).iterdir()
            result["database_mib"] = sum(file.stat().st_blocks * 512 for file in files) / 2**20
            if tell:
                print(shown(("database on disk", result["database_mib"], "MiB", 0, False)), flush=True)
        finally:
            slapd.stop()
    return result


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


Row = tuple[str, float, str, float, bool]
"""(what, measured, unit, bound or 0, whether the bound is the least)."""


def rows(stage: str, measured: dict[str, Any], scale: float) -> list[Row]:
    """What a stage tells; bounds of time shrink with the scale."""
    if stage == "full import":
        return [
            ("full import, wall time", measured["seconds"], "s", 360 * scale, False),
            ("  our CPU time", measured["own_cpu_s"], "s", 0, False),
            ("  CPU time of slapd's tools", measured["tools_cpu_s"], "s", 0, False),
            ("  our peak memory", measured["peak_mib"], "MiB", 953, False),
        ]
    if stage == "look-ups":
        return [
            ("cold look-ups, pool to raw python-ldap", measured["pool_to_raw"], "", 0.8, True),
            ("  the same, raw with the class in its filter", measured["pool_to_raw_with_filter"], "", 0, True),
            ("  our CPU time a look-up, pool and raw", measured["pool_cpu_us"], "us", 0, False),
            ("    raw", measured["raw_cpu_us"], "us", 0, False),
            ("cold look-ups, pool", measured["pool_per_s"], "/s", 0, True),
            ("cached look-ups", measured["cached_per_s"], "/s", 50_000, True),
        ]
    if stage == "correspondents":
        return [
            ("correspondent search, p50", measured["p50_ms"], "ms", 0, False),
            ("correspondent search, p95", measured["p95_ms"], "ms", 50, False),
        ]
    changes = measured["added"] + measured["changed"] + measured["removed"]
    meanwhile: list[Row] = [
        ("  look-ups meanwhile, errors", measured["meanwhile"]["errors"], "", 0.5, False),
        ("  look-ups meanwhile, p99", measured["meanwhile"]["p99_ms"], "ms", 5, False),
        ("  look-ups meanwhile, worst", measured["meanwhile"]["worst_ms"], "ms", 0, False),
        ("  our peak memory", measured["peak_mib"], "MiB", 953, False),
    ]
    if stage == "difference":
        return [(f"difference of {changes:,} changes", measured["seconds"], "s", 180 * scale, False), *meanwhile]
    return [("full import over a full directory", measured["seconds"], "s", 360 * scale, False), *meanwhile]


def shown(row: Row) -> str:
    """A line of the table."""
    what, value, unit, bound, least = row
    limit = f"{'>=' if least else '<='} {bound:,.4g} {unit}" if bound else ""
    met = (value >= bound if least else value <= bound) if bound else None
    return f"{what:48} {f'{value:,.2f} {unit}':>16}  {limit:14} { ({True: 'met', False: 'NOT MET', None: ''}[met]) }".rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the country's size (default: 1)")
    parser.add_argument("--folder", type=Path, help="where deliveries are kept, and the directory is made")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        kind, folder, port, delivery = options.worker
        return worker(kind, Path(folder), int(port), Path(delivery))
    if not 0.0005 <= options.scale <= 4:
        parser.error("--scale: 0.0005 to 4")
    with tempfile.TemporaryDirectory() as temporary:
        place = options.folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        result = measure(options.scale, place, tell=not options.json)
    if options.json:
        print(json.dumps(result, indent=2))
    return None


if __name__ == "__main__":
    main()
