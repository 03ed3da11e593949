"""The aiosmtpd shell: the one file that knows aiosmtpd, so that it can be replaced.

aiosmtpd gives the connection's life (asyncio protocol, session, envelope); this subclass owns the command loop, DATA,
EHLO, STARTTLS, AUTH, the parameters of MAIL and RCPT, and the mapping of errors (building-blocks.md §2). Invariants:
* nothing of what a client sends is logged; aiosmtpd's own logger is off, and its logging paths are not used;
* every wait and every size is bounded; a flood of errors or connections ends the connection;
* plaintext received before the end of STARTTLS is never taken for what came under TLS (RFC 3207 §4.2);
* AUTH is offered and accepted under TLS only; an unknown error is a 451 with a reference, never a success.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import ssl
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import structlog
from aiosmtpd.smtp import SMTP, Envelope
from cryptography import x509

import mime
from mailstore import Account
from smtp import grammar, replies
from smtp.replies import Reply, SmtpRefusal
from smtp.services import Limits
from smtp.wire import BadLine, ConnectionEnded, Wire

log = structlog.get_logger()
logging.getLogger("mail.log").disabled = True

COMMAND_LIMIT = 4096
HANDSHAKE_TIME = 30.0
CLOSING_TIME = 10.0
LINE_LIMIT = 998
"""Octets of a message line without CRLF (RFC 5321 §4.5.3.1.6)."""
HEADER_LIMIT = 256 * 1024
HEADER_LINES = 5000
"""A header of a million short fields would stop the loop for seconds, at each of its readers."""
_HARD_FACTOR = 4
_COMMANDS = frozenset(
    ["EHLO", "HELO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "RSET", "NOOP", "VRFY", "HELP", "QUIT"]
)
_BEFORE_TLS = frozenset(["EHLO", "HELO", "STARTTLS", "RSET", "NOOP", "QUIT"])


@dataclass(slots=True)
class Talk:
    """What is known of one connection; begun anew after STARTTLS."""

    peer: str
    certificate: x509.Certificate | None = None
    secure: bool = False
    tls_name: str = ""
    greeted: str = ""
    extended: bool = False
    account: Account | None = None
    login_failures: int = 0


@dataclass(slots=True)
class Transaction:
    """One mail transaction. `sender` is None before MAIL and "" for the null sender; `facts` are the handler's notes."""

    sender: str | None = None
    recipients: dict[str, Account | None] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)


class Handler(Protocol):
    """What a listener does with commands. Every method may raise SmtpRefusal; what it raises else becomes a 451."""

    login_offered: bool

    async def password(self, talk: Talk, login: str, secret: str) -> Account | None:
        """The account of this login, or None."""
        ...

    async def external(self, talk: Talk) -> Account | None:
        """The account of this connection's client certificate, or None."""
        ...

    async def mail(self, talk: Talk, transaction: Transaction, sender: str) -> None:
        """May this sender send? `sender` is "" for the null sender."""
        ...

    async def recipient(self, talk: Talk, transaction: Transaction, recipient: str) -> Account | None:
        """May this recipient receive? Answers its account when the mailbox is here."""
        ...

    async def message(self, talk: Talk, transaction: Transaction, content: bytes) -> Reply:
        """Take responsibility for the message; the answer is sent as it is."""
        ...


class Gate:
    """Counts the connections of one service, in all and by address, and knows them for the shutdown."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_address: Counter[str] = Counter()
        self.open: set[Shell] = set()
        self.closing = False
        self.empty = asyncio.Event()
        self.empty.set()

    def enter(self, shell: Shell, address: str) -> bool:
        """Register a connection; False when there are too many."""
        self.open.add(shell)
        self.empty.clear()
        self._by_address[address] += 1
        limits = self._limits
        full = len(self.open) > limits.connections or self._by_address[address] > limits.connections_per_address
        return not full and not self.closing

    def leave(self, shell: Shell, address: str) -> None:
        """Forget a connection."""
        if shell in self.open:
            self.open.discard(shell)
            if not self.open:
                self.empty.set()
            self._by_address[address] -= 1
            if self._by_address[address] <= 0:
                del self._by_address[address]


class Shell(SMTP):
    """One connection. `require_tls` asks for STARTTLS before anything else (530)."""

    def __init__(
        self,
        handler: Handler,
        *,
        hostname: str,
        limits: Limits,
        gate: Gate,
        tls: ssl.SSLContext | None,
        require_tls: bool,
    ) -> None:
        super().__init__(
            handler,
            data_size_limit=limits.size,
            hostname=hostname,
            ident="ESMTP Caducee",
            timeout=limits.session_time,
            loop=asyncio.get_running_loop(),
        )
        self._handler = handler
        self._limits = limits
        self._gate = gate
        self._tls = tls
        self._require_tls = require_tls
        self._wire = Wire()
        self._errors = 0
        self._admitted = False
        self.busy = False
        self.talk = Talk("")
        self.transaction = Transaction()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection begins; an implicit TLS one is already secure."""
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else ""
        self.talk = Talk(address)
        self._note_tls(transport)
        if isinstance(transport, asyncio.ReadTransport):
            self._wire.attach(transport)
        self._admitted = self._gate.enter(self, address)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Octets go to the wire; asyncio's own reader is not used, because it cannot tell what is still buffered."""
        self._wire.feed(data)

    def eof_received(self) -> bool:
        """The peer will send no more: finish what came. Under TLS there is no half-open state."""
        self._wire.end()
        return not self.talk.secure

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        self._wire.end()
        self._gate.leave(self, self.talk.peer)
        super().connection_lost(error)

    def abandon(self) -> None:
        """Cut the connection now."""
        self._writer.transport.write(replies.CLOSING.encode())
        self._close()

    def _create_envelope(self) -> Envelope:
        self.transaction = Transaction()
        return Envelope()

    def _reset(self) -> None:
        """Forget the transaction, not the greeting nor the login (RFC 5321 §4.1.1.5)."""
        self.envelope = self._create_envelope()

    def _timeout_cb(self) -> None:
        if self._writer.transport.is_closing():
            self._writer.transport.abort()
            return
        self._writer.transport.write(replies.TIMED_OUT.encode())
        self._close()

    def _close(self) -> None:
        """Close, and soon cut: a peer that does not read its last replies would hold the connection for ever."""
        self._writer.transport.close()
        if self.transport is not None:
            self._reset_timeout(CLOSING_TIME)

    async def push(self, status: Reply | str | bytes) -> None:
        """Send a reply; TimeoutError when the peer does not read. Unlike the parent's, logs nothing."""
        if isinstance(status, Reply):
            status = status.encode()
        elif isinstance(status, str):
            status = status.encode("ascii") + b"\r\n"
        self._writer.write(status)
        async with asyncio.timeout(self._limits.command_time):
            await self._writer.drain()

    # ---- the command loop

    async def _handle_client(self) -> None:
        try:
            if self._admitted:
                await self.push(f"220 {self.hostname} {self.__ident__}")
                while not self._gate.closing:
                    await self._one_command()
            await self.push(replies.CLOSING if self._admitted else replies.TOO_MANY_CONNECTIONS)
        except TimeoutError:
            await self._last_word(replies.TIMED_OUT)
        except SmtpRefusal as refusal:
            await self._last_word(refusal.reply)
        except (ConnectionEnded, ConnectionError, ssl.SSLError) as error:
            log.debug("connection ended", peer=self.talk.peer, error=type(error).__name__)
        finally:
            self._close()

    async def _last_word(self, reply: Reply) -> None:
        try:
            async with asyncio.timeout(5):
                await self.push(reply)
        except (TimeoutError, ConnectionError):
            log.debug("last reply not heard", peer=self.talk.peer)

    async def _one_command(self) -> None:
        try:
            async with asyncio.timeout(self._limits.command_time):
                line = await self._wire.line(COMMAND_LIMIT)
        except BadLine as error:
            await self._refuse(replies.LINE_TOO_LONG if error.too_long else replies.BAD_LINE)
            return
        self.busy = True
        try:
            await self._dispatch(line)
        except (TimeoutError, ConnectionEnded, ConnectionError, ssl.SSLError):
            raise
        except SmtpRefusal as refusal:
            if refusal.closing:
                raise
            await self._refuse(refusal.reply)
        except Exception as error:
            await self._refuse(replies.reply_for(error))
        finally:
            self.busy = False

    async def _refuse(self, reply: Reply) -> None:
        self._errors += 1
        if self._errors > self._limits.errors:
            raise SmtpRefusal(replies.TOO_MANY_ERRORS, closing=True)
        await self.push(reply)

    async def _dispatch(self, line: bytes) -> None:
        try:
            text = line.decode("ascii")
        except UnicodeDecodeError:
            raise SmtpRefusal(replies.BAD_LINE) from None
        word, _, argument = text.partition(" ")
        command = word.upper()
        if command not in _COMMANDS:
            raise SmtpRefusal(replies.UNKNOWN_COMMAND)
        if self._require_tls and not self.talk.secure and command not in _BEFORE_TLS:
            raise SmtpRefusal(replies.TLS_REQUIRED)
        method: Coroutine[Any, Any, None] = getattr(self, f"smtp_{command}")(argument.strip() or None)
        await method

    # ---- greeting, TLS, small commands

    async def smtp_EHLO(self, arg: str | None) -> None:
        """RFC 5321 §4.1.1.1: offer what works here and nothing else."""
        self._greet(arg, extended=True)
        offers = [self.hostname, "PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", f"SIZE {self._limits.size}"]
        if self._tls is not None and not self.talk.secure:
            offers.append("STARTTLS")
        if self._handler.login_offered and self.talk.secure:
            offers.append(f"AUTH {' '.join(self._mechanisms())}")
        last = len(offers) - 1
        await self.push("\r\n".join(f"250{' ' if at == last else '-'}{offer}" for at, offer in enumerate(offers)))

    async def smtp_HELO(self, arg: str | None) -> None:
        """RFC 5321 §4.1.1.1."""
        self._greet(arg, extended=False)
        await self.push(f"250 {self.hostname}")

    def _greet(self, arg: str | None, *, extended: bool) -> None:
        try:
            self.talk.greeted = grammar.host((arg or "").split(" ")[0])
        except grammar.GrammarError:
            raise SmtpRefusal(replies.syntax("EHLO host")) from None
        self.talk.extended = extended
        self._reset()

    async def smtp_STARTTLS(self, arg: str | None) -> None:
        """RFC 3207. Reading stops before the 220 is sent, so that no octet can be counted on the wrong side."""
        if arg:
            raise SmtpRefusal(replies.BAD_SYNTAX)
        if self._tls is None or self.talk.secure:
            raise SmtpRefusal(replies.BAD_SEQUENCE)
        # uvloop's transports do not inherit from asyncio's: a check of the class would refuse them.
        transport = cast(asyncio.Transport, self._writer.transport)
        transport.pause_reading()
        if self._wire.pending:
            log.warning("plaintext after STARTTLS", peer=self.talk.peer)
            raise SmtpRefusal(replies.PLAINTEXT_INJECTED, closing=True)
        await self.push(replies.START_TLS)
        if self._wire.pending:
            raise ConnectionEnded
        # From here on only TLS feeds the wire; what is in it when the handshake ends came under TLS and is kept.
        secured = await self.loop.start_tls(
            transport, self, self._tls, server_side=True, ssl_handshake_timeout=HANDSHAKE_TIME
        )
        if secured is None:
            raise ConnectionEnded
        self._wire.attach(secured)
        self._replace_transport(secured)
        self.talk = Talk(self.talk.peer)
        self._note_tls(secured)
        self._reset()

    def _replace_transport(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self._writer = asyncio.StreamWriter(transport, self, None, self.loop)

    def _note_tls(self, transport: asyncio.BaseTransport) -> None:
        channel = transport.get_extra_info("ssl_object")
        if channel is None:
            return
        self.talk.secure = True
        self.talk.tls_name = f"{channel.version()} {(channel.cipher() or ('',))[0]}"
        der = channel.getpeercert(binary_form=True)
        try:
            self.talk.certificate = x509.load_der_x509_certificate(der) if der else None
        except ValueError:
            # OpenSSL took it, our parser does not: a certificate that we cannot read is no certificate.
            self.talk.certificate = None

    async def smtp_NOOP(self, arg: str | None) -> None:
        """RFC 5321 §4.1.1.9."""
        await self.push(replies.OK)

    async def smtp_RSET(self, arg: str | None) -> None:
        """RFC 5321 §4.1.1.5."""
        self._reset()
        await self.push(replies.OK)

    async def smtp_VRFY(self, arg: str | None) -> None:
        """RFC 5321 §3.5.3: allowed to tell nothing."""
        await self.push(replies.CANNOT_VERIFY)

    async def smtp_HELP(self, arg: str | None) -> None:
        """RFC 5321 §4.1.1.8."""
        await self.push("214 2.0.0 RFC 5321")

    async def smtp_QUIT(self, arg: str | None) -> None:
        """RFC 5321 §4.1.1.10."""
        await self.push(replies.BYE)
        raise ConnectionEnded

    # ---- login

    def _mechanisms(self) -> list[str]:
        return ["PLAIN", "LOGIN", *(["EXTERNAL"] if self.talk.certificate is not None else [])]

    async def smtp_AUTH(self, arg: str | None) -> None:
        """RFC 4954, under TLS only."""
        if not self._handler.login_offered:
            raise SmtpRefusal(replies.NOT_IMPLEMENTED)
        if not self.talk.secure:
            raise SmtpRefusal(replies.ENCRYPTION_REQUIRED)
        if not self.talk.extended or self.transaction.sender is not None:
            raise SmtpRefusal(replies.BAD_SEQUENCE)
        if self.talk.account is not None:
            raise SmtpRefusal(replies.ALREADY_LOGGED_IN)
        words = (arg or "").split()
        if not 1 <= len(words) <= 2:
            raise SmtpRefusal(replies.syntax("AUTH mechanism [initial-response]"))
        mechanism = words[0].upper()
        if mechanism not in self._mechanisms():
            raise SmtpRefusal(replies.UNKNOWN_MECHANISM)
        initial = words[1] if len(words) == 2 else None
        account = await self._login(mechanism, initial)
        if account is None:
            self.talk.login_failures += 1
            closing = self.talk.login_failures >= self._limits.login_failures
            raise SmtpRefusal(replies.TOO_MANY_ERRORS if closing else replies.LOGIN_REFUSED, closing=closing)
        self.talk.account = account
        await self.push(replies.LOGGED_IN)

    async def _login(self, mechanism: str, initial: str | None) -> Account | None:
        if mechanism == "EXTERNAL":
            asked = (await self._answer(initial, b"")).decode("utf-8", "replace")
            account = await self._handler.external(self.talk)
            # RFC 4422 appendix A: an authorization identity may be asked for; only one's own is granted.
            return account if account is None or not asked or asked.lower() == account.address else None
        if mechanism == "LOGIN":
            login = await self._answer(initial, b"Username:")
            secret = await self._answer(None, b"Password:")
        else:
            fields = (await self._answer(initial, b"")).split(b"\0")
            if len(fields) != 3:
                raise SmtpRefusal(replies.BAD_SYNTAX)
            asked_for, login, secret = fields
            if asked_for and asked_for.lower() != login.lower():
                return None
        try:
            return await self._handler.password(self.talk, login.decode("utf-8"), secret.decode("utf-8"))
        except UnicodeDecodeError:
            return None

    async def _answer(self, initial: str | None, challenge: bytes) -> bytes:
        """The client's answer to a challenge, or its initial response (`=` is an empty one)."""
        if initial is None:
            await self.push(f"334 {base64.b64encode(challenge).decode('ascii')}")
            try:
                async with asyncio.timeout(self._limits.command_time):
                    line = await self._wire.line(COMMAND_LIMIT)
            except BadLine:
                raise SmtpRefusal(replies.BAD_BASE64) from None
            if line == b"*":
                raise SmtpRefusal(replies.LOGIN_ABORTED)
        else:
            line = b"" if initial == "=" else initial.encode("ascii")
        try:
            return base64.b64decode(line, validate=True)
        except (binascii.Error, ValueError):
            raise SmtpRefusal(replies.BAD_BASE64) from None

    # ---- the mail transaction

    async def smtp_MAIL(self, arg: str | None) -> None:
        """RFC 5321 §4.1.1.2, with SIZE (RFC 1870) and BODY (RFC 6152)."""
        if not self.talk.greeted or self.transaction.sender is not None:
            raise SmtpRefusal(replies.BAD_SEQUENCE)
        if self._handler.login_offered and self.talk.account is None:
            raise SmtpRefusal(replies.LOGIN_REQUIRED)
        path, parameters = self._path("FROM:", arg)
        size = parameters.pop("SIZE", "0") or ""
        if not size.isdigit() or len(size) > 20:
            raise SmtpRefusal(replies.BAD_SYNTAX)
        if (parameters.pop("BODY", "7BIT") or "").upper() not in ("7BIT", "8BITMIME"):
            raise SmtpRefusal(replies.BAD_SYNTAX)
        if self._handler.login_offered:
            # RFC 4954 §5: accepted once logged in; who submits is decided by the login, not by this.
            parameters.pop("AUTH", None)
        if parameters:
            raise SmtpRefusal(replies.BAD_PARAMETER)
        if int(size) > self._limits.size:
            raise SmtpRefusal(replies.TOO_BIG)
        try:
            sender = grammar.address(path) if path else ""
        except grammar.GrammarError:
            raise SmtpRefusal(replies.BAD_SENDER) from None
        await self._handler.mail(self.talk, self.transaction, sender)
        self.transaction.sender = sender
        await self.push(replies.SENDER_OK)

    async def smtp_RCPT(self, arg: str | None) -> None:
        """RFC 5321 §4.1.1.3. A repeated recipient is accepted once."""
        if self.transaction.sender is None:
            raise SmtpRefusal(replies.BAD_SEQUENCE)
        path, parameters = self._path("TO:", arg)
        if parameters:
            raise SmtpRefusal(replies.BAD_PARAMETER)
        try:
            recipient = grammar.address(path)
        except grammar.GrammarError:
            raise SmtpRefusal(replies.BAD_ADDRESS) from None
        if recipient not in self.transaction.recipients:
            if len(self.transaction.recipients) >= self._limits.recipients:
                raise SmtpRefusal(replies.TOO_MANY_RECIPIENTS)
            account = await self._handler.recipient(self.talk, self.transaction, recipient)
            self.transaction.recipients[recipient] = account
        await self.push(replies.RECIPIENT_OK)

    def _path(self, keyword: str, arg: str | None) -> tuple[str, dict[str, str | None]]:
        try:
            path, parameters = grammar.path_argument(keyword, arg or "")
        except grammar.GrammarError:
            raise SmtpRefusal(replies.syntax(f"{keyword}<address>")) from None
        if parameters and not self.talk.extended:
            raise SmtpRefusal(replies.BAD_PARAMETER)
        return path, parameters

    async def smtp_DATA(self, arg: str | None) -> None:
        """RFC 5321 §4.1.1.4: one bounded block, then the handler's answer."""
        if not self.transaction.recipients:
            raise SmtpRefusal(replies.BAD_SEQUENCE)
        if arg:
            raise SmtpRefusal(replies.BAD_SYNTAX)
        await self.push(replies.START_DATA)
        async with asyncio.timeout(self._limits.data_time):
            block = await self._wire.block(self._limits.size, self._limits.size * _HARD_FACTOR)
        transaction = self.transaction
        self._reset()
        if block.too_big:
            raise SmtpRefusal(replies.TOO_BIG)
        check_lines(block.content)
        check_header(block.content)
        await self.push(await self._handler.message(self.talk, transaction, block.content))


def check_lines(content: bytes) -> None:
    """Refuse what another server could read differently: bare CR, bare LF, NUL, over-long lines (SMTP smuggling)."""
    if not content.count(b"\r\n") == content.count(b"\n") == content.count(b"\r") or b"\0" in content:
        raise SmtpRefusal(replies.BAD_LINE_ENDS)
    position = 0
    while position < len(content):
        end = content.rfind(b"\n", position, position + LINE_LIMIT + 2)
        if end < 0:
            raise SmtpRefusal(replies.LONG_LINES)
        position = end + 1


def check_header(content: bytes) -> None:
    """Refuse a header that costs too much to read."""
    end, _ = mime.header_end(content)
    if end > HEADER_LIMIT or content.count(b"\n", 0, end) > HEADER_LINES:
        raise SmtpRefusal(replies.LONG_HEADER)
