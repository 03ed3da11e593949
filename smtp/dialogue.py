"""The conversation with an SMTP server, over asyncio streams: connection, TLS, commands and replies.

Invariants: one connection, one owner; every wait has a time limit and every reply a size limit; octets received before
the end of STARTTLS are an attack and end the connection; nothing is logged. Whom to trust is the caller's decision, made on
`peer_certificate`. What went wrong is said in French, then English: senders read it in their notices.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

from cryptography import x509

from smtp.handshake import Channel

_MAX_LINES = 128
_LINE_LIMIT = 4096
_REPLY = re.compile(rb"([2-5]\d\d)(?:([ -])([^\r\n]*))?\r?\n")
_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?: |$)")


class ClientError(Exception):
    """The connection cannot go on: unreachable, closed, too slow, or not speaking SMTP. Try again later."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One reply: code, enhanced code (or ""), and its text on one line."""

    code: int
    enhanced: str
    text: str

    @property
    def ok(self) -> bool:
        """2yz."""
        return self.code // 100 == 2

    @property
    def permanent(self) -> bool:
        """5yz."""
        return self.code // 100 == 5

    def __str__(self) -> str:
        return " ".join(part for part in (str(self.code), self.enhanced, self.text) if part)


class Refused(ClientError):
    """A command that had to succeed (greeting, EHLO, STARTTLS, AUTH) was refused."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(str(answer))
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Patience:
    """Time limits in seconds (RFC 5321 §4.5.3.2 asks for at least these for the last three)."""

    connect: float = 30.0
    command: float = 300.0
    data_chunk: float = 180.0
    data_end: float = 600.0


class _Reader(asyncio.StreamReader):
    """Counts what came in, so that what is still unread can be known without private attributes."""

    def __init__(self) -> None:
        super().__init__(limit=_LINE_LIMIT, loop=asyncio.get_running_loop())
        self.unread = 0

    def feed_data(self, data: Any) -> None:
        """Octets have come."""
        self.unread += len(data)
        super().feed_data(data)

    async def reply_line(self) -> bytes:
        """One line, at most `_LINE_LIMIT` octets. Raises ClientError."""
        try:
            line = await self.readuntil(b"\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise ClientError(
                "connexion fermee ou reponse trop longue / connection closed or reply line too long"
            ) from error
        self.unread -= len(line)
        return line


class Dialogue:
    """A connection on which EHLO was said. Made by `connect`; ended by `quit` or `close`."""

    def __init__(self, reader: _Reader, writer: asyncio.StreamWriter, hostname: str, patience: Patience) -> None:
        self._reader = reader
        self._writer = writer
        self._hostname = hostname
        self.patience = patience
        self.capabilities: Mapping[str, str] = {}

    @classmethod
    async def connect(
        cls,
        host: str,
        port: int,
        *,
        hostname: str,
        tls: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
        patience: Patience | None = None,
    ) -> Self:
        """Connect, read the greeting, say EHLO. With `tls`, TLS from the first octet (port 465). Raises ClientError."""
        patience = patience or Patience()
        loop = asyncio.get_running_loop()
        reader = _Reader()
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            async with asyncio.timeout(patience.connect):
                transport, _ = await loop.create_connection(
                    lambda: protocol, host, port, ssl=tls, server_hostname=(server_hostname or host) if tls else None
                )
        except (OSError, TimeoutError) as error:
            raise ClientError(f"{host}:{port} : {_why(error)}") from error
        client = cls(reader, asyncio.StreamWriter(transport, protocol, reader, loop), hostname, patience)
        try:
            client.must(await client.answer(patience.command))
            await client.ehlo()
        except BaseException:
            client.close()
            raise
        return client

    async def ehlo(self) -> None:
        """Greet, and note what is offered (names in upper case)."""
        self.must(await self.command(f"EHLO {self._hostname}"))
        lines = self._last_lines[1:]
        self.capabilities = {word.upper(): rest for word, _, rest in (line.partition(" ") for line in lines)}

    async def starttls(self, context: ssl.SSLContext, *, server_hostname: str | None = None) -> None:
        """Change to TLS; EHLO must be said again. Raises ClientError (also when not offered, or octets were injected)."""
        if "STARTTLS" not in self.capabilities:
            raise ClientError("STARTTLS n'est pas offert / STARTTLS not offered")
        self.must(await self.command("STARTTLS"))
        if self._reader.unread:
            self.close()
            raise ClientError("octets recus avant TLS / octets received before TLS")
        try:
            async with asyncio.timeout(self.patience.connect):
                await self._writer.start_tls(context, server_hostname=server_hostname)
        except (OSError, TimeoutError) as error:
            self.close()
            raise ClientError(f"la negociation TLS a echoue / TLS handshake failed: {_why(error)}") from error
        self.capabilities = {}

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        """The certificate the peer proved in the handshake; None without TLS or when it cannot be read."""
        channel = self._writer.get_extra_info("ssl_object")
        der = channel.getpeercert(binary_form=True) if channel is not None else None
        try:
            return x509.load_der_x509_certificate(der) if der else None
        except ValueError:
            return None

    @property
    def peer_chain(self) -> tuple[x509.Certificate, ...]:
        """What the peer sent with its certificate, unproven; () where TLS is not smtp.handshake's."""
        channel = self._writer.get_extra_info("ssl_object")
        return channel.peer_chain() if isinstance(channel, Channel) else ()

    @property
    def stapled(self) -> bytes | None:
        """The OCSP response (DER) the peer gave in the handshake, unverified; None without one."""
        channel = self._writer.get_extra_info("ssl_object")
        return channel.stapled() if isinstance(channel, Channel) else None

    @property
    def tls_version(self) -> str:
        """Such as `TLSv1.3`, or ""."""
        channel = self._writer.get_extra_info("ssl_object")
        return str(channel.version()) if channel is not None else ""

    async def batch(self, commands: Sequence[str], after: bytes = b"") -> list[Answer]:
        """Commands in one write when PIPELINING is offered (RFC 2920), one by one otherwise; `after` follows them. Raises
        ClientError."""
        if "PIPELINING" not in self.capabilities:
            answers = [await self.command(commands[0])]
            for command in commands[1:]:
                answers.append(await self.command(command) if answers[0].ok else answers[0])
            return answers
        await self.write("".join(f"{_checked(command)}\r\n" for command in commands).encode() + after)
        async with self._limited(self.patience.data_end if after else self.patience.command):
            return [await self._reply() for _ in commands]

    async def command(self, command: str) -> Answer:
        """One command, one reply. Raises ClientError; ValueError for a control character in the command."""
        await self.write(f"{_checked(command)}\r\n".encode())
        return await self.answer(self.patience.command)

    async def write(self, data: bytes) -> None:
        """Hand octets over. Raises ClientError."""
        try:
            async with asyncio.timeout(self.patience.data_chunk):
                self._writer.write(data)
                await self._writer.drain()
        except (OSError, TimeoutError) as error:
            raise ClientError(f"connexion perdue / connection lost: {_why(error)}") from error

    async def answer(self, seconds: float) -> Answer:
        """The next reply, awaited `seconds` at most. Raises ClientError."""
        async with self._limited(seconds):
            return await self._reply()

    @asynccontextmanager
    async def _limited(self, seconds: float) -> AsyncIterator[None]:
        """Replies must come within `seconds`. Raises ClientError."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except (OSError, TimeoutError) as error:
            raise ClientError(f"pas de reponse / no reply: {_why(error)}") from error

    async def _reply(self) -> Answer:
        lines: list[str] = []
        while True:
            match = _REPLY.fullmatch(await self._reader.reply_line())
            if match is None or len(lines) >= _MAX_LINES:
                raise ClientError("ce n'est pas du SMTP / not an SMTP reply")
            lines.append((match[3] or b"").decode("ascii", "replace"))
            if match[2] != b"-":
                break
        self._last_lines = lines
        enhanced = _ENHANCED.match(lines[0])
        code = enhanced[1] if enhanced else ""
        text = " ".join(line.removeprefix(f"{code} ") if code else line for line in lines)
        return Answer(int(match[1]), code, "".join(c if c.isprintable() else "?" for c in text)[:1000])

    @staticmethod
    def must(answer: Answer) -> None:
        """Raise Refused unless the answer is good."""
        if not answer.ok:
            raise Refused(answer)

    async def quit(self) -> None:
        """Say goodbye and close; never raises for a peer that is already gone."""
        try:
            async with asyncio.timeout(5):
                await self.command("QUIT")
        except (ClientError, TimeoutError):
            pass
        finally:
            self.close()

    def close(self) -> None:
        """Close at once."""
        self._writer.close()


def _why(error: Exception) -> str:
    """What happened on the network, in words: never the name of an exception."""
    match error:
        case ssl.SSLError() if error.reason:
            return str(error.reason)
        case TimeoutError():
            return "delai depasse / timed out"
        case ConnectionRefusedError():
            return "connexion refusee / connection refused"
        case ConnectionError() | ssl.SSLError():
            return "connexion coupee / connection cut"
        case socket.gaierror():
            return "nom introuvable / name not found"
        case _:
            return "reseau injoignable / network unreachable"


def _checked(command: str) -> str:
    if not command.isprintable():
        raise ValueError("control character in an SMTP command")
    return command
