"""FETCH items that send bytes of a message: BODY[...], BINARY[...], RFC822 (RFC 9051 §6.4.5, RFC 3516).

Octets are read by range from the encrypted content and sent in chunks, with the client's back-pressure; only a part whose
transfer encoding is to be undone is held in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imap import format as fmt
from imap.errors import EndSession
from imap.kept import choose, numbers_of
from imap.sections import choose_fields, cut, section_range
from imap.summary import ENCODINGS, Path, Place, Summary
from imap.values import Content, Form, Specifier
from mailstore.model import BlobDamaged, NoSuchMessage, StoreError
from mime.words import decode_base64, decode_quoted_printable

if TYPE_CHECKING:
    from imap.session import Session

CHUNK = 512 * 1024


@dataclass(frozen=True, slots=True)
class Listed:
    """Header fields that summaries keep: what clients ask for when they list a folder, answered without the message."""

    wanted: tuple[tuple[Content, frozenset[int]], ...]

    @staticmethod
    def of(contents: Sequence[Content]) -> Listed | None:
        """None when summaries cannot answer these items."""
        wanted = [(content, _kept_numbers(content)) for content in contents]
        known = tuple((content, numbers) for content, numbers in wanted if numbers is not None)
        return Listed(known) if len(known) == len(wanted) else None

    def items(self, summary: Summary) -> bytes | None:
        """The items of a message; None when its summary has not kept them."""
        found = []
        for content, numbers in self.wanted:
            value = choose(summary.kept, numbers)
            if value is None:
                return None
            found.append(_item(content, value))
        return b" ".join(found)


def _kept_numbers(content: Content) -> frozenset[int] | None:
    return None if content.path or content.specifier is not Specifier.FIELDS else numbers_of(content.fields)


def _item(content: Content, value: bytes) -> bytes:
    """An item whose octets are all here."""
    if content.form is Form.SIZE:
        return content.label + b" %d" % len(value)
    start, stop = cut(len(value), content.partial)
    value = value[start:stop]
    if content.form is Form.BINARY and b"\x00" in value:
        return content.label + b" ~{%d}\r\n" % len(value) + value
    return content.label + b" " + fmt.literal(value)


@dataclass(slots=True)
class Sender:
    """Sends the sections of messages. What went wrong with some is noted, for the tagged answer."""

    session: Session
    missing: bool = False
    damaged: bool = False
    unknown_encoding: bool = False

    async def send(self, blob: str, content: Content, summary: Summary, places: Mapping[Path, Place]) -> None:
        """One item with its octets, NIL when there is no such section."""
        span = section_range(content, summary, places)
        if span is None:
            await self._nothing(content)
        elif content.specifier in (Specifier.FIELDS, Specifier.FIELDS_NOT):
            header = await self._read(blob, *span)
            if header is None:
                await self._nothing(content)
                return
            without = content.specifier is Specifier.FIELDS_NOT
            await self.session.send(_item(content, choose_fields(header, content.fields, without=without)))
        elif encoding := self._encoding(content, places):
            await self._decoded(blob, content, span, encoding)
        elif content.form is Form.SIZE:
            await self.session.send(content.label + b" %d" % (span[1] - span[0]))
        else:
            await self._streamed(blob, content, span)

    def _encoding(self, content: Content, places: Mapping[Path, Place]) -> str:
        """The transfer encoding that BINARY is to undo; "" when the octets go as they are."""
        if content.form is Form.BODY or content.specifier is not Specifier.WHOLE or not content.path:
            return ""
        encoding = places[content.path].encoding
        return ENCODINGS[encoding] if encoding else ""

    async def _nothing(self, content: Content) -> None:
        await self.session.send(content.label + (b" 0" if content.form is Form.SIZE else b" NIL"))

    async def _read(self, blob: str, start: int, stop: int) -> bytes | None:
        """Octets of a message; None, noted, when it was expunged or is damaged."""
        try:
            return await self.session.call(self.session.store.read_blob, blob, start, stop)
        except NoSuchMessage:
            self.missing = True
        except BlobDamaged:
            self.damaged = True
        return None

    async def _decoded(self, blob: str, content: Content, span: tuple[int, int], encoding: str) -> None:
        """RFC 3516 §4.2: the part without its transfer encoding."""
        if encoding == "unknown":
            self.unknown_encoding = True
            await self._nothing(content)
            return
        raw = await self._read(blob, *span)
        if raw is None:
            await self._nothing(content)
            return
        decode = decode_base64 if encoding == "base64" else decode_quoted_printable
        await self.session.send(_item(content, await self.session.call(decode, raw)))

    async def _streamed(self, blob: str, content: Content, span: tuple[int, int]) -> None:
        start, stop = cut(span[1] - span[0], content.partial)
        start, stop = start + span[0], stop + span[0]
        first = await self._read(blob, start, min(stop, start + CHUNK)) if stop > start else b""
        if first is None:
            await self._nothing(content)
            return
        await self.session.send(content.label + b" {%d}\r\n" % (stop - start))
        # NUL, which no literal may hold (RFC 9051 §4.3), becomes a question mark.
        await self.session.send(first.replace(b"\x00", b"?"))
        position = start + CHUNK
        while position < stop:
            try:
                chunk = await self.session.call(
                    self.session.store.read_blob, blob, position, min(stop, position + CHUNK)
                )
            except StoreError:
                # The literal's size is announced already: nothing but closing keeps the client from misreading.
                raise EndSession("A message could not be read to its end") from None
            await self.session.send(chunk.replace(b"\x00", b"?"))
            position += CHUNK
