"""The journey, measured: from the gateway's hand-over to the report visible over IMAP at the other operator, then deposited.

    PYTHONPATH=. .venv/bin/python bench/journey.py [--reports 30]

Prints medians over the reports sent one after the other, the rate when they are sent together, and each process's
resident memory. There is no peer that does the same work (sign, encrypt, trust, deposit): the figures are read against the
issue's own bounds, and `openssl cms` for the cryptography alone is printed beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from caducee.demo.country import Country, cast, create_country
from caducee.demo.running import Running, Service
from tests.journey import support

GP = cast().gp.mail


async def one_by_one(country: Country, count: int) -> list[float]:
    """Seconds from the hand-over to IMAP, for each report."""
    found = []
    reports = support.reports()
    async with support.mailbox(country, country.doctors, GP) as inbox:
        for _ in range(count):
            sent = next(reports)
            begin = time.perf_counter()
            await support.hand_over(country, sent)
            await inbox.wait_for(sent.message_id, 30)
            found.append(time.perf_counter() - begin)
    await support.settled(country)
    return found


async def together(country: Country, count: int) -> float:
    """Reports per second when `count` are handed over at once, until all are delivered and deposited."""
    reports = support.reports()
    batch = [next(reports) for _ in range(count)]
    begin = time.perf_counter()
    await asyncio.gather(*(support.hand_over(country, sent) for sent in batch))
    await support.settled(country)
    return count / (time.perf_counter() - begin)


def openssl_alone(country: Country, content: bytes) -> float:
    """Seconds that `openssl cms` takes to sign and encrypt the same message, two processes and all."""
    with tempfile.TemporaryDirectory() as folder:
        chain, key = country.gateway.write(Path(folder), "signer")
        begin = time.perf_counter()
        signed = subprocess.run(
            ["openssl", "cms", "-sign", "-signer", str(chain), "-inkey", str(key)],
            input=content,
            capture_output=True,
            check=True,
        ).stdout
        subprocess.run(
            ["openssl", "cms", "-encrypt", "-aes256", str(chain)], input=signed, capture_output=True, check=True
        )
        return time.perf_counter() - begin


def resident(service: Service) -> list[tuple[str, float]]:
    """(process, MiB resident) of a place."""
    rows = []
    for role, pid in service.pids.items():
        status = Path(f"/proc/{pid}/status").read_text()
        kib = int(status.partition("VmRSS:")[2].split()[0])
        rows.append((f"{service.place.name}/{role}", kib / 1024))
    return rows


async def measure(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        country = create_country(Path(folder) / "country", at=datetime.now(UTC), base_port=support.free_base_port())
        async with Running(country) as running:
            memory = [row for service in running.services for row in resident(service)]
            seconds = await one_by_one(country, count)
            rate = await together(country, count)
        peer = openssl_alone(country, next(support.reports()).content)
    low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
    print(f"hand-over to IMAP, {count} reports: min {low:.3f} median {middle:.3f} max {high:.3f} s")
    print(f"openssl cms -sign | -encrypt alone, same message: {peer:.3f} s (median ratio {middle / peer:.1f})")
    print(f"together: {rate:.1f} reports/s, delivered to two mailboxes and deposited")
    for name, mebibytes in memory:
        print(f"idle resident {name:22} {mebibytes:6.1f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=int, default=30)
    asyncio.run(measure(parser.parse_args().reports))


if __name__ == "__main__":
    main()
