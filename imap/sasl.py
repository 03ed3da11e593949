"""The responses of SASL mechanisms, in base64 as IMAP carries them (RFC 9051 §6.2.2). Pure; nothing here is ever logged.

PLAIN (RFC 4616), EXTERNAL (RFC 4422 appendix A), OAUTHBEARER (RFC 7628) and XOAUTH2 (its forerunner, still what some
clients speak).
"""

from __future__ import annotations

import base64
import binascii
import re

from imap.errors import BadCommand

# RFC 4616: each part is at most 255 octets of UTF-8; three parts and two NULs, in base64.
MOST_PLAIN = 1200
MOST_BEARER = 12 * 1024
_BEARER = re.compile(rb"Bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)
BEARER_REFUSED = base64.b64encode(b'{"status":"invalid_token","schemes":"bearer","scope":""}')
"""What RFC 7628 §3.2.2 sends before the client's last word and the refusal."""


def decoded(encoded: bytes, most: int) -> bytes:
    """The octets behind a response. Raises BadCommand, whose context holds nothing of it."""
    try:
        if len(encoded) > most:
            raise ValueError("length")
        return b"" if encoded in (b"=", b"") else base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        raise BadCommand("malformed SASL response") from None


def plain_credentials(encoded: bytes) -> tuple[str, str, str]:
    """User, password and the identity to act as ("" when not said) of PLAIN. Raises BadCommand."""
    try:
        identity, user, password = (piece.decode("utf-8") for piece in decoded(encoded, MOST_PLAIN).split(b"\x00"))
        if not user or not password:
            raise ValueError("empty")
    except ValueError:
        raise BadCommand("malformed PLAIN response") from None
    return user, password, identity


def external_identity(encoded: bytes) -> str:
    """The mailbox that EXTERNAL asks for, "" for that of the certificate. Raises BadCommand."""
    try:
        return decoded(encoded, MOST_PLAIN).decode("utf-8")
    except UnicodeDecodeError:
        raise BadCommand("malformed EXTERNAL response") from None


def oauthbearer_token(encoded: bytes) -> tuple[str, str]:
    """User ("" when not said) and token of `n,a=user,^Ahost=...^Aauth=Bearer token^A^A`. Raises BadCommand."""
    header, separator, rest = decoded(encoded, MOST_BEARER).partition(b"\x01")
    flag, _, identity = header.partition(b",")
    if not separator or flag not in (b"n", b"y") or not rest.endswith(b"\x01\x01"):
        raise BadCommand("malformed OAUTHBEARER response")
    name, _, end = identity.partition(b",")
    if end or (name and not name.startswith(b"a=")):
        raise BadCommand("malformed OAUTHBEARER response")
    pairs = dict(pair.partition(b"=")[::2] for pair in rest[:-2].split(b"\x01"))
    # RFC 5801 §4: `,` and `=` of a name are written =2C and =3D.
    user = name[2:].replace(b"=2C", b",").replace(b"=3D", b"=")
    return _text(user), _bearer(pairs.get(b"auth", b""))


def xoauth2_token(encoded: bytes) -> tuple[str, str]:
    """User and token of `user=...^Aauth=Bearer token^A^A`. Raises BadCommand."""
    response = decoded(encoded, MOST_BEARER)
    if not response.endswith(b"\x01\x01"):
        raise BadCommand("malformed XOAUTH2 response")
    pairs = dict(pair.partition(b"=")[::2] for pair in response[:-2].split(b"\x01"))
    return _text(pairs.get(b"user", b"")), _bearer(pairs.get(b"auth", b""))


def _bearer(value: bytes) -> str:
    match = _BEARER.fullmatch(value)
    if match is None:
        raise BadCommand("malformed bearer token")
    return match[1].decode("ascii")


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise BadCommand("malformed SASL response") from None
