"""STARTTLS, LOGIN, AUTHENTICATE PLAIN: nothing secret is accepted before TLS, and guessing is slow."""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import TYPE_CHECKING

from imap import format as fmt
from imap.channel import LineTooLong
from imap.errors import BadCommand, EndSession, Refused
from imap.states import BEFORE_LOGIN, Reply, Verb
from imap.values import Authenticate, Command, Login

if TYPE_CHECKING:
    from imap.session import Session

# RFC 4616: each part is at most 255 octets of UTF-8; three parts and two NULs, in base64.
MOST_PLAIN = 1200
_WRONG = "Adresse ou mot de passe incorrect. / Authentication failed."


async def _start_tls(session: Session, command: Command) -> Reply:
    """RFC 3501 §6.2.1. Octets already received after the command are an injection: the connection ends."""
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
    return await _check(session, command.arguments.user, command.arguments.password)


async def _authenticate(session: Session, command: Command) -> Reply:
    arguments = command.arguments
    if not isinstance(arguments, Authenticate):
        raise BadCommand("malformed AUTHENTICATE")
    if arguments.mechanism != "PLAIN":
        raise Refused("CANNOT", "Unsupported mechanism")
    if not session.channel.tls:
        raise Refused("PRIVACYREQUIRED", "Use TLS first")
    encoded = arguments.initial
    if encoded is None:
        await session.send(b"+ \r\n")
        await session.flush()
        try:
            line = await session.read_line(session.limits.line_before_login)
        except LineTooLong:
            raise EndSession("Command line too long") from None
        encoded = line.rstrip(b"\r\n")
        if encoded == b"*":
            raise BadCommand("authentication cancelled")
    user, password = plain_credentials(encoded)
    return await _check(session, user, password)


def plain_credentials(encoded: bytes) -> tuple[str, str]:
    """User and password of a SASL PLAIN response in base64 (RFC 4616). Raises BadCommand, whose context holds nothing."""
    try:
        if len(encoded) > MOST_PLAIN:
            raise ValueError("length")
        decoded = b"" if encoded == b"=" else base64.b64decode(encoded, validate=True)
        identity, user, password = (piece.decode("utf-8") for piece in decoded.split(b"\x00"))
        # Acting for somebody else is not offered: the identity, when given, is the user's own.
        if not user or not password or identity.lower() not in ("", user.lower()):
            raise ValueError("identity")
    except (ValueError, binascii.Error):
        raise BadCommand("malformed PLAIN response") from None
    return user, password


async def _check(session: Session, user: str, password: str) -> Reply:
    address = user.strip().lower()
    async with session.server.logins:
        account = await session.call(session.store.authenticate, address, password, session.server.clock())
    if account is not None and account.active:
        session.log_in(account)
        return Reply("Logged in", session.capabilities())
    session.login_failures += 1
    # One to two seconds, not always the same: neither fast guessing nor a clock for the attacker.
    delay = session.limits.login_delay
    await session.server.sleep(delay * (1 + secrets.randbelow(1000) / 1000))
    if session.login_failures >= session.limits.login_failures:
        await session.send(
            fmt.status(
                "*",
                "OK",
                "ALERT",
                "Trop d'échecs de connexion, réessayez plus tard. / Too many failed logins, try later.",
            )
        )
        raise Refused("AUTHENTICATIONFAILED", _WRONG, final=True)
    raise Refused("AUTHENTICATIONFAILED", _WRONG)


VERBS = (
    Verb("STARTTLS", BEFORE_LOGIN, _start_tls),
    Verb("LOGIN", BEFORE_LOGIN, _login),
    Verb("AUTHENTICATE", BEFORE_LOGIN, _authenticate),
)
