"""Imports into a private slapd, for the tests: the ways to make one, what is stored after it, look-ups that never stop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from directory import Directory, DirectoryError, Slapd, synthetic_entries
from directory.backup import read_records
from directory.extraction import Progress, Report, read_delivery
from directory.importing import LARGE_DIFFERENCE, Outcome, full_load, update
from directory.merging import OPERATIONAL, is_mailbox
from directory.national import NationalDirectory
from directory.rights import READER, account_dn
from directory.synthetic_extraction import Delivery, next_months, write_delivery
from tests.directory.helpers import PASSWORD, free_port

REPOSITORY = Path(__file__).resolve().parents[2]
READER_PASSWORD = "lecteur d'exercice"
DAY = Delivery(400, 900, seed=5)
LATER = replace(next_months(DAY), created=25, removed=30, changed=40)
MAIL = "claire.essai@medecin.mssante.fr"


@contextmanager
def small_slapd(tmp_path: Path) -> Iterator[Slapd]:
    """A slapd with 20 people, which the test may maltreat."""
    server = Slapd(tmp_path / "annuaire", ldap_port=free_port())
    server.initialise(synthetic_entries(20, seed=1), PASSWORD, {READER: READER_PASSWORD})
    server.start()
    yield server
    server.stop()


def reading(own: Slapd) -> Directory:
    """The operator's reader."""
    return Directory(own.url, bind_dn=account_dn(READER), password=READER_PASSWORD)


def read_day(folder: Path, delivery: Delivery) -> NationalDirectory:
    place = folder / f"jour{delivery.removed}"
    place.mkdir(exist_ok=True)
    return read_delivery(write_delivery(place, delivery), Report())


def make_difference(
    slapd: Slapd,
    national: NationalDirectory,
    max_removed: float = 0.2,
    *,
    large: int = LARGE_DIFFERENCE,
    progress: Progress | None = None,
) -> Outcome:
    with slapd.maintenance():
        return update(slapd, national, max_removed=max_removed, progress=progress, large=large)


def make_large(
    slapd: Slapd, national: NationalDirectory, max_removed: float = 0.2, *, progress: Progress | None = None
) -> Outcome:
    """A difference made as a large one is: on a copy."""
    return make_difference(slapd, national, max_removed, large=1, progress=progress)


def make_full(
    slapd: Slapd, national: NationalDirectory, max_removed: float = 0.2, *, progress: Progress | None = None
) -> Outcome:
    with slapd.maintenance():
        return full_load(slapd, national, max_removed=max_removed, progress=progress)


def content(slapd: Slapd) -> dict[str, dict[str, list[bytes]]]:
    """Every mailbox as stored, without slapd's own bookkeeping."""
    return {
        dn: {
            name: values if name == "cn" else sorted(values)
            for name, values in stored.items()
            if name.lower() not in OPERATIONAL
        }
        for dn, stored in read_records(slapd)
        if is_mailbox(stored)
    }


@contextmanager
def traffic(own: Slapd, mails: list[str]) -> Iterator[list[str]]:
    """Look-ups that never stop; gives what went wrong."""
    wrong, stop = list[str](), threading.Event()

    def run() -> None:
        with closing(Directory(own.url, bind_dn=account_dn(READER), password=READER_PASSWORD)) as directory:
            while not stop.is_set():
                for mail in mails:
                    try:
                        if directory.by_address(mail) is None:
                            wrong.append("absent")
                    except DirectoryError as error:
                        wrong.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield wrong
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)


IMPORT = """
import sys
from pathlib import Path
from directory import Slapd
from directory.extraction import Report, read_delivery
from directory.importing import LARGE_DIFFERENCE, full_load, update
slapd = Slapd(Path(sys.argv[1]), ldap_port=int(sys.argv[2]))
national = read_delivery(sorted(Path(sys.argv[3]).iterdir()), Report())
print("ready", flush=True)
with slapd.maintenance():
    if sys.argv[4] == "full":
        full_load(slapd, national)
    else:
        update(slapd, national, large=1 if sys.argv[4] == "large" else LARGE_DIFFERENCE)
print("done", flush=True)
"""
