"""What of a message can be searched, and the signature that says which messages cannot match. Pure.

The search text is the message's header fields, then its body, then the names of its attachments, decoded and folded
(`folded`), separated by NUL (which none of them holds). RFC 9051 §6.4.4 asks for substrings: `needle in text` is the
answer. Encrypted contents are not searched: the server cannot read them.

The signature is a set of bits, one for each group of three bytes of the text, hashed; a text that lacks a bit of the
needle does not hold the needle. It has four to eight bits a distinct group, so that few texts are read in vain.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from unicodedata import normalize

from mailstore.mailbox import SearchPart
from mime import Part, decode_words, parse
from mime.words import decode_charset

TEXT_LIMIT = 8 * 1024 * 1024  # characters of a text: what lies beyond is found by nobody
SMALLEST, LARGEST = 10, 17  # powers of two: bits of a signature
_GOLDEN = 0x9E3779B1  # 2^32 divided by the golden ratio: spreads neighbours (Knuth, TAOCP 6.4)
_SEPARATOR = "\x00"
_MARKS = re.compile("[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+")
_BLOCK = 64 * 1024
_LIGATURES = str.maketrans({"œ": "oe", "æ": "ae"})


def folded(text: str, limit: int = TEXT_LIMIT) -> str:
    """A text without letter case, accents and ligatures, as far as `limit` characters: who looks for `resultats` or `oedeme`
    finds « Résultats » and « Œdème », and the other way round. Finds all that i;unicode-casemap (RFC 5051), which RFC 9051
    advises, would find.

    In blocks, because one character may become eighteen: what is made is bounded, not only what is kept."""
    low = text[:limit].casefold()
    if low.isascii():
        return low[:limit]
    pieces: list[str] = []
    room = limit
    for start in range(0, len(low), _BLOCK):
        plain = normalize("NFKD", low[start : start + _BLOCK]).casefold()
        pieces.append(_MARKS.sub("", plain).translate(_LIGATURES)[:room])
        room -= len(pieces[-1])
        if room <= 0:
            break
    return "".join(pieces)


@dataclass(frozen=True, slots=True)
class Query:
    """What is looked for: `needle` in one part of messages, `field` naming the header field for SearchPart.HEADER."""

    part: SearchPart
    needle: str
    field: str = ""

    @classmethod
    def of(cls, part: SearchPart, needle: str, field: str = "") -> Query:
        """A query as texts are kept: folded."""
        if part is SearchPart.HEADER:
            needle = _line(needle)
        return cls(SearchPart(part), folded(needle.replace(_SEPARATOR, "")), folded(field))

    def found_in(self, text: str) -> bool:
        """Whether a search text answers the query."""
        if self.part is SearchPart.TEXT:
            return self.needle in text
        header, _, rest = text.partition(_SEPARATOR)
        if self.part is SearchPart.HEADER:
            lead = f"{self.field}: "
            return any(line.startswith(lead) and self.needle in line[len(lead) :] for line in header.split("\n"))
        body, _, names = rest.partition(_SEPARATOR)
        return self.needle in names or (self.part is SearchPart.BODY and self.needle in body)

    def probes(self) -> dict[int, list[tuple[int, int]]]:
        """For each power of two, the bytes of a signature to look at and the bit each must have; none for a needle
        shorter than a group."""
        groups = _groups(self.needle.encode("utf-8", "surrogatepass"))
        return {
            power: [(1 + (place >> 3), 1 << (place & 7)) for place in sorted(_places(groups, power))]
            for power in range(SMALLEST, LARGEST + 1)
        }


def search_text(raw: bytes) -> str:
    """The search text of a message, whatever its bytes."""
    root = parse(raw)
    header = "\n".join(f"{field.name}: {_line(decode_words(field.text))}" for field in root.fields)
    names = [part.filename for part in root.walk()]
    sections = (header, "\n".join(_texts(root, raw)), "\n".join(_line(name) for name in names if name))
    return _SEPARATOR.join(folded(section.replace(_SEPARATOR, "")) for section in sections)


def signature(text: str) -> bytes:
    """The signature of a search text: its power of two, then its bits."""
    groups = _groups(text.encode("utf-8", "surrogatepass"))
    power = min(max((4 * len(groups)).bit_length(), SMALLEST), LARGEST)
    bits = bytearray(1 << (power - 3))
    for place in _places(groups, power):
        bits[place >> 3] |= 1 << (place & 7)
    return bytes([power]) + bits


def _groups(data: bytes) -> set[int]:
    distinct = set(zip(data, data[1:], data[2:], strict=False))
    return {first << 16 | second << 8 | third for first, second, third in distinct}


def _places(groups: set[int], power: int) -> set[int]:
    shift = 32 - power
    return {(group * _GOLDEN & 0xFFFFFFFF) >> shift for group in groups}


def _texts(root: Part, raw: bytes) -> list[str]:
    found: list[str] = []
    for part in root.walk():
        if part is not root:
            found.extend(f"{field.name}: {_line(decode_words(field.text))}" for field in part.fields)
        if not part.children and part.media_type.startswith(("text/", "multipart/")):
            found.append(decode_charset(part.decoded(raw), part.parameters.get("charset", "utf-8")))
    return found


def _line(value: str) -> str:
    """A value as one line. Programs fold fields with tabs as well as with spaces: who looks for two words of a subject knows
    nothing of that."""
    return value.translate(_BLANKS)


_BLANKS = str.maketrans("\r\n\t", "   ")
