"""The selected folder, and what the client is told of it: what changed since the last time, in the order the RFCs want.

Invariants: EXPUNGE is never sent while sequence numbers are in use (RFC 9051 §7.5.1); of a folder that is no longer shared
nothing more is told.
"""

from __future__ import annotations

from imap import format as fmt
from imap.conversation import Conversation
from imap.errors import BadCommand, EndSession, Refused
from imap.keywords import fresh_flags_lines
from imap.selected import News, Selected
from imap.sequences import format_numbers
from imap.states import State
from mailstore.model import NoSuchFolder

NOT_SHARED = "Ce dossier n'est plus partagé. / This folder is no longer shared."


class Telling(Conversation):
    """A conversation that may have a folder."""

    __slots__ = ()

    @property
    def folder(self) -> Selected:
        """The selected folder; only in the selected state."""
        if self.selected is None:
            raise BadCommand("select a folder first")
        return self.selected

    def require(self, rights: str) -> Selected:
        """The selected folder, when it is open for writing and the session holds `rights` on it. Raises Refused."""
        selected = self.folder
        if selected.read_only:
            raise Refused("READ-ONLY", "Dossier en lecture seule. / The folder is read-only.")
        if not set(rights) <= set(selected.rights):
            raise Refused("NOPERM", "Droit insuffisant sur ce dossier. / Permission denied on this folder.")
        return selected

    def leave_folder(self) -> None:
        """Back to the authenticated state."""
        self.selected = None
        if self.state is State.SELECTED:
            self.state = State.AUTHENTICATED

    async def check_rights(self) -> None:
        """Leaves a shared folder that may no longer be read; what else its owner gave or took away counts from here on."""
        selected = self.selected
        if selected is None or selected.place.viewer is None:
            return
        try:
            selected.rights = await self.call(self.store.rights, selected.folder_id, selected.place.viewer)
        except NoSuchFolder:
            selected.rights = ""
        if "r" not in selected.rights:
            self.leave_folder()
            await self.send(fmt.status("*", "OK", "CLOSED", NOT_SHARED))

    async def sync(self, *, expunge_allowed: bool, idle: bool = False) -> None:
        """Tells the client what happened in its folder since the last time. A deleted folder ends the session. `idle`
        sessions share what they ask the store."""
        selected = self.folder
        folder_id, reached, viewer = selected.folder_id, selected.reached, selected.place.viewer
        try:
            if idle:
                changes = await self.server.watcher.changes(folder_id, reached, viewer)
            else:
                changes = await self.call(self.store.changes, folder_id, reached, viewer=viewer)
        except NoSuchFolder:
            if viewer is None:
                raise EndSession("The selected folder was deleted") from None
            await self.check_rights()
            return
        # After the changes were read: what came once the right was gone is not among them.
        await self.check_rights()
        if self.selected is not selected:
            return
        await self.tell(selected.apply(changes, expunge_allowed=expunge_allowed), idle=idle)
        if self.qresync and selected.pending:
            # RFC 7162 §3.2: who loses the connection now must not take the modseqs told for all that happened.
            await self.send(fmt.status("*", "OK", f"HIGHESTMODSEQ {selected.settled}", "Removals are still to be told"))

    async def tell(self, news: News, *, idle: bool = False) -> None:
        """EXPUNGE or VANISHED, EXISTS and FETCH responses."""
        selected = self.folder
        if news.vanished and self.qresync:
            await self.send(b"* VANISHED %b\r\n" % format_numbers(news.vanished).encode("ascii"))
        else:
            for number in news.expunged:
                await self.send(b"* %d EXPUNGE\r\n" % number)
        if news.grown:
            await self.send(b"* %d EXISTS\r\n" % selected.count)
            if not self.rev2:
                if not idle or self.server.watcher.claim(selected.folder_id):
                    await self.claim_recent()
                await self.send(b"* %d RECENT\r\n" % selected.recent)
        await self.tell_keywords(news.flags)
        for index in news.changed:
            await self.tell_flags(index)

    async def tell_keywords(self, flags: frozenset[str]) -> None:
        """FLAGS and PERMANENTFLAGS once more, before a keyword that the client was not told of."""
        lines = fresh_flags_lines(self.folder, flags)
        if lines:
            await self.send(lines)

    async def claim_recent(self) -> None:
        """Makes the messages that no other session was told of \\Recent in this one."""
        selected = self.folder
        if not selected.read_only:
            first, end = await self.call(self.store.claim_recent, selected.folder_id, take=True)
            if first < end:
                selected.recents.append((first, end))

    async def tell_flags(self, index: int) -> None:
        """An untagged FETCH with a message's flags."""
        view = self.folder.view
        modseq = b" MODSEQ (%d)" % view.modseqs[index] if self.condstore else b""
        flags = self.flags_of(index)
        await self.send(b"* %d FETCH (UID %d FLAGS %b%b)\r\n" % (index + 1, view.uids[index], flags, modseq))

    def flags_of(self, index: int) -> bytes:
        """The flags of a message as a parenthesised list."""
        selected = self.folder
        if selected.recents and not self.rev2 and selected.is_recent(index):
            return fmt.flags(selected.view.flags[index] | {"\\Recent"})
        return fmt.flags(selected.view.flags[index])
