"""`caducee serve`: starts the operator's processes, restarts the ones that die, stops all of them together.

Invariants: no child outlives this process (each asks the kernel for a signal when its parent dies); a child that ends
with code 2 has a configuration error that a restart cannot mend, so everything stops and its message is the last line.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from caducee.child import PARENT

CONFIGURATION_ERROR = 2
_STOP_SECONDS = 10.0
_READY_SECONDS = 30.0
_BACKOFF = (0.1, 0.5, 1.0, 2.0, 5.0)
_STABLE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A process to keep alive. `ready` returns when it serves; None when the child says so itself on its ready pipe. It
    inherits `descriptors`, under the same numbers; `ended` is told the process id of each that ends."""

    name: str
    argv: Sequence[str]
    ready: Callable[[], Awaitable[None]] | None = None
    descriptors: Sequence[int] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    ended: Callable[[int], None] = lambda _pid: None


@dataclass(slots=True)
class _Child:
    spec: ChildSpec
    process: asyncio.subprocess.Process | None = None
    serving: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Runs the children side by side: none needs another to start, each answers "not now" until what it needs is there."""

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        *,
        on_state: Callable[[str, str, int], None] | None = None,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_state` hears of each change; `on_stop` is called before the children are stopped."""
        self._on_stop = on_stop
        self._children = [_Child(spec) for spec in specs]
        self._stopping = asyncio.Event()
        self._on_state = on_state or (lambda _name, _state, _pid: None)
        self._log = structlog.get_logger()
        self.exit_code = 0

    def stop(self) -> None:
        """Ask for an orderly stop; `run` returns when every child has ended."""
        self._stopping.set()

    async def run(self) -> int:
        """Serve until `stop`, or until a child reports a configuration error. Returns the process exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        keepers = [asyncio.create_task(self._keep(child), name=child.spec.name) for child in self._children]
        try:
            if all(await asyncio.gather(*(self._wait_serving(child) for child in self._children))):
                self._on_state("", "ready", os.getpid())
            await self._stopping.wait()
        finally:
            self._on_stop()
            # The first one (the directory) is needed by the others until their end: it goes last.
            await asyncio.gather(*(self._end(child) for child in self._children[1:]))
            await self._end(self._children[0])
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
        return self.exit_code

    async def _wait_serving(self, child: _Child) -> bool:
        serving = asyncio.create_task(child.serving.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        done, pending = await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        return serving in done

    async def _keep(self, child: _Child) -> None:
        """Start the child, and again whenever it dies, waiting longer when it keeps dying."""
        failures = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            code = await self._run_once(child)
            if self._stopping.is_set():
                return
            self._log.warning("process ended", service=child.spec.name, code=code)
            self._on_state(child.spec.name, "ended", 0)
            if code == CONFIGURATION_ERROR:
                self.exit_code = CONFIGURATION_ERROR
                self.stop()
                return
            failures = 0 if time.monotonic() - started > _STABLE_SECONDS else failures + 1
            await asyncio.sleep(_BACKOFF[min(max(failures - 1, 0), len(_BACKOFF) - 1)])

    async def _run_once(self, child: _Child) -> int:
        reader, writer = os.pipe()
        try:
            child.process = await asyncio.create_subprocess_exec(
                *child.spec.argv,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(writer, *child.spec.descriptors),
                env={
                    **os.environ,
                    **child.spec.environment,
                    "CADUCEE_READY_FD": str(writer),
                    PARENT: str(os.getpid()),
                },
                start_new_session=True,
            )
        except OSError as error:
            os.close(reader)
            self._log.error("process cannot start", service=child.spec.name, reason=error.strerror)
            return CONFIGURATION_ERROR
        finally:
            os.close(writer)
        watcher = asyncio.create_task(self._watch_ready(child, reader))
        try:
            code = await child.process.wait()
            child.spec.ended(child.process.pid)
            return code
        finally:
            watcher.cancel()
            child.serving.clear()
            child.process = None

    async def _watch_ready(self, child: _Child, reader: int) -> None:
        pid = child.process.pid if child.process else 0
        if child.spec.ready:
            os.close(reader)
            serving = asyncio.ensure_future(_true_after(child.spec.ready()))
        else:
            serving = asyncio.ensure_future(_first_byte(reader))
        try:
            while not (await asyncio.wait({serving}, timeout=_READY_SECONDS))[0]:
                self._log.warning("process does not serve yet", service=child.spec.name, pid=pid)
                self._on_state(child.spec.name, "waiting", pid)
            if not await serving:
                return
        finally:
            serving.cancel()
        child.serving.set()
        self._on_state(child.spec.name, "serving", pid)

    async def _end(self, child: _Child) -> None:
        process = child.process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _true_after(ready: Awaitable[None]) -> bool:
    await ready
    return True


async def _first_byte(reader: int) -> bool:
    """Wait for the child to write on its ready pipe; False when it closes the pipe without having written."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[bool] = loop.create_future()

    def readable() -> None:
        if not result.done():
            result.set_result(bool(os.read(reader, 1)))

    loop.add_reader(reader, readable)
    try:
        return await result
    finally:
        loop.remove_reader(reader)
        os.close(reader)


async def wait_for_port(host: str, port: int) -> None:
    """Return when something accepts connections there; the caller decides how long to wait."""
    while True:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
