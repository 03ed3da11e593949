"""The journal of changes (slapd's accesslog): who changed what, when; and making changes again on other data.

Invariants: slapd itself writes it, whatever tool made the change; only administrators read it; values of passwords are
never in what this module gives. Making a change again is tolerant: what is already so is left so, in the journal's order, so
doing it twice, or on data that already has some of it, gives the same end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NewType

import ldap
from ldap.controls import SimplePagedResultsControl
from ldap.filter import escape_filter_chars

from directory.configuration import JOURNAL
from directory.entry import Attributes
from directory.errors import DirectoryError

Position = NewType("Position", str)
"""A moment of the journal: a `reqEnd` (generalized time with microseconds).

slapd 2.5 reads the clock at a second's first operation and counts the others from there, so its dates may be almost a second
too early, but no two are the same. Changes are written in the order of their `reqEnd`, not of their `reqStart`.
"""

_WRITES: Final = "(|(objectClass=auditAdd)(objectClass=auditModify)(objectClass=auditDelete)(objectClass=auditModRDN))"
_PAGE: Final = 500
_EARLY: Final = timedelta(seconds=2)  # more than the journal's dates are too early by
# slapd writes these itself, again, for a change made again.
_BOOKKEEPING: Final = frozenset(
    {
        "entrycsn",
        "modifiersname",
        "modifytimestamp",
        "creatorsname",
        "createtimestamp",
        "entryuuid",
        "structuralobjectclass",
    }
)


@dataclass(frozen=True, slots=True)
class Change:
    """One change: `who` is the DN that bound, `what` the names of the attributes (never their values)."""

    at: str
    who: str
    kind: str
    dn: str
    what: tuple[str, ...]


def position(at: datetime) -> Position:
    """The moment `at` (aware) as the journal writes it."""
    return Position(at.astimezone(UTC).strftime("%Y%m%d%H%M%S.%fZ"))


def history(connection: Any, since: datetime, *, dn: str = "", limit: int = 100) -> list[Change]:
    """The latest changes after `since`, of the entry `dn` or of all, newest first. Raises ldap.LDAPError."""
    whose = f"(reqDN={escape_filter_chars(dn)})" if dn else ""
    condition = f"(&{_WRITES}(reqStart>={position(since)}){whose})"
    wanted = ["reqStart", "reqAuthzID", "reqType", "reqDN", "reqMod"]
    found = [_change(attributes) for _, attributes in _entries(connection, condition, wanted)]
    return sorted(found, key=lambda change: change.at, reverse=True)[:limit]


def _change(attributes: Attributes) -> Change:
    names = [value.partition(b":")[0].decode("utf-8", "replace") for value in attributes.get("reqMod", [])]
    return Change(
        at=attributes["reqStart"][0].decode(),
        who=attributes.get("reqAuthzID", [b""])[0].decode("utf-8", "replace"),
        kind=attributes["reqType"][0].decode(),
        dn=attributes["reqDN"][0].decode("utf-8", "replace"),
        what=tuple(name for name in dict.fromkeys(names) if name and name.lower() not in _BOOKKEEPING),
    )


def _entries(connection: Any, condition: str, wanted: list[str]) -> Iterator[tuple[str, Attributes]]:
    page = SimplePagedResultsControl(True, size=_PAGE, cookie="")
    while True:
        request = connection.search_ext(JOURNAL, ldap.SCOPE_ONELEVEL, condition, wanted, serverctrls=[page])
        _, found, _, controls = connection.result3(request)
        yield from found
        page.cookie = next((c.cookie for c in controls if c.controlType == page.controlType), b"")
        if not page.cookie:
            return


def reached(connection: Any, at: datetime) -> Position:
    """The position, `at` being now, after which come the changes that have not ended yet, and none that has.

    Raises ldap.LDAPError.
    """
    recent = position(at - _EARLY)
    found = _entries(connection, f"(&{_WRITES}(reqEnd>={recent}))", ["reqEnd"])
    return max([recent, *(_ended(attributes) for _, attributes in found)])


def _ended(change: Attributes) -> Position:
    return Position(change["reqEnd"][0].decode())


def replay_changes(journal: Any, target: Any, since: Position, *, until: Position | None = None) -> Position:
    """Make on `target` the changes after `since` that the journal read through `journal` holds; returns where it came to.

    Changes that arrive meanwhile are made too, until none is left or `until` is reached. Raises DirectoryError.
    """
    last = since
    wanted = ["reqEnd", "reqType", "reqDN", "reqMod", "reqNewRDN"]
    while True:
        condition = f"(&{_WRITES}(reqEnd>={last}))"
        batch = [attributes for _, attributes in _entries(journal, condition, wanted)]
        batch = sorted((one for one in batch if _ended(one) > last), key=_ended)
        batch = [one for one in batch if until is None or _ended(one) <= until]
        if not batch:
            return last
        for one in batch:
            try:
                _make_again(target, one)
            except ldap.LDAPError as error:
                raise DirectoryError(
                    f"Une modification faite pendant le chargement ne se refait pas ({type(error).__name__}) "
                    "/ a change made during the load cannot be made again"
                ) from error
            last = _ended(one)


def _make_again(target: Any, one: Attributes) -> None:
    dn, kind = one["reqDN"][0].decode(), one["reqType"][0].decode()
    if kind == "delete":
        _tolerant(lambda: target.delete_s(dn), ldap.NO_SUCH_OBJECT)
        return
    changes = [_parsed(value) for value in one.get("reqMod", [])]
    changes = [change for change in changes if change[0].lower() not in _BOOKKEEPING]
    current = _read(target, dn)
    if kind == "add" or current is None:
        added: Attributes = {}
        for name, _, value in changes:
            added.setdefault(name, []).append(value)
        if kind != "add":
            return  # changed, then removed: the removal follows
        if current is None:
            target.add_s(dn, list(added.items()))
            return
        after = added
    else:
        after = dict(current)
        before = ("", "")
        for name, operation, value in changes:
            _apply(after, name, operation, value, further=before == (name, operation))
            before = (name, operation)
    touched = {name for name, _, _ in changes}
    target.modify_s(dn, [(ldap.MOD_REPLACE, name, after.get(name) or None) for name in sorted(touched)])


def _tolerant(action: Callable[[], object], harmless: type[Exception]) -> None:
    try:
        action()
    except harmless:
        return


def _read(target: Any, dn: str) -> Attributes | None:
    try:
        found = target.search_s(dn, ldap.SCOPE_BASE, "(objectClass=*)", ["*"])
    except ldap.NO_SUCH_OBJECT:
        return None
    attributes: Attributes = found[0][1]
    return attributes


def _parsed(value: bytes) -> tuple[str, str, bytes]:
    """`attr:+ value` as (attr, operation, value): `+` added, `-` taken away, `=` put instead. No value: all of them."""
    name, _, rest = value.partition(b":")
    return name.decode(), rest[:1].decode(), rest[2:]


def _apply(attributes: Attributes, name: str, operation: str, value: bytes, *, further: bool) -> None:
    """`further`: one more value of the change before (each value of a replacement has its own line)."""
    values = attributes.get(name, [])
    if operation == "=":
        values = [*(values if further else []), *([value] if value else [])]
    elif operation == "+":
        values = values if value in values else [*values, value]
    elif operation == "-":
        values = [one for one in values if one != value] if value else []
    attributes[name] = values
