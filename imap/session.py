"""One client's session: reads a command, has it carried out, tells what changed in the folder, answers.

Invariants:
* every command gets exactly one tagged response, unless the connection ends with BYE;
* an unexpected error shows a reference only; the log has that reference, the error's type and place, never content.
"""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from imap import format as fmt
from imap.commands import VERBS
from imap.errors import BadCommand, ConnectionGone, EndSession, Refused
from imap.incidents import log_unexpected
from imap.parser import parse
from imap.places import Place, folder_at, place_of
from imap.reader import CommandReader, Sink
from imap.sinks import open_sink
from imap.states import Reply, State
from imap.telling import NOT_SHARED, Telling
from imap.values import Command
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

_log = structlog.get_logger()

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


class Session(Telling):
    """What the command families in `imap.commands` read and change."""

    __slots__ = ()

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
        await self.check_rights()
        now = asyncio.get_running_loop().time()
        if self._account is None or now < self._next_check:
            return
        self._next_check = now + self.limits.account_check
        if self.server.registry.checked(self._account.id, now):
            return
        current = await self.call(self.store.find_account, self._account.address)
        if current is None or not current.active:
            raise EndSession("Boîte fermée. / Mailbox closed.")

    async def locate(self, name: str) -> Place:
        """Where a mailbox name leads. Raises NoSuchFolder."""
        return await self.call(place_of, self.store, self.account, name)

    async def find(self, name: str, rights: str = "") -> tuple[Place, Folder]:
        """The folder of a name, which the session must hold `rights` on. Raises NoSuchFolder, Refused."""
        place = await self.locate(name)
        return place, await self.call(folder_at, self.store, place, rights)

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
                raise Refused("NOPERM", NOT_SHARED)
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


def _code(error: StoreError) -> str:
    return next(code for kind, code in _STORE_CODES if isinstance(error, kind))
