"""TLS contexts that follow the trust space: a renewed certificate or new anchors count at the next handshake.

Invariants: connections already open keep what they were opened with; a certificate or key that cannot be used leaves
the former one in place and a text in `problem`; nothing here reads more than file dates in an event loop, except when
something changed. What each purpose demands of the peer's name is one table.

An ssl.SSLContext cannot forget an authority, so contexts are built anew and connections opened through the current one:
asyncio, uvloop, httpx and uvicorn all go through `wrap_bio` or `wrap_socket`.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from trustspace.model import TrustSpaceError
from trustspace.space import TrustSpace, TrustUnavailable
from trustspace.tls import client_context, server_context
from trustspace.verdict import Anchors, Purpose

_CHECKS_HOST_NAME = {
    # The white list ties no host name to a domain: the full DN decides (mssante.md §2), in TrustSpace.authorise.
    Purpose.PEERS: False,
    Purpose.DMP: True,
    Purpose.DOWNLOAD: True,
}
_CHECKS_REVOCATION = {Purpose.DMP}
"""Where nothing looks at the server's certificate after the handshake. What is downloaded is signed by itself."""


@dataclass(frozen=True, slots=True)
class OwnCertificate:
    """The files of our side of the connection: chain (leaf first) and key, PEM."""

    chain: Path
    key: Path

    def stamp(self) -> Hashable:
        """Changes when either file does; never raises."""
        return tuple(_stamp(path) for path in (self.chain, self.key))


class ReloadingContext(ssl.SSLContext):
    """An SSLContext whose new connections are those of the context that `make` builds, again when `version` changes."""

    _make: Callable[[], ssl.SSLContext]
    _version: Callable[[], Hashable]
    _inner: ssl.SSLContext
    _built_for: Hashable
    _building: threading.Lock
    problem: str
    """Why the last change could not be taken over; "" when it was."""

    @classmethod
    def following(cls, make: Callable[[], ssl.SSLContext], version: Callable[[], Hashable]) -> Self:
        """Raises what `make` raises, this first time only."""
        built_for, first = version(), make()
        context = cls(first.protocol)
        # What users of a context look at before they open anything.
        context.check_hostname = False
        context.verify_mode = first.verify_mode
        context.check_hostname = first.check_hostname
        context.minimum_version = first.minimum_version
        context._make, context._version, context._inner, context._built_for = make, version, first, built_for
        context._building, context.problem = threading.Lock(), ""
        return context

    def current(self) -> ssl.SSLContext:
        """The context for a connection that opens now."""
        version = self._version()
        if version != self._built_for:
            with self._building:
                if version != self._built_for:
                    try:
                        self._inner, self.problem = self._make(), ""
                    except (OSError, ValueError, TrustSpaceError) as error:
                        self.problem = str(error) or type(error).__name__
                    self._built_for = version
        return self._inner

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """As ssl.SSLContext.wrap_bio, by the current context."""
        return self.current().wrap_bio(*args, **kwargs)

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        """As ssl.SSLContext.wrap_socket, by the current context."""
        return self.current().wrap_socket(*args, **kwargs)


def server_tls(
    space: TrustSpace,
    own: OwnCertificate,
    purpose: Purpose,
    *,
    client: Literal["none", "optional", "required"] = "none",
) -> ReloadingContext:
    """A listener's context; client certificates, when asked for, chain to the anchors of `purpose`.

    Raises pem.UnreadableFile, ssl.SSLError or TrustUnavailable.
    """
    space.anchors_for(purpose)

    def make() -> ssl.SSLContext:
        return server_context(own.chain, own.key, client=client, client_anchors=_at_hand(space, purpose))

    return ReloadingContext.following(make, lambda: (own.stamp(), space.anchors_at_hand(purpose)))


def client_tls(space: TrustSpace, own: OwnCertificate | None, purpose: Purpose) -> ReloadingContext:
    """The context of connections to PEERS, to the DMP, or for a DOWNLOAD; `own` None presents no certificate.

    That of the DMP also refuses a server whose certificate our CRLs do not show to be good; it looks at the files when
    a connection opens, which blocks: for threads. Raises pem.UnreadableFile, ssl.SSLError or TrustUnavailable; KeyError
    for a purpose that connects nowhere.
    """
    checks, revocation = _CHECKS_HOST_NAME[purpose], purpose in _CHECKS_REVOCATION
    space.anchors_for(purpose)

    def make() -> ssl.SSLContext:
        chain, key = (own.chain, own.key) if own is not None else (None, None)
        crls = space.crls if revocation else None
        return client_context(chain, key, _at_hand(space, purpose), check_hostname=checks, crls=crls)

    def version() -> Hashable:
        files = space.files if revocation else space.anchors_at_hand(purpose)
        return own.stamp() if own is not None else None, files

    return ReloadingContext.following(make, version)


def _at_hand(space: TrustSpace, purpose: Purpose) -> Anchors:
    anchors = space.anchors_at_hand(purpose)
    if anchors is None:
        raise TrustUnavailable("no trust anchor")
    return anchors


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
