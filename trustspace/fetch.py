"""Fetching over HTTP and HTTPS, bounded: what the trust space takes from the network passes here.

Invariants: the whole exchange, name resolution included, ends within the seconds given; no more octets than given are
kept; nothing is decompressed; no redirection is followed; HTTPS verifies chain and host name against the anchors given
and has no way not to; the environment (proxies, certificate files) is not read. Synchronous; the work is done in a
thread of its own, so that a caller inside an event loop, or a resolver that hangs, does no harm.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx
from cryptography import x509

from trustspace.locations import host_of, is_usable
from trustspace.model import TrustSpaceError

_AGENT = "Caducee"
_GRACE = 1.0
_MAX_HEADER = 200


class FetchFailed(TrustSpaceError):
    """Nothing usable came. The text names the host and what went wrong, nothing that the server sent."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer: `content` is None when the server says that it did not change (304).

    `etag` and `modified` are the validators to give back next time, "" when there is none. `peer` is the server's
    certificate over HTTPS.
    """

    content: bytes | None
    etag: str = ""
    modified: str = ""
    peer: x509.Certificate | None = None


class Fetcher:
    """Bounded GET and POST."""

    def __init__(self, *, tls: Callable[[], ssl.SSLContext] | None = None, proxy: str = "") -> None:
        """`tls` gives the client context for https (without it, https is refused); `proxy`, a URL or ""."""
        self._tls = tls
        self._proxy = proxy or None

    def get(self, url: str, *, size: int, seconds: float, etag: str = "", modified: str = "") -> Fetched:
        """Fetch `url`, at most `size` octets within `seconds`. Raises FetchFailed."""
        headers = {key: value for key, value in (("If-None-Match", etag), ("If-Modified-Since", modified)) if value}
        return self._bounded(httpx.Request("GET", url, headers=headers), url, size, seconds)

    def post(self, url: str, content: bytes, content_type: str, *, size: int, seconds: float) -> Fetched:
        """Post `content`; bounds and errors as `get`."""
        request = httpx.Request("POST", url, content=content, headers={"Content-Type": content_type})
        return self._bounded(request, url, size, seconds)

    def _bounded(self, request: httpx.Request, url: str, size: int, seconds: float) -> Fetched:
        host = host_of(url) or "?"
        if not is_usable(url):
            raise FetchFailed(f"{host}: not an address to fetch from")
        answer: list[Fetched | Exception] = []

        def work() -> None:
            try:
                answer.append(asyncio.run(self._exchange(request, size, seconds)))
            except Exception as error:
                answer.append(error)

        thread = threading.Thread(target=work, name="fetch", daemon=True)
        began = time.monotonic()
        thread.start()
        # A resolver that hangs keeps its thread; nobody waits for it.
        thread.join(seconds + _GRACE)
        if not answer:
            raise FetchFailed(f"{host}: no answer within {seconds:.0f} s")
        found = answer[0]
        if isinstance(found, Fetched):
            return found
        if isinstance(found, TimeoutError | httpx.TimeoutException):
            raise FetchFailed(f"{host}: no answer within {time.monotonic() - began:.0f} s") from found
        raise FetchFailed(f"{host}: {_plain(found)}") from found

    async def _exchange(self, request: httpx.Request, size: int, seconds: float) -> Fetched:
        secure = request.url.scheme == "https"
        if secure and self._tls is None:
            raise FetchFailed("no anchors to verify the server with")
        verify = self._tls() if secure and self._tls is not None else True
        request.headers.update({"User-Agent": _AGENT, "Accept-Encoding": "identity"})
        async with (
            asyncio.timeout(seconds),
            httpx.AsyncClient(verify=verify, proxy=self._proxy, trust_env=False, timeout=seconds) as client,
        ):
            response = await client.send(request, stream=True)
            try:
                return await _read(response, size)
            finally:
                await response.aclose()


async def _read(response: httpx.Response, size: int) -> Fetched:
    etag, modified = (response.headers.get(name, "")[:_MAX_HEADER] for name in ("ETag", "Last-Modified"))
    peer = _peer(response)
    if response.status_code == httpx.codes.NOT_MODIFIED:
        return Fetched(None, etag, modified, peer)
    if response.status_code != httpx.codes.OK:
        raise FetchFailed(f"HTTP {response.status_code}")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise FetchFailed("compressed answer, not asked for")
    content = bytearray()
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > size:
            raise FetchFailed(f"more than {size} octets")
    return Fetched(bytes(content), etag, modified, peer)


def _peer(response: httpx.Response) -> x509.Certificate | None:
    stream = response.extensions.get("network_stream")
    tls = stream.get_extra_info("ssl_object") if stream is not None else None
    der = tls.getpeercert(binary_form=True) if tls is not None else None
    return x509.load_der_x509_certificate(der) if der else None


def _plain(error: Exception) -> str:
    """What went wrong, in words of ours or of OpenSSL's, without what the server sent."""
    if isinstance(error, FetchFailed):
        return str(error)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"certificate refused: {cause.verify_message}"
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
