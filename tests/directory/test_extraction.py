"""Reading the national extraction: real formats, wording and order that vary, and everything that can be wrong."""

from __future__ import annotations

import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from directory import DirectoryError
from directory.archive import MAX_LINE, MAX_MEMBERS
from directory.columns import layout, normalised
from directory.extraction import Report, read_delivery
from directory.mailbox_rows import structure_id
from directory.synthetic_extraction import MAILBOX_HEADER, Delivery, write_delivery
from tests.directory.extracts import COLUMNS, SERVICE, activities, line, mailboxes, read, row, skills

OTHER = {"mail": "autre@medecin.mssante.fr", "national": "810999000028", "number": "10999000028"}


def test_a_row_becomes_the_national_attributes(tmp_path: Path) -> None:
    national, report = read(mailboxes(tmp_path, row(), line(SERVICE)))
    assert (len(national), report.rejected, report.warnings) == (2, 0, 0)
    claire = national.attributes("claire.essai@medecin.mssante.fr")
    expected = {
        "TypeBAL": b"PER", "IdentifiantPP": b"10999000010", "TypeIdentifiantPP": b"8", "sn": b"ESSAI", "givenName": b"Claire",
        "profession": b"10", "savoirFaire": b"SM04", "l": b"LYON", "postalCode": b"69003", "departement": b"69",
        "dematerialisation": b"TRUE", "displayName": b"Claire ESSAI", "origine": b"extraction",
    }  # fmt: skip
    assert {name: claire[name][0] for name in expected} == expected
    assert {b"essai", b"claire", b"cardiologie", b"cardiologue", b"lyon", b"69003"} <= set(claire["cleRecherche"])
    service = national.attributes("cardio@chu-essai.mssante.fr")
    assert (service["IdentifiantPM"], service["TypeIdentifiantPM"]) == ([b"990000010"], [b"FINESS"])
    assert (service["o"], service["ou"], service["idNatStruct"]) == ([b"CHU ESSAI"], [b"Cardiologie"], [b"1990000010"])
    assert "IdentifiantPP" not in service and "dematerialisation" not in service


def test_rows_of_the_other_files_are_joined_by_national_id(tmp_path: Path) -> None:
    bare = row(skill="", routing="")
    person = {"Identification nationale PP": "810999000010", "Code profession": "10"}
    paths = [
        mailboxes(tmp_path, bare),
        activities(
            tmp_path,
            person | {"Code savoir-faire": "SM54", "Numéro FINESS site": "990000028", "Raison sociale site": "MAISON X",
                      "Libellé commune (coord. structure)": "Lyon 3e"},
            {"Identification nationale PP": "810999000028", "Code savoir-faire": "SM42"},
        ),
        skills(tmp_path, person | {"Code savoir-faire": "SM18", "Libellé savoir-faire": "Gériatrie"}),
    ]  # fmt: skip
    national, report = read(*reversed(paths))
    claire = national.attributes("claire.essai@medecin.mssante.fr")
    assert claire["savoirFaire"] == [b"SM18", b"SM54"]
    assert (claire["o"], claire["l"], claire["IdentifiantPM"]) == ([b"MAISON X"], [b"Lyon 3e"], [b"990000028"])
    assert len(national) == 1 and report.rejected == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Libellé civilité d'exercice", "Libellé civilité exercice"),
        ("Code postal (coord. structure)", "CODE POSTAL (coord. Structure)"),
        ("Identification nationale PP", "identification  Nationale PP "),
        ("Dématérialisation", "Dematerialisation"),
    ],
)
def test_wording_of_columns_is_normalised(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


def test_columns_may_come_in_any_order(tmp_path: Path) -> None:
    shuffled = COLUMNS[:]
    random.Random(4).shuffle(shuffled)
    plain, _ = read(mailboxes(tmp_path, row()))
    other, _ = read(mailboxes(tmp_path, row(shuffled), header="|".join(shuffled)))
    mail = "claire.essai@medecin.mssante.fr"
    assert plain.attributes(mail) == other.attributes(mail)


@settings(max_examples=12, deadline=None)
@given(order=st.randoms(use_true_random=False))
def test_any_permutation_of_files_and_rows_gives_the_same_directory(
    order: random.Random, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("jour")
    paths = write_delivery(folder, Delivery(60, 150, seed=3))
    paths[0].write_text(
        paths[0].read_text() + row() + "\n" + row(structure_type="FINESS", structure="990000010") + "\n"
    )
    first, _ = read(*paths)
    for path in paths:
        header, *lines = path.read_text().splitlines()
        order.shuffle(lines)
        path.write_text("\n".join([header, *lines]) + "\n")
    order.shuffle(paths)
    second, _ = read(*paths)
    assert first.addresses() == second.addresses()
    assert all(first.attributes(mail) == second.attributes(mail) for mail in first.addresses())


def test_fields_that_must_not_be_public_are_never_read(tmp_path: Path) -> None:
    """The restricted variant of the files carries births and private addresses: none of it enters."""
    header = MAILBOX_HEADER + "|Nom de famille|Date de naissance|Téléphone (coord. correspondance)|Responsable"
    national, _ = read(mailboxes(tmp_path, row() + "|NAISSANCE|01/02/1970|0600000000|Mme SECRET", header=header))
    everything = b" ".join(
        value for some in national.attributes("claire.essai@medecin.mssante.fr").values() for value in some
    )
    for secret in (b"NAISSANCE", b"1970", b"0600000000", b"SECRET"):
        assert secret not in everything


def test_a_red_list_column_hides_the_mailbox(tmp_path: Path) -> None:
    national, _ = read(mailboxes(tmp_path, row() + "|O", header=MAILBOX_HEADER + "|Liste rouge"))
    assert national.attributes("claire.essai@medecin.mssante.fr")["listeRouge"] == [b"TRUE"]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"kind": "XXX"}, "Type de BAL"),
        ({"mail": "pas une adresse"}, "Adresse BAL"),
        ({"mail": "a@b)(mail=*"}, "Adresse BAL"),
        ({"national": "810999000011", "number": "10999000011"}, "clé de contrôle"),
        ({"national": "810999000028"}, "contredite"),
        ({"national": "310999000010", "number": ""}, "8 \\+ RPPS"),
        ({"profession": "77"}, "profession inconnu"),
        ({"skill": "SM04)(x=*"}, "savoir-faire mal formé"),
        ({"paperless": "peut-être"}, "Dématérialisation"),
        ({"surname": "E" * 300}, "champ de plus"),
        ({"surname": "E\x07"}, "contrôle dans un champ"),
        ({"national": "", "number": "", "number_type": ""}, "Ni personne ni structure"),
        ({"kind": "ORG"}, "personne sur une BAL de structure"),
    ],
)
def test_a_wrong_row_is_told_with_its_line_and_reason(tmp_path: Path, wrong: dict[str, str], reason: str) -> None:
    path = mailboxes(tmp_path, row(**OTHER), row(**wrong))
    national, report = read(path)
    assert len(national) == 1
    (problem,) = report.problems
    assert (problem.file, problem.line, problem.warning) == (path.name, 3, False)
    assert re.search(reason, problem.reason)


def test_other_wrong_rows(tmp_path: Path) -> None:
    path = mailboxes(tmp_path, row(**OTHER), "PER|trop|court", row() + "|de|trop")
    with path.open("ab") as file:
        file.write(row(surname="ÉTÉ").encode("latin-1") + b"\n")
    _, report = read(path)
    assert [problem.line for problem in report.problems] == [3, 4, 5]
    assert "UTF-8" in report.problems[2].reason


def test_a_wrong_structure_costs_a_person_only_the_structure(tmp_path: Path) -> None:
    national, report = read(mailboxes(tmp_path, row(structure_type="FINESS", structure="990000011")))
    assert (report.rejected, report.warnings) == (0, 1)
    assert "idNatStruct" not in national.attributes("claire.essai@medecin.mssante.fr")
    _, report = read(mailboxes(tmp_path, row(), line(SERVICE | {"Identification Structure": "0B0078671"})))
    assert report.rejected == 1


def test_an_address_of_one_person_on_several_lines_is_one_mailbox(tmp_path: Path) -> None:
    second = row(structure_type="FINESS", structure="990000010", skill="SM54")
    national, report = read(mailboxes(tmp_path, row(), second))
    assert (len(national), report.rejected) == (1, 0)
    assert national.attributes("claire.essai@medecin.mssante.fr")["savoirFaire"] == [b"SM04", b"SM54"]


def test_an_address_claimed_by_two_identities_is_nobodys(tmp_path: Path) -> None:
    thief = row(national="810999000028", number="10999000028")
    national, report = read(mailboxes(tmp_path, row(), thief, row(**OTHER)))
    assert national.addresses() == ["autre@medecin.mssante.fr"]
    assert [(problem.line, "plusieurs identités" in problem.reason) for problem in report.problems] == [
        (2, True),
        (3, True),
    ]
    assert "claire.essai@medecin.mssante.fr" in national.rejected


def test_too_many_wrong_rows_refuse_the_whole(tmp_path: Path) -> None:
    rows = [row(mail=f"a{number}@medecin.mssante.fr", profession="77") for number in range(30)]
    with pytest.raises(DirectoryError, match="30 lignes rejetées sur 31"):
        read(mailboxes(tmp_path, row(), *rows), max_rejected=0.05)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _utf16(path: Path) -> None:
    path.write_bytes(path.read_text().encode("utf-16"))


def _latin(path: Path) -> None:
    path.write_bytes(path.read_text().encode("latin-1"))


def _no_column(path: Path) -> None:
    path.write_text(path.read_text().replace("Adresse BAL", "Courriel"))


def _column_twice(path: Path) -> None:
    path.write_text(path.read_text().replace("Type Identifiant PP", "Adresse BAL"))


def _long_line(path: Path) -> None:
    path.write_text(path.read_text() + "x" * (MAX_LINE + 10) + "\n")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _no_row(path: Path) -> None:
    path.write_text(MAILBOX_HEADER + "\n")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_cut, "tronqué"),
        (_utf16, "UTF-16"),
        (_latin, "UTF-8"),
        (_no_column, "En-tête inconnu|absente"),
        (_column_twice, "en double"),
        (_long_line, "ligne de plus"),
        (_empty, "En-tête inconnu"),
        (_no_row, "Aucune BAL"),
    ],
)
def test_a_damaged_file_is_refused_whole(tmp_path: Path, damage: Callable[[Path], None], said: str) -> None:
    path = mailboxes(tmp_path, row(), row(**OTHER))
    damage(path)
    with pytest.raises(DirectoryError, match=said):
        read(path)


def test_files_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DirectoryError, match="absent : c'est lui"):
        read(activities(tmp_path))
    path = mailboxes(tmp_path, row())
    copy = tmp_path / "copie.txt"
    copy.write_bytes(path.read_bytes())
    with pytest.raises(DirectoryError, match="deux fichiers de même nature"):
        read(path, copy)
    with pytest.raises(DirectoryError, match="fichier absent"):
        read(tmp_path / "rien.txt")


def test_a_byte_order_mark_and_carriage_returns_do_no_harm(tmp_path: Path) -> None:
    path = mailboxes(tmp_path, row())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert len(read(path)[0]) == 1


def test_zip_archives_are_read_without_being_unpacked(tmp_path: Path) -> None:
    texts = write_delivery(tmp_path, Delivery(80, 160, seed=1))
    plain, _ = read(*texts)
    packed, report = read(*write_delivery(tmp_path, Delivery(80, 160, seed=1), zipped=True))
    assert plain.addresses() == packed.addresses()
    assert sorted(report.rows)[0].startswith("Extraction_Correspondance_MSSante.zip/")


def test_a_zip_bomb_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "bombe.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Extraction.txt", (MAILBOX_HEADER + "\n").encode() + (b"0" * 9_999 + b"\n") * 5_000)
    assert path.stat().st_size < 200_000
    with pytest.raises(DirectoryError, match="démesuré"):
        read_delivery([path], Report())


def test_damaged_crowded_or_empty_archives_are_refused(tmp_path: Path) -> None:
    (good,) = [
        path for path in write_delivery(tmp_path, Delivery(200, 200), zipped=True) if "Correspondance" in path.name
    ]
    damaged = tmp_path / "abime.zip"
    content = bytearray(good.read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged.write_bytes(bytes(content))
    with pytest.raises(DirectoryError, match="abîmée"):
        read(damaged)
    crowded = tmp_path / "foule.zip"
    with zipfile.ZipFile(crowded, "w") as archive:
        for number in range(MAX_MEMBERS + 1):
            archive.writestr(f"{number}.txt", "x")
    with pytest.raises(DirectoryError, match="trop de fichiers"):
        read(crowded)


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=400))
def test_no_content_makes_anything_but_a_clear_refusal(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("octets") / "x.txt"
    path.write_bytes(MAILBOX_HEADER.encode() + b"\n" + content)
    try:
        national, _ = read(path)
        assert len(national)
    except DirectoryError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("kind", "number", "found"),
    [
        ("FINESS", "990000010", "1990000010"),
        ("1", "990000010", "1990000010"),
        ("FINESS", "1990000010", "1990000010"),
        ("", "1990000010", "1990000010"),
        ("", "399900001100018", "399900001100018"),
        ("SIRET", "99900001100018", "399900001100018"),
        ("SIREN", "999000011", "2999000011"),
        ("FINESS", "990000011", None),
        ("", "990000010", None),
    ],
)
def test_structure_identifiers_in_every_form(kind: str, number: str, found: str | None) -> None:
    assert structure_id(kind, number) == found


def test_the_layout_of_2021_without_the_last_columns_is_known(tmp_path: Path) -> None:
    header = activities(tmp_path).read_text().splitlines()[0]
    old = header.partition("|Code rôle")[0]
    assert layout(old.split("|")).kind == layout(header.split("|")).kind
