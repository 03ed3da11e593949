"""Finding a correspondent from what people type: "martin alice", "cardio lyon", "lefevre", "dupond" for Dupont.

The question becomes one LDAP filter over indexed words (`cleRecherche`), which any LDAP client may send. Three of them are
asked in turn (`Closeness`): whole words, then beginnings, then words with one letter wrong; each is answered from indexes.
Invariants: pure; every word typed is reduced to letters and digits before it enters a filter, so nothing typed is a filter; a
word of one letter is not looked for; the number and length of words is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from string import ascii_lowercase, digits
from typing import Final

from directory.entry import OBJECT_CLASS, Entry
from directory.errors import DirectoryError
from directory.naming import derived
from directory.wording import within_one_letter, words

MAX_TYPED: Final = 8
_SHORTEST_WITH_TYPO: Final = 4
_LONGEST_WITH_TYPO: Final = 16  # of a longer one, the beginning is typed


class Closeness(Enum):
    """How near to what was typed a word must be: the word itself, one that it begins, one with a letter wrong."""

    WORDS = auto()
    BEGINNINGS = auto()
    TYPOS = auto()


def typed_words(text: str) -> tuple[str, ...]:
    """The words of what was typed. Raises DirectoryError when nothing in it can be looked for."""
    found = words(text)[:MAX_TYPED]
    if not found:
        raise DirectoryError(
            "Taper au moins un mot de deux lettres : nom, prénom, spécialité ou ville / type a word of two letters or more"
        )
    return found


def correspondent_filter(text: str, closeness: Closeness = Closeness.BEGINNINGS) -> str:
    """The LDAP filter of entries that hold, for each word typed, a word that close to it. Raises DirectoryError."""
    terms = [_term(word, closeness) for word in typed_words(text)]
    return f"(&(objectClass={OBJECT_CLASS}){''.join(terms)})"


def _term(word: str, closeness: Closeness) -> str:
    if closeness is Closeness.WORDS:
        return f"(cleRecherche={word})"
    begins = f"(cleRecherche={word}*)"
    if closeness is Closeness.BEGINNINGS or not _SHORTEST_WITH_TYPO <= len(word) <= _LONGEST_WITH_TYPO:
        return begins
    # Equalities, some hundreds: each is one key of the index, where a pattern (`du*ont`) would leave all that begin so.
    return f"(|{begins}{''.join(f'(cleRecherche={one})' for one in sorted(_one_letter_off(word)))})"


def _one_letter_off(word: str) -> set[str]:
    """The words that `wording.within_one_letter` finds near `word`, itself left out."""
    letters = (ascii_lowercase if not word.isdigit() else "") + (digits if not word.isalpha() else "")
    cuts = [(word[:place], word[place:]) for place in range(len(word) + 1)]
    near = {start + end[1:] for start, end in cuts if end}
    near |= {start + end[1] + end[0] + end[2:] for start, end in cuts if len(end) > 1}
    near |= {start + letter + end[1:] for start, end in cuts if end for letter in letters}
    near |= {start + letter + end for start, end in cuts for letter in letters}
    return near - {word}


def rank(entries: Iterable[Entry], text: str) -> list[Entry]:
    """The entries that fit what was typed, best first: whole words before beginnings, beginnings before typing errors."""
    typed = typed_words(text)
    found: list[tuple[int, str, Entry]] = []
    for entry in entries:
        held = derived(entry.facts).get("cleRecherche", [])
        found.append((sum(_distance(word, held) for word in typed), entry.mail, entry))
    return [entry for _, _, entry in sorted(found, key=lambda one: one[:2])]


def _distance(word: str, held: list[str]) -> int:
    if word in held:
        return 0
    if any(one.startswith(word) for one in held):
        return 1
    return 2 if any(within_one_letter(word, one) for one in held) else 3
