"""The grammar of SMTP command arguments: paths, parameters, host names. Pure functions.

Invariants: what is not plainly an address is refused, never repaired; addresses come out in lower case ASCII, as the
mail store keeps them; no source routes, no quoted local parts, no address literals (none exists in the trust space).
"""

from __future__ import annotations

import re
import unicodedata

from trustspace import canonical_domain

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_XTEXT = re.compile(r"(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+[0-9A-F]{2})*")
_ADDRESS = re.compile(rf"(?P<local>{_ATEXT}(?:\.{_ATEXT})*)@(?P<domain>{_LABEL}(?:\.{_LABEL})*)", re.ASCII)
_ATEXT_MARKS = frozenset("!#$%&'*+/=?^_`{|}~-.")
_PATH = re.compile(r"<(?P<path>[^<>\x00-\x20\x7f-\x9f]*)>(?: +(?P<parameters>.*))?")
_PARAMETER = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9-]*)(?:=(?P<value>[\x21-\x3c\x3e-\x7e]+))?", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9_.:\[\]-]{1,255}", re.ASCII)


class GrammarError(ValueError):
    """The argument does not have the form of RFC 5321 §4.1.2. The text never repeats it."""


def address(text: str, *, utf8: bool = False) -> str:
    """`text` as a lower-case address. Raises GrammarError (RFC 5321 §4.1.2, lengths §4.5.3.1).

    With `utf8` (RFC 6531) other letters are taken too; the domain comes out as A-labels, the local part in NFC.
    """
    if utf8 and not text.isascii():
        local, at, domain = unicodedata.normalize("NFC", text).rpartition("@")
        if not at or not local or any(not (one.isalnum() or one in _ATEXT_MARKS) for one in local):
            raise GrammarError("not an address")
        if len(local.encode()) > 64 or local[0] == "." or local[-1] == "." or ".." in local:
            raise GrammarError("not an address")
        try:
            return f"{local.lower()}@{canonical_domain(domain)}"
        except ValueError:
            raise GrammarError("not an address") from None
    match = _ADDRESS.fullmatch(text)
    if match is None or len(match["local"]) > 64 or len(match["domain"]) > 253:
        raise GrammarError("not an address")
    return text.lower()


def domain_of(mailbox: str) -> str:
    """The domain of a well-formed address."""
    return mailbox.rpartition("@")[2]


def path_argument(keyword: str, argument: str) -> tuple[str, dict[str, str | None]]:
    """Read `FROM:<path> parameters` or `TO:<path> parameters`: the text between the brackets, and the parameters.

    The path is not checked yet; names come out in upper case. Raises GrammarError.
    """
    if argument[: len(keyword)].upper() != keyword:
        raise GrammarError("keyword")
    match = _PATH.fullmatch(argument[len(keyword) :].lstrip(" "))
    if match is None:
        raise GrammarError("path")
    parameters: dict[str, str | None] = {}
    for word in (match["parameters"] or "").split(" "):
        if not word:
            continue
        parameter = _PARAMETER.fullmatch(word)
        if parameter is None or parameter["name"].upper() in parameters:
            raise GrammarError("parameter")
        parameters[parameter["name"].upper()] = parameter["value"]
    return match["path"], parameters


def host(text: str) -> str:
    """The name given with EHLO, bounded and printable. Raises GrammarError."""
    if not _HOST.fullmatch(text):
        raise GrammarError("host")
    return text


def is_xtext(text: str) -> bool:
    """RFC 3461 §4."""
    return _XTEXT.fullmatch(text) is not None


def is_original_recipient(text: str) -> bool:
    """RFC 3461 §4.2: an address type, a semicolon, the address in xtext."""
    kind, separator, address = text.partition(";")
    return bool(separator and kind and kind.replace("-", "").isalnum() and address and is_xtext(address))
