"""What an import makes of a real slapd: every way ends in the same directory, or changes nothing."""

from __future__ import annotations

import os
import signal
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from directory import CLAIRE_EXEMPLE, Directory, DirectoryError, Slapd, entry_dn, structure_mailboxes
from directory.extraction import Silent
from directory.importing import (
    ExternalTarget,
    PrivateTarget,
    apply_changes,
    difference,
)
from directory.tools import find_program
from tests.directory.extracts import SERVICE, line, mailboxes, read, row
from tests.directory.helpers import PASSWORD, certificate, witness
from tests.directory.imports import (
    DAY,
    LATER,
    MAIL,
    content,
    make_difference,
    make_full,
    make_large,
    read_day,
)


@pytest.mark.slow
def test_full_load_and_difference_end_in_the_same_directory(own: Slapd, tmp_path: Path) -> None:
    day, later = read_day(tmp_path, DAY), read_day(tmp_path, LATER)
    first = make_full(own, day)
    assert (first.added, first.others) == (400, 20 + len(structure_mailboxes()))
    assert make_difference(own, day).changes == 0
    outcome = make_difference(own, later)
    assert (outcome.added, outcome.removed, outcome.failed) == (25, 30, 0)
    assert outcome.changed > 20
    by_difference = content(own)
    for load in (make_full, make_large):
        make_full(own, day)
        again = load(own, later)
        assert (again.added, again.removed, again.changed, again.failed) == (25, 30, outcome.changed, 0)
        assert content(own) == by_difference
        assert make_difference(own, later).changes == 0


@pytest.mark.slow
def test_what_the_extraction_does_not_carry_stays(own: Slapd, own_reader: Directory, tmp_path: Path) -> None:
    for load in (make_difference, make_large, make_full):
        make_full(own, read(mailboxes(tmp_path, row(), row(mail="seule@medecin.mssante.fr")))[0], max_removed=1.0)
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
        found = own_reader.by_address(MAIL)
        assert found is not None
        assert (found.certificates, found.description, found.red_list) == ((seal,), "Cabinet du centre", True)
        assert (found.city, found.speciality) == ("LYON", "SM54")
        assert own_reader.by_address("seule@medecin.mssante.fr") is None
        assert own_reader.by_address(CLAIRE_EXEMPLE.mail) == CLAIRE_EXEMPLE.entry()  # the operator's own
        with closing(Directory(own.url)) as anonymous:
            assert anonymous.by_address(MAIL) is None
        make_full(own, read(mailboxes(tmp_path, row(mail="autre@medecin.mssante.fr")))[0], max_removed=1.0)


def test_an_import_never_takes_the_operators_entries(own: Slapd, own_reader: Directory, tmp_path: Path) -> None:
    thief = row(mail=CLAIRE_EXEMPLE.mail, surname="AUTRE", national="810999000028", number="10999000028")
    for load in (make_full, make_difference, make_large):
        load(own, read(mailboxes(tmp_path, row(), thief))[0])
        assert own_reader.by_address(CLAIRE_EXEMPLE.mail) == CLAIRE_EXEMPLE.entry()


def test_a_rejected_row_leaves_what_is_served(own: Slapd, own_reader: Directory, tmp_path: Path) -> None:
    good = row(mail="autre@medecin.mssante.fr", national="810999000028", number="10999000028")
    make_full(own, read(mailboxes(tmp_path, row(), good))[0])
    before = own_reader.by_address(MAIL)
    for load in (make_difference, make_full):
        national, report = read(mailboxes(tmp_path, row(profession="77", surname="AUTRE"), good))
        assert report.rejected == 1
        assert load(own, national).removed == 0
        assert own_reader.by_address(MAIL) == before is not None


def test_a_delivery_that_would_empty_the_directory_is_refused(own: Slapd, tmp_path: Path) -> None:
    make_full(own, read_day(tmp_path, DAY))
    before, folder = content(own), own.generations.current()
    small = read(mailboxes(tmp_path, row()))[0]
    for load in (make_full, make_difference):
        with pytest.raises(DirectoryError, match="retirerait 400 fiches"):
            load(own, small)
    assert (content(own), own.generations.current()) == (before, folder)


def test_a_difference_can_be_seen_without_being_made(own: Slapd, tmp_path: Path) -> None:
    before = content(own)
    steps, outcome = difference(PrivateTarget(own), read_day(tmp_path, DAY))
    assert len(steps) == outcome.added == 400
    assert content(own) == before


def test_an_external_directory_takes_the_difference(own: Slapd, tmp_path: Path) -> None:
    directory = Directory(own.url, bind_dn=own.admin_dn, password=PASSWORD)
    target = ExternalTarget(own.base, directory.connection)
    for delivery, changes in ((DAY, 400), (DAY, 0), (LATER, 25 + 30)):
        steps, outcome = difference(target, read_day(tmp_path, delivery))
        assert outcome.changes >= changes
        apply_changes(target, steps, outcome)
        assert outcome.failed == 0
    assert difference(target, read_day(tmp_path, LATER))[0] == []
    directory.close()


def test_a_change_made_meanwhile_wins(own: Slapd, tmp_path: Path) -> None:
    """Between the comparison and the changes somebody removes an entry: the rest of its group is made all the same."""
    day, later = read_day(tmp_path, DAY), read_day(tmp_path, replace(DAY, removed=5))
    make_full(own, day)
    target = PrivateTarget(own)
    steps, outcome = difference(target, later)
    with own.manager() as admin:
        admin.delete_s(steps[0].dn)
    apply_changes(target, steps, outcome)
    assert outcome.failed == 1
    assert difference(target, later)[0] == []


def test_only_a_large_difference_is_made_on_a_copy(own: Slapd, tmp_path: Path) -> None:
    served = own.generations.current()
    few, more = DAY, replace(DAY, created=9, removed=1)
    assert make_difference(own, read_day(tmp_path, few), large=401).changes == 400
    assert own.generations.current() == served
    assert make_difference(own, read_day(tmp_path, more), large=10).changes >= 10
    assert own.generations.current() != served


def test_what_a_killed_import_left_goes_with_the_next_even_when_nothing_changes(own: Slapd, tmp_path: Path) -> None:
    day = read_day(tmp_path, DAY)
    make_full(own, day)
    served = own.generations.current()
    left = own.generations.fresh()  # killed before its data was served
    (own.folder / f"slapd.{left}").mkdir()
    assert make_difference(own, day).changes == 0
    assert own.generations.current() == served
    assert sorted(path.name for path in own.folder.glob("*data-*")) == ["data-1", "data-2"]
    assert left == "data-3" and own.generations.fresh() == "data-4"  # its slapd may still be ending


def test_a_large_difference_that_fails_changes_nothing(own: Slapd, tmp_path: Path) -> None:
    """The copy's slapd is killed amid the changes; then the disk's program that copies is not there."""
    before, folder = content(own), own.generations.current()

    class Killer(Silent):
        def advance(self, amount: int) -> None:
            for status in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    words = status.read_bytes()
                    if b"slapd.data-" in words and int(status.parent.name) in _children(os.getpid()):
                        os.kill(int(status.parent.name), signal.SIGKILL)

    with pytest.raises(DirectoryError, match="a interrompu l'import"):
        make_large(own, read_day(tmp_path, DAY), progress=Killer())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            "directory.tools.find_program",
            lambda name: find_program(f"{name}-absent" if name == "mdb_copy" else name),
        )
        with pytest.raises(DirectoryError, match="lmdb-utils"):
            make_large(own, read_day(tmp_path, DAY))
    assert (content(own), own.generations.current()) == (before, folder)
    assert sorted(path.name for path in own.folder.glob("data-*")) == [folder]
    assert not list(own.folder.glob("slapd.data-*")) and [path.name for path in (own.folder / "run").iterdir()] == [
        "ldapi"
    ]


def _children(pid: int) -> set[int]:
    return {int(one) for path in Path(f"/proc/{pid}/task").glob("*/children") for one in path.read_text().split()}


def test_two_imports_do_not_run_together(own: Slapd) -> None:
    with own.maintenance(), pytest.raises(DirectoryError, match="déjà en cours"), own.maintenance():
        pass


def test_the_imported_mailbox_is_what_ldapsearch_shows(own: Slapd, tmp_path: Path) -> None:
    make_full(own, read(mailboxes(tmp_path, row(), line(SERVICE)))[0])
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
