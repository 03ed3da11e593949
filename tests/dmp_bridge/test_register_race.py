"""Regression: the mail process and the deposits process open the register at the same instant, on the first start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

OPEN = """
import sys
from dmp_bridge.register import Register
print("ready", flush=True)
sys.stdin.readline()
Register(sys.argv[1], bytes(32)).close()
"""


def test_processes_that_create_it_together_all_get_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bridge.db'}"
    start = [sys.executable, "-c", OPEN, url]
    together = [
        subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)
    ]
    for one in together:
        assert one.stdout is not None and one.stdout.readline() == b"ready\n"
    for one in together:
        assert one.stdin is not None
        one.stdin.write(b"\n")
        one.stdin.flush()
    said = [one.communicate(timeout=60)[1].decode() for one in together]
    assert [one.returncode for one in together] == [0] * 4, said
