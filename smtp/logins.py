"""A SASL login on the wire (RFC 4954): challenges and responses in base64, until an account or a refusal.

Invariants: every step that may read the store runs in a thread; what the client sends is bounded by the reader it is given,
and never logged; a failed login says nothing of its reason.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable

from mailstore import Account
from smtp import metrics, replies, sasl
from smtp.replies import SmtpRefusal
from smtp.session import Handler, Talk

Ask = Callable[[str], Awaitable[bytes]]
"""Sends a 334 line and answers the client's line. Raises SmtpRefusal for a line that cannot be one."""


async def log_in(mechanism: str, initial: str | None, talk: Talk, handler: Handler, ask: Ask) -> Account | None:
    """Hold the conversation and have the claim checked: the account, or None. Raises SmtpRefusal for what is no login."""
    first = None if initial is None else _decoded(b"" if initial == "=" else initial.encode("ascii"))
    conversation = sasl.converse(mechanism, first, verifiers=handler.verifier, bindings=talk.binding)
    try:
        account = await _converse(conversation, talk, handler, ask)
    except sasl.SaslError:
        raise SmtpRefusal(replies.BAD_SYNTAX) from None
    metrics.LOGINS.labels(mechanism, "refused" if account is None else "accepted").inc()
    if account is None and mechanism in ("OAUTHBEARER", "XOAUTH2"):
        await _response(ask, sasl.bearer_failure())
    return account


async def _converse(conversation: sasl.Conversation, talk: Talk, handler: Handler, ask: Ask) -> Account | None:
    """One step at a time, in a thread: a step may read the store."""
    response: bytes | None = None
    while True:
        challenge, claim = await asyncio.to_thread(_step, conversation, response)
        if challenge is None:
            return None if claim is None else await handler.claimed(talk, claim)
        response = await _response(ask, challenge)


async def _response(ask: Ask, challenge: bytes) -> bytes:
    line = await ask(f"334 {base64.b64encode(challenge).decode('ascii')}")
    if line == b"*":
        raise SmtpRefusal(replies.LOGIN_ABORTED)
    return _decoded(line)


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
