"""What changed between two white lists: domains that came or went, names that may speak or no longer may. Pure.

Invariants: what decides (domain, certificate name) is compared as the join compares it, so that a change of case or of
spaces is no change of right; the texts for people are compared apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from trustspace.dn import DistinguishedName, parse
from trustspace.model import ListedDomain, WhiteList, canonical_domain

_TEXTS = ("description", "contact", "support")


class ChangeKind(StrEnum):
    """What changed."""

    DOMAIN_ADDED = "domain-added"
    DOMAIN_REMOVED = "domain-removed"
    NAME_ADDED = "name-added"
    NAME_REMOVED = "name-removed"
    TEXT_CHANGED = "text-changed"


@dataclass(frozen=True, slots=True)
class Change:
    """One change: of a right (a certificate name for a domain), or of a text for people (`field`, `before`, `after`)."""

    kind: ChangeKind
    domain: str
    operator_dn: str = ""
    field: str = ""
    before: str = ""
    after: str = ""


def diff_lists(old: WhiteList, new: WhiteList) -> list[Change]:
    """The changes from `old` to `new`, by domain, rights before texts."""
    return diff_entries(old.entries, new.entries)


def diff_entries(old: Iterable[ListedDomain], new: Iterable[ListedDomain]) -> list[Change]:
    """As `diff_lists`, over entries. Entries must be well formed, as those of a WhiteList are."""
    before, after = _by_domain(old), _by_domain(new)
    changes: list[Change] = []
    for domain in sorted(before.keys() | after.keys()):
        changes += _domain_changes(domain, before.get(domain, {}), after.get(domain, {}))
    return changes


_Held = Mapping[DistinguishedName, list[ListedDomain]]


def _domain_changes(domain: str, before: _Held, after: _Held) -> list[Change]:
    came = ChangeKind.NAME_ADDED if before else ChangeKind.DOMAIN_ADDED
    went = ChangeKind.NAME_REMOVED if after else ChangeKind.DOMAIN_REMOVED
    changes = [Change(went, domain, entries[0].operator_dn) for name, entries in before.items() if name not in after]
    changes += [Change(came, domain, entries[0].operator_dn) for name, entries in after.items() if name not in before]
    for name in before.keys() & after.keys():
        for field in _TEXTS:
            old = sorted({str(getattr(one, field)) for one in before[name]})
            new = sorted({str(getattr(one, field)) for one in after[name]})
            if old != new:
                shown = after[name][0].operator_dn
                text = ChangeKind.TEXT_CHANGED
                changes.append(Change(text, domain, shown, field, " | ".join(old), " | ".join(new)))
    return changes


def _by_domain(entries: Iterable[ListedDomain]) -> dict[str, dict[DistinguishedName, list[ListedDomain]]]:
    found: dict[str, dict[DistinguishedName, list[ListedDomain]]] = defaultdict(lambda: defaultdict(list))
    for entry in entries:
        found[canonical_domain(entry.domain)][parse(entry.operator_dn)].append(entry)
    return found
