"""`caducee demo`, as a person runs it: every step proved, exit 0, and no process left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from caducee.demo import surgery
from caducee.demo.country import cast
from tests.journey.support import free_base_port

pytestmark = pytest.mark.slow


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "caducee.cli", "demo", *arguments]


def processes_naming(text: str) -> list[str]:
    """Command lines of the living processes that name this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                where = str((entry / "cwd").readlink())
            except OSError:
                continue
            if text in line or text in where:
                found.append(line)
    return found


def test_every_step_is_proved_and_nothing_is_left_running(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    done = subprocess.run(
        command("--dir", str(folder), "--base-port", str(free_base_port()), "--json"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    steps = json.loads(done.stdout)
    assert [step["name"][:2] for step in steps] == ["a1", "a2", "a3", "a4", "b1", "b2", "c1", "d1"]
    assert all(step["ok"] for step in steps)
    proofs = {step["name"][:2]: step["proof"] for step in steps}
    assert proofs["a1"].startswith("250 2.0.0")
    assert "CMS Verification successful" in proofs["a2"]
    assert "enveloped-data" in proofs["a3"]
    assert "SHA-1" in proofs["a4"]
    if why := surgery.missing():
        assert [step["name"][:2] for step in steps if step["skipped"]] == ["b2"] and why in proofs["b2"]
    else:
        assert not any(step["skipped"] for step in steps)
        assert "CMS Verification successful" in proofs["b2"]
        assert cast().gp_with_own_key.national_id in proofs["b2"]
    assert proofs["c1"].startswith("550 5.1.2")
    assert proofs["d1"].startswith("550 5.7.1")
    assert processes_naming(str(folder)) == []


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        command("--dir", str(tmp_path / "demo")),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "CADUCEE_DMP__POLICY": "parfois"},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("caducee: dmp.policy: ") and "CADUCEE_DMP__POLICY" in done.stderr
    assert not (tmp_path / "demo").exists()


def test_a_failed_step_makes_the_command_fail(tmp_path: Path) -> None:
    """The record is switched off by the environment: the report is delivered, the document is not deposited, exit 1.

    Without leave to make namespaces there is no virtual reader: that step says so, and fails nothing."""
    forbidden = tmp_path / "bin" / "unshare"
    forbidden.parent.mkdir()
    forbidden.write_text("#!/bin/sh\nexit 1\n")
    forbidden.chmod(0o755)
    done = subprocess.run(
        command("--dir", str(tmp_path / "demo"), "--base-port", str(free_base_port()), "--json"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "CADUCEE_DMP__POLICY": "never"},
    )
    assert done.returncode == 1, done.stderr
    assert [step["name"][:2] for step in json.loads(done.stdout) if not step["ok"]] == ["a4"]


def test_a_taken_port_is_named_with_what_to_do(tmp_path: Path) -> None:
    base = free_base_port()
    with socket.create_server(("127.0.0.1", base + 1993)):
        done = subprocess.run(
            command("--dir", str(tmp_path / "demo"), "--base-port", str(base)),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 2
    assert f"listen.imaps: 127.0.0.1:{base + 1993}" in done.stderr
    assert "--base-port" in done.stderr
    assert "Traceback" not in done.stderr
    assert processes_naming(str(tmp_path)) == []


def test_ctrl_c_stops_every_child(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with subprocess.Popen(
        command("--dir", str(folder), "--base-port", str(free_base_port()), "--stay"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as demo:
        assert demo.stdout is not None
        said = ""
        for line in demo.stdout:
            said += line
            if "bin/caducee trace" in line:
                break
        assert "Pour se connecter" in said
        assert len(processes_naming(str(folder))) >= 9
        demo.send_signal(signal.SIGINT)
        assert demo.wait(30) == 0
    deadline = time.monotonic() + 10
    while processes_naming(str(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_naming(str(folder)) == []


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("precious")
    arguments = ("--dir", str(tmp_path), "--base-port", str(free_base_port()))
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "n'est pas un dossier de démonstration" in done.stderr
    assert (tmp_path / "letter.txt").read_text() == "precious"
