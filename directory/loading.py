"""A full load: new data made aside by slapadd, checked, then served by the running slapd in its next heartbeat.

How the switch works (cn=config over ldapi): the new data becomes a second database of the same slapd, hidden, with the
same suffix, rights and overlays; it is shown, the old one is hidden, then removed. Each step is a change of configuration
that slapd makes between two operations: connections stay, no look-up fails, consumers of changes are told to begin
again, and slapd writes each step in `slapd.d` itself, so a restart serves what was served. It takes some milliseconds,
whatever the size. (Changing `olcDbDirectory` of one database instead is quicker to write and wrong: slapd 2.5 keeps the
old database's table of attribute numbers in memory, and reads the new entries with it.)

Invariants
* The old data is served until the new is complete, durable and has answered to a second, private slapd.
* What others changed while the load ran (journal of changes) is made again on the new data, before and after the switch.
* Killed at any moment, what is served is the whole old directory or the whole new one. A switch whose last replay was
  cut is finished by the next call of `finish`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import ldap

from directory.errors import DirectoryError, DirectoryUnavailable
from directory.journal import Position, position, replay_changes
from directory.tools import write_private

if TYPE_CHECKING:
    from directory.server import Slapd

_PENDING: Final = "reprise.json"
_TRIAL_SECONDS: Final = 60.0
_MARGIN: Final = timedelta(seconds=2)


def replace_data(slapd: Slapd, chunks: Iterable[bytes], *, replay: bool = True, since: Position | None = None) -> str:
    """Serve the LDIF `chunks` (every entry, parents first) instead of the present data; returns the new folder's name.

    `since` is the journal's position at which `chunks` began to be made from the present data (default: now). Raises
    DirectoryError, leaving the old data served. The caller holds `slapd.maintenance()`.
    """
    live = slapd.running()
    if live:
        finish(slapd)
    # A little before: doing a change again does no harm, and clocks of two processes may differ by their rounding.
    mark = (since or position(now() - _MARGIN)) if live and replay else None
    name = slapd.generations.fresh()
    try:
        slapd.build(name, chunks)
        mark = _try_out(slapd, name, mark)
        slapd.generations.adopt(name)
    except BaseException:
        slapd.generations.remove(name)
        raise
    if live:
        _switch(slapd, name, mark)
    else:
        slapd.build_configuration(name)
    slapd.generations.prune(name)
    return name


def _try_out(slapd: Slapd, name: str, mark: Position | None) -> Position | None:
    """Open the new data with a second slapd that nobody else reaches: it must answer; late changes are made there."""
    from directory.server import end, socket_url

    configuration, path = f"slapd.{name}", "run/essai"
    slapd.configure(configuration, name)
    _without_journal(slapd, configuration)
    process = subprocess.Popen(
        slapd.slapd_command(configuration, [socket_url(path)]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait(slapd, process, path)
        with slapd.manager(path) as trial:
            trial.search_s(slapd.base, ldap.SCOPE_BASE, "(objectClass=*)", ["1.1"])
            trial.search_s(f"ou=bal,{slapd.base}", ldap.SCOPE_BASE, "(objectClass=*)", ["1.1"])
            if mark is not None:
                with slapd.manager() as live:
                    mark = replay_changes(live, trial, mark)
    except ldap.LDAPError as error:
        raise DirectoryError("Les nouvelles données ne répondent pas / the new data does not answer") from error
    finally:
        end(process)
        shutil.rmtree(slapd.folder / configuration, ignore_errors=True)
    return mark


def _without_journal(slapd: Slapd, configuration: str) -> None:
    """The trial slapd must not write in the journal of the one that serves."""
    for path in (slapd.folder / configuration / "cn=config").glob("olcDatabase={1}mdb/olcOverlay={1}accesslog.ldif"):
        path.unlink()


def _wait(slapd: Slapd, process: subprocess.Popen[bytes], path: str) -> None:
    deadline = time.monotonic() + _TRIAL_SECONDS
    while True:
        try:
            with slapd.manager(path):
                return
        except DirectoryUnavailable:
            if process.poll() is not None or time.monotonic() > deadline:
                raise DirectoryError("Les nouvelles données ne s'ouvrent pas / the new data does not open") from None
            time.sleep(0.02)  # a poll, bounded by the deadline


def _switch(slapd: Slapd, name: str, mark: Position | None) -> None:
    if mark is not None:
        write_private(slapd.folder / _PENDING, json.dumps({"since": mark}).encode())
    with slapd.manager() as connection:
        try:
            old = _databases(connection, hidden=False)[0][0]
            new = _add_hidden(connection, old, name)
            connection.modify_s(new, [(ldap.MOD_REPLACE, "olcHidden", [b"FALSE"])])
            connection.modify_s(old, [(ldap.MOD_REPLACE, "olcHidden", [b"TRUE"])])
        except (ldap.LDAPError, IndexError) as error:
            # Whatever it answered, its configuration says what it serves.
            if slapd.generations.current() != name:
                (slapd.folder / _PENDING).unlink(missing_ok=True)
                raise DirectoryError(
                    "slapd refuse de servir les nouvelles données / slapd refuses the new data"
                ) from error
    finish(slapd)


def _databases(connection: Any, *, hidden: bool) -> list[tuple[str, str]]:
    """(dn in cn=config, data folder) of the databases of mailboxes that are, or are not, hidden."""
    found = connection.search_s("cn=config", ldap.SCOPE_ONELEVEL, "(olcDbDirectory=*)", ["olcDbDirectory", "olcHidden"])
    return [
        (dn, attributes["olcDbDirectory"][0].decode())
        for dn, attributes in found
        if attributes["olcDbDirectory"][0].startswith(b"data")
        and (attributes.get("olcHidden", [b"FALSE"])[0] == b"TRUE") is hidden
    ]


def _add_hidden(connection: Any, old: str, name: str) -> str:
    """Add a hidden database like `old`, on the data folder `name`; returns its dn."""
    attributes = dict(connection.search_s(old, ldap.SCOPE_BASE)[0][1])
    attributes |= {"olcDatabase": [b"mdb"], "olcDbDirectory": [name.encode()], "olcHidden": [b"TRUE"]}
    connection.add_s("olcDatabase=mdb,cn=config", list(attributes.items()))
    new = next(dn for dn, folder in _databases(connection, hidden=True) if folder == name)
    for _, overlay in sorted(connection.search_s(old, ldap.SCOPE_ONELEVEL)):
        kind = overlay["olcOverlay"][0].rpartition(b"}")[2]
        connection.add_s(f"olcOverlay={kind.decode()},{new}", list({**overlay, "olcOverlay": [kind]}.items()))
    return new


def _remove_hidden(connection: Any) -> None:
    """Remove the databases that no longer serve, overlays first: that is what tells consumers to begin again."""
    while hidden := _databases(connection, hidden=True):
        database = hidden[0][0]
        for dn, _ in sorted(
            connection.search_s(database, ldap.SCOPE_ONELEVEL, "(objectClass=*)", ["1.1"]), reverse=True
        ):
            connection.delete_s(dn)
        connection.delete_s(database)


def now() -> datetime:
    """The clock that slapd writes the journal with: this machine's."""
    return datetime.now(UTC)


def finish(slapd: Slapd) -> None:
    """Do what a load cut short had still to do: remove hidden databases, make late changes again on the data served."""
    path = slapd.folder / _PENDING
    try:
        with slapd.manager() as connection:
            _remove_hidden(connection)
            if path.exists():
                since = str(json.loads(path.read_text("utf-8"))["since"])
                replay_changes(connection, connection, Position(since), until=position(now()))
                path.unlink()
    except (ldap.LDAPError, ValueError, KeyError) as error:
        raise DirectoryError(
            "La fin d'un chargement interrompu échoue / finishing an interrupted load failed"
        ) from error
