"""Address lists of From, To, Cc … (RFC 5322 §3.4), read the strict way.

Invariant: an address is returned only when it is spelled out between commas as one unbroken addr-spec; text of a
display name, of a comment or of an encoded word never becomes an address. Linear time.
"""

from __future__ import annotations

import re
from functools import lru_cache

from mime.words import decode_words

MAX_LENGTH = 256 * 1024
MAX_ADDRESSES = 10_000
_TOKEN = re.compile(
    r'(?P<space>[ \t\r\n]+)|"(?P<quoted>(?:[^"\\]|\\.)*+)"|(?P<unclosed>".*)'
    r'|(?P<special>[<>,;:@.()])|(?P<atom>[^\s<>,;:@.()"]+)|(?P<junk>.)',
    re.DOTALL,
)
_IN_COMMENT = re.compile(r"\\.|[^()\\]+|.", re.DOTALL)
_DOT_ATOM = re.compile(r"[^\s<>,;:@()\"\[\]\\]+\Z")
_Token = tuple[str, str]


def addresses(value: str) -> list[tuple[str, str]]:
    """(display name, address in lower case) of each mailbox in an address field; groups are flattened.

    Give the field's text with encoded words *not yet decoded* (`Field.text`, or use `Part.addresses`): display names
    are decoded here, after the commas and angle brackets have been read. Broken entries are left out."""
    return list(_known(value)) if len(value) <= _REMEMBERED else _read(value)


_REMEMBERED = 160
"""Characters of the longest field that is remembered: correspondents write again and again."""


@lru_cache(maxsize=1024)
def _known(value: str) -> tuple[tuple[str, str], ...]:
    return tuple(_read(value))


def _read(value: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    entry: list[_Token] = []
    angle = False
    for token in [*_tokens(value[:MAX_LENGTH]), ("special", ",")]:
        if token[0] == "special" and token[1] in "<>":
            angle = token[1] == "<"
        if token[0] != "special" or angle or token[1] not in ",;:":
            entry.append(token)
            continue
        mailbox = None if token[1] == ":" else _mailbox(entry)
        entry = []
        if mailbox is not None and len(found) < MAX_ADDRESSES:
            found.append(mailbox)
    return found


def _tokens(value: str) -> list[_Token]:
    """Lexical tokens; comments become one token each, nested ones flattened."""
    out: list[_Token] = []
    position = 0
    while match := _TOKEN.match(value, position):
        kind = match.lastgroup or "junk"
        word = match[kind]
        position = match.end()
        if word == "(" and kind == "special":
            word, position = _comment(value, position)
            kind = "comment"
        elif kind == "quoted":
            word = re.sub(r"\\(.)", r"\1", word, flags=re.DOTALL)
        out.append((kind, word))
    return out


def _comment(value: str, position: int) -> tuple[str, int]:
    """The text of a comment and where it ends (RFC 5322 §3.2.2): quotes mean nothing in it, a backslash quotes one
    character. Read otherwise, an address that every mail program takes for a comment would be the sender here."""
    depth = 1
    words: list[str] = []
    for match in _IN_COMMENT.finditer(value, position):
        word = match[0]
        depth += (word == "(") - (word == ")")
        if not depth:
            return "".join(words), match.end()
        if word not in ("(", ")"):
            words.append(word[1:] if len(word) > 1 and word[0] == "\\" else word)
    return "".join(words), len(value)


def _mailbox(entry: list[_Token]) -> tuple[str, str] | None:
    starts = [index for index, token in enumerate(entry) if token == ("special", "<")]
    if not starts:
        comments = [text for kind, text in entry if kind == "comment"]
        address = _addr_spec(entry)
        return (decode_words(" ".join(comments)).strip(), address) if address else None
    ends = [index for index, token in enumerate(entry) if token == ("special", ">")]
    if len(starts) != 1 or len(ends) != 1 or ends[0] < starts[0]:
        return None
    after = [token for token in entry[ends[0] + 1 :] if token[0] not in ("space", "comment")]
    address = _addr_spec(_without_route(entry[starts[0] + 1 : ends[0]]))
    if after or not address:
        return None
    return _phrase(entry[: starts[0]]), address


def _without_route(tokens: list[_Token]) -> list[_Token]:
    """Drops an obsolete source route, `@relay,@other:` (RFC 5322 §4.4)."""
    for index in range(len(tokens) - 1, -1, -1):
        if tokens[index] == ("special", ":"):
            return tokens[index + 1 :]
    return tokens


def _phrase(tokens: list[_Token]) -> str:
    words = "".join(" " if kind == "space" else text for kind, text in tokens if kind != "comment")
    return " ".join(decode_words(words).split())


def _addr_spec(tokens: list[_Token]) -> str | None:
    """local@domain, lower case, when the tokens spell exactly one; a local part that needs quotes keeps them."""
    parts = [token for token in tokens if token[0] != "comment"]
    while parts and parts[0][0] == "space":
        parts.pop(0)
    while parts and parts[-1][0] == "space":
        parts.pop()
    at = [index for index, token in enumerate(parts) if token == ("special", "@")]
    if len(at) != 1 or any(kind in ("space", "junk", "unclosed") for kind, _ in parts):
        return None
    local, domain = parts[: at[0]], "".join(text for _, text in parts[at[0] + 1 :])
    if not domain or any(kind == "quoted" for kind, _ in parts[at[0] + 1 :]) or not _is_domain(domain):
        return None
    if len(local) == 1 and local[0][0] == "quoted":
        name = local[0][1]
        if not _is_dot_atom(name):
            name = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    elif any(kind == "quoted" for kind, _ in local):
        return None
    else:
        name = "".join(text for _, text in local)
        if not _is_dot_atom(name):
            return None
    return f"{name}@{domain}".lower() if len(name) + len(domain) < 320 else None


def _is_dot_atom(name: str) -> bool:
    return bool(_DOT_ATOM.match(name)) and not name.startswith(".") and not name.endswith(".") and ".." not in name


def _is_domain(domain: str) -> bool:
    return _is_dot_atom(domain) or (domain.startswith("[") and domain.endswith("]"))
