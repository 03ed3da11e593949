"""The supervisor with real children: restarts what dies, stops on a configuration error, leaves no orphan."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from caducee.supervisor import ChildSpec, Supervisor

READY = "import os; os.write(int(os.environ['CADUCEE_READY_FD']), b'1'); "
WAIT = "import time; time.sleep(60)"


def child(name: str, code: str) -> ChildSpec:
    return ChildSpec(name, [sys.executable, "-c", code])


def alive(pid: int) -> bool:
    """Neither gone nor a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


class Heard:
    """What the supervisor announced, and the wait for it."""

    def __init__(self) -> None:
        self.states: list[tuple[str, str]] = []
        self.pids: dict[str, int] = {}
        self._news = asyncio.Event()

    def __call__(self, name: str, state: str, pid: int) -> None:
        self.states.append((name, state))
        self.pids[name] = pid
        self._news.set()

    async def wait(self, name: str, state: str, times: int = 1) -> int:
        async with asyncio.timeout(20):
            while self.states.count((name, state)) < times:
                self._news.clear()
                await self._news.wait()
        return self.pids[name]


async def test_a_killed_child_comes_back_and_all_end_with_the_supervisor() -> None:
    heard = Heard()
    supervisor = Supervisor([child("a", READY + WAIT), child("b", READY + WAIT)], on_state=heard)
    running = asyncio.create_task(supervisor.run())
    await heard.wait("", "ready")
    first = heard.pids["a"]
    os.kill(first, signal.SIGKILL)
    second = await heard.wait("a", "serving", 2)
    assert second != first
    supervisor.stop()
    assert await running == 0
    assert not any(alive(pid) for pid in (second, heard.pids["b"]))


async def test_a_configuration_error_stops_everything_with_code_2() -> None:
    heard = Heard()
    supervisor = Supervisor([child("good", READY + WAIT), child("bad", "import sys; sys.exit(2)")], on_state=heard)
    assert await asyncio.wait_for(supervisor.run(), 20) == 2
    assert ("", "ready") not in heard.states


async def test_a_program_that_is_not_there_is_a_configuration_error() -> None:
    supervisor = Supervisor([ChildSpec("ghost", ["/nowhere/at/all"])])
    assert await asyncio.wait_for(supervisor.run(), 20) == 2


async def test_a_child_deaf_to_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caducee.supervisor._STOP_SECONDS", 0.5)
    heard = Heard()
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    supervisor = Supervisor([child("deaf", deaf + READY + WAIT)], on_state=heard)
    running = asyncio.create_task(supervisor.run())
    await heard.wait("", "ready")
    supervisor.stop()
    await asyncio.wait_for(running, 20)
    assert not alive(heard.pids["deaf"])


def test_children_die_with_a_supervisor_killed_by_9(tmp_path: Path) -> None:
    """`die_with_parent`, as every process of ours calls it first."""
    pid_file = tmp_path / "pid"
    grandchild = (
        "from caducee.child import die_with_parent; die_with_parent(); import os, pathlib; "
        f"pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid())); {WAIT}"
    )
    start = (
        "import os, subprocess, sys; os.environ['CADUCEE_PARENT'] = str(os.getpid()); "
        f"subprocess.run([sys.executable, '-c', {grandchild!r}])"
    )
    parent = subprocess.Popen([sys.executable, "-c", start])
    deadline = time.monotonic() + 20
    while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    pid = int(pid_file.read_text())
    parent.kill()
    parent.wait()
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(pid)


def test_a_child_whose_supervisor_died_before_it_began_does_not_begin() -> None:
    """Killed while the child's Python was starting: the kernel was not yet asked for a signal."""
    parent = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    child = subprocess.run(
        [sys.executable, "-c", f"from caducee.child import die_with_parent; die_with_parent(); {WAIT}"],
        env={**os.environ, "CADUCEE_PARENT": parent.stdout.decode().strip()},
        timeout=20,
        check=False,
    )
    assert child.returncode == -signal.SIGTERM


async def test_a_child_that_does_not_come_to_serve_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on its ready pipe nor on its port; and a late one is still heard."""
    monkeypatch.setattr("caducee.supervisor._READY_SECONDS", 0.2)
    heard, late = Heard(), asyncio.Event()

    async def answers() -> None:
        await late.wait()

    supervisor = Supervisor(
        [ChildSpec("late", [sys.executable, "-c", WAIT], answers), child("mute", WAIT)], on_state=heard
    )
    running = asyncio.create_task(supervisor.run())
    await heard.wait("late", "waiting", 2)
    await heard.wait("mute", "waiting", 2)
    late.set()
    await heard.wait("late", "serving")
    supervisor.stop()
    assert await asyncio.wait_for(running, 20) == 0
    assert ("", "ready") not in heard.states


def test_a_reader_that_leaves_does_not_stop_the_supervision(tmp_path: Path) -> None:
    """`caducee serve | head -1`: what is told goes nowhere, the children are still looked after."""
    command = "from caducee.serve import _tell; _tell('a', 'serving', 1); _tell('b', 'serving', 2)"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", command], stdout=write, stderr=subprocess.PIPE, timeout=20, check=False
    )
    os.close(write)
    assert b"Traceback" not in done.stderr
