"""Bearer tokens of an identity provider such as Pro Santé Connect: whose are they, and until when?

Used by SMTP and IMAP alike (SASL OAUTHBEARER, RFC 7628; XOAUTH2). Invariants: only asymmetric signatures of the issuer's
published keys count, whatever the token announces; a token is never stored or logged, nor is any part of it; when the
keys cannot be had, no token is good. The provider is asked with a limit of time and size, and at most every half minute.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
from jwt.types import Options

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
MAX_TOKEN = 16 * 1024
_MAX_ANSWER = 256 * 1024
_MAX_KEYS = 32
_LEEWAY = timedelta(seconds=60)
_PAUSE = timedelta(seconds=30)
# Times are compared with the instant passed in, not with the library's clock; the audience may be in `azp`.
_OPTIONS: Options = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "require": ["exp", "iss"],
}
_FRESH = timedelta(hours=1)
_KEPT = timedelta(hours=24)


class BearerError(Exception):
    """The token identifies nobody here; the text names the rule and holds nothing of the token."""


class ProviderUnavailable(BearerError):
    """The issuer's keys cannot be had now: the client may come back."""


@dataclass(frozen=True, slots=True)
class BearerIdentity:
    """Whom a token speaks for: national identifier (`8` + RPPS), the instant it ends (aware UTC), and the address it names
    ("" when none), which only chooses among mailboxes of that person."""

    national_id: str
    expires_at: datetime
    address: str = ""


@dataclass(frozen=True, slots=True)
class Issuer:
    """An OpenID Connect provider.

    `url`: the `iss` of its tokens. `keys_url`: its JWKS (RFC 7517). `audience`: the client ids whose tokens are taken, in
    `aud` or `azp`; empty takes them all. `claims`: where the national identifier is looked for, in order.
    """

    url: str
    keys_url: str
    audience: tuple[str, ...] = ()
    claims: tuple[str, ...] = ("SubjectNameID", "preferred_username")


class BearerVerifier:
    """Checks tokens of one issuer; thread safe. `client`: the httpx client that reaches the provider."""

    def __init__(self, issuer: Issuer, client: httpx.Client) -> None:
        self._issuer = issuer
        self._client = client
        self._lock = threading.Lock()
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._fetched_at = self._asked_at = datetime.min.replace(tzinfo=UTC)

    def verify(self, token: str, at: datetime) -> BearerIdentity:
        """Whom `token` (a JWS compact serialisation, RFC 7519) speaks for at `at`. Raises BearerError, ProviderUnavailable."""
        if len(token) > MAX_TOKEN:
            raise BearerError("jeton trop long / token too long")
        try:
            header = jwt.get_unverified_header(token)
            algorithm = str(header.get("alg"))
            if algorithm not in ALGORITHMS:
                raise BearerError("algorithme de signature refusé / signature algorithm refused")
            key = self._key(str(header.get("kid", "")), at)
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],
                issuer=self._issuer.url,
                options=_OPTIONS,
            )
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise BearerError(f"jeton refusé / token refused ({type(error).__name__})") from None
        return self._identity(claims, at)

    def _identity(self, claims: Mapping[str, Any], at: datetime) -> BearerIdentity:
        ends, begins = _instant(claims.get("exp")), _instant(claims.get("nbf", 0))
        if ends is None or begins is None or not begins - _LEEWAY <= at < ends + _LEEWAY:
            raise BearerError("jeton expiré ou pas encore valable / token expired or not yet valid")
        if self._issuer.audience and not _audience(claims) & set(self._issuer.audience):
            raise BearerError("jeton fait pour un autre logiciel / token made for another client")
        for name in self._issuer.claims:
            value = claims.get(name)
            if isinstance(value, str) and 0 < len(value) <= 64:
                named = claims.get("email")
                return BearerIdentity(value, ends, named if isinstance(named, str) and len(named) <= 254 else "")
        raise BearerError("jeton sans identifiant national / token without a national identifier")

    def _key(self, key_id: str, at: datetime) -> jwt.PyJWK:
        with self._lock:
            # An unknown key asks again (the issuer may have changed it), an old set too; neither more than its pause.
            if (key_id not in self._keys or at - self._fetched_at > _FRESH) and at - self._asked_at >= _PAUSE:
                self._asked_at = at
                self._refresh(at)
            if at - self._fetched_at > _KEPT:
                raise ProviderUnavailable("fournisseur d'identité injoignable / identity provider unreachable")
            if key_id not in self._keys:
                raise BearerError("clé de signature inconnue / unknown signing key")
            return self._keys[key_id]

    def _refresh(self, at: datetime) -> None:
        """Take the issuer's present keys; on failure those in hand stay, for a day."""
        try:
            with self._client.stream("GET", self._issuer.keys_url) as response:
                response.raise_for_status()
                content = bytearray()
                for piece in response.iter_bytes():
                    content += piece
                    if len(content) > _MAX_ANSWER:
                        return
            found = jwt.PyJWKSet.from_json(content.decode())
        except (httpx.HTTPError, jwt.PyJWTError, ValueError, TypeError, AttributeError):
            return
        # A key may serve encryption, or be symmetric: neither proves who issued a token.
        self._keys = {
            key.key_id or "": key
            for key in found.keys[:_MAX_KEYS]
            if key.key_type in {"RSA", "EC"} and key.public_key_use in {None, "sig"}
        }
        self._fetched_at = at


def _audience(claims: Mapping[str, Any]) -> set[str]:
    audience = claims.get("aud", [])
    values = audience if isinstance(audience, list) else [audience]
    return {value for value in (*values, claims.get("azp")) if isinstance(value, str)}


def _instant(value: Any) -> datetime | None:
    """A NumericDate (RFC 7519 §2): seconds since the epoch."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        return None
