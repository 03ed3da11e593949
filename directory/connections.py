"""LDAP connections: a small pool, bounded in number and in time, over python-ldap.

Invariants
* A connection serves one call at a time, for an hour at most; one that failed is dropped; a server that restarted is found
  again by the same call; a forked child never touches its parent's connections.
* Every call ends in time, TLS included (see `Connections.run`).
* LDAPS trusts the given CA file and nothing else; a password never leaves in clear text; an empty one is never sent.
* Errors leave as ours, with LDAP's fixed description only: its free texts may hold names.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import ldap

from directory.errors import DirectoryError, DirectoryUnavailable, TooManyEntries

_T = TypeVar("_T")
_CONNECTIONS: Final = 8
_LIFE: Final = (
    3600.0  # seconds; slapd keeps what a load replaced as long as a connection from before is there (`switching`)
)

# The directory is gone, busy, or silent: another attempt later may succeed.
_DOWN: Final = (
    ldap.SERVER_DOWN,
    ldap.CONNECT_ERROR,
    ldap.TIMEOUT,
    ldap.UNAVAILABLE,
    ldap.BUSY,
    ldap.TIMELIMIT_EXCEEDED,
)


class Connections:
    """At most 8 connections to `url`, bound as `bind_dn` when given. Raises DirectoryError on unsafe settings."""

    def __init__(
        self, url: str, *, bind_dn: str | None, password: str | None, timeout: float, ca_file: Path | None
    ) -> None:
        self._url = url
        self._credentials = _checked_credentials(url, bind_dn, password)
        self._ca_file = _checked_ca(url, ca_file)
        self._timeout = timeout
        self._idle: list[tuple[Any, float]] = []  # with the moment they were opened
        self._lock = threading.Lock()
        self._start_for(os.getpid())

    def _start_for(self, pid: int) -> None:
        self._pid = pid
        self._left_to_parent, self._idle = self._idle, []
        # A queue of tokens rather than a semaphore: it is made in C, and taken twice in every look-up.
        self._places: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(_CONNECTIONS):
            self._places.put(None)

    def open(self) -> Any:
        """A bound connection of the caller's own, outside the pool. Raises DirectoryUnavailable, DirectoryError."""
        try:
            return self._connect()
        except ldap.LDAPError as error:
            raise _translated(error) from error

    def close(self) -> None:
        """Close the idle connections; later calls open new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            _unbind(connection)

    def run(self, operation: Callable[[Any], _T]) -> _T:
        """Run `operation` on a connection; once more on a new one when a pooled connection turns out dead.

        Repeating is safe: searches have no effect, and add-or-replace and delete give the same state twice.
        With LDAPS the whole call runs in a thread that is given up after 4 time-outs: libldap with GnuTLS may wait for
        ever on a peer that falls silent inside a TLS record, whatever its time-out options say. A thread given up keeps
        its place in the pool until the peer closes, so their number is bounded.
        Raises DirectoryUnavailable, DirectoryError, and what `operation` raises.
        """
        places = self._take_place()
        if self._ca_file is None:
            return self._run_here(operation, places)
        return _bounded(lambda: self._run_here(operation, places), 4 * self._timeout)

    def _take_place(self) -> queue.SimpleQueue[None]:
        with self._lock:
            if self._pid != os.getpid():
                # After a fork the parent's sockets are kept, open and unused: closing one would send an unbind on it.
                self._start_for(os.getpid())
            places = self._places
        try:
            places.get(timeout=self._timeout)
        except queue.Empty:
            raise DirectoryUnavailable(
                "Annuaire saturé : trop de demandes en cours / directory client saturated"
            ) from None
        return places

    def _run_here(self, operation: Callable[[Any], _T], places: queue.SimpleQueue[None]) -> _T:
        try:
            with self._lock:
                pooled = self._idle.pop() if self._idle else None
            if pooled is not None:
                try:
                    return self._attempt(pooled, operation)
                except DirectoryUnavailable as error:
                    if not isinstance(error.__cause__, ldap.SERVER_DOWN | ldap.CONNECT_ERROR):
                        raise
                    self.close()  # the others are as dead as this one
            return self._attempt((self.open(), time.monotonic()), operation)
        finally:
            places.put(None)

    def _attempt(self, pooled: tuple[Any, float], operation: Callable[[Any], _T]) -> _T:
        try:
            result = operation(pooled[0])
        except ldap.LDAPError as error:
            ours = _translated(error)
            if isinstance(ours, DirectoryUnavailable):
                _unbind(pooled[0])
            else:
                self._give_back(pooled)
            raise ours from error
        except BaseException:
            self._give_back(pooled)
            raise
        self._give_back(pooled)
        return result

    def _give_back(self, pooled: tuple[Any, float]) -> None:
        with self._lock:
            self._idle.append(pooled)
            eldest = self._idle[0]  # the least used too: the last given back is the first taken
            if time.monotonic() - eldest[1] < _LIFE:
                return
            del self._idle[0]
        _unbind(eldest[0])

    def _connect(self) -> Any:
        connection = ldap.initialize(self._url)
        try:
            connection.set_option(ldap.OPT_PROTOCOL_VERSION, ldap.VERSION3)
            connection.set_option(ldap.OPT_REFERRALS, 0)
            connection.set_option(ldap.OPT_NETWORK_TIMEOUT, self._timeout)
            connection.set_option(ldap.OPT_TIMEOUT, self._timeout)
            if self._ca_file is not None:
                # Asynchronous, or a server that accepts and says nothing is waited for without end (GnuTLS).
                connection.set_option(ldap.OPT_CONNECT_ASYNC, 1)
                connection.set_option(ldap.OPT_X_TLS_REQUIRE_CERT, ldap.OPT_X_TLS_DEMAND)
                connection.set_option(ldap.OPT_X_TLS_CACERTFILE, str(self._ca_file))
                connection.set_option(ldap.OPT_X_TLS_NEWCTX, 0)
            if self._credentials is not None:
                connection.simple_bind_s(*self._credentials)
        except BaseException:
            _unbind(connection)
            raise
        return connection


def _bounded(work: Callable[[], _T], seconds: float) -> _T:
    """The result of `work`, done in a daemon thread; DirectoryUnavailable when it is not done after `seconds`."""
    outcome: queue.SimpleQueue[Callable[[], _T]] = queue.SimpleQueue()

    def target() -> None:
        try:
            result = work()
        except BaseException as error:  # handed over whole to the caller's thread
            outcome.put(lambda error=error: _raise(error))  # type: ignore[misc]
        else:
            outcome.put(lambda: result)

    threading.Thread(target=target, name="directory-ldaps", daemon=True).start()
    try:
        return outcome.get(timeout=seconds)()
    except queue.Empty:
        raise DirectoryUnavailable("Annuaire muet (TLS) / the directory fell silent (TLS)") from None


def _raise(error: BaseException) -> Any:
    raise error


def _translated(error: ldap.LDAPError) -> DirectoryError:
    """An LDAP error as ours. Only its class and fixed description are told: `info` and `matched` may hold names."""
    name, said = type(error).__name__, _description(error)
    if isinstance(error, _DOWN):
        return DirectoryUnavailable(f"Annuaire injoignable ({name}) / directory unreachable ({said})")
    if isinstance(error, ldap.SIZELIMIT_EXCEEDED):
        return TooManyEntries("Trop de réponses : préciser la recherche / too many entries: add a criterion")
    if isinstance(error, ldap.ADMINLIMIT_EXCEEDED):
        return TooManyEntries("Recherche trop large : la préciser / search too broad: add a criterion")
    if isinstance(error, ldap.INVALID_CREDENTIALS | ldap.INSUFFICIENT_ACCESS | ldap.STRONG_AUTH_REQUIRED):
        return DirectoryError(f"L'annuaire refuse l'accès ({name}) / the directory denies access ({said})")
    return DirectoryError(f"L'annuaire a refusé la demande ({name}) / the directory refused ({said})")


def _description(error: ldap.LDAPError) -> str:
    detail = error.args[0] if error.args else None
    return str(detail.get("desc", "no detail")) if isinstance(detail, dict) else "no detail"


def _unbind(connection: Any) -> None:
    with contextlib.suppress(ldap.LDAPError):
        connection.unbind_ext_s()


def _checked_credentials(url: str, bind_dn: str | None, password: str | None) -> tuple[str, str] | None:
    parts = urlsplit(url)
    if parts.scheme not in ("ldap", "ldaps") or not parts.hostname or " " in url or parts.path not in ("", "/"):
        raise DirectoryError("URL d'annuaire attendue : ldap://hôte:port ou ldaps://hôte:port / directory URL expected")
    if bind_dn is None and password is None:
        return None
    if not bind_dn or not password:
        # RFC 4513 §5.1.2: a DN with an empty password is accepted by servers as anonymous.
        raise DirectoryError("Compte d'annuaire sans DN ou sans mot de passe / bind DN and password are both needed")
    if parts.scheme == "ldap" and not _is_loopback(parts.hostname):
        raise DirectoryError(
            "Mot de passe d'annuaire en clair refusé : utiliser ldaps:// / clear-text password refused"
        )
    return bind_dn, password


def _checked_ca(url: str, ca_file: Path | None) -> Path | None:
    if urlsplit(url).scheme != "ldaps":
        return None
    if ca_file is None or not ca_file.is_file():
        raise DirectoryError("LDAPS demande le fichier de l'autorité de confiance (ca_file) / LDAPS needs a CA file")
    return ca_file


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
