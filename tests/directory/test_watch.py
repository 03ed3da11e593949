"""Changes made by any tool reach the cache at once; slapd down has one answer; who changed what is remembered."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from directory import (
    CLAIRE_EXEMPLE,
    Directory,
    DirectoryUnavailable,
    Slapd,
    entry_dn,
    synthetic_entries,
    synthetic_professionals,
)
from directory.cache import MISSING, LookupCache
from directory.importing import full_load, update
from directory.journal import history
from directory.rights import READER, account_dn
from tests.directory.extracts import mailboxes, read, row
from tests.directory.helpers import NOW, PASSWORD, free_port, witness

MAIL = CLAIRE_EXEMPLE.mail
SECRET = "lecteur d'exercice"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Slapd]:
    server = Slapd(tmp_path / "annuaire", ldap_port=free_port())
    server.initialise(synthetic_entries(50, seed=1), PASSWORD, {READER: SECRET})
    server.start()
    yield server
    server.stop()


@pytest.fixture
def heard() -> list[str]:
    return []


@pytest.fixture
def watched(own: Slapd, heard: list[str]) -> Iterator[Directory]:
    directory = Directory(own.url, bind_dn=account_dn(READER), password=SECRET)
    directory.watch(heard.append)
    until(lambda: directory.cached)
    yield directory
    directory.close()


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "never came"
        time.sleep(0.005)


def _modify(own: Slapd, password_file: Path, ldif: str) -> None:
    done = witness("ldapmodify", "-x", "-H", own.url, "-D", own.admin_dn, "-y", str(password_file), stdin=ldif)
    assert done.returncode == 0, done.stderr


def test_a_change_by_any_tool_reaches_the_cache(own: Slapd, watched: Directory, password_file: Path) -> None:
    for city in ("Villeurbanne", "Bron", "Lyon"):
        assert watched.by_address(MAIL)
        _modify(own, password_file, f"dn: {entry_dn(MAIL)}\nchangetype: modify\nreplace: l\nl: {city}\n")
        began = time.monotonic()
        until(lambda city=city: watched.by_address(MAIL).city == city)  # type: ignore[misc,union-attr]
        assert time.monotonic() - began < 1
    assert watched.by_address("neuve@x.fr") is None  # remembered too
    _modify(
        own,
        password_file,
        f"dn: {entry_dn('neuve@x.fr')}\nchangetype: add\nobjectClass: balMSSante\nmail: neuve@x.fr\nTypeBAL: APP\n",
    )
    until(lambda: watched.by_address("neuve@x.fr") is not None)
    _modify(own, password_file, f"dn: {entry_dn('neuve@x.fr')}\nchangetype: delete\n")
    until(lambda: watched.by_address("neuve@x.fr") is None)


def test_the_cache_is_used(own: Slapd, watched: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    first = watched.by_address(MAIL)
    monkeypatch.setattr(watched, "_run", None)
    assert watched.by_address(MAIL) is first
    assert watched.by_address(MAIL.upper()) is first
    assert watched.encryption_certificates(MAIL, NOW) == []


def test_a_full_load_empties_the_cache(own: Slapd, watched: Directory, heard: list[str], tmp_path: Path) -> None:
    assert watched.by_address("claire.essai@medecin.mssante.fr") is None
    with own.maintenance():
        full_load(own, read(mailboxes(tmp_path, row()))[0])
    until(lambda: watched.by_address("claire.essai@medecin.mssante.fr") is not None)
    until(lambda: watched.cached)


def test_a_large_difference_reaches_the_cache(own: Slapd, watched: Directory, tmp_path: Path) -> None:
    assert watched.by_address("claire.essai@medecin.mssante.fr") is None
    known = _moment(own)
    with own.maintenance():
        update(own, read(mailboxes(tmp_path, row()))[0], large=1)
    until(lambda: watched.by_address("claire.essai@medecin.mssante.fr") is not None)
    until(lambda: watched.cached)
    assert _moment(own) > known  # what other consumers (replicas) ask by


def _moment(own: Slapd) -> str:
    found = witness("ldapsearch", "-x", "-LLL", "-H", own.url, "-b", own.base, "-s", "base", "contextCSN").stdout
    return found.partition("contextCSN: ")[2]


def test_slapd_down_is_unavailable_whatever_was_kept(own: Slapd, watched: Directory) -> None:
    assert watched.by_address(MAIL)
    assert own.pid is not None
    os.kill(own.pid, signal.SIGKILL)
    own.stop()
    until(lambda: not watched.cached)
    with pytest.raises(DirectoryUnavailable):
        watched.by_address(MAIL)
    with pytest.raises(DirectoryUnavailable):
        watched.encryption_certificates(MAIL, NOW)
    own.start()
    until(lambda: watched.cached)
    assert watched.by_address(MAIL) == CLAIRE_EXEMPLE.entry()


def test_a_server_without_syncrepl_leaves_the_cache_unused(own: Slapd) -> None:
    with closing(Directory(own.url, base="ou=bal,dc=autre")) as directory:
        directory.watch()
        time.sleep(0.3)  # nothing comes: that is what is tested
        assert not directory.cached


def test_an_answer_read_before_a_change_is_not_kept() -> None:
    cache = LookupCache(size=2)
    cache.put(cache.moment(), "a@b.fr", None)
    assert cache.get("a@b.fr") is MISSING  # nobody listens
    cache.listening(True)
    moment = cache.moment()
    cache.changed("A@b.fr")
    cache.put(moment, "a@b.fr", None)
    assert cache.get("a@b.fr") is MISSING
    for address in ("a@b.fr", "c@b.fr", "d@b.fr"):
        cache.put(cache.moment(), address, None, f"uuid-{address}")
    assert [cache.get(one) for one in ("a@b.fr", "c@b.fr", "d@b.fr")] == [MISSING, None, None]
    cache.removed("uuid-d@b.fr")
    assert cache.get("d@b.fr") is MISSING
    cache.listening(False)
    assert cache.get("c@b.fr") is MISSING


@pytest.mark.slow
def test_under_concurrent_changes_the_cache_never_lags(own: Slapd, watched: Directory) -> None:
    """A thread changes entries; once it is done and heard of, every cached answer equals the directory's."""
    people = synthetic_professionals(50, seed=1)
    with closing(Directory(own.url, bind_dn=own.admin_dn, password=PASSWORD)) as admin:

        def meddle() -> None:
            for number in range(60):
                person = people[number % 10]
                admin.publish(replace(person.entry(), city=f"Ville {number}"))

        thread = threading.Thread(target=meddle)
        thread.start()
        while thread.is_alive():
            for person in people[:10]:
                watched.by_address(person.mail)
        thread.join()
        until(lambda: watched.by_address(people[9].mail).city == "Ville 59")  # type: ignore[union-attr]
        for person in people[:10]:
            assert watched.by_address(person.mail) == admin.by_address(person.mail)


def test_the_journal_says_who_changed_what(own: Slapd, password_file: Path) -> None:
    dn = entry_dn(MAIL)
    _modify(
        own,
        password_file,
        f"dn: {dn}\nchangetype: modify\nreplace: l\nl: Bron\n-\nreplace: description\ndescription: x\n",
    )
    _modify(
        own,
        password_file,
        f"dn: {account_dn(READER)}\nchangetype: modify\nreplace: userPassword\nuserPassword: MotDePasse\n",
    )
    with own.manager() as admin:
        (change,) = history(admin, datetime.now(UTC) - timedelta(hours=1), dn=dn)
        assert (change.who, change.kind, change.dn, change.what) == (own.admin_dn, "modify", dn, ("l", "description"))
        everything = admin.search_s("cn=journal", 2, f"(reqDN={account_dn(READER)})", ["*"])
        assert len(history(admin, datetime.now(UTC) - timedelta(hours=1))) == 2
    assert everything and b"MotDePasse" not in repr(everything).encode()
    for who in ((), ("-D", account_dn(READER), "-w", "MotDePasse")):
        assert "reqDN" not in witness("ldapsearch", "-x", "-H", own.url, *who, "-b", "cn=journal").stdout


def test_revoked_certificates_are_not_chosen(own: Slapd, tmp_path: Path) -> None:
    from tests.directory.revoked import practice

    authority, revoked, good = practice()
    with own.manager() as admin:
        admin.add_s(f"cn=AC,ou=ac,{own.base}", list(authority.attributes("AC").items()))
    entry = replace(CLAIRE_EXEMPLE.entry(), certificates=(good, revoked))
    with closing(Directory(own.url, bind_dn=own.admin_dn, password=PASSWORD)) as directory:
        directory.publish(entry)
        assert directory.encryption_certificates(MAIL, NOW) == [good]
    shown = witness("ldapsearch", "-x", "-LLL", "-H", own.url, "-b", f"ou=ac,{own.base}", "(cn=AC)")
    assert "certificateRevocationList;binary::" in shown.stdout and "cACertificate;binary::" in shown.stdout


def test_a_list_that_its_authority_did_not_sign_revokes_nothing() -> None:
    from directory.revocation import PublishedAuthority, Revocations
    from tests.directory.revoked import practice

    authority, revoked, good = practice()
    assert Revocations([authority]).revoked(revoked) and not Revocations([authority]).revoked(good)
    stranger, _, _ = practice()
    forged = PublishedAuthority(authority.certificates, stranger.lists)
    assert not Revocations([forged]).revoked(revoked)
