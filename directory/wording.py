"""Words as people type them: without accents, case or punctuation. Names, search keys and shown names are made of them.

Invariants: pure; the same text gives the same words whatever its Unicode form; words are lower-case ASCII letters and
digits, bounded in number and length, so that a hostile text cannot grow an entry.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from itertools import chain
from typing import Final

MAX_WORDS: Final = 24
MAX_WORD: Final = 40
_SPECIAL: Final = str.maketrans({"œ": "oe", "Œ": "OE", "æ": "ae", "Æ": "AE", "ß": "ss", "ø": "o", "Ø": "O", "ł": "l"})
_WORD: Final = re.compile(r"[a-z0-9]+")
# Words that say nothing of whom is looked for: they would make long lists of everybody.
_IDLE: Final = """
a au aux chez d dans de des du en et l la le les ou par pour sur un une
dr docteur pr professeur m mme mr mlle monsieur madame cedex
"""
IDLE: Final = frozenset(_IDLE.split())


def plain(text: str) -> str:
    """`text` in lower-case ASCII, accents removed, everything but letters and digits turned into single spaces."""
    flat = unicodedata.normalize("NFKD", text.translate(_SPECIAL)).encode("ascii", "ignore").decode().lower()
    return " ".join(_WORD.findall(flat))


@lru_cache(maxsize=65536)
def _useful(text: str) -> tuple[str, ...]:
    return tuple(word[:MAX_WORD] for word in plain(text).split() if word not in IDLE and len(word) > 1)


def words(*texts: str) -> tuple[str, ...]:
    """The distinct useful words of `texts`, in order; idle words and initials of one letter are left out."""
    return together(*map(_useful, texts))


def together(*some: tuple[str, ...]) -> tuple[str, ...]:
    """The distinct words of several groups of `words`, in order."""
    return tuple(dict.fromkeys(chain.from_iterable(some)))[:MAX_WORDS]


def within_one_letter(one: str, other: str) -> bool:
    """Whether `one` becomes `other` by at most one letter added, removed, replaced, or swapped with its neighbour."""
    if one == other:
        return True
    short, long = sorted((one, other), key=len)
    if len(long) - len(short) > 1:
        return False
    same = next((i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    if len(short) == len(long):
        swapped = short[same : same + 2] == long[same : same + 2][::-1] and short[same + 2 :] == long[same + 2 :]
        return swapped or short[same + 1 :] == long[same + 1 :]
    return short[same:] == long[same + 1 :]
