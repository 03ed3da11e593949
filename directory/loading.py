"""New data made aside, checked, then served by the running slapd in its next heartbeat.

It is made by slapadd (a full load), or from a copy of what is served, on which a second, private slapd makes many changes
without waiting for the disk (a large difference). `switching` then has it served.

Invariants
* The old data is served until the new is complete, durable and has answered to a second, private slapd.
* What others changed while the load ran (journal of changes) is made again on the new data, before and after the switch.
* Killed at any moment, what is served is the whole old directory or the whole new one.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import ldap

from directory import journal
from directory.errors import DirectoryError, DirectoryUnavailable
from directory.journal import Position, replay_changes
from directory.switching import make_room, now, switch
from directory.tools import start_tool

if TYPE_CHECKING:
    from directory.server import Slapd

_TRIAL_SECONDS: Final = 60.0


def replace_data(slapd: Slapd, chunks: Iterable[bytes], *, replay: bool = True, since: Position | None = None) -> str:
    """Serve the LDIF `chunks` (every entry, parents first) instead of the present data; returns the new folder's name.

    `since` is the journal's position at which `chunks` began to be made from the present data (default: now). Raises
    DirectoryError, leaving the old data served. The caller holds `slapd.maintenance()`.
    """
    return _renew(slapd, lambda name: slapd.build(name, chunks), replay=replay, since=since)


def change_copy(slapd: Slapd, make: Callable[[Any], None], *, since: Position) -> str:
    """Serve a copy of the present data on which `make` has made its changes; returns the new folder's name.

    `since` is the journal's position when the changes began to be computed. `make` is given a connection to the slapd of the
    copy, that may change everything. Raises DirectoryError, and whatever `make` raises, leaving the old data served. The
    caller holds `slapd.maintenance()`.
    """
    return _renew(slapd, slapd.copy, make=make, since=since)


def _renew(
    slapd: Slapd,
    fill: Callable[[str], None],
    *,
    make: Callable[[Any], None] | None = None,
    replay: bool = True,
    since: Position | None = None,
) -> str:
    live = slapd.running()
    if live:
        make_room(slapd)
    mark = (since or reached(slapd)) if live and replay else None
    name = slapd.generations.fresh()
    try:
        fill(name)
        mark = _try_out(slapd, name, mark, make)
        slapd.generations.adopt(name)
    except BaseException:
        slapd.generations.remove(name)
        raise
    if live:
        switch(slapd, name, mark)
    else:
        slapd.build_configuration(name)
        slapd.generations.prune(name)
    return name


def _try_out(slapd: Slapd, name: str, mark: Position | None, make: Callable[[Any], None] | None) -> Position | None:
    """Open the new data with a second slapd that nobody else reaches: it must answer; `make` and late changes are made there."""
    from directory.server import end, socket_url

    # A name of its own: the slapd of a killed load removes its socket when it ends, not ours.
    configuration, path = f"slapd.{name}", f"run/trial-{name}"
    slapd.configure(configuration, name, aside=True)
    command, nothing = slapd.slapd_command(configuration, [socket_url(path)]), subprocess.DEVNULL
    process = start_tool(command, stdin=nothing, stdout=nothing, stderr=nothing)
    try:
        _wait(slapd, process, path)
        with slapd.manager(path) as trial:
            trial.search_s(slapd.base, ldap.SCOPE_BASE, "(objectClass=*)", ["1.1"])
            trial.search_s(f"ou=bal,{slapd.base}", ldap.SCOPE_BASE, "(objectClass=*)", ["1.1"])
            if make is not None:
                make(trial)
            if mark is not None:
                with slapd.manager() as live:
                    mark = replay_changes(live, trial, mark)
    except ldap.LDAPError as error:
        raise DirectoryError("Les nouvelles données ne répondent pas / the new data does not answer") from error
    finally:
        end(process, _TRIAL_SECONDS)
        (slapd.folder / path).unlink(missing_ok=True)
        shutil.rmtree(slapd.folder / configuration, ignore_errors=True)
    return mark


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


def reached(slapd: Slapd) -> Position:
    """Where the journal is: see `journal.reached`. Raises DirectoryError."""
    try:
        with slapd.manager() as connection:
            return journal.reached(connection, now())
    except ldap.LDAPError as error:
        raise DirectoryError(
            "Le journal de l'annuaire ne répond pas / the directory's journal does not answer"
        ) from error
