"""A process for a PKCS#11 library, so that one that hangs or crashes takes only that process with it; and what both sides
of the pipe say to each other.

Invariants: frames are four octets of length, big-endian, and that many octets; one answer to each request, in order, so that
several threads may have asked while the process works and it never waits for the next request; a process that ends, or
answers too late, is killed, never listened to again, and all that were waiting for it are told; what the process is told
first (a PIN may be in it) goes through the pipe, never through an argument or the environment, which others could read.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

MAX_FRAME = 64 * 1024
_HEAD = 4
_READ = 64 * 1024
_POLLS = hasattr(select, "poll")
"""False on Windows, whose pipes cannot be waited for with a limit: there a timer kills the process."""


class ProcessGone(Exception):
    """The process ended, or did not answer in time; the next request starts another."""


class LibraryProcess:
    """One process running `module`, started when it is needed. Thread safe.

    `generation` is a number that changes with each start: what an earlier process knew, the present one does not. `waiting`
    is how many requests are under way."""

    def __init__(self, module: str, first: bytes, seconds: float) -> None:
        self.generation = 0
        self.waiting = 0
        self._module, self._first, self.seconds = module, framed(first), seconds
        self._sending = threading.Lock()
        self._running: _Running | None = None

    @property
    def pid(self) -> int:
        """Of the process in service; 0 when there is none."""
        running = self._running
        return running.process.pid if running is not None else 0

    def start(self) -> int:
        """Have a process, now; its generation. Raises ProcessGone."""
        with self._sending:
            self._start()
            return self.generation

    def ask(self, request: bytes, *, generation: int = 0) -> bytes:
        """The answer to one request; of this generation only, when one is given. Raises ProcessGone."""
        with self._sending:
            running = self._start()
            if generation not in (0, self.generation):
                raise ProcessGone
            self.waiting += 1
            before, mine = running.last, threading.Lock()
            mine.acquire()
            running.last = mine
            try:
                running.write(framed(request))
            except ProcessGone:
                self.waiting -= 1
                mine.release()
                raise
        with before:  # answers come in the order of the requests
            try:
                return running.answer(self.seconds)
            finally:
                mine.release()
                with self._sending:
                    self.waiting -= 1

    def stop(self) -> None:
        """Kill the process, if there is one; who waits for it is told."""
        with self._sending:
            if self._running is not None:
                self._running.kill()
                self._running = None

    def _start(self) -> _Running:
        running = self._running
        if running is None or running.gone or running.process.poll() is not None:
            if running is not None:
                running.kill()
            self._running = running = _Running(self._module)
            self.generation += 1
            running.write(self._first)
        return running


class _Running:
    """One process, from its start to its end. `last` is free once the last request so far has its answer."""

    def __init__(self, module: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.gone = False
        self.last = threading.Lock()
        assert self.process.stdin is not None  # noqa: S101 - asked for with PIPE
        assert self.process.stdout is not None  # noqa: S101 - likewise
        # Closed with this object, when nobody holds it any more: a thread may still be reading or writing.
        self._in, self._out = self.process.stdin, self.process.stdout
        self._held = b""
        if _POLLS:
            self._poll = select.poll()
            self._poll.register(self._out, select.POLLIN)

    def __del__(self) -> None:
        self._in.close()
        self._out.close()

    def kill(self) -> None:
        """End it, and forget it."""
        self.gone = True
        self.process.kill()
        self.process.wait()

    def write(self, frame: bytes) -> None:
        """Raises ProcessGone."""
        try:
            # A request is far smaller than a pipe. A pipe that is full is emptied, or broken when the process is killed.
            if os.write(self._in.fileno(), frame) != len(frame):
                raise BrokenPipeError
        except OSError:
            self.gone = True
            raise ProcessGone from None

    def answer(self, seconds: float) -> bytes:
        """The next answer, waited for at most that long. Raises ProcessGone."""
        if _POLLS:
            return self._answer(time.monotonic() + seconds)
        watchdog = threading.Timer(seconds, self.kill)
        watchdog.start()
        try:
            return self._answer(time.monotonic() + seconds)
        finally:
            watchdog.cancel()

    def _answer(self, deadline: float) -> bytes:
        while len(self._held) < _HEAD or len(self._held) < _HEAD + _length(self._held):
            left = deadline - time.monotonic()
            part = b""
            if not self.gone and (not _POLLS or (left > 0 and self._poll.poll(left * 1000))):
                part = os.read(self._out.fileno(), _READ)
            if not part or (len(self._held) >= _HEAD and _length(self._held) > MAX_FRAME):
                self.kill()
                raise ProcessGone
            self._held += part
        end = _HEAD + _length(self._held)
        frame, self._held = self._held[_HEAD:end], self._held[end:]
        return frame


def framed(octets: bytes) -> bytes:
    """A frame. Raises ValueError for more than MAX_FRAME octets."""
    if len(octets) > MAX_FRAME:
        raise ValueError("a request too large")
    return len(octets).to_bytes(_HEAD, "big") + octets


def serve(answering: Callable[[bytes], Callable[[bytes], bytes]]) -> None:
    """In the process: answer until the other side closes. `answering` is given the first frame."""
    # Whoever started this process may keep to one processor, its own: two on it would wait for one another.
    if hasattr(os, "sched_setaffinity"):
        with suppress(OSError):
            os.sched_setaffinity(0, range(os.cpu_count() or 1))
    # A library may print: what it prints must not be taken for an answer.
    out = os.dup(1)
    os.dup2(2, 1)
    frames = _frames(0)
    with suppress(BrokenPipeError):
        answer = answering(next(frames, b""))
        for request in frames:
            os.write(out, framed(answer(request)))


def _frames(descriptor: int) -> Iterator[bytes]:
    held = b""
    while True:
        while len(held) < _HEAD or len(held) < _HEAD + _length(held):
            part = os.read(descriptor, _READ)
            if not part:
                return
            held += part
        end = _HEAD + _length(held)
        frame, held = held[_HEAD:end], held[end:]
        yield frame


def _length(held: bytes) -> int:
    return int.from_bytes(held[:_HEAD], "big")
