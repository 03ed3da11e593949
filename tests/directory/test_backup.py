"""Backup, restoration, upgrade of older data, health and defects."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from directory import CLAIRE_EXEMPLE, Directory, DirectoryError, Slapd, entry_dn, synthetic_entries
from directory.backup import backup, restore
from directory.generations import FORMAT
from directory.health import defects, health
from directory.importing import Outcome, PrivateTarget, apply_changes
from directory.rights import READER, account_dn
from tests.directory.helpers import PASSWORD, certificate, free_port, witness

MAIL = CLAIRE_EXEMPLE.mail


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Slapd]:
    server = Slapd(tmp_path / "annuaire", ldap_port=free_port())
    server.initialise(synthetic_entries(20, seed=1), PASSWORD, {READER: "lecteur d'exercice"})
    server.start()
    yield server
    server.stop()


@pytest.mark.parametrize("name", ["annuaire.ldif", "annuaire.ldif.gz"])
def test_a_backup_brings_everything_back(own: Slapd, tmp_path: Path, name: str) -> None:
    entry = replace(CLAIRE_EXEMPLE.entry(), certificates=(certificate(),), red_list=True)
    with closing(Directory(own.url, bind_dn=own.admin_dn, password=PASSWORD)) as admin:
        admin.publish(entry)
        count = backup(own, tmp_path / name)
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
        admin.remove(MAIL)
        with own.maintenance():
            assert restore(own, tmp_path / name) == count
        assert admin.by_address(MAIL) == entry
        assert (
            witness("ldapwhoami", "-x", "-H", own.url, "-D", account_dn(READER), "-w", "lecteur d'exercice").returncode
            == 0
        )
    with pytest.raises(DirectoryError, match="existe déjà"):
        backup(own, tmp_path / name)


def test_a_directory_is_restored_while_stopped(own: Slapd, tmp_path: Path) -> None:
    backup(own, tmp_path / "a.ldif")
    own.stop()
    shutil.rmtree(own.folder / own.generations.current())
    with pytest.raises(DirectoryError, match="restaurer"):
        own.start()
    with own.maintenance():
        restore(own, tmp_path / "a.ldif")
    own.start()
    with closing(Directory(own.url)) as reader:
        assert reader.by_address(MAIL) == CLAIRE_EXEMPLE.entry()


@pytest.mark.parametrize("damage", ["cut", "text", "url", "missing suffix"])
def test_a_bad_backup_changes_nothing(own: Slapd, tmp_path: Path, damage: str) -> None:
    good = tmp_path / "bon.ldif.gz"
    backup(own, good)
    text = gzip.decompress(good.read_bytes())
    bad = tmp_path / "mauvais.ldif.gz"
    bad.write_bytes(
        {
            "cut": good.read_bytes()[:-200],
            "text": gzip.compress(b"ceci n'est pas du LDIF\n"),
            "url": gzip.compress(text.replace(b"\nsn: EXEMPLE", b"\nsn:< file:///etc/passwd", 1)),
            "missing suffix": gzip.compress(text.partition(b"\n\n")[2]),
        }[damage]
    )
    folder = own.generations.current()
    with own.maintenance(), pytest.raises(DirectoryError):
        restore(own, bad)
    assert own.generations.current() == folder
    with closing(Directory(own.url)) as reader:
        assert reader.by_address(MAIL) == CLAIRE_EXEMPLE.entry()


def test_data_of_the_first_version_is_upgraded_at_the_start(own: Slapd) -> None:
    """As the first version made it: one folder `data`, no accounts, no search words."""
    with own.manager() as admin:
        admin.modify_s(
            entry_dn(MAIL), [(1, name, None) for name in ("cleRecherche", "cn", "displayName", "title", "origine")]
        )
        for name in ("lecteur", "redacteur", "administrateurs"):
            admin.delete_s(account_dn(name))
        for branch in ("comptes", "ac"):
            admin.delete_s(f"ou={branch},{own.base}")
    own.stop()
    current = own.folder / own.generations.current()
    (current / "format").unlink()
    current.rename(own.folder / "data")
    (own.folder / "current").unlink()
    shutil.rmtree(own.folder / "slapd.d")
    own.start()
    assert own.generations.format(own.generations.current()) == FORMAT
    with closing(Directory(own.url, bind_dn=own.admin_dn, password=PASSWORD)) as admin:
        assert admin.by_address(MAIL) == CLAIRE_EXEMPLE.entry()
        assert MAIL in [one.mail for one in admin.correspondents("exemple claire")]
    with own.manager() as admin_connection:
        assert admin_connection.search_s(account_dn("administrateurs"), 0)
    assert (own.folder / "data").is_dir()  # kept until the next load
    own.stop()
    own.start()


def test_health_says_what_serves(own: Slapd) -> None:
    state = health(own)
    assert state.answers and state.entries > 20 and state.database > 0 and state.last_import == {}
    own.stop()
    assert not health(own).answers


def test_defects_are_found_and_what_can_be_is_mended(own: Slapd) -> None:
    assert list(defects(own)) == []
    with own.manager() as admin:
        admin.modify_s(entry_dn(MAIL), [(2, "sn", [b"NOUVEAU"]), (2, "IdentifiantPP", [b"10999000011"])])
        other = admin.search_s(f"ou=bal,{own.base}", 1, "(TypeBAL=APP)", ["1.1"])[0][0]
        admin.modify_s(other, [(0, "mail", [MAIL.encode()])])
    found = list(defects(own))
    assert {one.what.split(" / ")[0] for one in found} >= {
        "IdentifiantPP ou son type faux", "mots de recherche ou nom montré périmés", "adresse sur 2 fiches",
    }  # fmt: skip
    apply_changes(PrivateTarget(own), [one.step for one in found if one.step], Outcome())
    with closing(Directory(own.url, bind_dn=own.admin_dn, password=PASSWORD)) as admin:
        assert MAIL in [one.mail for one in admin.correspondents("nouveau")]
    assert all(one.step is None for one in defects(own))
