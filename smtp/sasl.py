"""SASL mechanisms as pure conversations: octets in, challenges out, and in the end a claim that others must check.

Invariants: no mechanism decides: the claim says what was shown, and `submission` says whose it is; one step is bounded by the
command line that carries it; secrets appear in no error. SCRAM (RFC 5802, RFC 7677) compares in constant time, and answers an
unknown login as it answers a known one until the proof.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from mailstore import ScramVerifier

MECHANISMS = ("PLAIN", "LOGIN", "EXTERNAL", "OAUTHBEARER", "XOAUTH2", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS")
_GS2 = re.compile(r"(?P<flag>[ny]|p=(?P<binding>[A-Za-z0-9.-]{1,64})),(?:a=(?P<as>[^,]*))?,")
_FIRST = re.compile(r"n=(?P<user>[^,]{1,320}),r=(?P<nonce>[\x21-\x2b\x2d-\x7e]{8,256})(?:,[^m].*)?")
_FINAL = re.compile(
    r"(?P<bare>c=(?P<binding>[A-Za-z0-9+/=]+),r=(?P<nonce>[^,]+)(?:,[^,]+)*?),p=(?P<proof>[A-Za-z0-9+/=]+)"
)


class SaslError(Exception):
    """The client's octets are not what the mechanism asks for. The text repeats nothing of them."""


@dataclass(frozen=True, slots=True)
class Password:
    """PLAIN and LOGIN."""

    login: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class External:
    """EXTERNAL: the TLS certificate; `asked` is the authorization identity, "" for one's own."""

    asked: str


@dataclass(frozen=True, slots=True)
class Bearer:
    """OAUTHBEARER and XOAUTH2: a token, and the mailbox it is shown for ("" when not said)."""

    login: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Proven:
    """SCRAM: the login proved that it knows its password."""

    login: str


Claim = Password | External | Bearer | Proven
Conversation = Generator[bytes, bytes, Claim | None]
"""Yields challenges, is sent responses, returns the claim; None when the proof is wrong."""
Verifiers = Callable[[str], ScramVerifier]
"""The SCRAM verifier of a login; of an unknown one, one that nothing satisfies."""
Bindings = Callable[[str], bytes | None]
"""The channel binding of a type, None when this connection has none of it."""


def converse(
    mechanism: str, initial: bytes | None, *, verifiers: Verifiers, bindings: Bindings, secure_bindings: bool = True
) -> Conversation:
    """Begin a mechanism of MECHANISMS. Raises SaslError from its steps."""
    if mechanism == "LOGIN":
        return _login(initial)
    if mechanism == "PLAIN":
        return _plain(initial)
    if mechanism == "EXTERNAL":
        return _external(initial)
    if mechanism in ("OAUTHBEARER", "XOAUTH2"):
        return _bearer(initial, gs2=mechanism == "OAUTHBEARER")
    return _scram(initial, plus=mechanism.endswith("-PLUS"), verifiers=verifiers, bindings=bindings)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise SaslError("not UTF-8") from None


def _login(initial: bytes | None) -> Conversation:
    login = _text(initial if initial is not None else (yield b"Username:"))
    return Password(login, _text((yield b"Password:")))


def _plain(initial: bytes | None) -> Conversation:
    """RFC 4616."""
    fields = _text(initial if initial is not None else (yield b"")).split("\0")
    if len(fields) != 3:
        raise SaslError("three fields expected")
    asked, login, secret = fields
    if asked and asked.lower() != login.lower():
        return None
    return Password(login, secret)


def _external(initial: bytes | None) -> Conversation:
    """RFC 4422 appendix A."""
    return External(_text(initial if initial is not None else (yield b"")).lower())


def _bearer(initial: bytes | None, *, gs2: bool) -> Conversation:
    """RFC 7628 §3.1, and the older XOAUTH2 that REF2 names (ECO.1.2.1)."""
    message = _text(initial if initial is not None else (yield b""))
    pairs = [part.partition("=")[::2] for part in message.split("\x01") if "=" in part]
    values = {name.lower(): value for name, value in pairs}
    login = values.get("user", "")
    if gs2:
        match = _GS2.match(message)
        if match is None or match["flag"] not in ("n", "y"):
            raise SaslError("GS2 header expected")
        login = _saslname(match["as"] or "")
    scheme, _, token = values.get("auth", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise SaslError("bearer token expected")
    return Bearer(login, token.strip())


def bearer_failure() -> bytes:
    """The challenge that tells a client its token was refused (RFC 7628 §3.2.2); it answers, then AUTH fails."""
    return json.dumps({"status": "invalid_token", "schemes": "bearer", "scope": "openid"}).encode("ascii")


def _scram(initial: bytes | None, *, plus: bool, verifiers: Verifiers, bindings: Bindings) -> Conversation:
    message = _text(initial if initial is not None else (yield b""))
    header = _GS2.match(message)
    first = _FIRST.fullmatch(message[header.end() :]) if header else None
    if header is None or first is None:
        raise SaslError("client-first-message expected")
    bound = header["binding"]
    # "y" says that the client could bind but believed we cannot: we can, so somebody changed our offer (RFC 5802 §6).
    if plus != (bound is not None) or header["flag"] == "y":
        raise SaslError("channel binding does not match the mechanism")
    data = bindings(bound) if bound is not None else b""
    if data is None:
        raise SaslError("channel binding type not available")
    login = _saslname(first["user"])
    if header["as"] and _saslname(header["as"]).lower() != login.lower():
        return None
    verifier = verifiers(login)
    nonce = first["nonce"] + secrets.token_urlsafe(18)
    salt = base64.b64encode(verifier.salt).decode("ascii")
    server_first = f"r={nonce},s={salt},i={verifier.iterations}"
    final = _FINAL.fullmatch(_text((yield server_first.encode("ascii"))))
    if final is None:
        raise SaslError("client-final-message expected")
    transcript = f"{message[header.end() :]},{server_first},{final['bare']}".encode()
    expected = base64.b64encode(header.group().encode("utf-8") + data)
    right = hmac.compare_digest(expected, final["binding"].encode("ascii"))
    right &= hmac.compare_digest(nonce.encode("ascii"), final["nonce"].encode("utf-8"))
    if not (_proof_is_right(verifier, transcript, final["proof"]) and right):
        return None
    signature = hmac.digest(verifier.server_key, transcript, "sha256")
    yield b"v=" + base64.b64encode(signature)
    return Proven(login)


def _proof_is_right(verifier: ScramVerifier, transcript: bytes, proof: str) -> bool:
    try:
        shown = base64.b64decode(proof, validate=True)
    except binascii.Error:
        return False
    signature = hmac.digest(verifier.stored_key, transcript, "sha256")
    if len(shown) != len(signature):
        return False
    client_key = bytes(one ^ other for one, other in zip(shown, signature, strict=True))
    return hmac.compare_digest(hashlib.sha256(client_key).digest(), verifier.stored_key)


def _saslname(name: str) -> str:
    """RFC 5802 §5.1: `=2C` and `=3D`, and no other use of `=`."""
    if re.search(r"=(?!2C|3D)", name):
        raise SaslError("malformed name")
    return name.replace("=2C", ",").replace("=3D", "=")
