"""Listens to the directory's changes (syncrepl, RFC 4533): whatever tool made them, caches forget at once.

Invariants
* A cache is live only between the moment the server says "you know everything" and the first sign of trouble.
* Only addresses travel: no content, no present-list of half a million entries (the server is told what is known).
* It never gives up and never blocks a look-up; a server without syncrepl leaves the cache unused, which is slower and right.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any, Final

import ldap
from ldap.ldapobject import SimpleLDAPObject
from ldap.syncrepl import SyncreplConsumer

from directory.cache import LookupCache
from directory.entry import BASE, OBJECT_CLASS
from directory.errors import DirectoryError

_PAUSES: Final = (0.05, 0.2, 1.0, 5.0)
_HEARTBEAT: Final = 1.0  # seconds between two looks at the request to stop


class _Consumer(SyncreplConsumer):  # type: ignore[misc]  # python-ldap is untyped
    """One search that stays open. `known` is the cookie: what the server need not tell again."""

    def __init__(
        self, connection: SimpleLDAPObject, cache: LookupCache, known: str, on_change: Callable[[str], object]
    ) -> None:
        self._connection = connection
        self._cache = cache
        self._cookie = known
        self._on_change = on_change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)  # SyncreplConsumer expects to be mixed with a connection

    def syncrepl_get_cookie(self) -> str:
        return self._cookie

    def syncrepl_set_cookie(self, cookie: str) -> None:
        self._cookie = cookie

    def syncrepl_refreshdone(self) -> None:
        self._cache.listening(True)
        self._on_change("")

    def syncrepl_entry(self, dn: str, attributes: dict[str, list[bytes]], uuid: str) -> None:
        address = (attributes.get("mail") or [b""])[0].decode("utf-8", "replace")
        if address:
            self._cache.changed(address)
            self._on_change(address.lower())

    def syncrepl_delete(self, uuids: list[str]) -> None:
        for uuid in uuids:
            self._cache.removed(uuid)
        self._on_change("")

    def syncrepl_present(self, uuids: list[str] | None, refreshDeletes: bool = False) -> None:
        """Nothing to reconcile: the cache is emptied when listening begins."""


class Watcher:
    """A thread that keeps `cache` honest. `connect` gives a bound python-ldap connection; `on_change` is told each address
    that changed ("" when it is not known which), for those who keep more than the cache does.
    """

    def __init__(
        self,
        connect: Callable[[], SimpleLDAPObject],
        cache: LookupCache,
        *,
        base: str = BASE,
        on_change: Callable[[str], object] | None = None,
    ) -> None:
        self._connect = connect
        self._cache = cache
        self._base = base
        self._on_change = on_change or (lambda _: None)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="directory-watch", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Cease to listen, within a few seconds; the cache is emptied."""
        self._stopping.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                with contextlib.closing(_Closing(self._connect())) as holder:
                    failures = 0 if self._listen(holder.connection) else failures + 1
            except (ldap.LDAPError, DirectoryError):
                failures += 1
            finally:
                if self._cache.live:
                    failures = 0
                self._cache.listening(False)
            self._stopping.wait(_PAUSES[min(failures, len(_PAUSES) - 1)])

    def _listen(self, connection: SimpleLDAPObject) -> bool:
        """Until the server ends the search, or `stop`."""
        known = connection.search_s(self._base, ldap.SCOPE_BASE, "(objectClass=*)", ["contextCSN"])[0][1]
        csn = ";".join(value.decode() for value in known.get("contextCSN", []))
        consumer = _Consumer(connection, self._cache, f"rid=001,csn={csn}" if csn else "rid=001", self._on_change)
        message = consumer.syncrepl_search(
            f"ou=bal,{self._base}",
            ldap.SCOPE_SUBTREE,
            mode="refreshAndPersist",
            filterstr=f"(objectClass={OBJECT_CLASS})",
            attrlist=["mail"],
        )
        while not self._stopping.is_set():
            with contextlib.suppress(ldap.TIMEOUT):
                if not consumer.syncrepl_poll(msgid=message, all=0, timeout=_HEARTBEAT):
                    return True
        return True


class _Closing:
    def __init__(self, connection: SimpleLDAPObject) -> None:
        self.connection = connection

    def close(self) -> None:
        with contextlib.suppress(ldap.LDAPError):
            self.connection.unbind_ext_s()
