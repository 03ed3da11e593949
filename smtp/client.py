"""A small SMTP client over asyncio streams, for the sender, the command line and tests.

Invariants: one connection, one owner; every wait has a time limit and every reply a size limit; octets received before
the end of STARTTLS are an attack and end the connection; a message that another server could read differently (bare CR
or LF) is not sent; nothing is logged. Whom to trust is the caller's decision, made on `peer_certificate`. What went
wrong is said in French, then English: senders read it in their notices.
"""

from __future__ import annotations

import asyncio
import base64
import re
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from cryptography import x509

from smtp.handshake import Channel
from smtp.outgoing import Outgoing

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


class SmtpClient:
    """A connected client. Make it with `connect`; end it with `quit` or `close`."""

    def __init__(self, reader: _Reader, writer: asyncio.StreamWriter, hostname: str, patience: Patience) -> None:
        self._reader = reader
        self._writer = writer
        self._hostname = hostname
        self._patience = patience
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
    ) -> SmtpClient:
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
            client._must(await client._answer(patience.command))
            await client.ehlo()
        except BaseException:
            client.close()
            raise
        return client

    async def ehlo(self) -> None:
        """Greet, and note what is offered (names in upper case)."""
        self._must(await self.command(f"EHLO {self._hostname}"))
        lines = self._last_lines[1:]
        self.capabilities = {word.upper(): rest for word, _, rest in (line.partition(" ") for line in lines)}

    async def starttls(self, context: ssl.SSLContext, *, server_hostname: str | None = None) -> None:
        """Change to TLS; EHLO must be said again. Raises ClientError (also when not offered, or octets were injected)."""
        if "STARTTLS" not in self.capabilities:
            raise ClientError("STARTTLS n'est pas offert / STARTTLS not offered")
        self._must(await self.command("STARTTLS"))
        if self._reader.unread:
            self.close()
            raise ClientError("octets recus avant TLS / octets received before TLS")
        try:
            async with asyncio.timeout(self._patience.connect):
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

    async def login_plain(self, login: str, password: str) -> None:
        """AUTH PLAIN (RFC 4616), under TLS only. Raises Refused, ClientError."""
        if not self.tls_version:
            raise ClientError("pas de mot de passe sans TLS / no password without TLS")
        token = base64.b64encode(f"\0{login}\0{password}".encode()).decode("ascii")
        self._must(await self.command(f"AUTH PLAIN {token}"))

    async def login_external(self) -> None:
        """AUTH EXTERNAL with the client certificate of the TLS context. Raises Refused, ClientError."""
        self._must(await self.command("AUTH EXTERNAL ="))

    async def send(
        self,
        sender: str,
        recipients: Sequence[str],
        content: bytes | Outgoing,
        options: Mapping[str, str] | None = None,
        originals: Mapping[str, str] | None = None,
    ) -> dict[str, Answer]:
        """Send one message (CRLF lines); one answer for each recipient. `sender` "" is the null sender.

        `options`: `envid`, `ret`, `notify` (RFC 3461), `requiretls`, `utf8`; `originals`: ORCPT by recipient. Raises
        ClientError when the connection breaks: nothing is then known of any recipient.
        """
        message = content if isinstance(content, Outgoing) else Outgoing.of(content)
        options, originals = options or {}, originals or {}
        refusal = self._unfit(message, options, (sender, *recipients))
        if refusal is not None:
            return dict.fromkeys(recipients, refusal)
        commands = [f"MAIL FROM:<{sender}>{self._mail_parameters(message, options)}"]
        commands += [f"RCPT TO:<{one}>{self._rcpt_parameters(options, originals.get(one, ''))}" for one in recipients]
        if message.small is not None and {"PIPELINING", "CHUNKING"} <= self.capabilities.keys():
            answers = await self._batch([*commands, f"BDAT {message.size} LAST"], message.small)
        else:
            answers = await self._batch(commands)
        if not answers[0].ok:
            await self._reset()
            return dict.fromkeys(recipients, answers[0])
        results = dict(zip(recipients, answers[1:], strict=False))
        taken = [recipient for recipient, answer in results.items() if answer.ok]
        if not taken:
            await self._reset()
            return results
        final = answers[-1] if len(answers) > len(commands) else await self._content(message)
        results.update(dict.fromkeys(taken, final))
        return results

    async def _content(self, message: Outgoing) -> Answer:
        if "CHUNKING" in self.capabilities:
            return await self._chunks(message)
        final = await self.command("DATA")
        if final.code == 354:
            return await self._data(message)
        if final.ok:
            raise ClientError("succes annonce avant le message / success announced before the message was sent")
        await self._reset()
        return final

    async def _reset(self) -> None:
        """End a refused transaction, or the next MAIL would be out of sequence. A peer that hangs up after its refusal
        has answered all the same: the next message finds the connection gone."""
        try:
            await self.command("RSET")
        except ClientError:
            self.close()

    def _unfit(self, message: Outgoing, options: Mapping[str, str], addresses: Sequence[str]) -> Answer | None:
        offered = self.capabilities
        if message.faulty:
            return Answer(554, "5.6.0", "CR ou LF isole ou octet nul / bare CR, bare LF or NUL in the message")
        if message.eight_bit and "8BITMIME" not in offered:
            return Answer(554, "5.6.3", "contenu 8 bits refuse en face / the peer does not take 8-bit content")
        if options.get("requiretls") and "REQUIRETLS" not in offered:
            return Answer(
                554, "5.7.30", "REQUIRETLS demande, pas offert en face / the peer does not offer REQUIRETLS as asked"
            )
        # RFC 6531 §3.2: neither such addresses nor, where the sender declared them, such headers.
        beyond = (options.get("utf8") and message.international) or not all(one.isascii() for one in addresses)
        if beyond and "SMTPUTF8" not in offered:
            return Answer(553, "5.6.7", "SMTPUTF8 pas offert en face / the peer does not take text beyond ASCII")
        limit = offered.get("SIZE", "")
        if limit.isdigit() and 0 < int(limit) < message.size:
            return Answer(552, "5.3.4", f"au plus {limit} octets en face / the peer takes at most {limit} octets")
        return None

    def _mail_parameters(self, message: Outgoing, options: Mapping[str, str]) -> str:
        offered = self.capabilities
        words = [f"SIZE={message.size}"] if "SIZE" in offered else []
        words += ["BODY=8BITMIME"] if message.eight_bit else []
        words += ["SMTPUTF8"] if options.get("utf8") and "SMTPUTF8" in offered else []
        words += ["REQUIRETLS"] if options.get("requiretls") else []
        if "DSN" in offered:
            words += [f"{name.upper()}={options[name]}" for name in ("ret", "envid") if options.get(name)]
        return "".join(f" {word}" for word in words)

    def _rcpt_parameters(self, options: Mapping[str, str], original: str) -> str:
        if "DSN" not in self.capabilities:
            return ""
        notify = f" NOTIFY={options['notify']}" if options.get("notify") else ""
        return notify + (f" ORCPT={original}" if original else "")

    async def _batch(self, commands: Sequence[str], after: bytes = b"") -> list[Answer]:
        """Commands in one write when PIPELINING is offered (RFC 2920), one by one otherwise."""
        if "PIPELINING" not in self.capabilities:
            answers = [await self.command(commands[0])]
            for command in commands[1:]:
                answers.append(await self.command(command) if answers[0].ok else answers[0])
            return answers
        await self._write("".join(f"{_checked(command)}\r\n" for command in commands).encode() + after)
        async with self._limited(self._patience.data_end if after else self._patience.command):
            return [await self._reply() for _ in commands]

    async def _data(self, message: Outgoing) -> Answer:
        """A dot-stuffed block (RFC 5321 §4.5.2), whatever the pieces."""
        tail = b"\r\n"
        async for piece in message.pieces():
            joined = (tail + piece).replace(b"\r\n.", b"\r\n..")
            await self._write(joined[len(tail) :])
            tail = piece[-2:] if len(piece) > 1 else (tail + piece)[-2:]
        await self._write(b".\r\n" if tail == b"\r\n" else b"\r\n.\r\n")
        return await self._answer(self._patience.data_end)

    async def _chunks(self, message: Outgoing) -> Answer:
        """RFC 3030: no stuffing, no waiting for a dot; a chunk refused ends the message."""
        sent = 0
        async for piece in message.pieces():
            sent += len(piece)
            last = sent >= message.size
            await self._write(f"BDAT {len(piece)}{' LAST' if last else ''}\r\n".encode("ascii") + piece)
            answer = await self._answer(self._patience.data_end)
            if last or not answer.ok:
                if not answer.ok and not last:
                    await self._reset()
                return answer
        await self._write(b"BDAT 0 LAST\r\n")
        return await self._answer(self._patience.data_end)

    async def command(self, command: str) -> Answer:
        """One command, one reply. Raises ClientError; ValueError for a control character in the command."""
        await self._write(f"{_checked(command)}\r\n".encode())
        return await self._answer(self._patience.command)

    async def _write(self, data: bytes) -> None:
        try:
            async with asyncio.timeout(self._patience.data_chunk):
                self._writer.write(data)
                await self._writer.drain()
        except (OSError, TimeoutError) as error:
            raise ClientError(f"connexion perdue / connection lost: {_why(error)}") from error

    async def _answer(self, seconds: float) -> Answer:
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
    def _must(answer: Answer) -> None:
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
