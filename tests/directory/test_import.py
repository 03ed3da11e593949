"""Importing into a real slapd: full load and difference end alike, look-ups never stop, kill -9 leaves a whole directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from directory import CLAIRE_EXEMPLE, Directory, DirectoryError, Slapd, entry_dn, structure_mailboxes, synthetic_entries
from directory.backup import read_records
from directory.extraction import Report, read_delivery
from directory.importing import ExternalTarget, Outcome, PrivateTarget, apply_changes, difference, full_load
from directory.merging import OPERATIONAL, is_mailbox
from directory.national import NationalDirectory
from directory.rights import READER, account_dn
from directory.synthetic_extraction import Delivery, next_months, write_delivery
from tests.directory.extracts import SERVICE, line, mailboxes, read, row
from tests.directory.helpers import PASSWORD, certificate, free_port, witness

REPOSITORY = Path(__file__).resolve().parents[2]
READER_PASSWORD = "lecteur d'exercice"
DAY = Delivery(400, 900, seed=5)
LATER = replace(next_months(DAY), created=25, removed=30, changed=40)
MAIL = "claire.essai@medecin.mssante.fr"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Slapd]:
    server = Slapd(tmp_path / "annuaire", ldap_port=free_port())
    server.initialise(synthetic_entries(20, seed=1), PASSWORD, {READER: READER_PASSWORD})
    server.start()
    yield server
    server.stop()


@pytest.fixture
def reader(own: Slapd) -> Iterator[Directory]:
    with closing(Directory(own.url, bind_dn=account_dn(READER), password=READER_PASSWORD)) as directory:
        yield directory


def _day(folder: Path, delivery: Delivery) -> NationalDirectory:
    place = folder / f"jour{delivery.removed}"
    place.mkdir(exist_ok=True)
    return read_delivery(write_delivery(place, delivery), Report())


def _difference(slapd: Slapd, national: NationalDirectory, max_removed: float = 0.2) -> Outcome:
    target = PrivateTarget(slapd)
    steps, outcome = difference(target, national, max_removed=max_removed)
    with slapd.maintenance():
        apply_changes(target, steps, outcome)
    return outcome


def _full(slapd: Slapd, national: NationalDirectory, max_removed: float = 0.2) -> Outcome:
    with slapd.maintenance():
        return full_load(slapd, national, max_removed=max_removed)


def _content(slapd: Slapd) -> dict[str, dict[str, list[bytes]]]:
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


@pytest.mark.slow
def test_full_load_and_difference_end_in_the_same_directory(own: Slapd, tmp_path: Path) -> None:
    day, later = _day(tmp_path, DAY), _day(tmp_path, LATER)
    first = _full(own, day)
    assert (first.added, first.others) == (400, 20 + len(structure_mailboxes()))
    assert _difference(own, day).changes == 0
    outcome = _difference(own, later)
    assert (outcome.added, outcome.removed, outcome.failed) == (25, 30, 0)
    assert outcome.changed > 20
    by_difference = _content(own)
    _full(own, day)
    again = _full(own, later)
    assert (again.added, again.removed, again.changed) == (25, 30, outcome.changed)
    assert _content(own) == by_difference
    assert _difference(own, later).changes == 0


@pytest.mark.slow
def test_what_the_extraction_does_not_carry_stays(own: Slapd, reader: Directory, tmp_path: Path) -> None:
    for load in (_difference, _full):
        _full(own, read(mailboxes(tmp_path, row(), row(mail="seule@medecin.mssante.fr")))[0], max_removed=1.0)
        seal = certificate()
        with own.manager() as admin:
            admin.modify_s(
                entry_dn(MAIL),
                [
                    (2, "userCertificate;binary", [seal.public_bytes(Encoding.DER)]),
                    (2, "description", [b"Cabinet du centre"]),
                    (2, "listeRouge", [b"TRUE"]),
                    (2, "l", [b"Corrige a la main"]),
                ],
            )
        load(own, read(mailboxes(tmp_path, row(skill="SM54")))[0], max_removed=1.0)
        found = reader.by_address(MAIL)
        assert found is not None
        assert (found.certificates, found.description, found.red_list) == ((seal,), "Cabinet du centre", True)
        assert (found.city, found.speciality) == ("LYON", "SM54")
        assert reader.by_address("seule@medecin.mssante.fr") is None
        assert reader.by_address(CLAIRE_EXEMPLE.mail) == CLAIRE_EXEMPLE.entry()  # the operator's own
        with closing(Directory(own.url)) as anonymous:
            assert anonymous.by_address(MAIL) is None
        _full(own, read(mailboxes(tmp_path, row(mail="autre@medecin.mssante.fr")))[0], max_removed=1.0)


def test_an_import_never_takes_the_operators_entries(own: Slapd, reader: Directory, tmp_path: Path) -> None:
    thief = row(mail=CLAIRE_EXEMPLE.mail, surname="AUTRE", national="810999000028", number="10999000028")
    for load in (_full, _difference):
        load(own, read(mailboxes(tmp_path, row(), thief))[0])
        assert reader.by_address(CLAIRE_EXEMPLE.mail) == CLAIRE_EXEMPLE.entry()


def test_a_rejected_row_leaves_what_is_served(own: Slapd, reader: Directory, tmp_path: Path) -> None:
    good = row(mail="autre@medecin.mssante.fr", national="810999000028", number="10999000028")
    _full(own, read(mailboxes(tmp_path, row(), good))[0])
    before = reader.by_address(MAIL)
    for load in (_difference, _full):
        national, report = read(mailboxes(tmp_path, row(profession="77", surname="AUTRE"), good))
        assert report.rejected == 1
        assert load(own, national).removed == 0
        assert reader.by_address(MAIL) == before is not None


def test_a_delivery_that_would_empty_the_directory_is_refused(own: Slapd, tmp_path: Path) -> None:
    _full(own, _day(tmp_path, DAY))
    before, folder = _content(own), own.generations.current()
    small = read(mailboxes(tmp_path, row()))[0]
    for load in (_full, _difference):
        with pytest.raises(DirectoryError, match="retirerait 400 fiches"):
            load(own, small)
    assert (_content(own), own.generations.current()) == (before, folder)


def test_a_difference_can_be_seen_without_being_made(own: Slapd, tmp_path: Path) -> None:
    before = _content(own)
    steps, outcome = difference(PrivateTarget(own), _day(tmp_path, DAY))
    assert len(steps) == outcome.added == 400
    assert _content(own) == before


def test_an_external_directory_takes_the_difference(own: Slapd, tmp_path: Path) -> None:
    directory = Directory(own.url, bind_dn=own.admin_dn, password=PASSWORD)
    target = ExternalTarget(own.base, directory.connection)
    for delivery, changes in ((DAY, 400), (DAY, 0), (LATER, 25 + 30)):
        steps, outcome = difference(target, _day(tmp_path, delivery))
        assert outcome.changes >= changes
        apply_changes(target, steps, outcome)
        assert outcome.failed == 0
    assert difference(target, _day(tmp_path, LATER))[0] == []
    directory.close()


def test_a_change_made_meanwhile_wins(own: Slapd, tmp_path: Path) -> None:
    """Between the comparison and the changes somebody removes an entry: the rest of its group is made all the same."""
    day, later = _day(tmp_path, DAY), _day(tmp_path, replace(DAY, removed=5))
    _full(own, day)
    target = PrivateTarget(own)
    steps, outcome = difference(target, later)
    with own.manager() as admin:
        admin.delete_s(steps[0].dn)
    apply_changes(target, steps, outcome)
    assert outcome.failed == 1
    assert difference(target, later)[0] == []


@contextmanager
def _traffic(own: Slapd, mails: list[str]) -> Iterator[list[str]]:
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


@pytest.mark.slow
def test_look_ups_are_served_throughout(own: Slapd, tmp_path: Path) -> None:
    day, later = _day(tmp_path, DAY), _day(tmp_path, LATER)
    _full(own, day)
    kept = [*[mail for mail in day.addresses() if mail in later][:50], CLAIRE_EXEMPLE.mail]
    folder = own.generations.current()
    with _traffic(own, kept) as wrong:
        _full(own, later)
        _difference(own, day)
        _full(own, later)
    assert wrong == []
    assert own.generations.current() != folder
    own.stop()
    own.start()
    with closing(Directory(own.url)) as directory:
        assert directory.by_address(kept[0])


@pytest.mark.slow
def test_changes_made_during_a_load_are_not_lost(own: Slapd, reader: Directory, tmp_path: Path) -> None:
    """Somebody adds, changes and removes entries while slapadd runs: the journal is made again on the new data."""
    national = _day(tmp_path, DAY)
    touched = threading.Event()

    class Meddler:
        """Acts when the load compares its first entries, that is once the old data is being read."""

        def begin(self, stage: str, total: int) -> None:
            with own.manager() as admin:
                admin.modify_s(
                    entry_dn(CLAIRE_EXEMPLE.mail), [(2, "l", [b"Villeurbanne"]), (2, "telephoneNumber", [b"01", b"02"])]
                )
                admin.add_s(
                    entry_dn("neuve@x.fr"),
                    [("objectClass", [b"balMSSante"]), ("mail", [b"neuve@x.fr"]), ("TypeBAL", [b"APP"])],
                )
                admin.delete_s(entry_dn("secretariat@labo-exemple.mssante.fr"))
            touched.set()

        def advance(self, amount: int) -> None: ...

    with own.maintenance():
        full_load(own, national, progress=Meddler())
    assert touched.is_set()
    claire = reader.by_address(CLAIRE_EXEMPLE.mail)
    assert claire is not None and claire.city == "Villeurbanne"
    assert reader.by_address("neuve@x.fr") is not None
    assert reader.by_address("secretariat@labo-exemple.mssante.fr") is None
    with own.manager() as admin:
        found = admin.search_s(entry_dn(CLAIRE_EXEMPLE.mail), 0, "(objectClass=*)", ["telephoneNumber"])
    assert sorted(found[0][1]["telephoneNumber"]) == [b"01", b"02"]


_IMPORT = """
import sys
from pathlib import Path
from directory import Slapd
from directory.extraction import Report, read_delivery
from directory.importing import PrivateTarget, apply_changes, difference, full_load
slapd = Slapd(Path(sys.argv[1]), ldap_port=int(sys.argv[2]))
national = read_delivery(sorted(Path(sys.argv[3]).iterdir()), Report())
print("ready", flush=True)
with slapd.maintenance():
    if sys.argv[4] == "full":
        full_load(slapd, national)
    else:
        target = PrivateTarget(slapd)
        steps, outcome = difference(target, national)
        apply_changes(target, steps, outcome)
print("done", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "difference"])
def test_an_import_killed_at_any_moment_leaves_a_whole_directory(own: Slapd, tmp_path: Path, kind: str) -> None:
    day, later = _day(tmp_path, DAY), _day(tmp_path, LATER)
    _full(own, day)
    old = _content(own)
    steps, _ = difference(PrivateTarget(own), later)
    changed = {step.dn for step in steps}
    kept = [mail for mail in day.addresses() if mail in later][:20]
    with _traffic(own, kept) as wrong:
        for delay in (0.05, 0.3, 0.8):
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    _IMPORT,
                    str(own.folder),
                    own.url.rpartition(":")[2],
                    str(tmp_path / "jour30"),
                    kind,
                ],
                stdout=subprocess.PIPE,
                cwd=REPOSITORY,
            )
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            time.sleep(delay)  # the moment of the kill is what is tested
            process.kill()
            process.wait()
            process.stdout.close()
            now = _content(own)
            assert {dn: stored for dn, stored in now.items() if dn not in changed} == {
                dn: stored for dn, stored in old.items() if dn not in changed
            }
    assert wrong == []
    (_full if kind == "full" else _difference)(own, later)  # nothing is in the way of the next one
    assert difference(PrivateTarget(own), later)[0] == []
    own.stop()
    own.start()
    assert difference(PrivateTarget(own), later)[0] == []


@pytest.mark.slow
def test_others_write_during_a_difference(own: Slapd, tmp_path: Path) -> None:
    """Somebody's changes pass between the import's: with LDAP transactions slapd 2.5 stopped here for ever."""
    _full(own, _day(tmp_path, DAY))
    later = _day(tmp_path, LATER)
    stop, made = threading.Event(), list[int]()

    def meddle() -> None:
        with own.manager() as admin:
            while not stop.is_set():
                admin.modify_s(entry_dn(CLAIRE_EXEMPLE.mail), [(2, "description", [str(len(made)).encode()])])
                made.append(1)

    other = threading.Thread(target=meddle)
    other.start()
    try:
        for national in (later, _day(tmp_path, DAY)):
            outcome = _difference(own, national)
            assert outcome.changes and not outcome.failed
    finally:
        stop.set()
        other.join(30.0)
    assert made and not other.is_alive()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [_full, _difference])
def test_slapd_killed_during_an_import_comes_back_whole(own: Slapd, tmp_path: Path, kind: object) -> None:
    day, later = _day(tmp_path, DAY), _day(tmp_path, LATER)
    _full(own, day)
    pid = own.pid
    assert pid is not None
    killer = threading.Timer(0.15, os.kill, (pid, signal.SIGKILL))
    killer.start()
    with suppress(DirectoryError):
        kind(own, later)  # type: ignore[operator]
    killer.join()
    own.stop()
    own.start()
    with closing(Directory(own.url)) as directory:
        assert directory.by_address(day.addresses()[-1]) or directory.by_address(later.addresses()[-1])
    _difference(own, later)
    assert difference(PrivateTarget(own), later)[0] == []


def test_two_imports_do_not_run_together(own: Slapd) -> None:
    with own.maintenance(), pytest.raises(DirectoryError, match="déjà en cours"), own.maintenance():
        pass


def test_the_imported_mailbox_is_what_ldapsearch_shows(own: Slapd, tmp_path: Path) -> None:
    _full(own, read(mailboxes(tmp_path, row(), line(SERVICE)))[0])
    search = ("ldapsearch", "-x", "-LLL", "-o", "ldif-wrap=no", "-H", own.url, "-b", own.base)
    shown = witness(*search, "(&(sn=essai)(profession=10)(l=lyon))").stdout.splitlines()
    for expected in (
        "TypeBAL: PER",
        "IdentifiantPP: 10999000010",
        "savoirFaire: SM04",
        "cn: Claire ESSAI",
        "departement: 69",
    ):
        assert expected in shown
    assert not any(one.startswith(("origine", "diplome", "listeRouge")) for one in shown)
    assert "cardio@chu-essai.mssante.fr" in witness(*search, "(idNatStruct=1990000010)", "mail").stdout
