"""Who may see and change what, as OpenLDAP's own command-line tools experience it; changes are seen at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from directory import CARDIOLOGY, CLAIRE_EXEMPLE, Directory, DirectoryError, Entry, MailboxKind, Slapd, entry_dn
from tests.directory.helpers import PASSWORD, witness

CLAIRE_DN = entry_dn(CLAIRE_EXEMPLE.mail)


def _search(slapd: Slapd, *arguments: str) -> str:
    done = witness("ldapsearch", "-x", "-LLL", "-o", "ldif-wrap=no", "-H", slapd.url, "-b", slapd.base, *arguments)
    return done.stdout if done.returncode == 0 else f"{done.returncode}: {done.stderr}"


def _modify(slapd: Slapd, password_file: Path | None, ldif: str) -> int:
    bind = ["-D", slapd.admin_dn, "-y", str(password_file)] if password_file else []
    return witness("ldapmodify", "-x", "-H", slapd.url, *bind, stdin=ldif).returncode


def test_ldapsearch_finds_the_national_attributes(slapd: Slapd) -> None:
    found = _search(slapd, "(&(sn=exemple)(givenName=CLAIRE)(profession=10)(l=lyon))").splitlines()
    assert f"dn: {CLAIRE_DN}" in found
    for line in ("TypeBAL: PER", "IdentifiantPP: 10999000010", "TypeIdentifiantPP: 8", "profession: 10", "l: Lyon"):
        assert line in found
    assert "IdentifiantPM: 990000010" in _search(slapd, f"(mail={CARDIOLOGY})")
    assert "TypeIdentifiantPM: FINESS" in _search(slapd, f"(mail={CARDIOLOGY})")


def test_ldapwhoami_knows_the_operator_and_refuses_others(slapd: Slapd, password_file: Path) -> None:
    def whoami(*bind: str) -> tuple[int, str]:
        done = witness("ldapwhoami", "-x", "-H", slapd.url, *bind)
        return done.returncode, done.stdout.strip()

    assert whoami() == (0, "anonymous")
    assert whoami("-D", slapd.admin_dn, "-y", str(password_file)) == (0, f"dn:{slapd.admin_dn}")
    assert whoami("-D", slapd.admin_dn, "-w", PASSWORD + "x")[0] == 49
    assert whoami("-D", CLAIRE_DN, "-w", "x")[0] == 49


def test_a_change_by_ldapmodify_is_seen_at_once(slapd: Slapd, reader: Directory, password_file: Path) -> None:
    before = reader.by_address(CLAIRE_EXEMPLE.mail)
    assert before is not None and before.city == "Lyon"
    for city in ("Villeurbanne", "Lyon"):
        change = f"dn: {CLAIRE_DN}\nchangetype: modify\nreplace: l\nl: {city}\n"
        assert _modify(slapd, password_file, change) == 0
        after = reader.by_address(CLAIRE_EXEMPLE.mail)
        assert after is not None and after.city == city


@pytest.mark.parametrize(
    "change",
    [
        f"dn: {CLAIRE_DN}\nchangetype: modify\nreplace: l\nl: Ailleurs\n",
        f"dn: {CLAIRE_DN}\nchangetype: delete\n",
        f"dn: {entry_dn('x@y.mssante.fr')}\nchangetype: add\nobjectClass: balMSSante\nmail: x@y.mssante.fr\nTypeBAL: PER\n",
        "dn: dc=mssante,dc=fr\nchangetype: modify\nreplace: o\no: Autre\n",
        "dn: olcDatabase={1}mdb,cn=config\nchangetype: modify\nreplace: olcRootPW\nolcRootPW: x\n",
    ],
)
def test_anonymous_cannot_write(slapd: Slapd, change: str) -> None:
    assert _modify(slapd, None, change) in (8, 50)  # strongerAuthRequired, insufficientAccessRights


def test_the_client_cannot_write_anonymously(reader: Directory) -> None:
    with pytest.raises(DirectoryError):
        reader.publish(replace(CLAIRE_EXEMPLE.entry(), city="Ailleurs"))
    with pytest.raises(DirectoryError):
        reader.remove(CLAIRE_EXEMPLE.mail)
    found = reader.by_address(CLAIRE_EXEMPLE.mail)
    assert found is not None and found.city == "Lyon"


def test_the_operator_cannot_write_the_configuration(slapd: Slapd, password_file: Path) -> None:
    change = "dn: cn=config\nchangetype: modify\nreplace: olcLogLevel\nolcLogLevel: any\n"
    assert _modify(slapd, password_file, change) == 50
    assert "olcRootPW" not in _search(slapd, "-b", "cn=config")


def test_only_public_attributes_are_public(slapd: Slapd, password_file: Path) -> None:
    change = f"dn: {CLAIRE_DN}\nchangetype: modify\n%s: responsable\nresponsable: Mme SECRET\n"
    assert _modify(slapd, password_file, change % "add") == 0
    try:
        assert "SECRET" not in _search(slapd, "(sn=EXEMPLE)", "*", "+")
        assert _search(slapd, "(responsable=Mme SECRET)") == ""
        assert "SECRET" in _search(slapd, "-D", slapd.admin_dn, "-y", str(password_file), "(sn=EXEMPLE)")
    finally:
        assert _modify(slapd, password_file, change % "delete") == 0


def test_the_red_list_is_invisible_to_anonymous_readers(slapd: Slapd, reader: Directory, operator: Directory) -> None:
    mail = "rouge@medecin.mssante.fr"
    entry = Entry(entry_dn(mail), mail, MailboxKind.PER, "Rose", "ROUGE", "810999000010", "10", red_list=True)
    operator.publish(entry)
    try:
        assert operator.by_address(mail) == entry
        assert reader.by_address(mail) is None
        assert reader.search(surname="ROUGE") == []
        assert [found.mail for found in reader.by_national_id("810999000010")] == [CLAIRE_EXEMPLE.mail]
        assert _search(slapd, "-s", "base", "-b", entry.dn).startswith("32:")  # noSuchObject
        assert _search(slapd, "(listeRouge=TRUE)") == ""
    finally:
        assert operator.remove(mail)


def test_searches_are_bounded_by_the_server(slapd: Slapd) -> None:
    everything = witness("ldapsearch", "-x", "-LLL", "-H", slapd.url, "-b", slapd.base, "(objectClass=*)", "mail")
    assert everything.returncode == 4  # sizeLimitExceeded
    assert everything.stdout.count("dn: ") == 200
