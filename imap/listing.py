"""LIST and LSUB as a pure function of the folders (RFC 3501 §6.3.8, RFC 5258, RFC 6154).

Invariant: matching costs one step on a number of name-length bits per character of the pattern; no backtracking.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from imap.values import ListFolders
from mailstore.model import Folder

DELIMITER = "/"


def matches(pattern: str, name: str) -> bool:
    """Whether a mailbox pattern (`*` anything, `%` anything but the delimiter) covers the whole name."""
    if pattern[:5].upper() == "INBOX" and name.partition(DELIMITER)[0] == "INBOX":
        pattern = "INBOX" + pattern[5:]
    # Sets of places in the name are bits of one number: bit n says that n characters can be matched so far.
    places: dict[str, int] = {}
    for place, sign in enumerate(name):
        places[sign] = places.get(sign, 0) | 1 << place
    within = ((1 << len(name)) - 1) & ~places.get(DELIMITER, 0)
    reachable = 1
    for sign in pattern:
        if sign == "*":
            reachable = ((2 << len(name)) - 1) & -(reachable & -reachable)
        elif sign == "%":
            # The carry of the addition runs from each place to the end of its level.
            reachable |= ((reachable & within) + within) ^ within
        else:
            reachable = (reachable & places.get(sign, 0)) << 1
        if not reachable:
            return False
    return bool(reachable >> len(name) & 1)


def _covered(arguments: ListFolders, name: str) -> bool:
    return any(matches(arguments.reference + pattern, name) for pattern in arguments.patterns)


def _parents(name: str) -> Iterable[str]:
    place = name.find(DELIMITER)
    while place >= 0:
        yield name[:place]
        place = name.find(DELIMITER, place + 1)


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of the answer. `folder` is None for a name that exists only as the parent of others."""

    name: str
    folder: Folder | None
    attributes: tuple[str, ...]
    child_info: tuple[str, ...] = ()


def _tree(folders: Sequence[Folder]) -> dict[str, Folder | None]:
    names: dict[str, Folder | None] = {folder.name: folder for folder in folders}
    for folder in folders:
        for parent in _parents(folder.name):
            names.setdefault(parent, None)
    return names


@dataclass(frozen=True, slots=True)
class Listing:
    """What LIST and LSUB choose from: the folders, the names subscribed to (with or without a folder), and whether the
    session speaks IMAP4rev2."""

    folders: Sequence[Folder]
    subscribed: frozenset[str]
    rev2: bool = False

    def find(self, arguments: ListFolders) -> list[Listed]:
        """The answer to LIST, by name. Attributes of CHILDREN and SPECIAL-USE are always given; `\\Subscribed` when
        asked."""
        tree = _tree(self.folders)
        with_children = {parent for name in tree for parent in _parents(name)}
        selection = arguments.selection
        chosen = {name for name in (*tree, *self.subscribed) if self._chosen(name, tree.get(name), selection)}
        covered = {name for name in (*tree, *chosen) if _covered(arguments, name)}
        below: set[str] = set()
        if "RECURSIVEMATCH" in selection:
            # RFC 5258 §3.5: CHILDINFO speaks of children that are chosen and not listed themselves, of parents that need
            # not exist.
            above = {parent for name in chosen - covered for parent in _parents(name)}
            below = {name for name in above if name in covered or _covered(arguments, name)}
        child_info = tuple(sorted(selection & {"SUBSCRIBED", "SPECIAL-USE"}, reverse=True))
        show = "SUBSCRIBED" in selection or "SUBSCRIBED" in arguments.returns
        found: list[Listed] = []
        for name in sorted((chosen & covered) | below, key=lambda name: (name != "INBOX", name)):
            folder = tree.get(name)
            attributes = ["\\HasChildren" if name in with_children else "\\HasNoChildren"]
            if folder is None:
                attributes.append("\\NonExistent" if arguments.extended or self.rev2 else "\\Noselect")
            elif folder.special_use:
                attributes.append(folder.special_use)
            if show and name in self.subscribed:
                attributes.append("\\Subscribed")
            found.append(Listed(name, folder, tuple(attributes), child_info if name in below else ()))
        return found

    def _chosen(self, name: str, folder: Folder | None, selection: frozenset[str]) -> bool:
        if "SUBSCRIBED" in selection and name not in self.subscribed:
            return False
        if "SPECIAL-USE" in selection and (folder is None or not folder.special_use):
            return False
        # A name without folder is listed only as the parent of others, or because it is subscribed to.
        return folder is not None or "SUBSCRIBED" in selection or name not in self.subscribed or self._is_parent(name)

    def _is_parent(self, name: str) -> bool:
        return any(folder.name.startswith(name + DELIMITER) for folder in self.folders)

    def find_subscribed(self, arguments: ListFolders) -> list[Listed]:
        """The answer to LSUB. With `%`, a parent of subscribed names appears as `\\Noselect` (RFC 3501 §6.3.9)."""
        names = {folder.name: folder for folder in self.folders}
        found = {name: Listed(name, names.get(name), ()) for name in self.subscribed if _covered(arguments, name)}
        if any("%" in pattern for pattern in arguments.patterns):
            for name in self.subscribed:
                for parent in _parents(name):
                    if parent not in self.subscribed and not _covered(arguments, name) and _covered(arguments, parent):
                        found[parent] = Listed(parent, None, ("\\Noselect",))
        return [found[name] for name in sorted(found, key=lambda name: (name != "INBOX", name))]
