"""Distinguished names: reading RFC 4514 strings as they are really published, and comparing them with certificates.

Invariants: a name is an ordered tuple of RDNs, in the certificate's order (country first); an RDN is a set, because
IGC-Santé puts CN, SN and GN of a professional in one RDN; types are compared as OIDs; values are compared by
RFC 5280 §7.1 (caseIgnoreMatch after RFC 4518: compatibility normalisation, case folding, insignificant spaces).
Nothing is matched on a part of a name: two names are equal as a whole or not at all.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509

MAX_DN_LENGTH = 2048
MAX_RDNS = 32

_OID_OF_TYPE = {
    "CN": "2.5.4.3",
    "SN": "2.5.4.4",
    "SURNAME": "2.5.4.4",
    "SERIALNUMBER": "2.5.4.5",
    "C": "2.5.4.6",
    "L": "2.5.4.7",
    "ST": "2.5.4.8",
    "S": "2.5.4.8",
    "STREET": "2.5.4.9",
    "O": "2.5.4.10",
    "OU": "2.5.4.11",
    "T": "2.5.4.12",
    "TITLE": "2.5.4.12",
    "POSTALCODE": "2.5.4.17",
    "GN": "2.5.4.42",
    "GIVENNAME": "2.5.4.42",
    "INITIALS": "2.5.4.43",
    "GENERATIONQUALIFIER": "2.5.4.44",
    "DNQUALIFIER": "2.5.4.46",
    "PSEUDONYM": "2.5.4.65",
    "ORGANIZATIONIDENTIFIER": "2.5.4.97",
    "UID": "0.9.2342.19200300.100.1.1",
    "DC": "0.9.2342.19200300.100.1.25",
    "E": "1.2.840.113549.1.9.1",
    "EMAILADDRESS": "1.2.840.113549.1.9.1",
}
_TYPE_OF_OID = {oid: name for name, oid in reversed(_OID_OF_TYPE.items())}
_DOTTED = re.compile(r"(?:OID\.)?([0-2](?:\.(?:0|[1-9]\d{0,38})){1,32})\Z", re.IGNORECASE)
_HEX_PAIR = re.compile(r"[0-9A-Fa-f]{2}")


class DnSyntaxError(ValueError):
    """The text is not a distinguished name. The message never repeats the text."""


@dataclass(frozen=True, slots=True)
class DistinguishedName:
    """A comparable name: RDNs in the certificate's order, each a set of (dotted OID, prepared value)."""

    rdns: tuple[frozenset[tuple[str, str]], ...]

    def __str__(self) -> str:
        """RFC 4514 form of the prepared values, for people and logs; not for comparison."""
        return ",".join(
            "+".join(f"{_TYPE_OF_OID.get(oid, oid)}={_escaped(value)}" for oid, value in sorted(rdn))
            for rdn in reversed(self.rdns)
        )


def name_of(certificate: x509.Certificate) -> DistinguishedName:
    """The comparable subject name of a certificate."""
    return from_x509(certificate.subject)


def from_x509(name: x509.Name) -> DistinguishedName:
    """The comparable form of a parsed X.509 name."""
    return DistinguishedName(
        tuple(
            frozenset((attribute.oid.dotted_string, _prepared(_text(attribute.value))) for attribute in rdn)
            for rdn in name.rdns
        )
    )


@lru_cache(maxsize=4096)
def parse(text: str) -> DistinguishedName:
    """Read an RFC 4514 string, most specific RDN first. Raises DnSyntaxError.

    Tolerated because the published list has them (mssante.md §1.3): spaces around separators, RFC 1779 quoted
    values (a Java habit when a value holds two spaces in a row), bare quotes inside a value, lower-case types.
    """
    if len(text) > MAX_DN_LENGTH:
        raise DnSyntaxError("name too long")
    rdns: list[frozenset[tuple[str, str]]] = []
    current: set[tuple[str, str]] = set()
    position = 0
    while True:
        attribute, position = _attribute(text, position)
        if attribute in current:
            raise DnSyntaxError("attribute repeated in one RDN")
        current.add(attribute)
        separator = text[position : position + 1]
        position += 1
        if separator == "+":
            continue
        rdns.append(frozenset(current))
        current = set()
        if not separator:
            return DistinguishedName(tuple(reversed(rdns)))
        if len(rdns) >= MAX_RDNS:
            raise DnSyntaxError("too many RDNs")


def _attribute(text: str, position: int) -> tuple[tuple[str, str], int]:
    """One `type=value` from `position`; returns it with the position of the separator that follows."""
    equals = text.find("=", position)
    if equals < 0:
        raise DnSyntaxError("attribute without a value")
    oid = _oid(text[position:equals].strip())
    start = equals + 1
    while text[start : start + 1] == " ":
        start += 1
    value, end = _quoted(text, start) if text[start : start + 1] == '"' else ("", -1)
    if end < 0:
        value, end = _plain(text, start)
    prepared = _prepared(value)
    if not prepared:
        raise DnSyntaxError("empty attribute value")
    return (oid, prepared), end


def _oid(name: str) -> str:
    known = _OID_OF_TYPE.get(name.upper())
    if known is not None:
        return known
    dotted = _DOTTED.match(name)
    if dotted is None:
        raise DnSyntaxError("unknown attribute type")
    return dotted.group(1)


def _quoted(text: str, start: int) -> tuple[str, int]:
    """An RFC 1779 quoted value; end is -1 when the quotes do not enclose the whole value (then they are literal)."""
    value: list[str] = []
    position = start + 1
    while position < len(text):
        if text[position] == "\\":
            piece, position = _escape(text, position)
            value.append(piece)
            continue
        if text[position] == '"':
            end = position + 1
            while text[end : end + 1] == " ":
                end += 1
            return ("".join(value), end) if text[end : end + 1] in ("", ",", "+", ";") else ("", -1)
        value.append(text[position])
        position += 1
    return "", -1


def _plain(text: str, start: int) -> tuple[str, int]:
    """An RFC 4514 §3 value up to a bare separator. Hexadecimal (#) values are refused: no list has one."""
    if text[start : start + 1] == "#":
        raise DnSyntaxError("hexadecimal values are not supported")
    value: list[str] = []
    position = start
    while position < len(text) and text[position] not in ",+;":
        if text[position] == "\\":
            piece, position = _escape(text, position)
            value.append(piece)
        else:
            value.append(text[position])
            position += 1
    return "".join(value), position


def _escape(text: str, position: int) -> tuple[str, int]:
    """`\\` and what follows: a run of hexadecimal pairs (UTF-8 octets), or one special character."""
    octets = bytearray()
    while text[position : position + 1] == "\\" and _HEX_PAIR.match(text, position + 1):
        octets.append(int(text[position + 1 : position + 3], 16))
        position += 3
    if octets:
        try:
            return octets.decode("utf-8"), position
        except UnicodeDecodeError as error:
            raise DnSyntaxError("escaped octets are not UTF-8") from error
    if position + 1 >= len(text):
        raise DnSyntaxError("escape at the end")
    return text[position + 1], position + 2


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else "#" + value.hex()


@lru_cache(maxsize=8192)
def _prepared(value: str) -> str:
    """RFC 4518 preparation for caseIgnoreMatch: map to nothing, fold, normalise, collapse spaces."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", value).casefold())
    visible = "".join(
        " " if c.isspace() else c for c in folded if c.isspace() or unicodedata.category(c) not in ("Cc", "Cf")
    )
    return " ".join(visible.split())


def _escaped(value: str) -> str:
    return re.sub(r'([,+"\\<>;=])', r"\\\1", value)
