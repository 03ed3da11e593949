"""The aiosmtpd shell: the one file that knows aiosmtpd, so that it can be replaced.

aiosmtpd gives the connection's life (asyncio protocol); this subclass moves octets between the wire, the state machine
(`machine.py`), the body (`bodies.py`) and the handler, and maps errors (building-blocks.md §2). Invariants:
* nothing of what a client sends is logged; aiosmtpd's own logger is off, and its logging paths are not used;
* every wait and every size is bounded; a flood of errors or connections ends the connection, after slower and slower replies;
* plaintext received before the end of STARTTLS is never taken for what came under TLS (RFC 3207 §4.2);
* an unknown error is a 451 with a reference, never a success.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import cast

import structlog
from aiosmtpd.smtp import SMTP, Envelope

from mailstore import StoreError
from smtp import metrics, proxyline, replies
from smtp.bodies import Bodies, fault
from smtp.content import Intake
from smtp.handshake import Channel
from smtp.logins import log_in
from smtp.machine import (
    AskRecipient,
    AskSender,
    Greet,
    Login,
    Machine,
    Profile,
    Quit,
    Say,
    StartTls,
    Step,
    TakeChunk,
    TakeData,
)
from smtp.replies import Reply, SmtpRefusal
from smtp.secured import Secured
from smtp.session import Setting, Talk, Transaction
from smtp.wire import BadLine, ConnectionEnded, Wire

log = structlog.get_logger()
logging.getLogger("mail.log").disabled = True

COMMAND_LIMIT = 4096
LOGIN_LIMIT = 24 * 1024
"""A bearer token in base64 (RFC 4954 §4 asks for 12288 at least)."""
HANDSHAKE_TIME = 30.0
CLOSING_TIME = 10.0
LONGEST_TARPIT = 10.0
UNREAD_LIMIT = 16 * 1024
"""Octets of replies a peer may leave unread before we wait for it, and then not for long."""


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
        # aiosmtpd's tables of commands, of hooks and of logins, made for each connection: 3 KiB that nobody asks (ADR 0058).
        self._smtp_methods, self._handle_hooks, self._auth_methods = {}, {}, {}
        self._setting = setting
        self._handler = setting.handler
        self._limits = setting.limits
        self._wire = Wire()
        self._bodies = Bodies(setting.store, setting.limits)
        self._admitted = False
        self._secured: Secured | None = None
        self.busy = False
        self.talk = Talk("")
        self.transaction = Transaction()
        self.machine = Machine(
            Profile(setting.hostname, setting.handler.logins, setting.require_tls, setting.domain),
            setting.limits,
            tls_possible=setting.tls is not None,
        )

    # ---- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection begins, in clear: an implicit TLS one changes before anything is said."""
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else ""
        self.talk = Talk(address)
        # uvloop's transports do not inherit from asyncio's: a check of the class would leave them without flow control.
        self._wire.attach(cast(asyncio.Transport, transport))
        self._admitted = self._setting.gate.enter(self, address)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Octets go to the wire; asyncio's own reader is not used, because it cannot tell what is still buffered."""
        if self._secured is None:
            self._wire.feed(data)
        else:
            self._secured.received(data)

    def eof_received(self) -> bool:
        """The peer will send no more: finish what came. It may hear the answers; under TLS only if it said so there too."""
        self._wire.end()
        return self._secured is None or self._secured.ended()

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
        self._bodies.drop()

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
        transport = self._writer.transport
        if transport.is_closing():
            raise ConnectionEnded
        transport.write(status)
        if transport.get_write_buffer_size() > UNREAD_LIMIT:
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
            self._bodies.drop()
            self._close()

    async def _begin(self) -> None:
        """What comes before the greeting: whose connection it is, and TLS on port 465."""
        async with asyncio.timeout(HANDSHAKE_TIME):
            if proxyline.is_balancer(self.talk.peer, self._setting.balancers):
                await self._origin()
        if self._setting.implicit:
            await self._secure()

    async def _origin(self) -> None:
        """Whose connection a balancer hands on (PROXY protocol)."""
        try:
            source = await proxyline.origin(self._wire)
        except proxyline.ProxyError:
            raise SmtpRefusal(replies.BAD_PROXY, closing=True) from None
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
            limit = LOGIN_LIMIT if self._handler.logins else COMMAND_LIMIT
            line = await self._wire.line(limit, self._limits.command_time)
        except BadLine as error:
            # So long before a login, it was one: its beginning was not kept.
            too_long = replies.LOGIN_TOO_LONG if self.machine.awaits_login else replies.LINE_TOO_LONG
            await self._refuse(too_long if error.too_long else replies.BAD_LINE)
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
        if self._setting.tls is None:
            raise SmtpRefusal(replies.BAD_SEQUENCE)
        # Octets of the handshake itself: after a PROXY header, or of a client that spoke before this task ran.
        early = self._wire.take_all()
        # From here on only TLS feeds the wire; what is in it when the handshake ends came under TLS and is kept.
        secured = Secured(cast(asyncio.Transport, self._writer.transport), self._setting.tls, self._wire)
        self._wire.attach(secured)
        self._secured = self.transport = secured
        self._writer = asyncio.StreamWriter(secured, self, None, self.loop)
        await secured.handshake(early, HANDSHAKE_TIME)
        self._handler.closed(self.talk)
        self.talk = Talk(self.talk.peer)
        self._note_tls(secured.channel)
        self._reset()
        self.machine.secured(
            certificate=self.talk.certificate is not None,
            bindable=self.talk.binding("tls-server-end-point") is not None,
        )
        self._handler.secured(self.talk)

    def _note_tls(self, channel: Channel) -> None:
        talk = self.talk
        talk.secure = True
        talk.tls_name = f"{channel.version()} {(channel.cipher() or ('',))[0]}"
        talk.certificate, talk.chain = channel.peer_certificate(), channel.peer_chain()
        talk.binding = channel.channel_binding

    # ---- login

    async def _log_in(self, mechanism: str, initial: str | None) -> None:
        """RFC 4954."""
        account = await log_in(mechanism, initial, self.talk, self._handler, self._ask)
        if account is None:
            self.talk.login_failures += 1
            if self.talk.login_failures >= self._limits.login_failures:
                raise SmtpRefusal(replies.TOO_MANY_ERRORS, closing=True)
            raise SmtpRefusal(replies.LOGIN_REFUSED)
        self.talk.account, self.machine.logged_in = account, True
        await self.push(replies.LOGGED_IN)

    async def _ask(self, challenge: str) -> bytes:
        await self.push(challenge)
        try:
            return await self._wire.line(LOGIN_LIMIT, self._limits.command_time)
        except BadLine as error:
            raise SmtpRefusal(replies.LOGIN_TOO_LONG if error.too_long else replies.BAD_BASE64) from None

    # ---- the message

    async def _take_data(self) -> None:
        """A bounded block, in pieces, then the handler's answer."""
        await self.push(replies.START_DATA)
        intake, failure = await self._bodies.block(self._wire)
        await self._conclude(intake, failure)

    async def _take_chunk(self, step: TakeChunk) -> None:
        """One chunk, and the handler's answer after the last."""
        failure = await self._bodies.chunk(self._wire, step)
        if step.refusal is not None or failure is not None:
            self.machine.broken |= failure is not None
            self._bodies.drop()
            if step.last:
                self._reset()
            await self.push(step.refusal or replies.reply_for(failure or ConnectionEnded()))
        elif not step.last:
            await self.push(replies.OK)
        else:
            await self._conclude(self._bodies.whole(), None)

    async def _conclude(self, intake: Intake, failure: StoreError | None) -> None:
        """The message is whole: refuse it, or have the handler take it."""
        transaction, taking = self.transaction, metrics.taking(self._handler.service)
        self._reset()
        try:
            if failure is not None:
                raise failure
            intake.scan.finish()
            refusal = fault(intake, transaction.options.body, repairs=self._handler.repairs)
            if refusal is not None:
                raise SmtpRefusal(refusal)
            received = await intake.finish()
        finally:
            intake.abort()
        try:
            with taking.seconds.time():
                reply = await self._handler.message(self.talk, transaction, received)
        finally:
            if received.stored is not None:
                await asyncio.to_thread(received.discard, self._setting.store)
        taking.accepted.inc()
        taking.octets.inc(received.size)
        await self.push(reply)
