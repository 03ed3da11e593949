"""HTTPS exchanges with a record over mutual TLS, from worker threads: connections are kept, every exchange has one deadline.

Invariants
* The whole exchange, connection included, ends within its time whatever the pace of the server: socket time-outs start
  again at every byte, so a watch cuts the connection when the time is over.
* The answer is bounded in bytes and read as it comes, never decompressed.
* No proxy of the environment, no redirection: what is sent goes to the configured server or nowhere.

A connection is kept because its handshake, with two RSA keys, costs more than the rest of an exchange; one that the server
closed meanwhile is found out before anything is sent on it, so that no request is ever sent twice here.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import select
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

MAX_RESPONSE = 1024 * 1024
_CHUNK = 64 * 1024
_TOGETHER = 64 * 1024
_MAX_IDLE = 10.0
_WATCH_IDLE = 30.0


class ExchangeFailed(Exception):
    """No answer was received in full: nobody knows whether the request was carried out. The text is a class name."""


class AnswerTooLarge(Exception):
    """The answer passes MAX_RESPONSE."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer; `body` at most MAX_RESPONSE bytes."""

    status: int
    content_type: str
    body: bytes = field(repr=False)
    location: str = ""


class Exchange:
    """Requests to the servers that `tls` trusts. Thread safe."""

    def __init__(self, tls: ssl.SSLContext, *, kept: int = 16) -> None:
        """`tls` holds our certificate and the record's anchors; up to `kept` connections wait for the next request."""
        self._tls = tls
        self._kept = kept
        self._lock = threading.Lock()
        self._idle: list[tuple[str, float, _Connection]] = []
        self._watch = _Watch()

    def request(self, method: str, url: str, *, headers: Mapping[str, str], content: bytes, seconds: float) -> Answer:
        """Send and read a bounded answer within `seconds`. Raises ExchangeFailed."""
        deadline = time.monotonic() + seconds
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise ExchangeFailed("InvalidURL")
        place = f"{parts.hostname}:{parts.port or 443}"
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        connection = self._taken(place) or _Connection(parts.hostname, parts.port or 443, self._tls, seconds)
        watched = self._watch.start(connection, deadline)
        keep = False
        try:
            # The answer is read as it comes: an encoded one could expand without bound.
            connection.ask(method, path or "/", content or None, {**headers, "Accept-Encoding": "identity"})
            answer, keep = _read(connection)
        except (http.client.HTTPException, ssl.SSLError, OSError, AnswerTooLarge, ValueError) as error:
            late = time.monotonic() >= deadline
            raise ExchangeFailed("TimeoutError" if late else type(error).__name__) from None
        finally:
            in_time = self._watch.stop(watched)
            if not (in_time and keep):
                connection.close()
        if not in_time:
            # Cut by the watch: what was read may look whole and be the beginning only.
            raise ExchangeFailed("TimeoutError")
        if keep and connection.sock is not None:
            self._give_back(place, connection)
        return answer

    def _taken(self, place: str) -> _Connection | None:
        """A kept connection that is still quiet: one that became readable was closed, or speaks out of turn."""
        while True:
            with self._lock:
                found = next((item for item in reversed(self._idle) if item[0] == place), None)
                if found is None:
                    return None
                self._idle.remove(found)
            _, since, connection = found
            if time.monotonic() - since < _MAX_IDLE and _quiet(connection):
                return connection
            connection.close()

    def _give_back(self, place: str, connection: _Connection) -> None:
        with self._lock:
            self._idle.append((place, time.monotonic(), connection))
            dropped = self._idle.pop(0) if len(self._idle) > self._kept else None
        if dropped is not None:
            dropped[2].close()

    def close(self) -> None:
        """Close the kept connections; a later request opens new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, _, connection in idle:
            connection.close()


def _quiet(connection: http.client.HTTPSConnection) -> bool:
    if connection.sock is None:
        return False
    try:
        return not select.select([connection.sock], [], [], 0)[0]
    except (OSError, ValueError):
        return False


class _Connection(http.client.HTTPSConnection):
    """A connection whose socket is known before its handshake, so that the watch can cut that short too."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext, seconds: float) -> None:
        super().__init__(host, port, context=tls, timeout=seconds)
        self._tls = tls
        self._held: bytes | None = None

    def ask(self, method: str, path: str, content: bytes | None, headers: dict[str, str]) -> None:
        """Send a request whose head and small body leave together: one TLS record, and one reading at the other end."""
        self._held = b""
        self.request(method, path, content, headers)
        held, self._held = self._held, None
        if held:
            self.send(held)

    def send(self, data: Any) -> None:
        """Send what `ask` does not hold back."""
        if self._held is not None and isinstance(data, bytes) and len(self._held) + len(data) <= _TOGETHER:
            self._held += data
            return
        held, self._held = self._held, None
        if held:
            super().send(held)
        super().send(data)

    def connect(self) -> None:
        """Connect, then shake hands. Raises OSError, ssl.SSLError."""
        raw = socket.create_connection((self.host, self.port), self.timeout)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wrapped = self._tls.wrap_socket(raw, server_hostname=self.host, do_handshake_on_connect=False)
        self.sock = wrapped
        wrapped.do_handshake()


class _Watch:
    """Cuts connections whose time is over. One thread for all, which sleeps until the nearest end: a timer a request
    would be a thread a request."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._ends: dict[int, tuple[float, _Connection]] = {}
        self._next = float("inf")
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def start(self, connection: _Connection, deadline: float) -> int:
        """Watch until `deadline` (monotonic seconds); returns the number to stop with."""
        with self._changed:
            number = next(self._numbers)
            self._ends[number] = (deadline, connection)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="exchange-watch", daemon=True)
                self._thread.start()
            if deadline < self._next:
                self._changed.notify()
        return number

    def stop(self, number: int) -> bool:
        """False when it was too late."""
        with self._changed:
            return self._ends.pop(number, None) is not None

    def _run(self) -> None:
        """Ends when nothing has been watched for a while; the next request starts another."""
        with self._changed:
            while True:
                now = time.monotonic()
                for number in [one for one, (end, _) in self._ends.items() if end <= now]:
                    _cut(self._ends.pop(number)[1])
                self._next = min((end for end, _ in self._ends.values()), default=now + _WATCH_IDLE)
                if not self._changed.wait(max(self._next - time.monotonic(), 0)) and not self._ends:
                    self._thread = None
                    self._next = float("inf")
                    return


def _cut(connection: _Connection) -> None:
    sock = connection.sock
    if sock is not None:
        # The TCP socket under the TLS one: a blocked read returns at once.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _read(connection: http.client.HTTPSConnection) -> tuple[Answer, bool]:
    """The bounded answer, and whether the connection may serve again."""
    response = connection.getresponse()
    pieces: list[bytes] = []
    size = 0
    while piece := response.read1(_CHUNK):
        size += len(piece)
        if size > MAX_RESPONSE:
            raise AnswerTooLarge
        pieces.append(piece)
    if response.length:
        # read1 ends quietly when the server hangs up in the middle of an announced length.
        raise http.client.IncompleteRead(b"", response.length)
    if response.status == 200 and not pieces:
        # http.client takes a connection closed in the middle of the head for the end of the head.
        raise http.client.IncompleteRead(b"")
    # Read to its end, but not told so by read1: only a closed response lets its connection serve again.
    response.close()
    answer = Answer(
        response.status,
        response.getheader("content-type") or "",
        b"".join(pieces),
        response.getheader("location") or "",
    )
    return answer, not response.will_close
