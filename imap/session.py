"""One client's conversation: reads a command, has it carried out, tells what changed in the folder, answers.

Invariants:
* every command gets exactly one tagged response, unless the connection ends with BYE;
* EXPUNGE is never sent while a FETCH, STORE or SEARCH by sequence number runs (RFC 9051 §7.5.1);
* an unexpected error shows a reference only; the log has that reference, the error's type and place, never content.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import structlog

from imap import format as fmt
from imap.capabilities import Moment, capability_text
from imap.channel import Channel
from imap.commands import VERBS
from imap.errors import BadCommand, ConnectionGone, EndSession, Refused
from imap.incidents import log_unexpected
from imap.keywords import fresh_flags_lines
from imap.parser import parse
from imap.places import Place, folder_at, place_of
from imap.reader import CommandReader, Sink
from imap.selected import News, Selected
from imap.sequences import format_numbers
from imap.sinks import open_sink
from imap.states import Reply, State
from imap.values import Command
from mailstore import Doer
from mailstore.model import (
    Account,
    BlobDamaged,
    Folder,
    FolderExists,
    NoSuchFolder,
    NoSuchMessage,
    OverQuota,
    SeveralMailboxes,
    StoreError,
    StoreUnavailable,
)

if TYPE_CHECKING:
    from imap.server import ImapServer

BATCH = 64 * 1024
_P = ParamSpec("_P")
_T = TypeVar("_T")
_log = structlog.get_logger()
_NOT_SHARED = "Ce dossier n'est plus partagé. / This folder is no longer shared."

# What the store refuses -> response code (RFC 5530, RFC 9208). The first class that fits counts.
_STORE_CODES: tuple[tuple[type[StoreError], str], ...] = (
    (NoSuchFolder, "NONEXISTENT"),
    (FolderExists, "ALREADYEXISTS"),
    (NoSuchMessage, "EXPUNGEISSUED"),
    (BlobDamaged, "CORRUPTION"),
    (StoreUnavailable, "UNAVAILABLE"),
    (OverQuota, "OVERQUOTA"),
    (SeveralMailboxes, "AUTHORIZATIONFAILED"),
    (StoreError, "CANNOT"),
)


class Session:
    """The state of one connection. Command families in `imap.commands` read and change it. `enabled` are the names of
    ENABLE, upper case."""

    __slots__ = (
        "_account",
        "_bad",
        "_login_deadline",
        "_next_check",
        "_out",
        "_waiting",
        "channel",
        "enabled",
        "limits",
        "login_failures",
        "selected",
        "server",
        "state",
        "store",
    )

    def __init__(self, server: ImapServer, channel: Channel) -> None:
        self.server = server
        self.store = server.store
        self.limits = server.limits
        self.channel = channel
        self.state = State.NOT_AUTHENTICATED
        self.selected: Selected | None = None
        self.enabled: frozenset[str] = frozenset()
        self.login_failures = 0
        self._account: Account | None = None
        self._bad = 0
        self._out: list[bytes] = []
        self._waiting = 0
        self._next_check = 0.0
        self._login_deadline = asyncio.get_running_loop().time() + self.limits.login_time

    @property
    def account(self) -> Account:
        """Whose mailbox this is; only after login."""
        if self._account is None:
            raise BadCommand("log in first")
        return self._account

    @property
    def doer(self) -> Doer:
        """Who does what is done now, for the audit trail; only after login."""
        return Doer(self.account.address, self.channel.peer, self.server.clock())

    @property
    def folder(self) -> Selected:
        """The selected folder; only in the selected state."""
        if self.selected is None:
            raise BadCommand("select a folder first")
        return self.selected

    @property
    def condstore(self) -> bool:
        """Whether modseqs are told (RFC 7162 §3.1)."""
        return "CONDSTORE" in self.enabled

    @property
    def qresync(self) -> bool:
        """Whether VANISHED is said instead of EXPUNGE (RFC 7162 §3.2)."""
        return "QRESYNC" in self.enabled

    @property
    def rev2(self) -> bool:
        """Whether the client enabled IMAP4rev2 (RFC 9051)."""
        return "IMAP4REV2" in self.enabled

    @property
    def utf8(self) -> bool:
        """Whether names go in UTF-8 (RFC 6855 §3, RFC 9051 §5.1)."""
        return "UTF8=ACCEPT" in self.enabled or self.rev2

    def enable(self, *names: str) -> None:
        """Turns extensions on, for the rest of the session."""
        self.enabled |= frozenset(names)

    @property
    def moment(self) -> Moment:
        """What capabilities depend on."""
        return Moment(
            self.state,
            self.channel.tls,
            self.server.can_start_tls,
            self.channel.tls and self.channel.certificate is not None,
            self.server.tokens is not None,
            self.server.compress and not self.channel.compressed,
        )

    def capabilities(self) -> str:
        """The words of CAPABILITY now."""
        return capability_text(self.moment, self.limits.message_size)

    def log_in(self, account: Account) -> None:
        """Enters the authenticated state. Raises Refused when the account has too many connections."""
        if not self.server.registry.enter_account(self, account.id):
            raise Refused("LIMIT", "Trop de connexions à cette boîte. / Too many connections for this mailbox.")
        self._account = account
        self.state = State.AUTHENTICATED
        self._next_check = asyncio.get_running_loop().time() + self.limits.account_check

    async def check_access(self) -> None:
        """Ends the session of a mailbox that was closed after the login, asking the store every few seconds at most; leaves
        a shared folder that may no longer be read."""
        await self._check_rights()
        now = asyncio.get_running_loop().time()
        if self._account is None or now < self._next_check:
            return
        self._next_check = now + self.limits.account_check
        if self.server.registry.checked(self._account.id, now):
            return
        current = await self.call(self.store.find_account, self._account.address)
        if current is None or not current.active:
            raise EndSession("Boîte fermée. / Mailbox closed.")

    async def _check_rights(self) -> None:
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
            await self.send(fmt.status("*", "OK", "CLOSED", _NOT_SHARED))

    async def locate(self, name: str) -> Place:
        """Where a mailbox name leads. Raises NoSuchFolder."""
        return await self.call(place_of, self.store, self.account, name)

    async def find(self, name: str, rights: str = "") -> tuple[Place, Folder]:
        """The folder of a name, which the session must hold `rights` on. Raises NoSuchFolder, Refused."""
        place = await self.locate(name)
        return place, await self.call(folder_at, self.store, place, rights)

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

    async def call(self, verb: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Runs a synchronous verb of the store off the event loop."""
        # asyncio.to_thread would copy the context too, which no verb reads.
        return await asyncio.get_running_loop().run_in_executor(None, partial(verb, *args, **kwargs))

    async def send(self, data: bytes) -> None:
        """Queues response bytes; a batch of 64 KiB goes out at once, with one wait for the client."""
        self._out.append(data)
        self._waiting += len(data)
        if self._waiting >= BATCH:
            await self.flush()

    async def flush(self) -> None:
        """Sends what is queued."""
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            self._waiting = 0
            await self.channel.write(data, self.limits.write_time)

    def read_timeout(self) -> float:
        """How long the client may stay silent now, in seconds: before login, what is left of the time to log in."""
        if self.state is not State.NOT_AUTHENTICATED:
            return self.limits.idle_time
        return max(0.0, self._login_deadline - asyncio.get_running_loop().time())

    async def read_line(self, limit: int) -> bytes:
        """One more line of the current command. Raises LineTooLong, TimeoutError, ConnectionGone."""
        async with asyncio.timeout(self.read_timeout()):
            return await self.channel.read_line(limit)

    async def invite(self) -> None:
        """`+`: asks the client to go on."""
        await self.send(b"+ OK\r\n")
        await self.flush()

    async def run(self) -> None:
        """The whole conversation; returns when the connection is to be closed."""
        try:
            await self.send(fmt.status("*", "OK", self.capabilities(), "Caducee IMAP ready"))
            while self.state is not State.LOGOUT:
                await self.flush()
                await self._one_command()
            await self.flush()
        except TimeoutError:
            await self._goodbye("Autologout; idle for too long", "")
        except EndSession as error:
            await self._goodbye(error.text, error.code)
        except ConnectionGone:
            pass
        except Exception as error:
            await self._goodbye(f"Internal error (réf. {log_unexpected(error)})", "SERVERBUG")

    async def _goodbye(self, text: str, code: str) -> None:
        with contextlib.suppress(ConnectionGone):
            await self.send(fmt.status("*", "BYE", code, text))
            await self.flush()

    def _reader(self) -> CommandReader:
        return CommandReader(
            self.channel,
            self.limits,
            authenticated=self.state is not State.NOT_AUTHENTICATED,
            utf8=self.utf8,
            invite=self.invite,
            open_sink=self._open_sink,
        )

    async def _open_sink(self, name: str, size: int, binary: bool, unasked: bool) -> Sink:
        try:
            return await open_sink(self, name, size, binary=binary, unasked=unasked)
        except StoreError as error:
            raise Refused(_code(error), str(error)) from None

    async def _one_command(self) -> None:
        tag: str | None = None
        reader = self._reader()
        try:
            async with asyncio.timeout(self.read_timeout()):
                raw = await reader.read()
            command = parse(raw.line, raw.literals, utf8=self.utf8)
            tag = command.tag
            del raw
            reply = await self._carry_out(command)
            self._bad = 0
        except BadCommand as error:
            self._bad += 1
            await self.send(fmt.status(tag or error.tag or "*", "BAD", "", error.text))
            if self._bad >= self.limits.bad_commands:
                raise EndSession("Too many invalid commands") from None
        except Refused as error:
            await self.send(fmt.status(tag or error.tag or "*", "NO", error.code, error.text))
            if error.final:
                raise EndSession("Closing") from None
        else:
            if not reply.silent:
                await self.send(fmt.status(command.tag, "OK", self._reply_code(reply), reply.text))
        finally:
            await reader.discard()

    def _reply_code(self, reply: Reply) -> str:
        if not reply.code and reply.with_modseq and self.condstore and self.selected is not None:
            return f"HIGHESTMODSEQ {self.selected.reached}"
        return reply.code

    async def _carry_out(self, command: Command) -> Reply:
        verb = VERBS[command.name]
        if self.state not in verb.states:
            raise BadCommand(f"{command.name} is not for the {self.state.value} state")
        try:
            await self.check_access()
            if self.state not in verb.states:
                raise Refused("NOPERM", _NOT_SHARED)
            reply = await verb.handler(self, command)
            if self.selected is not None:
                await self.sync(expunge_allowed=verb.expunge_allowed or command.uid)
            return reply
        except StoreError as error:
            code = _code(error)
            if code == "CORRUPTION":
                _log.error("a message is damaged in the store", account=self.account.address)
            raise Refused(code, str(error)) from None
        except (BadCommand, Refused, EndSession, ConnectionGone, TimeoutError):
            raise
        except Exception as error:
            raise Refused("SERVERBUG", f"Internal error (réf. {log_unexpected(error)})") from None

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
            await self._check_rights()
            return
        # After the changes were read: what came once the right was gone is not among them.
        await self._check_rights()
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


def _code(error: StoreError) -> str:
    return next(code for kind, code in _STORE_CODES if isinstance(error, kind))
