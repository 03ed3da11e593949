"""The switch from one database to another in the running slapd: many of them, cut anywhere, and what is left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import ldap
import pytest

import directory.connections as connections
import directory.installation as installation
import directory.journal as journal
import directory.switching as switching
from directory import CLAIRE_EXEMPLE, Directory, DirectoryError, Slapd, entry_dn
from directory.configuration import Configuration, configuration_ldif
from directory.health import health
from directory.rights import READER, account_dn
from tests.directory.imports import READER_PASSWORD, REPOSITORY, reading, small_slapd, traffic
from tests.directory.test_watch import until


def prepared(slapd: Slapd) -> str:
    """A data folder ready to be switched to: the same data once more (nobody writes meanwhile)."""
    name = slapd.generations.fresh()
    slapd.copy(name)
    slapd.generations.adopt(name)
    return name


def switch_once(slapd: Slapd) -> None:
    switching.make_room(slapd)
    name = prepared(slapd)
    switching.switch(slapd, name, None)
    assert slapd.generations.current() == name
    with slapd.manager() as admin:
        assert [folder for _, folder, hidden in switching._databases(admin) if not hidden] == [name]


def retired(slapd: Slapd) -> list[str]:
    return sorted(path.name for path in (slapd.folder / "run").glob("retired-*"))


def bound(slapd: Slapd) -> ldap.ldapobject.SimpleLDAPObject:
    connection = ldap.initialize(slapd.url)
    connection.simple_bind_s(account_dn(READER), READER_PASSWORD)
    return connection


@pytest.mark.slow
def test_forty_switches_under_look_ups(own: Slapd) -> None:
    """slapd keeps 32 things a thread: one left behind by each switch, and it answered OTHER from the thirtieth on."""
    old, pid = bound(own), own.pid
    with closing(reading(own)) as watching, traffic(own, [CLAIRE_EXEMPLE.mail]) as wrong:
        watching.watch()
        for number in range(40):
            switch_once(own)
            # Bound through a database that serves no more: slapd still points to it.
            assert old.whoami_s() == f"dn:{account_dn(READER)}"
            with own.manager() as admin:
                admin.modify_s(entry_dn(CLAIRE_EXEMPLE.mail), [(2, "description", [str(number).encode()])])
        until(lambda: watching.cached)
    assert wrong == []
    assert len(retired(own)) == 40
    state = health(own)
    assert (own.pid, state.answers, state.data) == (pid, True, "data-41") and state.entries > 20
    assert sorted(path.name for path in own.folder.glob("data-*")) == ["data-40", "data-41"]
    old.unbind_s()


@pytest.mark.slow
def test_what_nobody_points_to_any_more_is_removed(own: Slapd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switching, "_QUIET", timedelta(0))
    monkeypatch.setattr(connections, "_LIFE", 0.2)
    kept = bound(own)
    with traffic(own, [CLAIRE_EXEMPLE.mail]) as wrong:
        for _ in range(3):
            switch_once(own)
        time.sleep(1.1)  # slapd dates connections and changes by the second
        switching.make_room(own)
        assert len(retired(own)) == 3  # `kept` was there before them
        kept.unbind_s()

        def gone() -> bool:
            switching.make_room(own)
            return retired(own) == []

        until(gone)
        for _ in range(10):
            switch_once(own)
        time.sleep(1.1)
        until(gone)
    assert wrong == []
    assert len(list((own.folder / "slapd.d" / "cn=config").glob("olcDatabase=*mdb.ldif"))) == 2


def test_too_many_left_behind_are_told(own: Slapd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switching, "MOST_RETIRED", 2)
    with closing(reading(own)) as reader:
        for _ in range(2):
            assert reader.by_address(CLAIRE_EXEMPLE.mail)
            switch_once(own)
        with pytest.raises(DirectoryError, match="2 anciennes bases"):
            switch_once(own)
        assert reader.by_address(CLAIRE_EXEMPLE.mail)
    own.stop()
    own.start()
    assert retired(own) == []
    switch_once(own)


_CUT = """
import os, signal, sys
from pathlib import Path
import ldap.ldapobject
from directory import Slapd, switching
from directory.journal import Position
from directory.loading import reached
slapd = Slapd(Path(sys.argv[1]), ldap_port=int(sys.argv[2]))
mark, steps = reached(slapd), 0

def cut(method):
    def call(self, dn, *others):
        global steps
        if dn.endswith("cn=config"):
            steps += 1
            if steps > int(sys.argv[4]):
                os.kill(os.getpid(), signal.SIGKILL)
        return method(self, dn, *others)
    return call

for name in ("add_s", "modify_s", "delete_s"):
    setattr(ldap.ldapobject.SimpleLDAPObject, name, cut(getattr(ldap.ldapobject.SimpleLDAPObject, name)))
switching.switch(slapd, sys.argv[3], mark)
"""


@pytest.mark.slow
def test_killed_before_each_step_of_a_switch(own: Slapd) -> None:
    """One whole directory or the other is served, the next load ends what was cut, and slapd stays."""
    pid, cuts = own.pid, 0
    with traffic(own, [CLAIRE_EXEMPLE.mail]) as wrong:
        for steps in range(20):
            switching.make_room(own)
            before, name = own.generations.current(), prepared(own)
            command = [sys.executable, "-c", _CUT, str(own.folder), own.url.rpartition(":")[2], name, str(steps)]
            code = subprocess.run(command, cwd=REPOSITORY, check=False, timeout=60).returncode
            assert own.generations.current() in (before, name)
            assert not wrong, steps
            if code == 0:
                break
            assert code == -signal.SIGKILL
            cuts += 1
            switch_once(own)
    assert cuts == 6 and own.pid == pid  # database, two overlays, shown, hidden, retired
    own.stop()
    own.start()
    with closing(reading(own)) as reader:
        assert reader.by_address(CLAIRE_EXEMPLE.mail)


def test_a_change_right_after_the_mark_is_made_again(own: Slapd) -> None:
    """slapd dates a second's changes from the first one: a change made now may bear a moment that was before the mark."""
    made: list[str] = []

    class Target:
        def search_s(self, dn: str, *_: object) -> list[tuple[str, dict[str, list[bytes]]]]:
            return [(dn, {})]

        def modify_s(self, dn: str, changes: list[tuple[int, str, list[bytes]]]) -> None:
            made.extend(values[0].decode() for _, name, values in changes if name == "description")

    with own.manager() as admin:
        for number in range(8):
            admin.modify_s(entry_dn(CLAIRE_EXEMPLE.mail), [(2, "description", [b"before"])])
            time.sleep(0.05)  # within the same second, except once
            mark = journal.reached(admin, switching.now())
            admin.modify_s(entry_dn(CLAIRE_EXEMPLE.mail), [(2, "description", [str(number).encode()])])
            journal.replay_changes(admin, Target(), mark)
    assert made == [str(number) for number in range(8)]


def test_old_lines_of_the_journal_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By slapd itself, in a database that no load ever closes."""
    made = configuration_ldif

    def impatient(configuration: Configuration) -> str:
        text = made(configuration)
        assert text.count("olcAccessLogPurge") == (0 if configuration.aside else 1)
        return text.replace("31+00:00 01+00:00", "00+00:00:01 00+00:00:01")

    monkeypatch.setattr(installation, "configuration_ldif", impatient)
    with small_slapd(tmp_path) as slapd, slapd.manager() as admin:

        def lines() -> int:
            return len(admin.search_s("cn=journal", ldap.SCOPE_ONELEVEL))

        admin.modify_s(entry_dn(CLAIRE_EXEMPLE.mail), [(2, "description", [b"x"])])
        until(lambda: lines() == 0)
        names = admin.search_s("", ldap.SCOPE_BASE, "(objectClass=*)", ["namingContexts"])[0][1]["namingContexts"]
        assert sorted(names) == [b"cn=journal", slapd.base.encode()]


def test_a_connection_of_the_pool_ends_in_time(own: Slapd, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Directory(own.url)) as client:
        client.check()
        first = client._connections._idle[0]
        client.check()
        assert client._connections._idle == [first]
        monkeypatch.setattr(connections, "_LIFE", 0.0)
        client.check()
        assert client._connections._idle == []
        client.check()
