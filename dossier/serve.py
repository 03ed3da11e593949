"""Running the record: uvicorn behind mutual TLS, and the peer's certificate handed to the application.

Invariants: a client without a certificate of the accepted authorities does not get through the handshake; nothing of a request is
logged; a connection that does not finish asking is closed; a stop finishes what is being stored.

uvicorn offers no peer certificate to applications. The protocol class below puts it in the connection's state (`scope["state"]`),
through the attribute uvicorn copies into every scope; a test breaks if a later uvicorn stops doing so.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

PEER_CERTIFICATE = "peer_certificate"
HEAD_SECONDS = 15.0
CLOSE_SECONDS = 0.5
_GRACE_SECONDS = 10


class RecordProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, plus the peer's DER certificate under `state["peer_certificate"]` (None without TLS), and a limit to the
    time a request's head may take: uvicorn has none, and its places for connections are counted."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows likewise
        """Read the certificate once per connection."""
        tls = transport.get_extra_info("ssl_object")
        der = tls.getpeercert(binary_form=True) if tls is not None else None
        self.app_state = {**self.app_state, PEER_CERTIFICATE: der}
        super().connection_made(transport)
        self._time_head()

    def data_received(self, data: bytes) -> None:
        """Start or stop the clock with what came."""
        super().data_received(data)
        self._time_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_timer()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """An orderly stop: a request under way is finished, an idle connection is closed."""
        super().shutdown()
        if self.transport.is_closing():
            self._close()

    def _close(self) -> None:
        # A client that keeps its connection for later reads nothing: its side of the TLS close would be waited for 30 seconds.
        # A second close() would make asyncio forget the connection that abort() has to end.
        if not self.transport.is_closing():
            self.transport.close()
        self.loop.call_later(CLOSE_SECONDS, self.transport.abort)

    def _time_head(self) -> None:
        # A body that goes on after its answer is no head, but waits for nothing either.
        answered = self.cycle is not None and self.cycle.response_complete
        if self.conn.their_state is not h11.IDLE and not answered:
            self._stop_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._close)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _config(app: ASGIApp, context: ssl.SSLContext) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=RecordProtocol,
        ssl_context_factory=lambda _config, _default: context,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        limit_concurrency=200,
        h11_max_incomplete_event_size=32 * 1024,
    )


class RecordServer:
    """The record's listener. The caller opens the socket, so that port 0 and privileged ports are its business."""

    def __init__(self, app: ASGIApp, context: ssl.SSLContext) -> None:
        """`context` must require a client certificate; raises ValueError when it does not."""
        if context.verify_mode is not ssl.CERT_REQUIRED:
            raise ValueError("the record's TLS context must require a client certificate")
        # Tracebacks of uvicorn could quote a request: only its critical messages are kept.
        for name in ("uvicorn.error", "uvicorn.access"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._server = uvicorn.Server(_config(app, context))

    @property
    def started(self) -> bool:
        """True once the listener answers."""
        return bool(self._server.started)

    async def serve(self, listener: socket.socket) -> None:
        """Serve on `listener` (bound) until `stop`, without touching the process's signal handlers."""
        # serve() would take over SIGTERM, which belongs to the program around us.
        await self._server._serve(sockets=[listener])

    def stop(self) -> None:
        """Ask for an orderly stop; running requests get up to ten seconds."""
        self._server.should_exit = True


def bind(host: str, port: int) -> socket.socket:
    """A listening TCP socket on `host`:`port` (0 for any free port). Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=128)
