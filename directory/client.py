"""`Directory`: look-ups and publication in an LDAP directory of mailboxes.

Invariants
* What a person typed reaches the directory only as an escaped assertion value (RFC 4515 §3).
* Fail closed: directory down → DirectoryUnavailable, an address found twice → DirectoryError; never "no certificate" or
  "unknown" in their place.
* Certificates are returned as published: their path and revocation are for `trustspace` to check.
* Every call is bounded in time and in number of entries, and may be made from any thread (see `connections`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any, Final, cast

import ldap
import ldap.dn
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from ldap.filter import escape_filter_chars

from directory.cache import MISSING, LookupCache
from directory.connections import Connections
from directory.correspondents import Closeness, correspondent_filter, rank
from directory.entry import (
    BASE,
    MANAGED,
    OBJECT_CLASS,
    READ,
    Entry,
    MailboxKind,
    checked_address,
    from_attributes,
    to_attributes,
)
from directory.errors import DirectoryError
from directory.identifiers import parse_person_id, parse_structure_id
from directory.merging import is_mailbox
from directory.revocation import Revocations
from directory.revocation import from_attributes as published
from directory.watch import Watcher

_MAX_TERM: Final = 256
_WANTED: Final = list(READ)
_REVOCATION_SECONDS: Final = 60.0


class Directory:
    """A client of the directory at `url` (`ldap://`, `ldaps://`), with searches below `base`.

    `bind_dn` and `password` identify the operator (needed to publish); without them the client is anonymous.
    `timeout` is in seconds, for connecting and for each answer. `ca_file` (PEM) is required with `ldaps://`.
    With `cache`, look-ups by address are kept while `watch` listens to the directory's changes, and only then.
    Raises DirectoryError on settings that are impossible or unsafe; connects on first use only.
    """

    def __init__(
        self,
        url: str,
        *,
        base: str = BASE,
        bind_dn: str | None = None,
        password: str | None = None,
        timeout: float = 3.0,
        ca_file: Path | None = None,
        cache: LookupCache | None = None,
    ) -> None:
        self.url = url
        self.base = base
        self._timeout = timeout
        self._connections = Connections(url, bind_dn=bind_dn, password=password, timeout=timeout, ca_file=ca_file)
        self._run = self._connections.run
        self._cache = cache
        self._watcher: Watcher | None = None
        self._revocations: tuple[float, Revocations] | None = None

    def close(self) -> None:
        """Stop listening, close the idle connections. The object stays usable."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.stop()
        self._connections.close()

    def watch(self, on_change: Callable[[str], object] | None = None) -> None:
        """Listen to the directory's changes from now on (see `watch.Watcher`), in a thread of its own."""
        if self._watcher is None:
            cache = self._cache = self._cache or LookupCache()
            self._watcher = Watcher(self._connections.open, cache, base=self.base, on_change=on_change)
            self._watcher.start()

    @property
    def cached(self) -> bool:
        """Whether look-ups are being kept now."""
        return self._cache is not None and self._cache.live

    def connection(self) -> AbstractContextManager[Any]:
        """A bound python-ldap connection of the caller's own, for imports and administration."""
        return contextlib.closing(_Owned(self._connections.open()))

    # -- look-ups ----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Return when the directory answers and holds `base`. Raises DirectoryUnavailable or DirectoryError."""
        self._run(
            lambda c: c.search_ext_s(self.base, ldap.SCOPE_BASE, "(objectClass=*)", ["1.1"], timeout=self._timeout)
        )

    def by_address(self, mail: str) -> Entry | None:
        """The mailbox whose address is `mail` (case does not matter), or None: also for what no entry can hold, such as an
        address beyond ASCII (RFC 6531).

        Raises DirectoryError when several entries claim the address; DirectoryUnavailable.
        """
        cache = self._cache
        if cache is not None and (kept := cache.get(mail)) is not MISSING:
            return cast("Entry | None", kept)
        try:
            address = checked_address(mail)
        except DirectoryError:
            return None
        if cache is None:
            return self._by_address(address)[0]
        if address is not mail and (kept := cache.get(address)) is not MISSING:
            return cast("Entry | None", kept)
        moment = cache.moment()
        entry, uuid = self._by_address(address)
        cache.put(moment, address, entry, uuid)
        return entry

    def remembers(self, mail: str) -> bool:
        """Whether `by_address` would answer at once, from memory."""
        return self._cache is not None and self._cache.get(mail) is not MISSING

    def _by_address(self, address: str) -> tuple[Entry | None, str]:
        # Without the class, slapd answers twice as fast: the index of addresses alone decides. Other servers may hold
        # addresses in entries that are no mailboxes.
        question = f"(mail={escape_filter_chars(address)})"
        records = self._ask(question, limit=2)
        if not all(is_mailbox(attributes) for _, attributes in records):
            records = self._search(question, limit=2)
        found = [from_attributes(dn, attributes) for dn, attributes in records]
        if len(found) > 1:
            raise DirectoryError("Plusieurs fiches d'annuaire pour cette adresse / several entries claim this address")
        if found and found[0].mail != address:  # a second value of `mail`, added by hand: not the entry's own address
            raise DirectoryError("Fiche d'annuaire à plusieurs adresses / entry with several addresses")
        if not found:
            return None, ""
        return found[0], (records[0][1].get("entryUUID") or [b""])[0].decode()

    def encryption_certificates(self, mail: str, at: datetime) -> list[x509.Certificate]:
        """Certificates to encrypt to for `mail` at the instant `at`, newest first; empty when there is none.

        Kept: valid at `at`; key usage keyEncipherment or keyAgreement (RFC 8550 §4.4.2); extended key usage, if any,
        with emailProtection or any (RFC 8550 §4.4.4); not on a list of revocations published in the directory (see
        `revocation`: the whole path is for `trustspace` to check). Raises ValueError if `at` is naive; DirectoryError,
        DirectoryUnavailable.
        """
        if at.tzinfo is None:
            raise ValueError("aware datetime expected")
        entry = self.by_address(mail)
        usable = [c for c in entry.certificates if _encrypts_mail(c, at)] if entry and not entry.suspended else []
        if usable:
            revocations = self.revocations()
            usable = [certificate for certificate in usable if not revocations.revoked(certificate)]
        return sorted(usable, key=lambda c: c.not_valid_before_utc, reverse=True)

    def revocations(self) -> Revocations:
        """The lists of revocations published under `ou=ac`, read again after a minute. Raises DirectoryUnavailable."""
        kept = self._revocations
        if kept is not None and time.monotonic() - kept[0] < _REVOCATION_SECONDS:
            return kept[1]

        def ask(connection: Any) -> Any:
            wanted = ["cACertificate;binary", "certificateRevocationList;binary"]
            try:
                return connection.search_ext_s(
                    f"ou=ac,{self.base}", ldap.SCOPE_ONELEVEL, "(objectClass=pkiCA)", wanted, timeout=self._timeout
                )
            except ldap.NO_SUCH_OBJECT:  # another server's directory, without that branch
                return []

        found = Revocations(published(attributes) for dn, attributes in self._run(ask) if dn)
        self._revocations = (time.monotonic(), found)
        return found

    def correspondents(self, text: str, *, limit: int = 50) -> list[Entry]:
        """Mailboxes that fit what a person typed, best first, at most `limit` (see `correspondents`).

        Whole words are looked for first, then beginnings, then words with one letter wrong when nothing else was found.
        Raises DirectoryError (nothing to look for), TooManyEntries (too broad), DirectoryUnavailable.
        """
        found: dict[str, Entry] = {}
        for closeness in Closeness:
            if len(found) >= limit or (found and closeness is Closeness.TYPOS):
                break
            condition = correspondent_filter(text, closeness)
            found |= {entry.dn: entry for entry in self._usable(condition, limit=limit, partial=True)}
        return rank(found.values(), text)[:limit]

    def by_national_id(self, national_id: str, *, limit: int = 100) -> list[Entry]:
        """The mailboxes of a person (`8`+RPPS, `0`+ADELI) or tied to a structure (`1`+FINESS, `2`+SIREN, `3`+SIRET).

        A structure's list holds its ORG and APP boxes and the boxes its professionals have there (see `Entry.kind`).
        Raises InvalidIdentifier, TooManyEntries, DirectoryUnavailable.
        """
        if national_id[:1] in ("0", "8"):
            person = parse_person_id(national_id)
            terms = {"IdentifiantPP": person.number, "TypeIdentifiantPP": person.type.value}
        else:
            structure = parse_structure_id(national_id)
            terms = {"IdentifiantPM": structure.number, "TypeIdentifiantPM": structure.type.name}
            return self._usable(f"(|{_all_of(terms)}{_all_of({'idNatStruct': str(structure)})})", limit=limit)
        return self._usable(_all_of(terms), limit=limit)

    def search(
        self,
        *,
        surname: str = "",
        given_name: str = "",
        profession: str = "",
        city: str = "",
        kind: MailboxKind | None = None,
        limit: int = 100,
    ) -> list[Entry]:
        """Mailboxes that equal every criterion given (case does not matter; `*` is an ordinary character), by address.

        The filter is the national clients' AND of equalities (mssante.md §5.1). At least one criterion besides
        `kind` is needed. Raises DirectoryError, TooManyEntries, DirectoryUnavailable.
        """
        given = {"sn": surname, "givenName": given_name, "profession": profession, "l": city}
        terms = {name: value.strip() for name, value in given.items() if value.strip()}
        if not terms:
            raise DirectoryError(
                "Préciser au moins un critère : nom, prénom, profession ou ville / give at least one search criterion"
            )
        if kind is not None:
            terms["TypeBAL"] = kind.value
        return sorted(self._usable(_all_of(terms), limit=limit), key=lambda entry: entry.mail)

    def _usable(self, condition: str, *, limit: int, partial: bool = False) -> list[Entry]:
        """The entries found, without those somebody damaged by hand: one of them must not hide all others."""
        entries: list[Entry] = []
        for dn, attributes in self._search(condition, limit=limit, partial=partial):
            with contextlib.suppress(DirectoryError):
                entries.append(from_attributes(dn, attributes))
        return entries

    def _search(self, condition: str, *, limit: int, partial: bool = False) -> list[tuple[str, dict[str, list[bytes]]]]:
        """The mailboxes that fit `condition`. With `partial`, the first `limit` of more are an answer."""
        question = f"(&(objectClass={OBJECT_CLASS}){condition})"
        return self._ask(question, limit=limit) if not partial else self._ask_some(question, limit)

    def _ask(self, question: str, *, limit: int) -> list[tuple[str, dict[str, list[bytes]]]]:
        base, timeout = self.base, self._timeout

        def ask(connection: Any) -> Any:
            message = connection.search_ext(
                base, ldap.SCOPE_SUBTREE, question, _WANTED, timeout=timeout, sizelimit=limit
            )
            return connection.result4(message, 1, timeout)[1]  # what `search_ext_s` comes to, three calls later

        # A referral comes as a result without a DN; we follow none.
        return [record for record in self._run(ask) if record[0]]

    def _ask_some(self, question: str, limit: int) -> list[tuple[str, dict[str, list[bytes]]]]:
        def ask(connection: Any) -> Any:
            found: list[Any] = []
            message = connection.search_ext(self.base, ldap.SCOPE_SUBTREE, question, _WANTED, sizelimit=limit)
            with contextlib.suppress(ldap.SIZELIMIT_EXCEEDED):
                while (answer := connection.result(message, all=0, timeout=self._timeout))[0] != ldap.RES_SEARCH_RESULT:
                    found += answer[1]
            return found

        return [record for record in self._run(ask) if record[0]]

    # -- publication -------------------------------------------------------------------------------------------------

    def publish(self, entry: Entry) -> None:
        """Add `entry`, or replace what the directory holds for its DN, certificates included.

        Attributes an administrator added besides ours stay. Address and type of a mailbox are immutable once
        published (mssante.md §4.2). Raises DirectoryError (right missing, other type, DN outside the base, refused
        values), InvalidIdentifier, DirectoryUnavailable.
        """
        attributes = to_attributes(entry)
        dn = self._own_dn(entry.dn)
        kind = attributes["TypeBAL"]
        replacement: list[tuple[int, str, list[bytes] | None]] = [
            # Taking away and giving back the same value makes the server itself refuse the change if the type differs.
            (ldap.MOD_DELETE, "TypeBAL", kind),
            (ldap.MOD_ADD, "TypeBAL", kind),
            (ldap.MOD_REPLACE, "mail", attributes["mail"]),
            *((ldap.MOD_REPLACE, name, attributes.get(name)) for name in MANAGED),
        ]

        def put(connection: Any) -> None:
            try:
                connection.add_ext_s(dn, list(attributes.items()))
            except ldap.ALREADY_EXISTS:
                connection.modify_ext_s(dn, replacement)

        try:
            self._run(put)
        except DirectoryError as error:
            if isinstance(error.__cause__, ldap.NO_SUCH_ATTRIBUTE):
                raise DirectoryError(
                    "Le type d'une BAL publiée ne change pas / the type of a published mailbox is immutable"
                ) from error
            raise

    def remove(self, mail: str) -> bool:
        """Remove the mailbox `mail`; False when there was none. Raises DirectoryError, DirectoryUnavailable."""
        entry = self.by_address(mail)
        if entry is None:
            return False
        dn = self._own_dn(entry.dn)

        def delete(connection: Any) -> bool:
            try:
                connection.delete_ext_s(dn)
            except ldap.NO_SUCH_OBJECT:
                return False
            return True

        return self._run(delete)

    def _own_dn(self, dn: str) -> str:
        try:
            parts, base = ldap.dn.str2dn(dn.lower()), ldap.dn.str2dn(self.base.lower())
        except ldap.DECODING_ERROR as error:
            raise DirectoryError("DN mal formé / malformed DN") from error
        if len(parts) <= len(base) or parts[-len(base) :] != base:
            raise DirectoryError("DN hors de l'annuaire / DN outside the directory's base")
        return dn


def _all_of(terms: Mapping[str, str]) -> str:
    """The AND of equalities, each value escaped. Raises DirectoryError on a term too long to be one."""
    for value in terms.values():
        if len(value) > _MAX_TERM or "\0" in value:
            raise DirectoryError("Critère de recherche trop long ou mal formé / search term too long or malformed")
    return "(&" + "".join(f"({name}={escape_filter_chars(value)})" for name, value in terms.items()) + ")"


def _encrypts_mail(certificate: x509.Certificate, at: datetime) -> bool:
    if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
        return False
    try:
        extensions = certificate.extensions
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except (ValueError, x509.ExtensionNotFound):
        return False
    if not (usage.key_encipherment or usage.key_agreement):
        return False
    try:
        purposes = set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return True
    return bool(purposes & {ExtendedKeyUsageOID.EMAIL_PROTECTION, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE})


class _Owned:
    """A connection that closes when its user is done with it."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def close(self) -> None:
        with contextlib.suppress(ldap.LDAPError):
            self._connection.unbind_ext_s()
