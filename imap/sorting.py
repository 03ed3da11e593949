"""SORT: the order of messages by the criteria of RFC 5256 §3 and RFC 5957. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from imap.keys import NO_KEYS, Keys
from imap.values import Criterion
from mailstore.model import FolderView

NEEDS_KEYS = frozenset({"CC", "DATE", "FROM", "SUBJECT", "TO", "DISPLAYFROM", "DISPLAYTO"})
_TEXTS: dict[str, Callable[[Keys], str]] = {
    "CC": lambda keys: keys.cc_mailbox,
    "FROM": lambda keys: keys.from_mailbox,
    "SUBJECT": lambda keys: keys.subject,
    "TO": lambda keys: keys.to_mailbox,
    "DISPLAYFROM": lambda keys: keys.from_display,
    "DISPLAYTO": lambda keys: keys.to_display,
}


def sent_at(view: FolderView, keys: Mapping[int, Keys], index: int) -> float:
    """When a message was sent, in seconds since 1970: its Date, or else its internal date (RFC 5256 §2.2)."""
    sent = keys.get(index, NO_KEYS).sent
    return view.dates[index].timestamp() if sent is None else sent


def in_order(
    indices: Sequence[int], criteria: Sequence[Criterion], view: FolderView, keys: Mapping[int, Keys]
) -> list[int]:
    """`indices` (ascending) sorted; equal messages stay in sequence order."""
    found = list(indices)
    # From the last criterion to the first: each sort keeps the order of what it finds equal.
    for criterion in reversed(criteria):
        # `reverse` too leaves equal elements as they are, as RFC 5256 §3 wants.
        found.sort(key=_value(criterion.name, view, keys), reverse=criterion.reverse)
    return found


def _value(name: str, view: FolderView, keys: Mapping[int, Keys]) -> Callable[[int], float | str]:
    if name == "ARRIVAL":
        return lambda index: view.dates[index].timestamp()
    if name == "SIZE":
        return lambda index: view.sizes[index]
    if name == "DATE":
        return lambda index: sent_at(view, keys, index)
    text = _TEXTS[name]
    return lambda index: text(keys.get(index, NO_KEYS))
