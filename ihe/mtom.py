"""SOAP with attachments in XOP form: `multipart/related; type="application/xop+xml"` (MTOM), byte exact.

Documents travel as they are, in binary: not one byte of a part is re-encoded, on either side. Reading is bounded (total
size, number of parts, size of part headers) and raises MtomError only.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import quote

XOP_TYPE = "application/xop+xml"
SOAP_TYPE = "application/soap+xml"
MAX_PARTS = 200
MAX_SIZE = 64 * 1024 * 1024
_MAX_PART_HEADER = 16 * 1024
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_CID = re.compile(r"[!-;=?-~]+")
_WORD = r"[!#-'*+.0-9A-Z^-z|~-]+"
_MEDIA_TYPE = re.compile(rf"[ \t]*({_WORD}/{_WORD})[ \t]*(?=;|\Z)")
_PARAMETER = re.compile(
    # A lone semicolon, before another or at the end, is tolerated; so are unquoted boundaries and types.
    rf""";[ \t]*(?:({_WORD})[ \t]*=[ \t]*(?:([^\s;"]+)|"((?:[^"\\\r\n\0]|\\[ -~])*)"))?[ \t]*(?=;|\Z)"""
)
_ESCAPE = re.compile(r"\\(.)")


class MtomError(Exception):
    """The body is not a readable MTOM message. `code` is stable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class MtomPart:
    """An attachment to send. `cid` without angle brackets, printable ASCII."""

    cid: str
    content: bytes = field(repr=False)
    media_type: str = "text/xml"


def cid_href(cid: str) -> str:
    """The `cid:` URL of a Content-ID (RFC 2392)."""
    return "cid:" + quote(cid, safe="@.!$'()*+,;=-_~")


def _boundary(root: bytes, parts: Sequence[MtomPart]) -> str:
    """A boundary derived from the content (the message is reproducible), that does not occur in it."""
    digest = hashlib.sha256(root)
    for part in parts:
        digest.update(len(part.content).to_bytes(8, "big") + part.content)
    while True:
        candidate = "MIMEBoundary_" + digest.hexdigest()[:48]
        mark = candidate.encode()
        if mark not in root and not any(mark in part.content for part in parts):
            return candidate
        digest.update(b"again")


def build(
    root: bytes, parts: Sequence[MtomPart], *, action: str = "", root_cid: str = "root@caducee"
) -> tuple[str, bytes]:
    """The Content-Type and the body of a SOAP 1.2 message with its attachments (dmp.md §3.11, end).

    Raises MtomError(`cid`) for an unusable or repeated Content-ID, `too-many-parts`.
    """
    identifiers = [root_cid, *(part.cid for part in parts)]
    if any(_CID.fullmatch(cid) is None for cid in identifiers) or len(set(identifiers)) != len(identifiers):
        raise MtomError("cid", "a Content-ID is unusable or given twice")
    if len(parts) >= MAX_PARTS:
        raise MtomError("too-many-parts", "too many parts")
    boundary = _boundary(root, parts)
    content_type = (
        f'multipart/related; type="{XOP_TYPE}"; boundary="{boundary}"; start="<{root_cid}>"; start-info="{SOAP_TYPE}"'
    )
    root_type = f'{XOP_TYPE}; charset=UTF-8; type="{SOAP_TYPE}"'
    if action:
        content_type += f'; action="{action}"'
    pieces = [_part(boundary, root_type, root_cid, root)]
    pieces += [_part(boundary, part.media_type, part.cid, part.content) for part in parts]
    return content_type, b"".join(pieces) + f"--{boundary}--\r\n".encode()


def _part(boundary: str, media_type: str, cid: str, content: bytes) -> bytes:
    head = (
        f"--{boundary}\r\nContent-Type: {media_type}\r\n"
        f"Content-Transfer-Encoding: binary\r\nContent-ID: <{cid}>\r\n\r\n"
    )
    return head.encode("ascii") + content + b"\r\n"


def _parameters(content_type: str) -> tuple[str, dict[str, str]]:
    """Media type and parameters of a Content-Type value (RFC 2045 §5.1): tokens and quoted strings. A name given twice, or in
    the pieces of RFC 2231, is no parameter that MTOM has."""
    if len(content_type) > 2000:
        raise MtomError("content-type", "unusable Content-Type")
    media_type = _MEDIA_TYPE.match(content_type)
    if media_type is None:
        raise MtomError("content-type", "unusable Content-Type")
    values: dict[str, str] = {}
    position = media_type.end()
    while position < len(content_type):
        found = _PARAMETER.match(content_type, position)
        if found is None:
            raise MtomError("content-type", "unusable Content-Type")
        if found[1]:
            value = found[2] if found[2] is not None else _ESCAPE.sub(r"\1", found[3])
            if values.setdefault(found[1].lower(), value) != value:
                raise MtomError("content-type", "a parameter is given twice")
        position = found.end()
    return media_type[1].lower(), values


def _part_headers(block: bytes) -> dict[str, str]:
    unfolded = re.sub(rb"\r?\n[ \t]+", b" ", block)
    headers: dict[str, str] = {}
    for line in unfolded.splitlines():
        name, colon, value = line.partition(b":")
        if colon:
            headers.setdefault(name.strip().lower().decode("latin-1"), value.strip().decode("latin-1"))
    return headers


def _delimiters(body: bytes, delimiter: bytes) -> list[tuple[int, int, bool]]:
    """(end of the content before, end of the delimiter, closing or not) of each delimiter line, up to the closing one."""
    rest = re.compile(rb"(--)?[ \t]*(?=\r\n|\n|\Z)")
    marks: list[tuple[int, int, bool]] = []
    position = body.find(delimiter)
    while position >= 0:
        line = rest.match(body, position + len(delimiter))
        if line is not None and (position == 0 or body[position - 1] == 0x0A):
            stop = position - (2 if body[max(position - 2, 0) : position] == b"\r\n" else min(position, 1))
            marks.append((stop, line.end(), line[1] is not None))
            if line[1] is not None:
                return marks if len(marks) > 1 else _no_end()
            if len(marks) > MAX_PARTS:
                raise MtomError("too-many-parts", "too many parts")
        position = body.find(delimiter, position + 1)
    return _no_end()


def _no_end() -> NoReturn:
    raise MtomError("truncated", "the closing delimiter is missing")


def _sections(body: bytes, boundary: bytes) -> list[tuple[dict[str, str], bytes]]:
    """The parts between the delimiters (RFC 2046 §5.1.1). The line end before a delimiter belongs to the delimiter."""
    marks = _delimiters(body, b"--" + boundary)
    sections = []
    for (_, start, _), (stop, _, _) in itertools.pairwise(marks):
        raw = body[start:stop]
        raw = raw[2:] if raw.startswith(b"\r\n") else raw[1:]
        split = re.search(rb"\r?\n\r?\n", raw[:_MAX_PART_HEADER])
        if split is None:
            raise MtomError("part-header", "a part has no header, or too long a one")
        sections.append((_part_headers(raw[: split.start()]), raw[split.end() :]))
    return sections


def parse(
    content_type: str, body: bytes, *, max_size: int = MAX_SIZE, max_parts: int = MAX_PARTS
) -> tuple[bytes, dict[str, bytes]]:
    """The SOAP root and the attachments by Content-ID (no brackets). A plain SOAP message gives an empty dictionary.

    Raises MtomError: `too-large`, `content-type`, `boundary`, `truncated`, `part-header`, `too-many-parts`, `cid`,
    `encoding` (a part that is not binary, 7bit or 8bit), `no-root`.
    """
    if len(body) > max_size:
        raise MtomError("too-large", "the body is too large")
    media_type, parameters = _parameters(content_type)
    if media_type in (SOAP_TYPE, "text/xml", "application/xml"):
        return body, {}
    if media_type != "multipart/related":
        raise MtomError("content-type", "multipart/related or SOAP is expected")
    boundary = parameters.get("boundary", "")
    if _BOUNDARY.fullmatch(boundary) is None:
        raise MtomError("boundary", "unusable boundary")
    sections = _sections(body, boundary.encode("ascii"))
    if len(sections) > max_parts:
        raise MtomError("too-many-parts", "too many parts")
    return _assemble(sections, parameters.get("start", ""))


def _assemble(sections: list[tuple[dict[str, str], bytes]], start: str) -> tuple[bytes, dict[str, bytes]]:
    named: dict[str, bytes] = {}
    first = ""
    for position, (headers, content) in enumerate(sections):
        if headers.get("content-transfer-encoding", "binary").lower() not in ("binary", "7bit", "8bit"):
            raise MtomError("encoding", "only binary parts are accepted")
        cid = headers.get("content-id", "").strip().removeprefix("<").removesuffix(">")
        if not cid:
            if position:
                raise MtomError("cid", "a part has no Content-ID")
            cid = start.removeprefix("<").removesuffix(">") or "root"
        if cid in named:
            raise MtomError("cid", "two parts have the same Content-ID")
        named[cid] = content
        first = first or cid
    root_cid = start.strip().removeprefix("<").removesuffix(">") or first
    if root_cid not in named:
        raise MtomError("no-root", "the root part is not there")
    root = named.pop(root_cid)
    return root, named
