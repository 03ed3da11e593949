"""A tiny mail client over our own SMTP client and aioimaplib: for `caducee send` and `inbox`, the demo and health probes."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from aioimaplib import aioimaplib

from caducee.errors import UsageError
from caducee.settings import Settings
from smtp.client import SmtpClient
from smtp.dialogue import Answer, ClientError, Refused

CLIENT_NAME = "client.exemple"
_IMAP_SECONDS = 20.0
_FETCH = re.compile(rb"UID (\d+)")
_FLAGS = re.compile(rb"FLAGS \(([^)]*)\)")


@dataclass(frozen=True, slots=True)
class Login:
    """How to be let in: a password, or (password None) the client certificate of the TLS context."""

    address: str
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Received:
    """A message as IMAP gave it."""

    uid: int
    flags: tuple[str, ...]
    content: bytes = field(repr=False)


async def submit(
    settings: Settings,
    tls: ssl.SSLContext,
    login: Login,
    recipients: Sequence[str],
    content: bytes,
    *,
    starttls: bool = False,
) -> dict[str, Answer]:
    """Hand a message in, on 465 or (`starttls`) 587. Returns the answer for each recipient.

    Raises UsageError when the server cannot be reached or refuses the login.
    """
    port = settings.listen.submission if starttls else settings.listen.submissions
    try:
        client = await SmtpClient.connect(
            settings.listen.local_host, port, hostname=CLIENT_NAME, tls=None if starttls else tls
        )
        try:
            if starttls:
                await client.starttls(tls, server_hostname=settings.listen.local_host)
                await client.ehlo()
            if login.password is None:
                await client.login_external()
            else:
                await client.login_plain(login.address, login.password)
            return await client.send(login.address, recipients, content)
        finally:
            await client.quit()
    except Refused as error:
        raise UsageError(f"{settings.listen.local_host}:{port}: refusé / refused: {error.answer}") from None
    except ClientError as error:
        raise UsageError(f"{settings.listen.local_host}:{port}: {error}") from None


class Mailbox:
    """An IMAP session on one mailbox. Use as an asynchronous context manager."""

    def __init__(self, settings: Settings, tls: ssl.SSLContext, login: Login) -> None:
        self._where = (settings.listen.local_host, settings.listen.imaps)
        self._tls = tls
        self._login = login

    async def __aenter__(self) -> Mailbox:
        host, port = self._where
        self._imap = aioimaplib.IMAP4_SSL(host, port, timeout=_IMAP_SECONDS, ssl_context=self._tls)
        try:
            await self._imap.wait_hello_from_server()
            answer = await self._imap.login(self._login.address, self._login.password or "")
        except (TimeoutError, OSError, aioimaplib.Abort) as error:
            raise UsageError(f"{host}:{port}: IMAP injoignable / unreachable ({type(error).__name__})") from None
        if answer.result != "OK":
            raise UsageError(f"{host}:{port}: connexion refusée pour / login refused for {self._login.address}")
        await self._imap.select("INBOX")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._imap.logout()

    async def wait_for(self, message_id: str, seconds: float) -> Received:
        """Wait, idling, until a message with this Message-ID is in INBOX. Raises UsageError when it does not come."""
        deadline = time.monotonic() + seconds
        while True:
            uids = await self.search(message_id)
            if uids:
                return await self.fetch(uids[-1])
            left = deadline - time.monotonic()
            if left <= 0:
                raise UsageError(
                    f"{self._login.address}: {message_id} n'est pas arrivé en {seconds:.0f} s / did not arrive"
                )
            await self._idle(min(left, 5.0))

    async def search(self, message_id: str) -> list[int]:
        """The UIDs of the messages with this Message-ID."""
        answer = await self._imap.uid_search(f'HEADER Message-ID "{message_id}"')
        return [int(word) for line in answer.lines[:1] for word in line.split() if word.isdigit()]

    async def fetch(self, uid: int) -> Received:
        """A whole message; reading marks it \\Seen."""
        answer = await self._imap.uid("fetch", str(uid), "(FLAGS BODY[])")
        literals = _literals(answer.lines)
        if not literals:
            raise UsageError(f"{self._login.address}: pas de message d'UID {uid} / no message with UID {uid}")
        return Received(uid, await self.flags(uid), literals[0][1])

    async def flags(self, uid: int) -> tuple[str, ...]:
        """The flags of a message."""
        answer = await self._imap.uid("fetch", str(uid), "(FLAGS)")
        found = _FLAGS.search(b" ".join(bytes(line) for line in answer.lines))
        return tuple(found.group(1).decode().split()) if found else ()

    async def headers(self, last: int) -> list[tuple[int, tuple[str, ...], bytes]]:
        """(UID, flags, header) of the last messages, newest first."""
        answer = await self._imap.uid("fetch", "1:*", "(FLAGS BODY.PEEK[HEADER])")
        found: list[tuple[int, tuple[str, ...], bytes]] = []
        for line, header in _literals(answer.lines):
            uid, flags = _FETCH.search(line), _FLAGS.search(line)
            if uid and flags:
                found.append((int(uid.group(1)), tuple(flags.group(1).decode().split()), header))
        return sorted(found, reverse=True)[:last]

    async def _idle(self, seconds: float) -> None:
        waiting = await self._imap.idle_start(timeout=seconds)
        try:
            await self._imap.wait_server_push(seconds)
        except TimeoutError:
            pass
        finally:
            self._imap.idle_done()
            await asyncio.wait_for(waiting, _IMAP_SECONDS)


def _literals(lines: Sequence[bytes | bytearray]) -> list[tuple[bytes, bytes]]:
    """(line that announces it, literal) for each literal of an answer: aioimaplib gives those, only those, as bytearray.

    What a message says is never taken for the server's own lines.
    """
    return [(bytes(line), bytes(text)) for line, text in pairwise(lines) if isinstance(text, bytearray)]
