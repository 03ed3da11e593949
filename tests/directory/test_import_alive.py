"""Imports beside everything else: look-ups that never stop, others' changes, kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from directory import CLAIRE_EXEMPLE, Directory, DirectoryError, Slapd, entry_dn
from directory.extraction import Silent
from directory.importing import (
    Outcome,
    PrivateTarget,
    difference,
)
from directory.national import NationalDirectory
from tests.directory.extracts import mailboxes, read, row
from tests.directory.imports import (
    DAY,
    IMPORT,
    LATER,
    MAIL,
    REPOSITORY,
    content,
    make_difference,
    make_full,
    make_large,
    read_day,
    traffic,
)


@pytest.mark.slow
def test_look_ups_are_served_throughout(own: Slapd, tmp_path: Path) -> None:
    day, later = read_day(tmp_path, DAY), read_day(tmp_path, LATER)
    make_full(own, day)
    kept = [*[mail for mail in day.addresses() if mail in later][:50], CLAIRE_EXEMPLE.mail]
    folder = own.generations.current()
    with traffic(own, kept) as wrong:
        make_full(own, later)
        make_difference(own, day)
        make_large(own, later)
    assert wrong == []
    assert own.generations.current() != folder
    own.stop()
    own.start()
    with closing(Directory(own.url)) as directory:
        assert directory.by_address(kept[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("load", "when"), [(make_full, "comparison"), (make_large, "comparison"), (make_large, "changes")]
)
def test_changes_made_during_a_load_are_not_lost(
    own: Slapd, own_reader: Directory, tmp_path: Path, load: Callable[..., Outcome], when: str
) -> None:
    """Somebody adds, changes and removes entries while new data is made: the journal is made again on it."""
    national = read_day(tmp_path, DAY)
    touched = threading.Event()

    class Meddler:
        """Acts when the load compares its first entries, or the large difference makes its first change."""

        def begin(self, stage: str, total: int) -> None:
            if not stage.endswith(when):
                return
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

    load(own, national, progress=Meddler())
    assert touched.is_set()
    claire = own_reader.by_address(CLAIRE_EXEMPLE.mail)
    assert claire is not None and claire.city == "Villeurbanne"
    assert own_reader.by_address("neuve@x.fr") is not None
    assert own_reader.by_address("secretariat@labo-exemple.mssante.fr") is None
    with own.manager() as admin:
        found = admin.search_s(entry_dn(CLAIRE_EXEMPLE.mail), 0, "(objectClass=*)", ["telephoneNumber"])
    assert sorted(found[0][1]["telephoneNumber"]) == [b"01", b"02"]


@pytest.mark.slow
def test_a_change_of_the_same_entry_during_a_large_difference_wins(
    own: Slapd, own_reader: Directory, tmp_path: Path
) -> None:
    def delivery(**changed: str) -> NationalDirectory:
        return read(mailboxes(tmp_path, row(**changed), row(mail="seule@medecin.mssante.fr", **changed)))[0]

    make_full(own, delivery())
    known = own.generations.current()

    class Meddler(Silent):
        """Acts when the copy was made, and before its first change."""

        def begin(self, stage: str, total: int) -> None:
            if not stage.endswith("changes"):
                return
            assert total == 2
            assert own.generations.current() == known  # nothing is seen before all is made
            with own.manager() as admin:
                admin.modify_s(entry_dn(MAIL), [(2, "l", [b"Villeurbanne"])])
                admin.delete_s(entry_dn("seule@medecin.mssante.fr"))

    assert make_large(own, delivery(skill="SM54"), progress=Meddler()).changed == 2
    found = own_reader.by_address(MAIL)
    assert found is not None and (found.city, found.speciality) == ("Villeurbanne", "SM54")
    assert own_reader.by_address("seule@medecin.mssante.fr") is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "difference", "large"])
def test_an_import_killed_at_any_moment_leaves_a_whole_directory(own: Slapd, tmp_path: Path, kind: str) -> None:
    day, later = read_day(tmp_path, DAY), read_day(tmp_path, LATER)
    make_full(own, day)
    old = content(own)
    steps, _ = difference(PrivateTarget(own), later)
    changed = {step.dn for step in steps}
    kept = [mail for mail in day.addresses() if mail in later][:20]
    with traffic(own, kept) as wrong:
        for delay in (0.05, 0.3, 0.8):
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    IMPORT,
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
            now = content(own)
            assert {dn: stored for dn, stored in now.items() if dn not in changed} == {
                dn: stored for dn, stored in old.items() if dn not in changed
            }
            # Made aside, all of it is served or nothing is.
            assert kind == "difference" or now == old or not difference(PrivateTarget(own), later)[0]
    assert wrong == []
    # nothing is in the way of the next one, and nothing is left of the killed ones
    {"full": make_full, "difference": make_difference, "large": make_large}[kind](own, later)
    assert len(list(own.folder.glob("data-*"))) <= 2 and not list(own.folder.glob("slapd.data-*"))
    assert difference(PrivateTarget(own), later)[0] == []
    own.stop()
    own.start()
    assert difference(PrivateTarget(own), later)[0] == []


@pytest.mark.slow
def test_others_write_during_a_difference(own: Slapd, tmp_path: Path) -> None:
    """Somebody's changes pass between the import's: with LDAP transactions slapd 2.5 stopped here for ever."""
    make_full(own, read_day(tmp_path, DAY))
    later = read_day(tmp_path, LATER)
    stop, made = threading.Event(), list[int]()

    def meddle() -> None:
        with own.manager() as admin:
            while not stop.is_set():
                admin.modify_s(entry_dn(CLAIRE_EXEMPLE.mail), [(2, "description", [str(len(made)).encode()])])
                made.append(1)

    other = threading.Thread(target=meddle)
    other.start()
    try:
        for national in (later, read_day(tmp_path, DAY)):
            outcome = make_difference(own, national)
            assert outcome.changes and not outcome.failed
    finally:
        stop.set()
        other.join(30.0)
    assert made and not other.is_alive()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [make_full, make_difference, make_large])
def test_slapd_killed_during_an_import_comes_back_whole(
    own: Slapd, tmp_path: Path, kind: Callable[..., Outcome]
) -> None:
    day, later = read_day(tmp_path, DAY), read_day(tmp_path, LATER)
    make_full(own, day)
    pid = own.pid
    assert pid is not None
    killer = threading.Timer(0.15, os.kill, (pid, signal.SIGKILL))
    killer.start()
    with suppress(DirectoryError):
        kind(own, later)
    killer.join()
    own.stop()
    own.start()
    with closing(Directory(own.url)) as directory:
        assert directory.by_address(day.addresses()[-1]) or directory.by_address(later.addresses()[-1])
    make_difference(own, later)
    assert difference(PrivateTarget(own), later)[0] == []


_NICE = """
import sys
from pathlib import Path
from directory.tools import give_way, open_tool
give_way()
for pid in ("self", open_tool(Path(sys.argv[1]), ["slapcat", "-F", "slapd.d", "-b", sys.argv[2]]).pid):
    session = Path(f"/proc/{pid}/autogroup").read_text().split()[-1]
    print(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[16], session)
"""


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="a kernel without autogroups")
def test_an_import_gives_way_with_its_tools(own: Slapd) -> None:
    """Niceness says nothing between sessions, and slapd is in another one: the session must be nice too."""
    command = [sys.executable, "-c", _NICE, str(own.folder), own.base]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, start_new_session=True)
    mine, tool = (tuple(map(int, one.split())) for one in done.stdout.splitlines())
    assert mine[0] >= 10 and mine[1] == 10
    assert tool == mine
