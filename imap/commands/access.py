"""STARTTLS, LOGIN, AUTHENTICATE: nothing secret is accepted before TLS, and guessing is slow."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from imap import format as fmt
from imap.channel import LineTooLong
from imap.errors import BadCommand, EndSession, Refused
from imap.sasl import (
    BEARER_REFUSED,
    MOST_BEARER,
    external_identity,
    oauthbearer_token,
    plain_credentials,
    xoauth2_token,
)
from imap.states import BEFORE_LOGIN, Reply, Verb
from imap.values import Authenticate, Command, Login
from mailstore.model import Account

if TYPE_CHECKING:
    from imap.session import Session

_WRONG = "Adresse ou mot de passe incorrect. / Authentication failed."


async def _start_tls(session: Session, command: Command) -> Reply:
    """RFC 9051 §6.2.1. Octets already received after the command are an injection: the connection ends."""
    channel = session.channel
    if channel.tls:
        raise BadCommand("TLS is already on")
    if not session.server.can_start_tls:
        raise BadCommand("STARTTLS is not offered")
    if not channel.hold():
        raise EndSession("Text after STARTTLS")
    await session.send(fmt.status(command.tag, "OK", "", "Begin TLS negotiation now"))
    await session.flush()
    remaining = max(0.1, min(session.limits.handshake_time, session.read_timeout()))
    await channel.start_tls(session.server.tls_context, remaining)
    # The tagged OK went out in clear, before the handshake: there is nothing more to say.
    return Reply("", silent=True)


async def _login(session: Session, command: Command) -> Reply:
    if not isinstance(command.arguments, Login):
        raise BadCommand("malformed LOGIN")
    if not session.channel.tls:
        raise Refused("PRIVACYREQUIRED", "Use TLS first")
    return await _check_password(session, command.arguments.user, command.arguments.password)


async def _authenticate(session: Session, command: Command) -> Reply:
    arguments = command.arguments
    if not isinstance(arguments, Authenticate):
        raise BadCommand("malformed AUTHENTICATE")
    mechanism = _MECHANISMS.get(arguments.mechanism)
    if mechanism is None:
        raise Refused("CANNOT", "Unsupported mechanism")
    if not session.channel.tls:
        raise Refused("PRIVACYREQUIRED", "Use TLS first")
    response = arguments.initial
    if response is None:
        response = await _asked(session, b"")
    return await mechanism(session, response)


async def _asked(session: Session, challenge: bytes) -> bytes:
    """The client's response, in base64, to a challenge. Raises BadCommand when it gives up."""
    await session.send(b"+ " + challenge + b"\r\n")
    await session.flush()
    try:
        line = await session.read_line(max(session.limits.line_before_login, MOST_BEARER + 2))
    except LineTooLong:
        raise EndSession("Command line too long") from None
    if not line.endswith(b"\r\n"):
        raise BadCommand("lines end with CRLF")
    if line == b"*\r\n":
        raise BadCommand("authentication cancelled")
    return line.removesuffix(b"\r\n")


async def _plain(session: Session, response: bytes) -> Reply:
    return await _check_password(session, *plain_credentials(response))


async def _external(session: Session, response: bytes) -> Reply:
    """The mailbox whose registered public key the client's certificate carries; never its names (DESIGN: identity is
    the full certificate or key)."""
    wanted = external_identity(response).strip().lower()
    certificate = session.channel.certificate
    account = None
    if certificate is not None:
        key = x509.load_der_x509_certificate(certificate).public_key()
        digest = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
        account = await session.call(session.store.account_for_client_key, digest)
    if account is not None and wanted not in ("", account.address):
        account = None
    return await _enter(session, account, noted=False)


async def _oauthbearer(session: Session, response: bytes) -> Reply:
    return await _check_token(session, *oauthbearer_token(response))


async def _xoauth2(session: Session, response: bytes) -> Reply:
    return await _check_token(session, *xoauth2_token(response))


async def _check_token(session: Session, user: str, token: str) -> Reply:
    """A bearer token proves who somebody is; the verifier says which mailbox that opens."""
    if session.server.tokens is None:
        raise Refused("CANNOT", "Unsupported mechanism")
    try:
        async with session.server.logins:
            account = await session.call(session.server.tokens, user.strip().lower(), token, session.server.clock())
    except session.server.tokens_away:
        raise Refused("UNAVAILABLE", "Service d'identité injoignable. / Identity provider unavailable.") from None
    if account is None or not account.active:
        # RFC 7628 §3.2.3: the refusal is told in a challenge, whatever the client answers to it.
        await _asked(session, BEARER_REFUSED)
    return await _enter(session, account, noted=False)


_MECHANISMS: dict[str, Callable[[Session, bytes], Awaitable[Reply]]] = {
    "PLAIN": _plain,
    "EXTERNAL": _external,
    "OAUTHBEARER": _oauthbearer,
    "XOAUTH2": _xoauth2,
}


async def _check_password(session: Session, user: str, password: str, identity: str = "") -> Reply:
    """`identity`: whom the user would act as; for somebody else is not offered."""
    address = user.strip().lower()
    async with session.server.logins:
        account = await session.call(
            session.store.authenticate,
            address,
            password,
            session.server.clock(),
            service="imap",
            source=session.channel.peer,
        )
    if account is not None and account.active and identity.strip().lower() not in ("", address):
        text = "On n'agit pas au nom d'un autre. / Acting for somebody else is not offered."
        raise Refused("AUTHORIZATIONFAILED", text)
    return await _enter(session, account, noted=True)


async def _enter(session: Session, account: Account | None, *, noted: bool) -> Reply:
    """Logs in, or refuses slowly. `noted`: the store has already traced the login."""
    if account is not None and account.active:
        session.log_in(account)
        if not noted:
            await session.call(
                session.store.note_login,
                account.id,
                session.server.clock(),
                service="imap",
                source=session.channel.peer,
            )
        return Reply("Logged in", session.capabilities())
    session.login_failures += 1
    # One to two seconds, not always the same: neither fast guessing nor a clock for the attacker.
    delay = session.limits.login_delay
    await session.server.sleep(delay * (1 + secrets.randbelow(1000) / 1000))
    if session.login_failures < session.limits.login_failures:
        raise Refused("AUTHENTICATIONFAILED", _WRONG)
    alert = "Trop d'échecs de connexion, réessayez plus tard. / Too many failed logins, try later."
    await session.send(fmt.status("*", "OK", "ALERT", alert))
    raise Refused("AUTHENTICATIONFAILED", _WRONG, final=True)


VERBS = (
    Verb("STARTTLS", BEFORE_LOGIN, _start_tls),
    Verb("LOGIN", BEFORE_LOGIN, _login),
    Verb("AUTHENTICATE", BEFORE_LOGIN, _authenticate),
)
