"""Which bytes of a message a FETCH section names (RFC 3501 §6.4.5). Pure: ranges from places, fields from header bytes."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from imap.summary import Path, Place, Summary
from imap.values import Content, Specifier
from mime import iter_fields


def section_range(content: Content, summary: Summary, places: Mapping[Path, Place]) -> tuple[int, int] | None:
    """Start and stop in the message of the bytes asked for (before `<partial>` and before choosing header fields).

    None when the message has no such section: the answer is then NIL.
    """
    if not content.path:
        if content.specifier is Specifier.WHOLE:
            return 0, summary.size
        if content.specifier is Specifier.TEXT:
            return summary.header_length, summary.size
        return 0, summary.header_length
    place = places.get(content.path)
    if place is None:
        return None
    if content.specifier is Specifier.WHOLE:
        return place.body_start, place.end
    if content.specifier is Specifier.MIME:
        return place.start, place.body_start
    # HEADER, HEADER.FIELDS and TEXT below the top are those of a message/rfc822 only.
    if not place.inner_body:
        return None
    if content.specifier is Specifier.TEXT:
        return place.inner_body, place.end
    return place.body_start, place.inner_body


def choose_fields(header: bytes, names: Collection[bytes], *, without: bool) -> bytes:
    """The header lines whose field is named (or not named, when `without`), exact octets, and a blank line."""
    wanted = {name.decode("ascii", "replace").lower() for name in names}
    end = len(header.removesuffix(b"\r\n")) if header.endswith(b"\r\n") else len(header.removesuffix(b"\n"))
    kept = [
        header[field.start : field.end]
        for field in iter_fields(header, 0, end)
        if field.name and (field.name.lower() in wanted) is not without
    ]
    return b"".join(kept) + b"\r\n"


def cut(size: int, partial: tuple[int, int] | None) -> tuple[int, int]:
    """Start and stop inside `size` bytes of a `<start.count>`; an empty range beyond the end."""
    if partial is None:
        return 0, size
    start = min(partial[0], size)
    return start, min(start + partial[1], size)
