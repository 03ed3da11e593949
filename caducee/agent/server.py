"""The agent's listeners: SMTP for the mail program, and IMAP passed on, both on loopback only.

Invariants: nobody sends without logging in, for other people may use the same computer; MAIL FROM is the mailbox of the
settings; a message is answered as the operator answered it; sizes, connections and times are bounded; no content,
password or PIN reaches the log.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ssl
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import structlog
from aiosmtpd.smtp import MISSING, SMTP, AuthResult, Envelope, Session

import smime
from caducee.agent.desk import Desk, NotAgreed
from caducee.agent.settings import AgentSettings, local_password_is
from caducee.agent.upstream import Answer, CardLogin, Operator, check_account, submit
from smime.cps_errors import (
    BadPin,
    CardError,
    CardRemoved,
    ExpiredCard,
    LastTry,
    NoCard,
    NoReader,
    PinBlocked,
    ReaderFailed,
    SeveralCards,
    WrongPin,
)

LOOPBACK = "127.0.0.1"
_CONNECTIONS = 20
_IDLE_SECONDS = 300
_IMAP_IDLE_SECONDS = 1900  # IDLE is renewed every 29 minutes (RFC 2177)
_CHUNK = 64 * 1024
_RECIPIENTS = 100
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Agent:
    """The agent of one person. `start` listens, `close` stops and forgets the PIN."""

    settings: AgentSettings
    desk: Desk
    operator: Operator
    forget: Callable[[], None]
    _servers: list[asyncio.Server] = field(default_factory=list)
    _open: int = 0

    async def start(self) -> None:
        """Listen. Raises OSError when a port is taken."""
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_server(self._smtp, LOOPBACK, self.settings.listen_port))
        if self.settings.listen_imap_port:
            server = await asyncio.start_server(self._imap, LOOPBACK, self.settings.listen_imap_port)
            self._servers.append(server)

    async def close(self) -> None:
        """Stop listening and forget the PIN."""
        for server in self._servers:
            server.close()
        self.forget()

    def _smtp(self) -> SMTP:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it advises TLS, which loopback does not need
            return self._session()

    def _session(self) -> SMTP:
        return SMTP(
            _Handler(self),
            data_size_limit=self.settings.message_mib * 1024 * 1024,
            hostname="agent.caducee.invalid",
            ident="Caducee",
            auth_required=True,
            auth_require_tls=False,  # loopback: there is nobody in between
            auth_exclude_mechanism=["CRAM-MD5"],
            timeout=_IDLE_SECONDS,
        )

    async def _imap(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass octets between the mail program and the operator's IMAP over TLS."""
        if self._open >= _CONNECTIONS:
            writer.close()
            return
        self._open += 1
        try:
            far_reader, far_writer = await asyncio.wait_for(
                asyncio.open_connection(
                    self.operator.host,
                    self.settings.imap_port,
                    ssl=self.operator.trust,
                    server_hostname=self.operator.host,
                ),
                _IDLE_SECONDS,
            )
            both = {
                asyncio.create_task(_pump(reader, far_writer)),
                asyncio.create_task(_pump(far_reader, writer)),
            }
            _, rest = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for task in rest:
                task.cancel()
            far_writer.close()
        except (OSError, ssl.SSLError, TimeoutError):
            with suppress(OSError):
                writer.write(b"* BYE operateur injoignable / operator unreachable\r\n")
        finally:
            self._open -= 1
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, TimeoutError):
        while data := await asyncio.wait_for(reader.read(_CHUNK), _IMAP_IDLE_SECONDS):
            writer.write(data)
            await writer.drain()


class _Handler:
    """aiosmtpd's hooks; one object a connection."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._login: tuple[str, str] | None = None

    async def auth_PLAIN(self, server: SMTP, args: list[str]) -> AuthResult:
        """RFC 4616."""
        blob = args[1] if len(args) > 1 else await server.challenge_auth("")
        if blob is MISSING:
            return AuthResult(success=False)
        try:
            octets = base64.b64decode(blob, validate=True) if isinstance(blob, str) else bytes(blob)
            _, login, password = octets.decode("utf-8").split("\0")
        except (binascii.Error, ValueError):
            return await self._refuse(server, Answer(501, "5.5.2 base64"))
        return await self._check(server, login, password)

    async def auth_LOGIN(self, server: SMTP, args: list[str]) -> AuthResult:
        """What old mail programs use."""
        login = await server.challenge_auth("Username:")
        password = await server.challenge_auth("Password:")
        if login is MISSING or password is MISSING:
            return AuthResult(success=False)
        return await self._check(
            server, bytes(login).decode("utf-8", "replace"), bytes(password).decode("utf-8", "replace")
        )

    async def _check(self, server: SMTP, login: str, password: str) -> AuthResult:
        settings = self._agent.settings
        if login.lower() != settings.address.lower():
            return await self._refuse(server, Answer(535, "5.7.8 identifiant inconnu de l'agent / unknown login"))
        if settings.login == "card":
            good = local_password_is(settings, password)
            answer = (
                Answer(235, "2.7.0 OK") if good else Answer(535, "5.7.8 mot de passe de l'agent / agent's password")
            )
        else:
            answer = await asyncio.to_thread(check_account, self._agent.operator, login, password)
        if not answer.ok:
            return await self._refuse(server, answer)
        self._login = (login, password)
        return AuthResult(success=True, auth_data=login)

    async def _refuse(self, server: SMTP, answer: Answer) -> AuthResult:
        _log.warning("login refused", code=answer.code)
        await asyncio.sleep(1)
        await server.push(answer.line())
        return AuthResult(success=False, handled=True)

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Only the mailbox of the settings sends."""
        if address.lower() != self._agent.settings.address.lower():
            return "553 5.7.1 cet agent ne signe que pour sa boite / this agent signs for its own mailbox only"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Recipients are judged by the operator, once the message is there."""
        if len(envelope.rcpt_tos) >= _RECIPIENTS:
            return "452 4.5.3 trop de destinataires / too many recipients"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Sign, hand over, and give the operator's own answer."""
        content: Any = envelope.content
        work = asyncio.to_thread(self._send, str(envelope.mail_from), list(envelope.rcpt_tos), bytes(content))
        answer = await work
        _log.info("message handed over" if answer.ok else "message not sent", code=answer.code, size=len(content))
        return answer.line()

    async def handle_exception(self, error: Exception) -> str:
        """Never the text of an error, which may quote the message."""
        _log.error("agent error", exc_info=error)
        return "451 4.3.0 erreur de l'agent, reessayer / agent error, try again"

    def _send(self, sender: str, recipients: list[str], content: bytes) -> Answer:
        agent = self._agent
        try:
            signed = agent.desk.sign(content, recipients)
            login: tuple[str, str] | CardLogin | None = self._login
            if agent.settings.login == "card":
                login = CardLogin(agent.desk.certificate(), agent.desk.authenticate)
            if login is None:
                return Answer(530, "5.7.0 authentification requise / authentication required")
            return submit(agent.operator, login, sender, recipients, signed)
        except NotAgreed:
            return Answer(
                550, "5.7.1 signature refusee ou sans reponse : rien n'est parti / not agreed: nothing was sent"
            )
        except CardError as error:
            return card_answer(error)
        except smime.SmimeError as error:
            return Answer(550, f"5.6.0 message impossible a signer ({error.code}) / message cannot be signed")
        finally:
            if not agent.settings.pin_minutes:
                agent.forget()


_CARD_ANSWERS: dict[type[CardError], Answer] = {
    NoReader: Answer(
        451, "4.7.5 lecteur de carte absent : le brancher, puis renvoyer / no card reader: plug it in, send again"
    ),
    NoCard: Answer(451, "4.7.5 carte absente : l'inserer, puis renvoyer / no card: insert it, then send again"),
    SeveralCards: Answer(
        451, "4.7.5 plusieurs cartes : n'en laisser qu'une, ou regler reader / several cards: leave one"
    ),
    CardRemoved: Answer(
        451, "4.7.5 carte retiree pendant le travail : la remettre, puis renvoyer / card removed: put it back"
    ),
    ReaderFailed: Answer(
        451, "4.7.5 le lecteur ne repond pas : le rebrancher, puis renvoyer / the reader does not answer"
    ),
    ExpiredCard: Answer(550, "5.7.5 carte ou certificat hors de ses dates / card or certificate out of its dates"),
    BadPin: Answer(550, "5.7.8 code PIN mal forme, non presente a la carte / malformed PIN, not shown to the card"),
    LastTry: Answer(
        550, "5.7.8 un seul essai restant : renvoyer, puis saisir le code / one try left: send again, type the PIN"
    ),
    PinBlocked: Answer(550, "5.7.8 code PIN bloque : debloquer la carte / PIN blocked: unblock the card"),
}


def card_answer(error: CardError) -> Answer:
    """What the mail program shows when the card does not sign; nothing was sent."""
    if isinstance(error, WrongPin):
        return Answer(
            550, f"5.7.8 code PIN refuse, {error.left} essai(s) restant(s) / wrong PIN, {error.left} tries left"
        )
    known = _CARD_ANSWERS.get(type(error))
    return known or Answer(
        550, f"5.7.5 la carte ne peut pas signer ({error.code}) / the card cannot sign ({error.code})"
    )
