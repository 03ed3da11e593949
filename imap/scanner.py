"""A cursor over one command: the lexical elements of RFC 3501 §9.

The reader hands over the command's text without its final CRLF, literals taken out: `{5}` CRLF stays in the text where
the literal stood, and its bytes wait in `literals`. Every regular expression here is linear (no nested repetition).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from imap.errors import BadCommand
from imap.values import Received

MOST_DEPTH = 32
_ATOM = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\\]]+')
_ASTRING_ATOM = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\]+')
_LIST_ATOM = re.compile(rb'[^\x00-\x20\x7f-\xff(){"\\]+')
_TAG = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\+]{1,64}')
_QUOTED = re.compile(rb'"((?:[^"\\\r\n\x00]|\\["\\])*)"')
_ESCAPE = re.compile(rb'\\(["\\])')
_LITERAL = re.compile(rb"~?\{([0-9]{1,10})[+-]?\}\r\n")
_NUMBER = re.compile(rb"[0-9]{1,20}")
_SEQUENCE = re.compile(rb"[0-9:*,]+|\$")
_FLAG = re.compile(rb'\\?[^\x00-\x20\x7f-\xff(){%*"\\\]]+')


class Scanner:
    """Reads elements one after the other; every method raises BadCommand when the text is not what it expects."""

    __slots__ = ("_literals", "_next_literal", "data", "position", "utf8")

    def __init__(self, data: bytes, literals: Sequence[bytes | Received] = (), *, utf8: bool = False) -> None:
        """`utf8` is true once the client enabled UTF8=ACCEPT or IMAP4rev2: names are then UTF-8, not modified UTF-7."""
        self.data = data
        self.position = 0
        self.utf8 = utf8
        self._literals = literals
        self._next_literal = 0

    def at_end(self) -> bool:
        """Whether nothing is left."""
        return self.position >= len(self.data)

    def end(self) -> None:
        """Nothing may be left."""
        if not self.at_end():
            raise BadCommand("unexpected text after the arguments")

    def looking_at(self, text: bytes) -> bool:
        """Whether `text` (upper case) comes next, in any letter case."""
        return self.data[self.position : self.position + len(text)].upper() == text

    def accept(self, text: bytes) -> bool:
        """Steps over `text` (upper case) if it comes next."""
        if not self.looking_at(text):
            return False
        self.position += len(text)
        return True

    def expect(self, text: bytes) -> None:
        """Steps over `text`, which must come next."""
        if not self.accept(text):
            raise BadCommand(f"expected {text.decode('ascii')!r}" if text != b" " else "expected a space")

    def space(self) -> None:
        """One space."""
        self.expect(b" ")

    def _match(self, pattern: re.Pattern[bytes], what: str) -> re.Match[bytes]:
        match = pattern.match(self.data, self.position)
        if match is None:
            raise BadCommand(f"expected {what}")
        self.position = match.end()
        return match

    def tag(self) -> str:
        """The command's tag: at most 64 characters."""
        return self._match(_TAG, "a tag")[0].decode("ascii")

    def atom(self) -> bytes:
        """An atom, as written."""
        return self._match(_ATOM, "an atom")[0]

    def word(self) -> str:
        """An atom that is a keyword of the protocol: upper case."""
        return self.atom().decode("ascii").upper()

    def number(self, highest: int = 2**32 - 1) -> int:
        """A non-negative number up to `highest`."""
        value = int(self._match(_NUMBER, "a number")[0])
        if value > highest:
            raise BadCommand("number too large")
        return value

    def sequence_text(self) -> bytes:
        """The raw text of a sequence set."""
        return self._match(_SEQUENCE, "a sequence set")[0]

    def flag_text(self) -> bytes:
        """A flag or keyword, as written."""
        return self._match(_FLAG, "a flag")[0]

    def message(self) -> bytes | Received:
        """A literal that may have been received into the store."""
        size = int(self._match(_LITERAL, "a literal")[1])
        if self._next_literal >= len(self._literals):
            raise BadCommand("literal does not match its announced size")
        content = self._literals[self._next_literal]
        if (len(content) if isinstance(content, bytes) else content.size) != size:
            raise BadCommand("literal does not match its announced size")
        self._next_literal += 1
        return content

    def literal(self) -> bytes:
        """A literal, whose bytes the reader has already received."""
        content = self.message()
        if not isinstance(content, bytes):
            raise BadCommand("unexpected message literal")
        return content

    def string(self) -> bytes:
        """A quoted string or a literal."""
        if self.looking_at(b'"'):
            return _ESCAPE.sub(rb"\1", self._match(_QUOTED, "a closing quote")[1])
        return self.literal()

    def _starts_string(self) -> bool:
        return self.data[self.position : self.position + 1] in (b'"', b"{", b"~")

    def astring(self) -> bytes:
        """An atom (`]` allowed), a quoted string or a literal."""
        if self._starts_string() and not (self.looking_at(b"~") and not self.looking_at(b"~{")):
            return self.string()
        return self._match(_ASTRING_ATOM, "a string")[0]

    def list_pattern(self) -> bytes:
        """A LIST pattern: like an astring, wildcards allowed."""
        if self._starts_string() and not (self.looking_at(b"~") and not self.looking_at(b"~{")):
            return self.string()
        return self._match(_LIST_ATOM, "a mailbox pattern")[0]

    def nstring(self) -> bytes | None:
        """A string or NIL."""
        return None if self.accept(b"NIL") else self.string()
