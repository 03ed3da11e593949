"""FETCH (RFC 9051 §6.4.5): answers from the arrays, the stored summaries, and ranges of the contents."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from imap.contents import Listed, Sender
from imap.errors import BadCommand, ConnectionGone, EndSession, Refused
from imap.incidents import log_unexpected
from imap.rendering import Renderer
from imap.selected import Selected
from imap.sequences import format_numbers
from imap.states import IN_FOLDER, Reply, Verb
from imap.summaries import Summaries
from imap.summary import Summary
from imap.values import Attribute, Command, Content, Fetch, Form, Specifier
from mailstore.model import FlagOperation

if TYPE_CHECKING:
    from imap.session import Session

LINES_AT_ONCE = 1000
CONTENTS_AT_ONCE = 100  # summaries held while contents are sent; each may weigh a megabyte, when malice made it


async def _send_lines(renderer: Renderer, session: Session, indices: list[int]) -> None:
    """Items without content: a batch of lines at a time. A batch that a thread makes is made while the one before is sent."""
    batches = [indices[start : start + LINES_AT_ONCE] for start in range(0, len(indices), LINES_AT_ONCE)]
    if not renderer.slow:
        for batch in batches:
            await session.send(renderer.lines(batch))
        return
    coming = None
    try:
        for following in [*batches, None]:
            data = b"" if coming is None else await coming
            coming = None if following is None else asyncio.create_task(session.call(renderer.lines, following))
            await session.send(data)
    finally:
        if coming is not None:
            coming.cancel()


def _needs_summary(contents: tuple[Content, ...]) -> bool:
    # BODY[] whole is the whole content: no summary is needed to know its range.
    return any(content.path or content.specifier is not Specifier.WHOLE for content in contents)


async def _send_contents(
    renderer: Renderer, session: Session, indices: list[int], contents: tuple[Content, ...]
) -> Sender:
    """Items with content, message by message."""
    sender = Sender(session)
    selected = renderer.selected
    listed = Listed.of(contents)
    for start in range(0, len(indices), CONTENTS_AT_ONCE):
        batch = indices[start : start + CONTENTS_AT_ONCE]
        summaries: dict[int, Summary] = {}
        if _needs_summary(contents):
            summaries = await session.call(renderer.summaries.of, batch)
            batch = [index for index in batch if index in summaries]
        lines = await session.call(renderer.each, batch) if renderer.slow else renderer.each(batch)
        for index, line in lines.items():
            begun = line[:-3] + b" " if renderer.attributes else line[:-3]
            summary = summaries.get(index) or Summary(selected.view.sizes[index], 0, *[b""] * 6)
            if listed is not None and (quick := listed.items(summary)) is not None:
                await session.send(begun + quick + b")\r\n")
                continue
            places = summary.places() if any(content.path for content in contents) else {}
            try:
                await session.send(begun)
                for number, content in enumerate(contents):
                    if number:
                        await session.send(b" ")
                    await sender.send(selected.view.blobs[index], content, summary, places)
                await session.send(b")\r\n")
            except (ConnectionGone, EndSession):
                raise
            except Exception as error:
                # Half a response may have gone out: no further line could be understood.
                raise EndSession(f"Internal error (réf. {log_unexpected(error)})", code="SERVERBUG") from None
    return sender


async def _mark_seen(session: Session, selected: Selected, indices: list[int]) -> bool:
    """RFC 9051 §6.4.5: BODY[...] without PEEK sets \\Seen. Whether any message was not \\Seen before."""
    if selected.read_only or "s" not in selected.rights:
        return False
    unseen = [index for index in indices if "\\Seen" not in selected.view.flags[index]]
    if not unseen:
        return False
    changes, _ = await session.call(
        session.store.store_flags,
        selected.folder_id,
        selected.uids(unseen),
        FlagOperation.ADD,
        frozenset({"\\Seen"}),
        viewer=selected.place.viewer,
    )
    for change in changes:
        selected.update(change)
    return True


def _is_reading(content: Content) -> bool:
    """Whether an item shows what a message says. Headers are what lists are made of, as ENVELOPE is: lines about a whole
    folder that was listed would hide who read what."""
    return content.form is not Form.SIZE and content.specifier in (Specifier.WHOLE, Specifier.TEXT)


async def _trace(session: Session, selected: Selected, indices: list[int]) -> None:
    """Reading a body is traced before it is sent: who, what, when, from where."""
    await session.call(
        session.store.note_reading,
        session.account.id,
        selected.folder_id,
        selected.uids(indices),
        session.server.clock(),
        source=session.channel.peer,
    )


async def _changed_since(session: Session, command: Command, arguments: Fetch, indices: list[int]) -> list[int]:
    """RFC 7162 §3.1.4.1 and §3.2.6: only what changed, and, with VANISHED, what is gone since."""
    selected, since = session.folder, arguments.changed_since or 0
    session.enable("CONDSTORE")
    if arguments.vanished:
        if not command.uid or not session.qresync:
            raise BadCommand("VANISHED needs UID FETCH and QRESYNC")
        changes = await session.call(session.store.changes, selected.folder_id, since, viewer=selected.place.viewer)
        gone = sorted(uid for uid in changes.expunged if selected.index_of(uid) is None)
        gone = [gone[place] for place in arguments.messages.indices(gone)] if not arguments.messages.saved else []
        if gone:
            await session.send(b"* VANISHED (EARLIER) %b\r\n" % format_numbers(gone).encode("ascii"))
    return [index for index in indices if selected.view.modseqs[index] > since]


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
        indices = await _changed_since(session, command, arguments, indices)
        if Attribute.MODSEQ not in attributes:
            attributes.append(Attribute.MODSEQ)
    elif Attribute.MODSEQ in attributes:
        session.enable("CONDSTORE")
    contents = arguments.contents
    if indices and any(map(_is_reading, contents)):
        await _trace(session, selected, indices)
    showing = bool(indices) and not all(content.peek for content in contents)
    if showing and await _mark_seen(session, selected, indices):
        # The client learns of the flag it has just set (RFC 9051 §7.5.2), and of its modseq.
        attributes += [] if Attribute.FLAGS in attributes else [Attribute.FLAGS]
        attributes += [Attribute.MODSEQ] if session.condstore and Attribute.MODSEQ not in attributes else []
    summaries = Summaries(session.store, selected.view)
    envelopes = session.server.envelopes
    renderer = Renderer(session.store, selected, tuple(attributes), not session.rev2, summaries, envelopes)
    sender = Sender(session)
    if contents:
        sender = await _send_contents(renderer, session, indices, contents)
    else:
        await _send_lines(renderer, session, indices)
    if sender.damaged or summaries.damaged:
        raise Refused("CORRUPTION", "Un message est endommagé. / A message is damaged.")
    if sender.unknown_encoding:
        raise Refused("UNKNOWN-CTE", "A part has an unknown transfer encoding")
    if sender.missing or summaries.missing:
        raise Refused("EXPUNGEISSUED", "Some messages were expunged meanwhile")
    return Reply("FETCH completed")


VERBS = (Verb("FETCH", IN_FOLDER, _fetch, expunge_allowed=False),)
