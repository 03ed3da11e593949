"""Serving other data in the running slapd: the switch that ends a load, and what becomes of the databases before (ADR 0023, 0064).

How (cn=config over ldapi): the new data becomes a second database of the same slapd, hidden, with the same suffix, rights and
overlays; it is shown, the old one is hidden, then retired. Each step is a change of configuration that slapd makes between
two operations: connections stay, no look-up fails, consumers of changes are told to begin again, and slapd writes each step in
`slapd.d` itself, so a restart serves what was served. It takes some milliseconds, whatever the size. (Changing
`olcDbDirectory` of one database instead is quicker to write and wrong: slapd 2.5 keeps the old database's table of attribute
numbers in memory, and reads the new entries with it.)

Invariants
* Killed at any moment, what is served is the whole old directory or the whole new one; `finish`, called again, does the rest.
* A database that no longer serves is *retired*: given an empty folder, and left hidden. That makes slapd drop the transactions that
  its threads keep on the old data; removing the database does not, and slapd 2.5 then answers OTHER after some thirty
  switches, or reads freed memory.
* A retired database is removed only once no connection is left that was there when it served: a connection keeps a pointer to
  the database it was bound through.
* Nothing runs by itself in a database that may be retired (see `configuration`: the journal is trimmed from elsewhere).
"""

from __future__ import annotations

import contextlib
import json
import shutil
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import ldap

from directory.errors import DirectoryError
from directory.journal import Position, position, replay_changes
from directory.tools import own, write_private

if TYPE_CHECKING:
    from directory.server import Slapd

MOST_RETIRED: Final = 50
"""Databases left behind at once, of some megabytes each. There are one or two, unless a client stays connected for weeks."""
_PENDING: Final = "reprise.json"
_RETIRED: Final = "run/retired-"  # their empty folders
_QUIET: Final = timedelta(seconds=60)
_CONNECTIONS: Final = "cn=Connections,cn=Monitor"
_TINY: Final = b"1048576"  # bytes of the map of an empty database


def now() -> datetime:
    """The clock that slapd writes the journal with: this machine's."""
    return datetime.now(UTC)


def switch(slapd: Slapd, name: str, mark: Position | None) -> None:
    """Serve the complete and durable data folder `name`; then make again on it what others changed after `mark`.

    Raises DirectoryError, the old data still served.
    """
    if mark is not None:
        write_private(slapd.folder / _PENDING, json.dumps({"since": mark}).encode())
    with slapd.manager() as connection:
        try:
            old = next(dn for dn, folder, hidden in _databases(connection) if not hidden and _holds_data(folder))
            new = _add_hidden(connection, old, name)
            connection.modify_s(new, [(ldap.MOD_REPLACE, "olcHidden", [b"FALSE"])])
            connection.modify_s(old, [(ldap.MOD_REPLACE, "olcHidden", [b"TRUE"])])
        except (ldap.LDAPError, StopIteration) as error:
            # Whatever it answered, its configuration says what it serves.
            if slapd.generations.current() != name:
                (slapd.folder / _PENDING).unlink(missing_ok=True)
                raise DirectoryError(
                    "slapd refuse de servir les nouvelles données / slapd refuses the new data"
                ) from error
    finish(slapd)


def finish(slapd: Slapd) -> None:
    """Do what a load cut short had still to do: retire hidden databases, make late changes again on the data served,
    remove the data that is not.

    The caller holds `slapd.maintenance()`. Raises DirectoryError.
    """
    path = slapd.folder / _PENDING
    try:
        with slapd.manager() as connection:
            _retire(slapd, connection)
            if path.exists():
                since = str(json.loads(path.read_text("utf-8"))["since"])
                replay_changes(connection, connection, Position(since), until=position(now()))
                path.unlink()
    except (ldap.LDAPError, ValueError, KeyError) as error:
        raise DirectoryError(
            "La fin d'un chargement interrompu échoue / finishing an interrupted load failed"
        ) from error
    slapd.generations.prune(slapd.generations.current())


def make_room(slapd: Slapd) -> None:
    """Before a load: finish the one before, and remove the retired databases that nothing points to any more.

    Raises DirectoryError, also when too many of them cannot be removed.
    """
    finish(slapd)
    try:
        with slapd.manager() as connection:
            _remove_retired(slapd, connection, now() - _QUIET)
            left = sum(not _holds_data(folder) for _, folder, _ in _databases(connection))
    except ldap.LDAPError as error:
        raise DirectoryError(f"slapd ne répond pas à son opérateur ({type(error).__name__})") from error
    if left >= MOST_RETIRED:
        raise DirectoryError(
            f"{left} anciennes bases restent ouvertes dans slapd, un client LDAP y étant resté connecté : redémarrer "
            "l'annuaire (caducee serve) / a client stayed connected through all of them: restart the directory"
        )


def _databases(connection: Any) -> list[tuple[str, str, bool]]:
    """(dn in cn=config, folder, hidden) of every database of mailboxes there is or was."""
    found = connection.search_s("cn=config", ldap.SCOPE_ONELEVEL, "(olcDbDirectory=*)", ["olcDbDirectory", "olcHidden"])
    all_ = [
        (dn, one["olcDbDirectory"][0].decode(), one.get("olcHidden", [b"FALSE"])[0] == b"TRUE") for dn, one in found
    ]
    return [(dn, folder, hidden) for dn, folder, hidden in all_ if _holds_data(folder) or folder.startswith(_RETIRED)]


def _holds_data(folder: str) -> bool:
    return folder.startswith("data")


def _add_hidden(connection: Any, old: str, name: str) -> str:
    """Add a hidden database like `old`, on the data folder `name`; returns its dn."""
    attributes = dict(connection.search_s(old, ldap.SCOPE_BASE)[0][1])
    attributes |= {"olcDatabase": [b"mdb"], "olcDbDirectory": [name.encode()], "olcHidden": [b"TRUE"]}
    connection.add_s("olcDatabase=mdb,cn=config", list(attributes.items()))
    new = next(dn for dn, folder, _ in _databases(connection) if folder == name)
    for _, overlay in sorted(connection.search_s(old, ldap.SCOPE_ONELEVEL)):
        kind = overlay["olcOverlay"][0].rpartition(b"}")[2]
        connection.add_s(f"olcOverlay={kind.decode()},{new}", list({**overlay, "olcOverlay": [kind]}.items()))
    return new


def _retire(slapd: Slapd, connection: Any) -> None:
    """Give each database but the served one an empty folder. slapd closes its data (the space on the disk can be had again), and
    tells consumers of its changes that it is gone.

    Of two that are shown (a switch cut between its last two steps) slapd serves the first.
    """
    shown = [database for database, _, hidden in _databases(connection) if not hidden]
    for database in shown[1:]:
        connection.modify_s(database, [(ldap.MOD_REPLACE, "olcHidden", [b"TRUE"])])
    for database, folder, hidden in _databases(connection):
        if hidden and _holds_data(folder):
            place = _RETIRED + folder
            (slapd.folder / place).mkdir(mode=0o700, exist_ok=True)
            own(slapd.folder, [place])
            values = {"olcDbNoSync": b"TRUE", "olcDbMaxSize": _TINY, "olcDbDirectory": place.encode()}
            connection.modify_s(database, [(ldap.MOD_REPLACE, name, [value]) for name, value in values.items()])


def _remove_retired(slapd: Slapd, connection: Any, before: datetime) -> None:
    """Remove those retired before `before` and before every present connection began."""
    began = [
        _moment(one["monitorConnectionStartTime"])
        for _, one in connection.search_s(
            _CONNECTIONS,
            ldap.SCOPE_ONELEVEL,
            "(monitorConnectionStartTime=*)",
            ["monitorConnectionStartTime"],
        )
    ]
    # The last first: slapd numbers anew those that follow a removed one.
    for database, folder, _ in reversed(_databases(connection)):
        if not folder.startswith(_RETIRED):
            continue
        retired = _moment(
            connection.search_s(database, ldap.SCOPE_BASE, attrlist=["modifyTimestamp"])[0][1]["modifyTimestamp"]
        )
        if retired >= min([before, *began]):
            continue
        for dn, _ in sorted(connection.search_s(database, ldap.SCOPE_ONELEVEL, attrlist=["1.1"]), reverse=True):
            connection.delete_s(dn)
        # Opened again without the overlays, which read in it: no thread has a transaction on it when it goes.
        connection.modify_s(database, [(ldap.MOD_REPLACE, "olcDbDirectory", [folder.encode()])])
        connection.delete_s(database)
        with contextlib.suppress(OSError):
            shutil.rmtree(slapd.folder / folder)


def _moment(values: list[bytes]) -> datetime:
    """A generalized time of slapd's own, in whole seconds."""
    return datetime.strptime(values[0].decode("ascii")[:14], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
