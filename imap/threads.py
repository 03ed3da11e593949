"""THREAD (RFC 5256 §3): ORDEREDSUBJECT and REFERENCES as pure functions over values.

Invariants: every message given appears exactly once in the answer; no recursion depth or time grows faster than the
number of messages and references; a loop of references is never built (RFC 5256, step 1.B).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Letter:
    """What threading needs of a message. `sent` is seconds since 1970 (the internal date when there is no Date)."""

    number: int
    message_id: str
    references: tuple[str, ...]
    subject: str
    is_reply: bool
    sent: float


MOST_DEPTH = 1000  # a longer chain of answers, which only malice writes, begins anew


@dataclass(slots=True, eq=False)
class Node:
    """A message, or a place for one that is known by its Message-ID only (`letter` None)."""

    letter: Letter | None = None
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)

    def adopt(self, child: Node) -> None:
        """Makes `child` a child, away from where it was."""
        if child.parent is not None:
            child.parent.children.remove(child)
        child.parent = self
        self.children.append(child)

    def is_below(self, other: Node) -> bool:
        """Whether `other` is this node or one above it, or the node is too deep to look."""
        node: Node | None = self
        for _ in range(MOST_DEPTH):
            if node is None or node is other:
                return node is not None
            node = node.parent
        return True


def ordered_subject(letters: Iterable[Letter]) -> bytes:
    """ORDEREDSUBJECT: one thread for each base subject, its first message the parent of the others."""
    threads: dict[str, list[Letter]] = {}
    for letter in sorted(letters, key=lambda letter: (letter.sent, letter.number)):
        threads.setdefault(letter.subject, []).append(letter)
    roots: list[Node] = []
    for thread in threads.values():
        root = Node(thread[0])
        for letter in thread[1:]:
            root.adopt(Node(letter))
        roots.append(root)
    return _written(roots)


def references(letters: Sequence[Letter]) -> bytes:
    """REFERENCES: steps 1 to 6 of RFC 5256."""
    roots = _linked(letters)
    roots = _pruned(roots)
    roots.sort(key=_order)
    roots = _gathered(roots)
    for node in _all(roots):
        node.children.sort(key=_order)
    roots.sort(key=_order)
    return _written(roots)


def _linked(letters: Sequence[Letter]) -> list[Node]:
    """Step 1: parents and children by Message-ID and References. The nodes without parent."""
    by_id: dict[str, Node] = {}
    nodes: list[Node] = []
    for letter in letters:
        node = by_id.get(letter.message_id) if letter.message_id else None
        if node is None or node.letter is not None:
            node = Node()
            nodes.append(node)
            # A Message-ID met twice is not one: the later message goes by none.
            if letter.message_id and letter.message_id not in by_id:
                by_id[letter.message_id] = node
        node.letter = letter
        above: Node | None = None
        for reference in letter.references:
            one = by_id.get(reference)
            if one is None:
                one = by_id[reference] = Node()
                nodes.append(one)
            if above is not None and one.parent is None and not above.is_below(one):
                above.adopt(one)
            above = one
        if above is not None and above.is_below(node):
            above = None
        if above is not None:
            above.adopt(node)
        elif node.parent is not None:
            # Step 1.B: what this message says of itself wins over what others said of it.
            node.parent.children.remove(node)
            node.parent = None
    return [node for node in nodes if node.parent is None]


def _pruned(roots: list[Node]) -> list[Node]:
    """Step 3: empty nodes without children go; those with children give way to them, but at the top only to one."""
    order = list(_all(roots))
    for node in reversed(order):
        kept: list[Node] = []
        for child in node.children:
            if child.letter is not None:
                kept.append(child)
            else:
                for grandchild in child.children:
                    grandchild.parent = node
                    kept.append(grandchild)
        node.children = kept
    found: list[Node] = []
    for root in roots:
        if root.letter is None and len(root.children) <= 1:
            for child in root.children:
                child.parent = None
                found.append(child)
        else:
            found.append(root)
    return found


def _gathered(roots: list[Node]) -> list[Node]:
    """Step 5: threads of one base subject are brought together."""
    table: dict[str, Node] = {}
    for root in roots:
        letter = _first(root)
        if not letter.subject:
            continue
        other = table.get(letter.subject)
        if other is None or _stands_better(root, other):
            table[letter.subject] = root
    gone: set[int] = set()
    added: list[Node] = []
    for root in roots:
        subject = _first(root).subject
        other = table.get(subject) if subject else None
        if other is None or other is root:
            continue
        if other.letter is None:
            if root.letter is None:
                for child in list(root.children):
                    other.adopt(child)
            else:
                other.adopt(root)
        elif root.letter is not None and _first(root).is_reply and not _first(other).is_reply:
            other.adopt(root)
        else:
            # Neither is the other's answer: both go below a new empty node.
            both = Node()
            table[subject] = both
            both.adopt(other)
            both.adopt(root)
            added.append(both)
            gone.add(id(other))
        gone.add(id(root))
    return [root for root in (*roots, *added) if id(root) not in gone]


def _stands_better(root: Node, other: Node) -> bool:
    """Whether `root` is to stand for its subject (step 5.B): an empty node before a message, a message before a reply."""
    if other.letter is None:
        return False
    return root.letter is None or (_first(other).is_reply and not _first(root).is_reply)


def _first(node: Node) -> Letter:
    """A node's message; of an empty node, its first child's (an empty node always has one)."""
    while node.letter is None:
        node = min(node.children, key=_order) if len(node.children) > 1 else node.children[0]
    return node.letter


def _order(node: Node) -> tuple[float, int]:
    letter = node.letter if node.letter is not None else _first(node)
    return letter.sent, letter.number


def _all(roots: Iterable[Node]) -> Iterator[Node]:
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.children)


def _written(roots: Sequence[Node]) -> bytes:
    """The thread list of RFC 5256 §4, without recursion: a chain of a thousand answers is one."""
    out: list[str] = []
    for root in roots:
        out.append("(")
        # What is still to be written: a node, or the text that closes what was opened.
        waiting: list[Node | str] = [root]
        while waiting:
            node = waiting.pop()
            if isinstance(node, str):
                out.append(node)
                continue
            if node.letter is not None:
                out.append(("" if out[-1] == "(" else " ") + str(node.letter.number))
            if len(node.children) == 1 and node.letter is not None:
                waiting.append(node.children[0])
            elif node.children:
                if out[-1] != "(":
                    out.append(" ")
                for child in reversed(node.children):
                    waiting += [")", child, "("]
        out.append(")")
    return "".join(out).encode("ascii")
