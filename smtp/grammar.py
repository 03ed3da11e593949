"""The grammar of SMTP command arguments: paths, parameters, host names. Pure functions.

Invariants: what is not an address is refused, never repaired; addresses come out in lower case, as the mail store keeps them,
and in one form: without the source route, quoted only where they must be.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata

from trustspace import canonical_domain

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_XTEXT = re.compile(r"(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+[0-9A-F]{2})*")
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"
_DOT_STRING = rf"{_ATEXT}(?:\.{_ATEXT})*"
_QUOTED_STRING = r'"(?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\[\x20-\x7e])+"'
_LITERAL = r"\[(?P<literal>[0-9A-Za-z:.]{2,45})\]"
_SOURCE_ROUTE = re.compile(rf"@{_DOMAIN}(?:,@{_DOMAIN})*:", re.ASCII)
_ADDRESS = re.compile(rf"(?P<local>{_DOT_STRING}|{_QUOTED_STRING})@(?P<domain>{_DOMAIN}|{_LITERAL})", re.ASCII)
_ATEXT_MARKS = frozenset("!#$%&'*+/=?^_`{|}~-.")
_PATH = re.compile(
    r'<(?P<path>(?:"(?:[^"\\\x00-\x1f\x7f-\x9f]|\\[\x20-\x7e])*+"|[^<>"\x00-\x20\x7f-\x9f])*+)>(?: +(?P<parameters>.*))?'
)
_PARAMETER = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9-]*)(?:=(?P<value>[^\x00-\x20=\x7f-\x9f]+))?")
_HOST = re.compile(r"[A-Za-z0-9_.:\[\]-]{1,255}", re.ASCII)


class GrammarError(ValueError):
    """The argument does not have the form of RFC 5321 §4.1.2. The text never repeats it."""


def address(text: str, *, utf8: bool = False) -> str:
    """`text` as a lower-case address. Raises GrammarError (RFC 5321 §4.1.2, lengths §4.5.3.1).

    A source route is dropped (RFC 5321 appendix F.2); a quoted local part loses the quotes it does not need (§4.1.2). With `utf8`
    (RFC 6531) other letters are taken too; the domain comes out as A-labels, the local part in NFC.
    """
    text = _SOURCE_ROUTE.sub("", text, count=1) if text.startswith("@") else text
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
    if match["literal"] is not None and not _is_literal(match["literal"]):
        raise GrammarError("not an address")
    return f"{_unquoted(match['local'])}@{match['domain']}".lower()


def _unquoted(local: str) -> str:
    """A local part in its shortest form: `"a.b"` and `a.b` are one."""
    if not local.startswith('"'):
        return local
    plain = re.sub(r"\\(.)", r"\1", local[1:-1])
    if re.fullmatch(_DOT_STRING, plain, re.ASCII):
        return plain
    return '"' + re.sub(r'(["\\])', r"\\\1", plain) + '"'


def _is_literal(text: str) -> bool:
    """RFC 5321 §4.1.3: an address of the network in place of a domain; none is of the trust space."""
    tagged = text.upper().startswith("IPV6:")
    try:
        return ipaddress.ip_address(text[5:] if tagged else text).version == (6 if tagged else 4)
    except ValueError:
        return False


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
    """RFC 3461 §4: xtext, of printable ASCII only (§4.2, §4.4: what goes into a header of a notice)."""
    return _XTEXT.fullmatch(text) is not None and all(" " <= one <= "~" for one in from_xtext(text))


def from_xtext(text: str) -> str:
    """What an xtext stands for; `text` is one (`is_xtext`)."""
    return re.sub(r"\+([0-9A-F]{2})", lambda found: chr(int(found[1], 16)), text)


def original_recipient(text: str) -> str:
    """The value of ORCPT (RFC 3461 §4.2): an address type, a semicolon, the address in xtext. It comes out in ASCII, other letters
    written as RFC 6533 §3 has them where SMTPUTF8 is not offered. Raises GrammarError."""
    kind, _, address = text.partition(";")
    if kind.lower() == "utf-8":
        address = in_ascii(address)
    if not re.fullmatch(r"[A-Za-z0-9-]+", kind, re.ASCII) or not address or not is_xtext(address):
        raise GrammarError("original recipient")
    return f"{kind};{address}"


def in_ascii(address: str) -> str:
    """An address in ASCII (RFC 6533 §3, utf-8-addr-xtext)."""
    return "".join(one if one.isascii() else f"\\x{{{ord(one):X}}}" for one in address)
