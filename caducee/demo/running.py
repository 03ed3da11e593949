"""The country's processes: one `caducee serve` a place, started together and stopped by their ids."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

from caducee.child import PARENT
from caducee.demo.country import Country, Place
from caducee.errors import UsageError

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
READY = "caducee ready"


class Service:
    """One place being served. `pids` tells the processes by role, as the supervisor announces them."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.pids: dict[str, int] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._ready = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    @property
    def log_file(self) -> Path:
        return self.place.folder.root / "serve.log"

    async def start(self) -> None:
        """Start and wait until everything serves. Raises UsageError with what the program said."""
        self._ready.clear()
        self.log_file.touch(mode=0o600)
        with self.log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "caducee.serve",
                os.fspath(self.place.folder.root),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                # Ctrl-C goes to us alone: we stop them in order.
                start_new_session=True,
                # Killed, or interrupted twice, we can stop nobody: the kernel does.
                env={**os.environ, PARENT: str(os.getpid())},
            )
        self._reader = asyncio.create_task(self._read(self._process))
        ended = asyncio.create_task(self._process.wait())
        ready = asyncio.create_task(self._ready.wait())
        done, _ = await asyncio.wait({ended, ready}, timeout=_START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        ready.cancel()
        if ready not in done:
            await self.stop()
            raise UsageError(f"{self.place.name} n'a pas démarré / did not start: {self._last_words()}")

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101 - asked for with PIPE
        async for line in process.stdout:
            text = line.decode().strip()
            name, _, rest = text.partition(" ")
            state, _, pid = rest.partition(" ")
            if state == "serving":
                self.pids[name] = int(pid)
            elif state == "ended":
                self.pids.pop(name, None)
            elif text.startswith(READY):
                self.pids["supervisor"] = process.pid
                self._ready.set()

    def _last_words(self) -> str:
        """The last line the program wrote for people."""
        lines = [
            line for line in self.log_file.read_text("utf-8", "replace").splitlines() if line.startswith("caducee")
        ]
        return lines[-1] if lines else f"voir / see {self.log_file}"

    def kill(self, role: str) -> None:
        """`kill -9` of one process, by its role."""
        with contextlib.suppress(KeyError, ProcessLookupError):
            os.kill(self.pids.pop(role), signal.SIGKILL)

    async def wait_serving(self, role: str, seconds: float = 30.0) -> int:
        """Wait until a role serves (again). Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while role not in self.pids:
                await asyncio.sleep(0.02)
        return self.pids[role]

    async def wait_ended(self) -> None:
        """Wait for the supervisor's own end."""
        if self._process:
            await self._process.wait()

    async def stop(self) -> None:
        """Stop the supervisor, which stops its children."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._reader:
            await self._reader
        self.pids.clear()


class Running:
    """The whole country, as an asynchronous context manager: nothing of it is left running at the end."""

    def __init__(self, country: Country) -> None:
        self.country = country
        self.national, self.hospital, self.doctors = (Service(place) for place in country.places)

    @property
    def services(self) -> tuple[Service, ...]:
        return self.national, self.hospital, self.doctors

    async def __aenter__(self) -> Running:
        try:
            await asyncio.gather(*(service.start() for service in self.services))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(service.stop() for service in self.services))
