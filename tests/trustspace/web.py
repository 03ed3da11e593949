"""A small web server for the tests: each path answers what the test says; over TLS when given a context."""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.trustspace.conftest import AT


@dataclass
class Page:
    """What a path answers. `etag` "" sends no validators; `pause` seconds before each piece of the body."""

    body: bytes = b""
    status: int = 200
    etag: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    pieces: int = 1
    pause: float = 0.0
    answer: Callable[[bytes], bytes] | None = None
    """For POST: the body from the request's."""


@dataclass
class Web:
    """The server's address, its pages, and what it was asked: (method, path, If-None-Match)."""

    port: int
    scheme: str
    pages: dict[str, Page] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"


def _handler(web: Web) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Silence."""

        def do_GET(self) -> None:
            self._reply(b"")

        def do_POST(self) -> None:
            self._reply(self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def _reply(self, given: bytes) -> None:
            wanted = self.headers.get("If-None-Match", "")
            web.asked.append((self.command, self.path, wanted))
            page = web.pages.get(self.path, Page(status=404))
            same = bool(page.etag) and wanted == page.etag
            body = b"" if same else page.answer(given) if page.answer else page.body
            self.send_response(304 if same else page.status)
            if page.etag:
                self.send_header("ETag", page.etag)
                self.send_header("Last-Modified", format_datetime(AT, usegmt=True))
            for name, value in page.headers.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(page.pieces):
                    time.sleep(page.pause)
                    self.wfile.write(body)

    return Handler


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[Web]:
    """Serve on a free loopback port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.daemon_threads = True
    web = Web(server.server_address[1], "https" if context else "http")
    server.RequestHandlerClass = _handler(web)
    # A handshake that fails is the client's business in these tests.
    server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
