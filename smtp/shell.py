"""The aiosmtpd shell: the one file that knows aiosmtpd, so that it can be replaced.

aiosmtpd gives the connection's life (asyncio protocol); this subclass moves octets between the wire, the state machine
(`machine.py`), the body (`content.py`) and the handler, and maps errors (building-blocks.md §2). Invariants:
* nothing of what a client sends is logged; aiosmtpd's own logger is off, and its logging paths are not used;
* every wait and every size is bounded; a flood of errors or connections ends the connection, after slower and slower replies;
* plaintext received before the end of STARTTLS is never taken for what came under TLS (RFC 3207 §4.2);
* an unknown error is a 451 with a reference, never a success.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import ipaddress
import logging
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import structlog
from aiosmtpd.smtp import SMTP, Envelope
from cryptography import x509

from mailstore import Account, ScramVerifier, Store, StoreError
from smtp import metrics, proxyline, replies, sasl
from smtp.content import Intake, Received
from smtp.gate import Gate
from smtp.intake import DotDecoder, Scan
from smtp.machine import (
    AskRecipient,
    AskSender,
    Body,
    Greet,
    Login,
    Machine,
    MailOptions,
    Profile,
    Quit,
    RcptOptions,
    Say,
    StartTls,
    Step,
    TakeChunk,
    TakeData,
)
from smtp.replies import Reply, SmtpRefusal
from smtp.services import Limits
from smtp.wire import BadLine, ConnectionEnded, Wire

log = structlog.get_logger()
logging.getLogger("mail.log").disabled = True

COMMAND_LIMIT = 4096
LOGIN_LIMIT = 24 * 1024
"""A bearer token in base64 (RFC 4954 §4 asks for 12288 at least)."""
HANDSHAKE_TIME = 30.0
CLOSING_TIME = 10.0
LONGEST_TARPIT = 10.0
_HARD_FACTOR = 4


@dataclass(slots=True)
class Talk:
    """What is known of one connection; begun anew after STARTTLS."""

    peer: str
    certificate: x509.Certificate | None = None
    chain: tuple[x509.Certificate, ...] = ()
    secure: bool = False
    tls_name: str = ""
    greeted: str = ""
    account: Account | None = None
    login_failures: int = 0
    binding: Callable[[str], bytes | None] = field(default=lambda _kind: None, repr=False)
    peer_name: str = ""


@dataclass(slots=True)
class Transaction:
    """One mail transaction. `sender` is None before MAIL and "" for the null sender; `facts` are the handler's notes."""

    sender: str | None = None
    options: MailOptions = field(default_factory=MailOptions)
    recipients: dict[str, Account | None] = field(default_factory=dict)
    asked: dict[str, RcptOptions] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)


class Handler(Protocol):
    """What a listener does with commands. Every method may raise SmtpRefusal; what it raises else becomes a 451.

    `logins` are the SASL mechanisms offered; `repairs` says that over-long lines are re-encoded, not refused.
    """

    service: str
    logins: tuple[str, ...]
    repairs: bool

    async def claimed(self, talk: Talk, claim: sasl.Claim) -> Account | None:
        """The account that a SASL claim speaks for, or None."""
        ...

    def verifier(self, login: str) -> ScramVerifier:
        """The SCRAM verifier of a login; blocking."""
        ...

    def secured(self, talk: Talk) -> None:
        """TLS has begun."""
        ...

    def closed(self, talk: Talk) -> None:
        """The connection is gone."""
        ...

    async def mail(self, talk: Talk, transaction: Transaction, sender: str) -> None:
        """May this sender send? `sender` is "" for the null sender; `transaction.options` are those asked for."""
        ...

    async def recipient(self, talk: Talk, transaction: Transaction, recipient: str) -> Account | None:
        """May this recipient receive? Answers its account when the mailbox is here."""
        ...

    async def message(self, talk: Talk, transaction: Transaction, received: Received) -> Reply:
        """Take responsibility for the message; the answer is sent as it is."""
        ...


@dataclass(frozen=True, slots=True)
class Setting:
    """What the connections of one listener share."""

    handler: Handler
    hostname: str
    limits: Limits
    gate: Gate
    store: Store
    tls: ssl.SSLContext | None
    implicit: bool = False
    require_tls: bool = True
    balancers: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network] = ()


class Shell(SMTP):
    """One connection."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(
            setting.handler,
            data_size_limit=setting.limits.size,
            hostname=setting.hostname,
            ident="ESMTP Caducee",
            timeout=setting.limits.session_time,
            loop=asyncio.get_running_loop(),
        )
        self._setting = setting
        self._handler = setting.handler
        self._limits = setting.limits
        self._wire = Wire()
        self._chunks: Intake | None = None
        self._admitted = False
        self._clear = True
        self.busy = False
        self.talk = Talk("")
        self.transaction = Transaction()
        self.machine = Machine(
            Profile(setting.hostname, setting.handler.logins, setting.require_tls),
            setting.limits,
            tls_possible=setting.tls is not None,
        )

    # ---- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection begins, in clear: an implicit TLS one changes before anything is said."""
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else ""
        self.talk = Talk(address)
        if isinstance(transport, asyncio.ReadTransport):
            self._wire.attach(transport)
        self._admitted = self._setting.gate.enter(self, address)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Octets go to the wire; asyncio's own reader is not used, because it cannot tell what is still buffered."""
        self._wire.feed(data)

    def eof_received(self) -> bool:
        """The peer will send no more: finish what came. Under TLS there is no half-open state."""
        self._wire.end()
        return self._clear

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        self._wire.end()
        self._setting.gate.leave(self)
        self._handler.closed(self.talk)
        super().connection_lost(error)

    def abandon(self) -> None:
        """Cut the connection now."""
        self._writer.transport.write(replies.CLOSING.encode())
        self._close()

    def _create_envelope(self) -> Envelope:
        return Envelope()

    def _reset(self) -> None:
        self.machine.reset()
        self.transaction = Transaction()
        self._drop_chunks()

    def _drop_chunks(self) -> None:
        if self._chunks is not None:
            self._chunks.abort()
            self._chunks = None

    def _timeout_cb(self) -> None:
        if self._writer.transport.is_closing():
            self._writer.transport.abort()
            return
        self._writer.transport.write(replies.TIMED_OUT.encode())
        self._close()

    def _close(self) -> None:
        """Close, and soon cut: a peer that does not read its last replies would hold the connection for ever."""
        # close() is said once: asyncio's TLS transport answers a second one by forgetting what abort() would have to end.
        if not self._writer.transport.is_closing():
            self._writer.transport.close()
        if self.transport is not None:
            self._reset_timeout(CLOSING_TIME)

    async def push(self, status: Reply | str | bytes) -> None:
        """Send a reply; TimeoutError when the peer does not read. Unlike the parent's, logs nothing."""
        if isinstance(status, Reply):
            if status.code >= 400:
                metrics.REPLIES.labels(self._handler.service, str(status.code), status.enhanced).inc()
            status = status.encode()
        elif isinstance(status, str):
            status = status.encode("ascii") + b"\r\n"
        self._writer.write(status)
        async with asyncio.timeout(self._limits.command_time):
            await self._writer.drain()

    # ---- the command loop

    async def _handle_client(self) -> None:
        try:
            await self._begin()
            if self._admitted:
                await self.push(f"220 {self.hostname} {self.__ident__}")
                while not self._setting.gate.closing:
                    await self._one_command()
            await self.push(replies.CLOSING if self._admitted else replies.TOO_MANY_CONNECTIONS)
        except TimeoutError:
            await self._last_word(replies.TIMED_OUT)
        except SmtpRefusal as refusal:
            await self._last_word(refusal.reply)
        except (ConnectionEnded, ConnectionError, ssl.SSLError) as error:
            log.debug("connection ended", peer=self.talk.peer, error=type(error).__name__)
        finally:
            self._drop_chunks()
            self._close()

    async def _begin(self) -> None:
        """What comes before the greeting: whose connection it is, and TLS on port 465."""
        async with asyncio.timeout(HANDSHAKE_TIME):
            if self._setting.balancers and self._from_balancer():
                await self._origin()
        if self._setting.implicit:
            await self._secure()

    def _from_balancer(self) -> bool:
        try:
            address = ipaddress.ip_address(self.talk.peer)
        except ValueError:
            return False
        return any(address in network for network in self._setting.balancers)

    async def _origin(self) -> None:
        data = b""
        while True:
            data += await self._wire.some(proxyline.LONGEST)
            try:
                found = proxyline.read(data)
            except proxyline.ProxyError:
                raise SmtpRefusal(replies.BAD_PROXY, closing=True) from None
            if found is not None:
                break
        source, length = found
        self._wire.push_back(data[length:])
        if source:
            self.talk.peer = source
            self._admitted = self._setting.gate.move(self, source)

    async def _last_word(self, reply: Reply) -> None:
        try:
            async with asyncio.timeout(5):
                await self.push(reply)
        except (TimeoutError, ConnectionError):
            log.debug("last reply not heard", peer=self.talk.peer)

    async def _one_command(self) -> None:
        try:
            async with asyncio.timeout(self._limits.command_time):
                line = await self._wire.line(LOGIN_LIMIT if self._handler.logins else COMMAND_LIMIT)
        except BadLine as error:
            await self._refuse(replies.LINE_TOO_LONG if error.too_long else replies.BAD_LINE)
            return
        self.busy = True
        try:
            if len(line) > COMMAND_LIMIT - 2 and line[:5].upper() != b"AUTH ":
                raise SmtpRefusal(replies.LINE_TOO_LONG)
            await self._carry_out(self.machine.command(line))
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
        reply = self.machine.refused(reply)
        late = self.machine.errors - self._limits.tarpit_after
        if late > 0:
            await asyncio.sleep(min(LONGEST_TARPIT, late * self._limits.tarpit_step))
        await self.push(reply)

    async def _carry_out(self, step: Step) -> None:
        match step:
            case Say(reply):
                if self.machine.sender is None:
                    self._reset()  # RSET, or nothing to lose
                await self.push(reply)
            case Greet(lines):
                self._reset()
                self.talk.greeted = self.machine.greeted
                await self.push("\r\n".join(lines))
            case StartTls():
                await self._start_tls()
            case Login(mechanism, initial):
                await self._log_in(mechanism, initial)
            case AskSender(sender, options):
                transaction = Transaction(options=options)
                await self._handler.mail(self.talk, transaction, sender)
                transaction.sender = sender
                self.transaction = transaction
                self.machine.sender_taken(step)
                await self.push(replies.SENDER_OK)
            case AskRecipient(recipient, asked):
                account = await self._handler.recipient(self.talk, self.transaction, recipient)
                self.transaction.recipients[recipient] = account
                self.transaction.asked[recipient] = asked
                self.machine.recipient_taken(step)
                await self.push(replies.RECIPIENT_OK)
            case TakeData():
                await self._take_data()
            case TakeChunk():
                await self._take_chunk(step)
            case Quit():
                await self.push(replies.BYE)
                raise ConnectionEnded

    # ---- TLS

    async def _start_tls(self) -> None:
        """RFC 3207. Reading stops before the 220 is sent, so that no octet can be counted on the wrong side."""
        # uvloop's transports do not inherit from asyncio's: a check of the class would refuse them.
        transport = cast(asyncio.Transport, self._writer.transport)
        transport.pause_reading()
        if self._wire.pending:
            log.warning("plaintext after STARTTLS", peer=self.talk.peer)
            raise SmtpRefusal(replies.PLAINTEXT_INJECTED, closing=True)
        await self.push(replies.START_TLS)
        if self._wire.pending:
            raise ConnectionEnded
        await self._secure()

    async def _secure(self) -> None:
        transport = cast(asyncio.Transport, self._writer.transport)
        if self._setting.tls is None:
            raise SmtpRefusal(replies.BAD_SEQUENCE)
        if self._setting.implicit:
            transport.pause_reading()
        early, tls = self._wire.take_all(), _Prefilled(self._setting.tls)
        tls.early = early
        # From here on only TLS feeds the wire; what is in it when the handshake ends came under TLS and is kept.
        secured = await self.loop.start_tls(
            transport, self, tls, server_side=True, ssl_handshake_timeout=HANDSHAKE_TIME
        )
        if secured is None:
            raise ConnectionEnded
        self._clear = False
        self._wire.attach(secured)
        self.transport = secured
        self._writer = asyncio.StreamWriter(secured, self, None, self.loop)
        self._handler.closed(self.talk)
        self.talk = Talk(self.talk.peer)
        self._note_tls(secured)
        self._reset()
        self.machine.secured(
            certificate=self.talk.certificate is not None,
            bindable=self.talk.binding("tls-server-end-point") is not None,
        )
        self._handler.secured(self.talk)

    def _note_tls(self, transport: asyncio.BaseTransport) -> None:
        channel = transport.get_extra_info("ssl_object")
        if channel is None:
            return
        talk = self.talk
        talk.secure = True
        talk.tls_name = f"{channel.version()} {(channel.cipher() or ('',))[0]}"
        if hasattr(channel, "peer_certificate"):
            talk.certificate, talk.chain = channel.peer_certificate(), channel.peer_chain()
            talk.binding = channel.channel_binding
            return
        der = channel.getpeercert(binary_form=True)
        # OpenSSL took it, our parser may not: a certificate that we cannot read is no certificate.
        with contextlib.suppress(ValueError):
            talk.certificate = x509.load_der_x509_certificate(der) if der else None

    # ---- login

    async def _log_in(self, mechanism: str, initial: str | None) -> None:
        """RFC 4954: hold the conversation, have the claim checked."""
        first = None if initial is None else _decoded(b"" if initial == "=" else initial.encode("ascii"))
        loop = asyncio.get_running_loop()
        conversation = sasl.converse(mechanism, first, verifiers=self._handler.verifier, bindings=self.talk.binding)
        try:
            account = await self._converse(conversation, loop)
        except sasl.SaslError:
            raise SmtpRefusal(replies.BAD_SYNTAX) from None
        metrics.LOGINS.labels(mechanism, "refused" if account is None else "accepted").inc()
        if account is None:
            if mechanism in ("OAUTHBEARER", "XOAUTH2"):
                await self._response(sasl.bearer_failure())
            self.talk.login_failures += 1
            if self.talk.login_failures >= self._limits.login_failures:
                raise SmtpRefusal(replies.TOO_MANY_ERRORS, closing=True)
            raise SmtpRefusal(replies.LOGIN_REFUSED)
        self.talk.account, self.machine.logged_in = account, True
        await self.push(replies.LOGGED_IN)

    async def _converse(self, conversation: sasl.Conversation, loop: asyncio.AbstractEventLoop) -> Account | None:
        """One step at a time, in a thread: a step may read the store."""
        response: bytes | None = None
        while True:
            challenge, claim = await loop.run_in_executor(None, _step, conversation, response)
            if challenge is None:
                return None if claim is None else await self._handler.claimed(self.talk, claim)
            response = await self._response(challenge)

    async def _response(self, challenge: bytes) -> bytes:
        await self.push(f"334 {base64.b64encode(challenge).decode('ascii')}")
        try:
            async with asyncio.timeout(self._limits.command_time):
                line = await self._wire.line(LOGIN_LIMIT)
        except BadLine:
            raise SmtpRefusal(replies.BAD_BASE64) from None
        if line == b"*":
            raise SmtpRefusal(replies.LOGIN_ABORTED)
        return _decoded(line)

    # ---- the message

    async def _take_data(self) -> None:
        """RFC 5321 §4.1.1.4: a bounded block, in pieces, then the handler's answer."""
        await self.push(replies.START_DATA)
        intake, decoder = Intake(self._setting.store, self._limits.size), DotDecoder()
        heard, failure = 0, None
        try:
            async with asyncio.timeout(self._limits.data_time):
                while not decoder.done:
                    piece = await self._wire.some()
                    heard += len(piece)
                    if heard > self._limits.size * _HARD_FACTOR:
                        raise ConnectionEnded
                    failure = await _fed(intake, decoder.feed(piece), failure)
            self._wire.push_back(decoder.rest)
            await self._conclude(intake, failure)
        finally:
            intake.abort()

    async def _take_chunk(self, step: TakeChunk) -> None:
        """RFC 3030 §2."""
        if self._chunks is None and step.refusal is None:
            self._chunks = Intake(self._setting.store, self._limits.size)
        left, failure = step.size, None
        async with asyncio.timeout(self._limits.data_time):
            while left:
                piece = await self._wire.some(min(left, 256 * 1024))
                left -= len(piece)
                if step.refusal is None and self._chunks is not None:
                    failure = await _fed(self._chunks, piece, failure)
        if step.refusal is not None or failure is not None:
            self.machine.broken |= failure is not None
            self._drop_chunks()
            if step.last:
                self._reset()
            await self.push(step.refusal or replies.reply_for(failure or ConnectionEnded()))
        elif not step.last:
            await self.push(replies.OK)
        elif self._chunks is not None:
            intake, self._chunks = self._chunks, None
            try:
                await self._conclude(intake, None)
            finally:
                intake.abort()

    async def _conclude(self, intake: Intake, failure: StoreError | None) -> None:
        """The message is whole: refuse it, or have the handler take it."""
        transaction = self.transaction
        self._reset()
        if failure is not None:
            raise failure
        intake.scan.finish()
        refusal = replies.TOO_BIG if intake.too_big else self._fault(intake.scan, transaction.options.body)
        if refusal is not None:
            raise SmtpRefusal(refusal)
        received = await intake.finish()
        try:
            with metrics.ACCEPTING.labels(self._handler.service).time():
                reply = await self._handler.message(self.talk, transaction, received)
        finally:
            if received.stored is not None:
                await asyncio.to_thread(received.discard, self._setting.store)
        metrics.ACCEPTED.labels(self._handler.service).inc()
        metrics.ACCEPTED_OCTETS.labels(self._handler.service).inc(received.size)
        await self.push(reply)

    def _fault(self, scan: Scan, body: Body) -> Reply | None:
        """What another server could read differently (SMTP smuggling), or what costs too much to read."""
        if body is not Body.BINARY and (scan.bare or scan.null):
            return replies.BAD_LINE_ENDS
        if scan.long_header:
            return replies.LONG_HEADER
        if body is not Body.BINARY and scan.long_line and not self._handler.repairs:
            return replies.LONG_LINES
        return None


class _Prefilled(ssl.SSLContext):
    """A context whose next connection begins with octets already read: those after a PROXY header, or of a client that
    spoke TLS before we stopped reading."""

    early: bytes
    _real: ssl.SSLContext

    def __new__(cls, real: ssl.SSLContext) -> _Prefilled:
        """Round `real`, which does all the work."""
        context = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        context._real, context.early = real, b""
        return context

    def __init__(self, real: ssl.SSLContext) -> None:
        """Nothing more: see `__new__`."""

    def wrap_bio(self, incoming: Any, *args: Any, **kwargs: Any) -> Any:
        """What asyncio and uvloop call once, at the start of the handshake."""
        if self.early:
            incoming.write(self.early)
        return self._real.wrap_bio(incoming, *args, **kwargs)


def _step(conversation: sasl.Conversation, response: bytes | None) -> tuple[bytes | None, sasl.Claim | None]:
    """(challenge, None), or (None, claim) at the end."""
    try:
        return (next(conversation) if response is None else conversation.send(response)), None
    except StopIteration as end:
        return None, end.value


def _decoded(line: bytes) -> bytes:
    try:
        return base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        raise SmtpRefusal(replies.BAD_BASE64) from None


async def _fed(intake: Intake, piece: bytes, failure: StoreError | None) -> StoreError | None:
    """Feed a piece; a store that fails is told at the end of the block, which must be heard whole all the same."""
    if failure is None and piece:
        try:
            await intake.feed(piece)
        except StoreError as error:
            intake.abort()
            return error
    return failure
