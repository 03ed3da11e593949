"""Finding a correspondent from what people type: "martin alice", "cardio lyon", "lefevre", "dupond" for Dupont.

The question becomes one LDAP filter over indexed words (`cleRecherche`), which any LDAP client may send. Invariants: pure;
every word typed is reduced to letters and digits before it enters a filter, so nothing typed is a filter; a word of one
letter is not looked for; the number and length of words is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from directory.entry import OBJECT_CLASS, Entry
from directory.errors import DirectoryError
from directory.naming import derived
from directory.wording import fits, within_one_letter, words

MAX_TYPED: Final = 8
_SHORTEST_WITH_TYPO: Final = 4


def typed_words(text: str) -> tuple[str, ...]:
    """The words of what was typed. Raises DirectoryError when nothing in it can be looked for."""
    found = words(text)[:MAX_TYPED]
    if not found:
        raise DirectoryError(
            "Taper au moins un mot de deux lettres : nom, prénom, spécialité ou ville / type a word of two letters or more"
        )
    return found


def correspondent_filter(text: str, *, typos: bool = False) -> str:
    """The LDAP filter of entries that hold, for each word typed, a word that it begins.

    With `typos`, words of four letters or more also match with one letter wrong, missing, in excess, or two swapped
    (and some more, which `rank` leaves out). Raises DirectoryError.
    """
    terms = [_term(word, typos=typos) for word in typed_words(text)]
    return f"(&(objectClass={OBJECT_CLASS}){''.join(terms)})"


def _term(word: str, *, typos: bool) -> str:
    begins = f"(cleRecherche={word}*)"
    if not typos or len(word) < _SHORTEST_WITH_TYPO:
        return begins
    patterns = {begins: None}
    for place in range(len(word)):
        patterns[_pattern(word[:place], word[place + 1 :])] = None  # one letter replaced, missing or in excess here
        if place + 1 < len(word):
            patterns[_pattern(word[:place], word[place + 2 :])] = None  # two letters swapped
    return f"(|{''.join(patterns)})"


def _pattern(start: str, end: str) -> str:
    return f"(cleRecherche={start}*{end})" if end else f"(cleRecherche={start}*)"


def rank(entries: Iterable[Entry], text: str, *, typos: bool = False) -> list[Entry]:
    """The entries found, best first: whole words before beginnings, beginnings before typing errors.

    With `typos`, those that the wide patterns of the filter found by chance are left out.
    """
    typed = typed_words(text)
    found: list[tuple[int, str, Entry]] = []
    for entry in entries:
        held = derived(entry.facts).get("cleRecherche", [])
        if not typos or fits(typed, held):
            found.append((sum(_distance(word, held) for word in typed), entry.mail, entry))
    return [entry for _, _, entry in sorted(found, key=lambda one: one[:2])]


def _distance(word: str, held: list[str]) -> int:
    if word in held:
        return 0
    if any(one.startswith(word) for one in held):
        return 1
    return 2 if any(within_one_letter(word, one) for one in held) else 3
