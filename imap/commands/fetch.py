"""FETCH (RFC 3501 §6.4.5): answers from the arrays, the stored summaries, and ranges of the blobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imap import format as fmt
from imap.errors import BadCommand, ConnectionGone, EndSession, Refused
from imap.incidents import log_unexpected
from imap.sections import choose_fields, cut, section_range
from imap.selected import Selected
from imap.states import IN_FOLDER, Reply, Verb
from imap.summary import Path, Place, Summary, compute, read
from imap.values import Attribute, Command, Content, Fetch, Specifier
from mailstore.model import BlobDamaged, FlagOperation, NoSuchMessage, StoreError

if TYPE_CHECKING:
    from imap.session import Session

CHUNK = 512 * 1024
SUMMARIES_AT_ONCE = 100  # each may weigh a megabyte, when malice made it
_FROM_SUMMARY = {
    Attribute.ENVELOPE: lambda summary: summary.envelope,
    Attribute.BODY: lambda summary: summary.body,
    Attribute.BODYSTRUCTURE: lambda summary: summary.structure,
}


@dataclass(slots=True)
class _Job:
    """One FETCH under way."""

    session: Session
    selected: Selected
    attributes: tuple[Attribute, ...]
    contents: tuple[Content, ...]
    newly_seen: frozenset[int]
    missing: bool = False
    damaged: bool = False

    @property
    def needs_summary(self) -> bool:
        # BODY[] whole is the whole blob: no summary is needed to know its range.
        parts = any(content.path or content.specifier is not Specifier.WHOLE for content in self.contents)
        return parts or any(attribute in _FROM_SUMMARY for attribute in self.attributes)


def _cheap(selected: Selected, index: int, attribute: Attribute) -> bytes:
    """The items that the arrays answer."""
    view = selected.view
    match attribute:
        case Attribute.FLAGS:
            return b"FLAGS " + fmt.flags(view.flags[index])
        case Attribute.UID:
            return b"UID %d" % view.uids[index]
        case Attribute.SIZE:
            return b"RFC822.SIZE %d" % view.sizes[index]
        case Attribute.INTERNALDATE:
            return b"INTERNALDATE " + fmt.internal_date(view.dates[index])
        case _:
            return b"MODSEQ (%d)" % view.modseqs[index]


async def _summaries(job: _Job, indices: list[int]) -> dict[int, Summary]:
    """The summaries of these messages by index; computed from the message where none is stored."""
    session, view = job.session, job.selected.view
    stored = await session.call(
        session.store.summaries, job.selected.folder_id, [view.uids[index] for index in indices]
    )
    found: dict[int, Summary] = {}
    for index in indices:
        summary = read(stored.get(view.uids[index], b""))
        if summary is None:
            try:
                raw = await session.call(session.store.read_blob, view.blobs[index])
                summary = await session.call(compute, raw)
            except NoSuchMessage:
                job.missing = True
                continue
            except BlobDamaged:
                job.damaged = True
                continue
        found[index] = summary
    return found


async def _read(job: _Job, blob: str, start: int, stop: int) -> bytes | None:
    """Octets of a message; None, noted in the job, when it was expunged or is damaged: its section is then NIL."""
    try:
        return await job.session.call(job.session.store.read_blob, blob, start, stop)
    except NoSuchMessage:
        job.missing = True
    except BlobDamaged:
        job.damaged = True
    return None


async def _send_content(
    job: _Job, index: int, content: Content, summary: Summary, places: Mapping[Path, Place]
) -> None:
    """One `BODY[...] {n}` with its octets, read and sent in chunks."""
    session = job.session
    span = section_range(content, summary, places)
    if span is None:
        await session.send(content.label + b" NIL")
        return
    blob = job.selected.view.blobs[index]
    if content.specifier in (Specifier.FIELDS, Specifier.FIELDS_NOT):
        header = await _read(job, blob, *span)
        if header is None:
            await session.send(content.label + b" NIL")
            return
        chosen = choose_fields(header, content.fields, without=content.specifier is Specifier.FIELDS_NOT)
        start, stop = cut(len(chosen), content.partial)
        await session.send(content.label + b" " + fmt.literal(chosen[start:stop]))
        return
    start, stop = cut(span[1] - span[0], content.partial)
    start, stop = start + span[0], stop + span[0]
    first = await _read(job, blob, start, min(stop, start + CHUNK)) if stop > start else b""
    if first is None:
        await session.send(content.label + b" NIL")
        return
    await session.send(content.label + b" {%d}\r\n" % (stop - start))
    await session.send(first.replace(b"\x00", b"?"))
    position = start + CHUNK
    while position < stop:
        try:
            chunk = await session.call(session.store.read_blob, blob, position, min(stop, position + CHUNK))
        except StoreError:
            # The literal's size is announced already: nothing but closing keeps the client from misreading.
            raise EndSession("A message could not be read to its end") from None
        await session.send(chunk.replace(b"\x00", b"?"))
        position += CHUNK


async def _send_message(job: _Job, index: int, summary: Summary | None) -> None:
    session, selected = job.session, job.selected
    prefix = b"* %d FETCH (" % (index + 1)
    items: list[bytes] = []
    for attribute in job.attributes:
        if attribute in _FROM_SUMMARY:
            if summary is not None:
                items.append(attribute.value.encode("ascii") + b" " + _FROM_SUMMARY[attribute](summary))
        else:
            items.append(_cheap(selected, index, attribute))
    if index in job.newly_seen and Attribute.FLAGS not in job.attributes:
        items.append(_cheap(selected, index, Attribute.FLAGS))
    if index in job.newly_seen and session.condstore and Attribute.MODSEQ not in job.attributes:
        items.append(_cheap(selected, index, Attribute.MODSEQ))
    await session.send(prefix + b" ".join(items))
    if job.contents:
        size = selected.view.sizes[index]
        summary = summary or Summary(size, 0, b"", b"", b"", b"")
        places = summary.places() if any(content.path for content in job.contents) else {}
        for number, content in enumerate(job.contents):
            if items or number:
                await session.send(b" ")
            await _send_content(job, index, content, summary, places)
    await session.send(b")\r\n")


async def _send_all(job: _Job, indices: list[int]) -> None:
    if not job.contents and not job.needs_summary:
        for index in indices:
            line = b" ".join(_cheap(job.selected, index, attribute) for attribute in job.attributes)
            await job.session.send(b"* %d FETCH (%b)\r\n" % (index + 1, line))
        return
    for place in range(0, len(indices), SUMMARIES_AT_ONCE):
        batch = indices[place : place + SUMMARIES_AT_ONCE]
        summaries = await _summaries(job, batch) if job.needs_summary else {}
        for index in batch:
            if job.needs_summary and index not in summaries:
                continue
            try:
                await _send_message(job, index, summaries.get(index))
            except (ConnectionGone, EndSession):
                raise
            except Exception as error:
                # Half a response may have gone out: no further line could be understood.
                raise EndSession(f"Internal error (réf. {log_unexpected(error)})", code="SERVERBUG") from None


async def _mark_seen(
    session: Session, selected: Selected, indices: list[int], contents: tuple[Content, ...]
) -> set[int]:
    """RFC 3501 §6.4.5: BODY[...] without PEEK sets \\Seen. Returns the indices where it was not set before."""
    if selected.read_only or all(content.peek for content in contents):
        return set()
    unseen = [index for index in indices if "\\Seen" not in selected.view.flags[index]]
    if not unseen:
        return set()
    uids = [selected.view.uids[index] for index in unseen]
    changes, _ = await session.call(
        session.store.store_flags, selected.folder_id, uids, FlagOperation.ADD, frozenset({"\\Seen"})
    )
    return {index for change in changes if (index := selected.update(change)) is not None}


async def _fetch(session: Session, command: Command) -> Reply:
    arguments = command.arguments
    if not isinstance(arguments, Fetch):
        raise BadCommand("malformed FETCH")
    selected = session.folder
    indices = selected.resolve(arguments.messages, uid=command.uid)
    attributes = list(arguments.attributes)
    if command.uid and Attribute.UID not in attributes:
        attributes.insert(0, Attribute.UID)
    if arguments.changed_since is not None:
        session.condstore = True
        since = arguments.changed_since
        indices = [index for index in indices if selected.view.modseqs[index] > since]
        if Attribute.MODSEQ not in attributes:
            attributes.append(Attribute.MODSEQ)
    elif Attribute.MODSEQ in attributes:
        session.condstore = True
    seen = await _mark_seen(session, selected, indices, arguments.contents)
    job = _Job(session, selected, tuple(attributes), arguments.contents, frozenset(seen))
    await _send_all(job, indices)
    if job.damaged:
        raise Refused("CORRUPTION", "Un message est endommagé. / A message is damaged.")
    if job.missing:
        raise Refused("EXPUNGEISSUED", "Some messages were expunged meanwhile")
    return Reply("FETCH completed")


VERBS = (Verb("FETCH", IN_FOLDER, _fetch, expunge_allowed=False),)
