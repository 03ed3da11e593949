"""The arguments of FETCH and STORE (RFC 9051 §6.4.5, RFC 3516, RFC 7162, RFC 8970, RFC 8474, RFC 8514)."""

from __future__ import annotations

from imap.errors import BadCommand
from imap.scanner import MOST_DEPTH, Scanner
from imap.sequences import parse_sequence_set
from imap.values import KNOWN_KEYWORDS, SYSTEM_FLAGS, Attribute, Content, Fetch, Form, Specifier, StoreFlags
from mailstore.model import FlagOperation

MOST_ITEMS = 100
MOST_FIELDS = 200
MOST_FLAGS = 64
HIGHEST_MODSEQ = 2**63 - 1
_MACROS = {
    "ALL": (Attribute.FLAGS, Attribute.INTERNALDATE, Attribute.SIZE, Attribute.ENVELOPE),
    "FAST": (Attribute.FLAGS, Attribute.INTERNALDATE, Attribute.SIZE),
    "FULL": (Attribute.FLAGS, Attribute.INTERNALDATE, Attribute.SIZE, Attribute.ENVELOPE, Attribute.BODY),
}
_OLD_CONTENTS = {
    "RFC822": (Specifier.WHOLE, False),
    "RFC822.HEADER": (Specifier.HEADER, True),
    "RFC822.TEXT": (Specifier.TEXT, False),
}
# Longest first: `HEADER.FIELDS.NOT` must not be read as `HEADER`.
_SPECIFIERS = (Specifier.FIELDS_NOT, Specifier.FIELDS, Specifier.HEADER, Specifier.TEXT, Specifier.MIME)
_ATTRIBUTES = {attribute.value: attribute for attribute in Attribute}


def _field_names(scanner: Scanner) -> tuple[bytes, ...]:
    scanner.expect(b" (")
    names: list[bytes] = []
    while True:
        name = scanner.astring()
        if not name or any(byte <= 0x20 or byte >= 0x7F or byte == 0x3A for byte in name):
            raise BadCommand("not a header field name")
        names.append(name)
        if len(names) > MOST_FIELDS:
            raise BadCommand("too many header field names")
        if scanner.accept(b")"):
            return tuple(names)
        scanner.space()


def _path(scanner: Scanner) -> tuple[int, ...]:
    path: list[int] = []
    while scanner.data[scanner.position : scanner.position + 1].isdigit():
        number = scanner.number()
        if number == 0 or len(path) >= MOST_DEPTH:
            raise BadCommand("no such section")
        path.append(number)
        if not scanner.accept(b"."):
            return tuple(path)
    if path and scanner.looking_at(b"]"):
        raise BadCommand("malformed section")
    return tuple(path)


def _partial(scanner: Scanner) -> tuple[int, int] | None:
    if not scanner.accept(b"<"):
        return None
    start = scanner.number()
    scanner.expect(b".")
    count = scanner.number()
    scanner.expect(b">")
    if count == 0:
        raise BadCommand("a partial fetch asks for at least one octet")
    return start, count


def _quoted_name(name: bytes) -> bytes:
    plain = all(byte not in b'(){%*"\\]' for byte in name)
    return name if plain else b'"' + name.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def _section(scanner: Scanner, form: Form, *, peek: bool) -> Content:
    """The rest of `BODY[`, after the bracket. BINARY takes part numbers only (RFC 3516 §7)."""
    path = _path(scanner)
    specifier = Specifier.WHOLE
    fields: tuple[bytes, ...] = ()
    # After `1.` a specifier must follow; after `1` none may.
    if not path or scanner.data[scanner.position - 1 : scanner.position] == b".":
        offered = _SPECIFIERS if form is Form.BODY else ()
        specifier = next((s for s in offered if scanner.accept(s.value.encode())), Specifier.WHOLE)
        if (path and specifier is Specifier.WHOLE) or (not path and specifier is Specifier.MIME):
            raise BadCommand("malformed section")
    label = ".".join([*map(str, path), *([specifier.value] if specifier else [])]).encode("ascii")
    if specifier in (Specifier.FIELDS, Specifier.FIELDS_NOT):
        fields = _field_names(scanner)
        label += b" (" + b" ".join(map(_quoted_name, fields)) + b")"
    scanner.expect(b"]")
    partial = _partial(scanner) if form is not Form.SIZE else None
    label = form.value.encode("ascii") + b"[" + label + b"]" + (b"<%d>" % partial[0] if partial else b"")
    return Content(path, specifier, fields, peek, partial, label, form)


_SECTIONS = (
    (b"BODY[", Form.BODY, False),
    (b"BODY.PEEK[", Form.BODY, True),
    (b"BINARY[", Form.BINARY, False),
    (b"BINARY.PEEK[", Form.BINARY, True),
    (b"BINARY.SIZE[", Form.SIZE, True),
)


def _item(scanner: Scanner, attributes: list[Attribute], contents: list[Content]) -> None:
    for start, form, peek in _SECTIONS:
        if scanner.accept(start):
            contents.append(_section(scanner, form, peek=peek))
            return
    name = scanner.word()
    if name in _OLD_CONTENTS:
        specifier, peek = _OLD_CONTENTS[name]
        contents.append(Content((), specifier, (), peek, None, name.encode("ascii")))
    elif name in _ATTRIBUTES:
        attributes.append(_ATTRIBUTES[name])
        if name == "PREVIEW":
            # RFC 8970 §3.2: the only modifier is LAZY; previews are made at delivery, so it changes nothing.
            scanner.accept(b" (LAZY)")
    else:
        raise BadCommand("unknown FETCH item")


def _fetch_modifiers(scanner: Scanner) -> tuple[int | None, bool]:
    """`(CHANGEDSINCE 123 VANISHED)` (RFC 7162 §3.1.4, §3.2.6), after its parenthesis."""
    changed_since, vanished = None, False
    while True:
        if changed_since is None and scanner.accept(b"CHANGEDSINCE "):
            changed_since = scanner.number(HIGHEST_MODSEQ)
        elif not vanished and scanner.accept(b"VANISHED"):
            vanished = True
        else:
            raise BadCommand("unknown FETCH modifier")
        if scanner.accept(b")"):
            break
        scanner.space()
    if vanished and changed_since is None:
        raise BadCommand("VANISHED needs CHANGEDSINCE")
    return changed_since, vanished


def parse_fetch(scanner: Scanner) -> Fetch:
    """FETCH after its space."""
    messages = parse_sequence_set(scanner.sequence_text())
    scanner.space()
    attributes: list[Attribute] = []
    contents: list[Content] = []
    macro = next((name for name in _MACROS if scanner.looking_at(name.encode())), None)
    if scanner.accept(b"("):
        _item(scanner, attributes, contents)
        while not scanner.accept(b")"):
            scanner.space()
            _item(scanner, attributes, contents)
            if len(attributes) + len(contents) > MOST_ITEMS:
                raise BadCommand("too many FETCH items")
    elif macro is not None:
        scanner.expect(macro.encode())
        attributes.extend(_MACROS[macro])
    else:
        _item(scanner, attributes, contents)
    changed_since, vanished = _fetch_modifiers(scanner) if scanner.accept(b" (") else (None, False)
    unique = tuple(dict.fromkeys(contents))
    return Fetch(messages, tuple(dict.fromkeys(attributes)), unique, changed_since, vanished)


def canonical_flag(raw: bytes) -> str:
    """A flag as it is stored. Raises BadCommand for `\\Recent`, which only the server sets, and unknown `\\` flags."""
    if len(raw) > 64:
        raise BadCommand("flag too long")
    text = raw.decode("ascii")
    if text.startswith("\\"):
        known = SYSTEM_FLAGS.get(text.lower())
        if known is None:
            raise BadCommand("no such system flag")
        return known
    return KNOWN_KEYWORDS.get(text.lower(), text)


def parse_flag_list(scanner: Scanner) -> frozenset[str]:
    """A parenthesised list of flags, perhaps empty."""
    scanner.expect(b"(")
    if scanner.accept(b")"):
        return frozenset()
    flags = {canonical_flag(scanner.flag_text())}
    while not scanner.accept(b")"):
        scanner.space()
        flags.add(canonical_flag(scanner.flag_text()))
        if len(flags) > MOST_FLAGS:
            raise BadCommand("too many flags")
    return frozenset(flags)


def parse_store(scanner: Scanner) -> StoreFlags:
    """STORE after its space."""
    messages = parse_sequence_set(scanner.sequence_text())
    scanner.space()
    unchanged_since = None
    if scanner.accept(b"(UNCHANGEDSINCE "):
        unchanged_since = scanner.number(HIGHEST_MODSEQ)
        scanner.expect(b") ")
    operation = FlagOperation.SET
    if scanner.accept(b"+"):
        operation = FlagOperation.ADD
    elif scanner.accept(b"-"):
        operation = FlagOperation.REMOVE
    scanner.expect(b"FLAGS")
    silent = scanner.accept(b".SILENT")
    scanner.space()
    if scanner.looking_at(b"("):
        flags = parse_flag_list(scanner)
    else:
        found = {canonical_flag(scanner.flag_text())}
        while scanner.accept(b" "):
            found.add(canonical_flag(scanner.flag_text()))
            if len(found) > MOST_FLAGS:
                raise BadCommand("too many flags")
        flags = frozenset(found)
    return StoreFlags(messages, operation, silent, flags, unchanged_since)


__all__ = ["canonical_flag", "parse_fetch", "parse_flag_list", "parse_store"]
