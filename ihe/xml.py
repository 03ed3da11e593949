"""The one XML reader of the codecs: bounded, and deaf to everything a document may ask for.

Invariants
* no DOCTYPE (hence no entity of any kind: XXE, billion laughs and quadratic blow-up have nothing to stand on);
* UTF-8 only (CI-SIS "structuration minimale": UTF-8), so both parsers used here see the same characters;
* bounded bytes, depth, number of elements, of attributes and of namespace declarations in scope (what canonicalising one
  element costs grows with their square), all checked *before* a tree is built; a document whose bytes alone prove that
  it is within them needs no reading for that (`_plainly_bounded`), its depth is then bounded by libxml2, and measured;
* no network, no DTD, no XInclude, no style sheet: processing instructions are data.

A first pass with expat refuses; only then lxml builds the tree (its own limits have to be lifted, `huge_tree`, because
official documents carry text nodes of several megabytes). That first pass calls back for each element and costs three times
the tree: small documents, most of what is read, go without it when counting characters is enough.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import cast
from xml.parsers import expat

from lxml import etree

Element = etree._Element

XSI = "http://www.w3.org/2001/XMLSchema-instance"
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PLAIN = re.compile("[ !#-%'-;=?-~\u00a0-\ud7ff]*")  # what stands for itself everywhere; the rest is looked at closely
_IN_ATTRIBUTES = {"&": "&amp;", "<": "&lt;", '"': "&quot;", "\t": "&#x9;", "\n": "&#xA;", "\r": "&#xD;"}
_NOT_MARKS = bytes(value for value in range(256) if value not in b"<=")
_SMALL = 4 * 1024 * 1024
_DECLARATION = re.compile(rb"<\?xml\s([^>?]*)\?>")
_READABLE = re.compile(rb"""\sencoding\s*=\s*["'](?:utf-?8|us-ascii)["']""", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class XmlLimits:
    """What a document may cost. `size` in bytes."""

    size: int = 32 * 1024 * 1024
    depth: int = 128
    elements: int = 500_000
    attributes: int = 128
    namespaces: int = 100


DEFAULT_LIMITS = XmlLimits()


class XmlError(Exception):
    """The bytes are not XML that we are willing to read. `code` is stable; the text never quotes the document."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class _Guard:
    """Expat callbacks that stop the reading at the first excess."""

    def __init__(self, limits: XmlLimits) -> None:
        self._limits = limits
        self._depth = 0
        self._elements = 0
        self._declared: list[int] = []
        self._in_scope = 0

    def declaration(self, version: str, encoding: str | None, standalone: int) -> None:
        if encoding is not None and encoding.lower() not in ("utf-8", "utf8", "us-ascii"):
            raise XmlError("xml-encoding", "only UTF-8 is accepted")

    def doctype(self, name: str, system: str | None, public: str | None, internal: bool) -> None:
        raise XmlError("xml-doctype", "a document type declaration is not accepted")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self._elements += 1
        if self._depth > self._limits.depth:
            raise XmlError("xml-depth", "elements are nested too deeply")
        if self._elements > self._limits.elements:
            raise XmlError("xml-elements", "too many elements")
        if len(attributes) > self._limits.attributes:
            raise XmlError("xml-attributes", "too many attributes on an element")
        self._declared.append(sum(item == "xmlns" or item.startswith("xmlns:") for item in attributes))
        self._in_scope += self._declared[-1]
        if self._in_scope > self._limits.namespaces:
            raise XmlError("xml-namespaces", "too many namespaces in scope")

    def end(self, name: str) -> None:
        self._depth -= 1
        self._in_scope -= self._declared.pop()


def _inspect(data: bytes, limits: XmlLimits) -> None:
    guard = _Guard(limits)
    parser = expat.ParserCreate("utf-8")
    parser.XmlDeclHandler = guard.declaration
    parser.StartDoctypeDeclHandler = guard.doctype
    parser.StartElementHandler = guard.start
    parser.EndElementHandler = guard.end
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise XmlError("xml-syntax", f"not well formed (line {error.lineno})") from None


def _plainly_bounded(data: bytes, limits: XmlLimits) -> bool:
    """Whether counting characters is enough to know that a small document passes no bound but, perhaps, the depth's.

    Each count is an upper bound whatever the syntax: an element begins with `<`, an attribute has a `=` before the next `<`
    (which cannot stand inside a tag), a namespace declaration holds `xmlns`."""
    if len(data) > _SMALL or b"<!DOCTYPE" in data or data.count(b"xmlns") > limits.namespaces:
        return False
    if data.startswith(b"<?xml") and not _readable(data):
        return False
    marks = data.translate(None, _NOT_MARKS)
    return marks.count(b"<") <= limits.elements and b"=" * (limits.attributes + 1) not in marks


def _readable(data: bytes) -> bool:
    """Whether the XML declaration announces no encoding, or one of ours."""
    declaration = _DECLARATION.match(data)
    if declaration is None:
        return False
    said = b" " + declaration[1]
    return b"encoding" not in said or _READABLE.search(said) is not None


@lru_cache(maxsize=32)
def _deeper_than(depth: int) -> etree.XPath:
    return etree.XPath(f"boolean({'/*' * (depth + 1)})")


def _tree(data: bytes, *, huge: bool) -> Element:
    """The tree of bounded bytes. Raises etree.XMLSyntaxError, ValueError."""
    parser = etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        attribute_defaults=False,
        huge_tree=huge,
    )
    return etree.fromstring(data, parser)


def _small_tree(data: bytes, limits: XmlLimits) -> Element | None:
    """The tree of a small, plainly bounded document; None when anything at all speaks against it: the long way then says what.

    Without `huge_tree`, libxml2 stops at 256 levels by itself."""
    if not _plainly_bounded(data, limits):
        return None
    try:
        root = _tree(data, huge=False)
    except (etree.XMLSyntaxError, ValueError):
        return None
    return None if _deeper_than(limits.depth)(root) else root


def parse_xml(data: bytes, limits: XmlLimits = DEFAULT_LIMITS) -> Element:
    """The root element of `data` (UTF-8, an optional BOM is tolerated).

    Raises XmlError, and nothing else, for anything that is not bounded well-formed XML without a DOCTYPE.
    """
    if len(data) > limits.size:
        raise XmlError("xml-size", "the document is too large")
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        raise XmlError("xml-encoding", "only UTF-8 is accepted") from None
    root = _small_tree(data, limits)
    if root is not None:
        return root
    _inspect(data, limits)
    try:
        return _tree(data, huge=True)
    except (etree.XMLSyntaxError, ValueError):
        raise XmlError("xml-syntax", "not well formed") from None


def new_element(tag: str, attributes: dict[str, str], namespaces: dict[str | None, str]) -> Element:
    """A root element. `namespaces` may hold a default one under None, which lxml accepts and its stubs do not know."""
    return etree.Element(tag, attributes, nsmap=cast("dict[str, str]", namespaces))


def local_name(element: Element) -> str:
    """The name of `element` without its namespace; "" for a comment or a processing instruction."""
    return etree.QName(element).localname if isinstance(element.tag, str) else ""


def text_of(element: Element | None) -> str:
    """All the character data below `element`, comments left out, white space collapsed at both ends."""
    if element is None:
        return ""
    if len(element) == 0 and isinstance(element.tag, str):
        return (element.text or "").strip()
    parts: list[str] = []
    for piece in element.iter():
        if isinstance(piece.tag, str):
            parts.append(piece.text or "")
        if piece is not element:
            parts.append(piece.tail or "")
    return "".join(parts).strip()


def to_bytes(element: Element, *, declaration: bool = False) -> bytes:
    """`element` alone as UTF-8, with the namespace declarations that are in scope for it."""
    return etree.tostring(element, encoding="UTF-8", xml_declaration=declaration, with_tail=False)


def is_xml_text(value: str) -> bool:
    """True when every character of `value` may appear in an XML 1.0 document."""
    return _FORBIDDEN.search(value) is None


def escaped(value: str) -> str:
    """Character data as canonical XML writes it (C14N §2.3). Raises XmlError(`xml-text`)."""
    if _PLAIN.fullmatch(value) is not None:
        return value
    if not is_xml_text(value):
        raise XmlError("xml-text", "a value holds characters that XML cannot carry")
    return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#xD;")


def escaped_attribute(value: str) -> str:
    """The same between the double quotes of an attribute. Raises XmlError(`xml-text`)."""
    if _PLAIN.fullmatch(value) is not None:
        return value
    if not is_xml_text(value):
        raise XmlError("xml-text", "a value holds characters that XML cannot carry")
    for character, written in _IN_ATTRIBUTES.items():
        value = value.replace(character, written)
    return value
